"""The pages (README and docs/) as blocks of code: what runs, what is checked, and the folder in which it runs.

A pytest plugin: the fixture `workplace` is that folder, with the Hub repository that the pages name.
"""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from tests.hub_server import ROOT
from tests.hub_store import Hub

# Second word of a fence. "checked": it needs data, a GPU or a cluster, so its lines are parsed and not run. "variant":
# part of the walk-through that tests/test_add_a_variant.py follows.
CHECKED, VARIANT = "checked", "variant"
_FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: str
    language: str
    info: str
    text: str

    @property
    def runs(self) -> bool:
        """Whether it is run as it stands; otherwise it is only parsed."""
        return not {CHECKED, VARIANT} & set(self.info.split())

    @property
    def lines(self) -> list[list[str]]:
        """The commands of a shell block as words, continued lines joined, without comments and assignments."""
        found = []
        for line in self.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and _ASSIGNMENT.fullmatch(words[0]):
                words = words[1:]
            if words:
                found.append(words)
        return found


def pages() -> list[str]:
    """README.md, CONTRIBUTING.md and every page of docs/."""
    return ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [Block(page, language, info.strip(), body) for language, info, body in _FENCE.findall(text)]


def write_clip(path: Path) -> None:
    """Three seconds of film, 64 x 64 pixels."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(8))
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for index in range(24):
            picture = np.full((64, 64, 3), 10 * index, np.uint8)
            picture[20:40, 2 * index : 2 * index + 12] = (200, 40, 40)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode(None))


def fill(folder: Path) -> Path:
    """Write the files that pages speak of: pictures, a film, tiny models in every layout. `theirs` is for the Hub."""
    from transformers import VJEPA2Config, VJEPA2Model

    from jepa_hub.processing import JEPAProcessor
    from tests.official import tiny_model, write_official

    write_clip(folder / "clip.mp4")
    for name in ("photos/a.png", "photos/b.png", "photo.png", "other.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (64, 48), "orange").save(folder / name)
    for colour in ("red", "blue"):
        (folder / "labelled" / colour).mkdir(parents=True)
        for picture in (folder / f"{colour}.png", folder / "labelled" / colour / "1.png"):
            Image.new("RGB", (64, 48), colour).save(picture)
    tiny_model(
        "vjepa2", hidden_size=192, num_attention_heads=3, predictor_num_attention_heads=12, predictor_hidden_size=144
    ).save_pretrained(folder / "my_model")
    processor = JEPAProcessor(image_size=32, patch_size=8, tubelet_size=2, num_frames=8)
    processor.save_pretrained(folder / "my_model")
    tiny_model("paws").save_pretrained(folder / "my_paws_model")
    JEPAProcessor(image_size=32, patch_size=4).save_pretrained(folder / "my_paws_model")
    write_official(folder / "vitl16.pth.tar", "vjepa_tiny_p16")
    sizes: dict[str, Any] = {"patch_size": 8, "crop_size": 32, "frames_per_clip": 8, "hidden_size": 48}
    sizes |= {"num_attention_heads": 2, "num_hidden_layers": 1, "pred_hidden_size": 24, "pred_num_attention_heads": 2}
    VJEPA2Model(VJEPA2Config(**sizes, pred_num_hidden_layers=1)).save_pretrained(folder / "theirs")
    processor.save_pretrained(folder / "theirs")
    return folder


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that pages name; to be left as they are."""
    return fill(tmp_path_factory.mktemp("files"))


@pytest.fixture
def workplace(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub) -> Path:
    """The current folder of this test: the files that pages name, a clone, and their Hub repository."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    (tmp_path / "clone").symlink_to(ROOT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JEPA_HUB_NO_PROGRESS", "1")
    hub.add("facebook/vjepa2-vitl-fpc64-256", template / "theirs")
    return tmp_path
