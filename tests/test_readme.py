"""Every block of the README runs: Python as it stands, commands as a user types them."""

from __future__ import annotations

import re
import shlex
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import VJEPA2Config, VJEPA2Model
from typer.testing import CliRunner

from jepa_hub.cli import app
from jepa_hub.processing import JEPAProcessor
from tests.hub_store import Hub
from tests.official import tiny_model, write_official

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
PYTHON = [text for language, text in BLOCKS if language == "python"]
COMMANDS = [
    shlex.split(line, comments=True)
    for language, text in BLOCKS
    if language == "bash"
    for line in text.splitlines()
    if line.startswith("jepa-hub ")
]


def write_clip(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(8))
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for index in range(24):
            picture = np.full((64, 64, 3), 10 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode(None))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub) -> Path:
    """A folder with the files that the README names, and its Hub repository with tiny weights."""
    monkeypatch.chdir(tmp_path)
    write_clip(tmp_path / "clip.mp4")
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 48), "orange").save(tmp_path / "photos" / "a.png")
    model = tiny_model("vjepa2", hidden_size=192, num_attention_heads=3, predictor_num_attention_heads=12)
    model.save_pretrained(tmp_path / "my_model")
    processor = JEPAProcessor(image_size=32, patch_size=8, tubelet_size=2, num_frames=8)
    processor.save_pretrained(tmp_path / "my_model")
    tiny_model("paws").save_pretrained(tmp_path / "my_paws_model")
    JEPAProcessor(image_size=32, patch_size=4).save_pretrained(tmp_path / "my_paws_model")
    for colour in ("red", "blue"):
        (tmp_path / "labelled" / colour).mkdir(parents=True)
        for picture in (tmp_path / f"{colour}.png", tmp_path / "labelled" / colour / "1.png"):
            Image.new("RGB", (64, 48), colour).save(picture)
    write_official(tmp_path / "vitl16.pth.tar", "vjepa_tiny_p16")
    sizes: dict[str, Any] = {"patch_size": 8, "crop_size": 32, "frames_per_clip": 8, "hidden_size": 48}
    sizes |= {"num_attention_heads": 2, "num_hidden_layers": 1, "pred_hidden_size": 24, "pred_num_attention_heads": 2}
    VJEPA2Model(VJEPA2Config(**sizes, pred_num_hidden_layers=1)).save_pretrained(tmp_path / "theirs")
    processor.save_pretrained(tmp_path / "theirs")
    hub.add("facebook/vjepa2-vitl-fpc64-256", tmp_path / "theirs")
    return tmp_path


@pytest.mark.parametrize("block", PYTHON, ids=range(len(PYTHON)))
def test_python(block: str, workplace: Path) -> None:
    names: dict[str, Any] = {}
    exec(compile(block, str(README), "exec"), names)
    results = [value for value in names.values() if isinstance(value, torch.Tensor) or hasattr(value, "tokens")]
    for result in results:
        tensor = getattr(result, "tokens", result)
        assert tensor.isfinite().all()
    assert results or "from_pretrained" in block


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands(command: list[str], workplace: Path) -> None:
    result = CliRunner().invoke(app, command[1:])
    expected = (0, 1) if "doctor" in command else (0,)  # doctor reports what this machine lacks
    assert result.exit_code in expected, result.output + repr(result.exception)
    assert result.output.strip()


def test_the_first_screen_is_two_commands() -> None:
    first = README.read_text(encoding="utf-8").split("```")[1]
    assert [line.split("#")[0].strip() for line in first.splitlines()[1:] if line] == ["make demo", "make test"]


def test_what_the_readme_says_is_there() -> None:
    assert len(PYTHON) >= 4 and len(COMMANDS) >= 6
