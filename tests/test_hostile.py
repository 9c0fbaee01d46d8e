"""Hostile input at every door: pictures, films, checkpoints, settings and tensors that mean harm or are broken.

Each case goes through the library, the command line and training. What has to hold everywhere: a clear error that names
what came (or, in bulk, a logged file while the others go on), no code run, nothing written outside, no memory filled.
What each reader refuses in detail is tested beside it; this walks the list as a whole. The demo's uploads: tests/demos.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from jepa_hub import JEPAModel, JEPAProcessor, Masks, surprise
from jepa_hub.cli import app
from jepa_hub.embedding.formats import read_embeddings
from tests.documents import write_clip
from tests.official import tiny_model, tiny_pixels

MOST_GROWTH = 600e6  # bytes of memory that looking at a hostile file may take
MOST_MARKED = 300 << 20


class Payload:
    """Runs code when it is unpickled by anything that lets it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def harmless(tmp_path: Path) -> Iterator[Path]:
    """A place that must not exist afterwards; and memory that must not have grown much."""
    mark = tmp_path / "code_was_run"
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew: what ran before does not hide us
    before = high_water()
    yield mark
    assert not mark.exists(), "code of a hostile file was run"
    assert high_water() - before < MOST_GROWTH


def high_water() -> int:
    """The most memory of this process since the mark was last cleared, in bytes."""
    [line] = [each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def test_memory_that_was_used_before_hides_nothing(harmless: Path) -> None:
    bytearray(MOST_MARKED)
    Path("/proc/self/clear_refs").write_text("5")
    before = high_water()
    bytearray(MOST_MARKED // 2)
    assert high_water() - before > MOST_MARKED // 3


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def refused(result: Any, *words: str) -> None:
    """One line of error with these words, and no traceback."""
    assert result.exit_code == 1, result.output + repr(result.exception)
    lines = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in result.output, result.output
    for word in words:
        assert word in lines[0], lines[0]


# Pictures and films ---------------------------------------------------------------------------------------------------
def _png(path: Path, width: int, height: int) -> None:
    """A PNG of a few bytes that claims to be huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(1 << 16), 9))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b""))


def _torn_film(path: Path) -> None:
    write_clip(path)
    path.write_bytes(path.read_bytes()[:900])


def _playlist(path: Path) -> None:
    """What FFmpeg would follow to other files of this machine."""
    path.write_text("ffconcat version 1.0\nfile /etc/passwd\n")


MEDIA: dict[str, Callable[[Path], object]] = {
    "empty.png": lambda path: path.write_bytes(b""),
    "huge.png": lambda path: _png(path, 60_000, 60_000),
    "torn.png": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40)),
    "text.jpg": lambda path: path.write_text("not a picture"),
    "pickle.png": lambda path: path.write_bytes(pickle.dumps({"a": 1})),
    "torn.mp4": _torn_film,
    "text.mp4": lambda path: path.write_text("not a film"),
    "playlist.mp4": _playlist,
    "zeros.webm": lambda path: path.write_bytes(bytes(100_000)),
}


@pytest.fixture(params=MEDIA)
def medium(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "media" / request.param
    path.parent.mkdir()
    MEDIA[request.param](path)
    return path


def test_media_in_the_library(medium: Path, harmless: Path) -> None:
    processor = JEPAProcessor.from_pretrained("vjepa-tiny-worlds")
    with pytest.raises((ValueError, OSError), match=medium.name):
        processor(medium)
    with pytest.raises((ValueError, OSError)):
        processor(medium.read_bytes())


def test_media_on_the_command_line(medium: Path, harmless: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "orange").save(medium.parent / "good.png")
    out = tmp_path / "out.npz"
    said = run("embed", medium.parent, "--model", "ijepa-tiny-scenes", "-o", out, "--quiet")
    assert said.exit_code == 0, said.output
    assert read_embeddings(out).names == ["good.png"] or read_embeddings(out).names[0].endswith("good.png")
    assert len(read_embeddings(out).names) == 1
    logged = "".join(path.read_text(encoding="utf-8") for path in tmp_path.rglob("*error*") if path.is_file())
    assert medium.name in said.output + logged
    refused(run("surprise", medium, "--model", "vjepa-tiny-worlds", "-o", tmp_path / "surprise"), medium.name)


def test_media_in_training(medium: Path, harmless: Path) -> None:
    from training.data.image_folder import ImageFolder, ImageFolderSettings
    from training.data.source import SampleError

    if medium.suffix in (".mp4", ".webm"):
        from training.data.video_list import VideoList, VideoListSettings

        listed = medium.with_name("list.csv")
        listed.write_text(f"{medium} 0\n")
        with pytest.raises(SampleError, match=medium.name):
            VideoList(VideoListSettings(files=(str(listed),), frames=4)).read(0, 0)
        return
    source = ImageFolder(ImageFolderSettings(root=str(medium.parent)))
    with pytest.raises(SampleError, match=medium.name):
        source.read(0, 0)


# Checkpoints ----------------------------------------------------------------------------------------------------------
def _config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def _pickled(folder: Path, mark: Path) -> Path:
    path = folder / "model.pth.tar"
    torch.save({"encoder": Payload(mark), "epoch": 1}, path)
    return path


def _plain_pickle(folder: Path, mark: Path) -> Path:
    path = folder / "plain.pt"
    path.write_bytes(pickle.dumps(Payload(mark)))
    return path


def _pytorch_bin(folder: Path, mark: Path) -> Path:
    (folder / "model.safetensors").unlink()
    torch.save(Payload(mark), folder / "pytorch_model.bin")
    return folder


def _escaping_zip(folder: Path, mark: Path) -> Path:
    path = folder / "escaping.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../code_was_run/data.pkl", b"x")
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}))
    return path


def _escaping_shards(folder: Path, mark: Path) -> Path:
    secret = folder.parent / "secret.safetensors"
    (folder / "model.safetensors").rename(secret)
    index = {"metadata": {"total_size": 1}, "weight_map": {"encoder.norm.weight": "../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def _own_code(folder: Path, mark: Path) -> Path:
    """A configuration that asks for code beside it to be run."""
    (folder / "modeling.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    _config(folder, model_type="mine", auto_map={"AutoConfig": "modeling.C", "AutoModel": "modeling.M"})
    return folder


def _huge_claim(folder: Path, mark: Path) -> Path:
    _config(folder, hidden_size=48 * 10**6, num_hidden_layers=3)
    return folder


def _deep_json(folder: Path, mark: Path) -> Path:
    (folder / "config.json").write_text("[" * 200_000)
    return folder


def _list_config(folder: Path, mark: Path) -> Path:
    (folder / "config.json").write_text("[1, 2]")
    return folder


def _long_header(folder: Path, mark: Path) -> Path:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    return folder


def _torn_tensors(folder: Path, mark: Path) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    return folder


def _misshapen(folder: Path, mark: Path) -> Path:
    save_file({"encoder.norm.weight": torch.zeros(3)}, folder / "model.safetensors", {"format": "pt"})
    return folder


WEIGHTS = (
    _pickled,
    _plain_pickle,
    _pytorch_bin,
    _escaping_zip,
    _escaping_shards,
    _own_code,
    _huge_claim,
    _deep_json,
    _list_config,
    _long_header,
    _torn_tensors,
    _misshapen,
)


@pytest.fixture(params=WEIGHTS, ids=lambda make: make.__name__.strip("_"))
def weights(request: pytest.FixtureRequest, tmp_path: Path, harmless: Path) -> Path:
    folder = tmp_path / "weights"
    tiny_model("ijepa", licence="mit").save_pretrained(folder)
    JEPAProcessor(image_size=32, patch_size=8).save_pretrained(folder)
    found: Path = request.param(folder, harmless)
    return found


def test_weights_in_the_library(weights: Path) -> None:
    with pytest.raises((ValueError, OSError)) as caught:
        JEPAModel.from_pretrained(weights)
    assert len(str(caught.value)) > 20
    with pytest.raises((ValueError, OSError)):
        JEPAModel.from_pretrained(weights, networks=("encoder",))


def test_weights_on_the_command_line(weights: Path, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    refused(run("embed", tmp_path / "a.png", "--model", weights, "-o", tmp_path / "out.npz"))
    refused(run("convert", weights, tmp_path / "converted"))
    assert not (tmp_path / "out.npz").exists() and not (tmp_path / "converted").exists()
    looked = run("info", weights)  # reads headers only, so a file may be described whose weights would be refused
    assert looked.exit_code == 0 or looked.output.startswith("error: "), looked.output


def test_weights_in_training(weights: Path, tmp_path: Path) -> None:
    from training.build import build_model
    from training.recipe import load_recipe

    with pytest.raises((ValueError, OSError)):
        settings = load_recipe("ijepa/tiny_scenes", [f"model={{name: ijepa, checkpoint: '{weights}'}}"])
        build_model(settings)


def test_a_training_checkpoint_with_code_in_it(tmp_path: Path, harmless: Path) -> None:
    from tests.training.conftest import fresh_accelerate
    from training.train import parse
    from training.train import run as train

    settings = ["optim.warmup_steps=1", "data.batch_size=4", "data.source.num_samples=8", "run.save_every=2"]
    settings += [f"run.out={tmp_path / 'run'}", "run.threads=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        patch.setenv("JEPA_HUB_NO_PROGRESS", "1")
        train(parse(["ijepa/tiny_scenes", "run.steps=4", *settings]))
        fresh_accelerate()
        [folder] = [path for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.endswith("2")]
        stored = [path for path in folder.rglob("*") if path.suffix in (".bin", ".pkl", ".pt")]
        assert stored
        for path in stored:
            torch.save(Payload(harmless), path)
        with pytest.raises(Exception, match=r"(?i)checkpoint|weights.only"):
            train(parse(["ijepa/tiny_scenes", "run.steps=4", *settings, "--resume", str(folder)]))
        fresh_accelerate()


# Settings -------------------------------------------------------------------------------------------------------------
def test_recipes_run_no_code_and_do_not_swell(tmp_path: Path, harmless: Path) -> None:
    from training.recipe import RecipeError, load_recipe

    path = tmp_path / "recipe.yaml"
    for text in (
        f"model: !!python/object/apply:os.mkdir ['{harmless}']",
        "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
            f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
        ),
        "[" * 5_000,
        "model: {name: ijepa, checkpoint: ../../etc/passwd}\nmethod: {name: ../../x}\n",
        "\x00\x01",
        "- a list",
    ):  # fmt: skip
        path.write_text(text, encoding="utf-8")
        with pytest.raises(RecipeError):
            load_recipe(str(path))


# Tensors --------------------------------------------------------------------------------------------------------------
def _with(pixels: torch.Tensor, value: float) -> torch.Tensor:
    changed = pixels.clone()
    changed[0, 0, 0, 3, 5] = value
    return changed


TENSORS: dict[str, Callable[[], Any]] = {
    "nan": lambda: _with(tiny_pixels("vjepa2"), float("nan")),
    "infinite": lambda: _with(tiny_pixels("vjepa2"), float("inf")),
    "no pixels": lambda: torch.zeros(1, 3, 8, 0, 32),
    "no samples": lambda: torch.zeros(0, 3, 8, 32, 32),
    "frames before channels": lambda: tiny_pixels("vjepa2").transpose(1, 2),
    "levels": lambda: torch.zeros(1, 3, 8, 32, 32, dtype=torch.uint8),
    "an odd frame": lambda: torch.zeros(1, 3, 7, 32, 32),
    "half a patch": lambda: torch.zeros(1, 3, 8, 36, 32),
    "a list": lambda: [[1.0, 2.0]],
    "an array": lambda: np.zeros((1, 3, 8, 32, 32), np.float32),
    "a name": lambda: "clip.mp4",
    "nothing": lambda: None,
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors(name: str) -> None:
    model, wrong = tiny_model("vjepa2"), TENSORS[name]()
    for call in (
        lambda: model.encode(wrong),
        lambda: model.predict(wrong, context=range(4), target=range(4, 8)),
        lambda: surprise(model, wrong, context_frames=4),
    ):
        with pytest.raises((ValueError, TypeError)) as caught:
            call()
        assert len(str(caught.value)) > 20, caught.value


@pytest.mark.parametrize("number", [-1, 64, 2**62])
def test_masks_outside_the_grid(number: int) -> None:
    masks = Masks(torch.tensor([[0, number]]), torch.tensor([[[5, 6]]]))
    with pytest.raises(ValueError, match="0 to 63"):
        tiny_model("vjepa2").predict(tiny_pixels("vjepa2", batch=1), masks=masks)


# Output ---------------------------------------------------------------------------------------------------------------
def test_someone_elses_files_stay(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    mine = tmp_path / "notes.npz"
    mine.write_text("mine")
    refused(run("embed", tmp_path / "a.png", "--model", "ijepa-tiny-scenes", "-o", mine))
    assert mine.read_text() == "mine"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "diary.txt").write_text("mine")
    refused(run("convert", "ijepa-tiny-scenes", tmp_path / "full", "--overwrite"), "they stay")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["diary.txt"]
