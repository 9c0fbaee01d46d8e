"""Folders of pictures with and without classes, and what is wrong with some. About 1 second."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from tests.media_files import encode, image, saved
from tests.training.data.contract import check_source
from training.data.image_folder import ImageFolder
from training.data.source import Label, SampleError


def put(path: Path, seed: int = 0, file_format: str = "PNG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(saved(PIL.Image.fromarray(image(20, 24, seed=seed)), file_format))
    return path


def folder(root: Path, **settings: Any) -> ImageFolder:
    return ImageFolder(ImageFolder.Settings(root=str(root), **settings))


def imagenet(root: Path) -> Path:
    for number, name in enumerate(("n02/b.JPEG", "n01/z.jpeg", "n01/a.png", "n03/more/c.webp", "n03/a.png")):
        put(root / name, number, {"png": "PNG", "webp": "WEBP"}.get(name.split(".")[1], "JPEG"))
    (root / "n04").mkdir()  # a class without pictures keeps its number
    (root / "n01" / "notes.txt").write_text("no picture")
    put(root / "n01" / "._a.png")  # what macOS leaves behind
    put(root / ".thumbnails" / "a.png")
    return root


def test_classes(tmp_path: Path) -> None:
    source = folder(imagenet(tmp_path / "train"))
    assert source.labels == {"class": Label("class", 4, ("n01", "n02", "n03", "n04"))}
    samples = [source.read(number, 0) for number in range(len(source))]
    paths = ["n01/a.png", "n01/z.jpeg", "n02/b.JPEG", "n03/a.png", "n03/more/c.webp"]
    assert [sample.details["path"] for sample in samples] == paths
    assert [sample.labels["class"] for sample in samples] == [0, 0, 1, 2, 2]
    assert torch.equal(samples[0].pixels, torch.from_numpy(image(20, 24, seed=2)).permute(2, 0, 1))
    check_source(source)


def test_pictures_without_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = folder(imagenet(tmp_path / "train"), labelled=False)
    assert source.labels == {} and source.read(0, 0).labels == {} and len(source) == 5
    check_source(source)
    put(tmp_path / "flat" / "a.png")
    assert folder(tmp_path / "flat").labels == {}
    put(tmp_path / "one" / "images" / "a.png")  # a single folder says nothing, unless one says that it is a class
    assert folder(tmp_path / "one").labels == {}
    assert folder(tmp_path / "one", labelled=True).labels == {"class": Label("class", 1, ("images",))}
    put(tmp_path / "train" / "loose.png")
    assert folder(tmp_path / "train").labels == {} and "loose.png" in caplog.text
    with pytest.raises(ValueError, match=r"loose\.png, lie beside the class folders"):
        folder(tmp_path / "train", labelled=True)
    with pytest.raises(ValueError, match=r"a\.png, lie beside"):
        folder(tmp_path / "flat", labelled=True)


def test_subsets(tmp_path: Path) -> None:
    root, subset = imagenet(tmp_path / "train"), tmp_path / "1percent.txt"
    subset.write_text("n03/more/c.webp\n\nb.JPEG\n./n01/a.png\nb.JPEG\n")
    source = folder(root, subset=str(subset))
    assert [source.read(number, 0).labels["class"] for number in range(len(source))] == [0, 1, 2]
    assert source.labels == folder(root).labels
    subset.write_text("b.JPEG\nlost.JPEG\nn01/gone.png\n")
    with pytest.raises(ValueError, match=r"2 of its 3 pictures are not in .*lost\.JPEG, n01/gone\.png"):
        folder(root, subset=str(subset))
    subset.write_text("a.png\n")
    with pytest.raises(ValueError, match=r"both n01/a\.png and n03/a\.png"):
        folder(root, subset=str(subset))
    subset.write_text("\n")
    with pytest.raises(ValueError, match="nothing"):
        folder(root, subset=str(subset))
    with pytest.raises(FileNotFoundError, match="no subset file"):
        folder(root, subset=str(tmp_path / "none.txt"))


def test_roots_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    file = put(tmp_path / "a.png")
    for root, error, words in (
        (tmp_path / "none", FileNotFoundError, "none does not exist; expected root/CLASS"),
        (file, FileNotFoundError, r"a\.png is a file, not a folder"),
        (tmp_path / "empty", ValueError, "no picture in .*empty; expected root/CLASS"),
    ):
        with pytest.raises(error, match=words):
            folder(root)


def test_broken_pictures_are_told_by_path(tmp_path: Path) -> None:
    whole = put(tmp_path / "a.jpg", file_format="JPEG").read_bytes()
    (tmp_path / "b.jpg").write_bytes(b"")
    (tmp_path / "c.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "d.jpg").write_bytes(b"<html>gone</html>" * 50)
    os.replace(encode(tmp_path / "video.mp4", 10), tmp_path / "e.jpg")
    os.symlink(tmp_path / "nowhere", tmp_path / "f.jpg")
    np.savez(tmp_path / "g.npz", a=np.zeros(3))
    os.rename(tmp_path / "g.npz", tmp_path / "g.png")
    source = pickle.loads(pickle.dumps(folder(tmp_path)))
    assert source.read(0, 0).pixels.shape == (3, 20, 24)
    for number, words in enumerate(
        ("b.jpg is empty", "c.jpg", "web page", "e.jpg is not a picture", "no file", "g.png is not a picture"), 1
    ):
        with pytest.raises(SampleError) as told:
            source.read(number, 0)
        assert words in str(told.value) and str(tmp_path / f"{'abcdefg'[number]}.") in str(told.value)


def test_a_picture_that_would_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a.png")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(SampleError, match="too many pixels"):
        folder(tmp_path).read(0, 0)


def test_deep_and_grey_pictures_become_uint8(tmp_path: Path) -> None:
    levels = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    PIL.Image.fromarray(levels).save(tmp_path / "a.png")
    pixels = folder(tmp_path).read(0, 0).pixels
    assert pixels.dtype == torch.uint8 and pixels[:, 0].tolist() == [[0, 100, 255]] * 3


def test_links_are_followed_once(tmp_path: Path) -> None:
    root = imagenet(tmp_path / "train")
    os.symlink(root, root / "n01" / "back")
    os.symlink(root / "n01", root / "n01" / "itself")
    put(tmp_path / "elsewhere" / "x.png")
    os.symlink(tmp_path / "elsewhere", root / "n05")
    source = folder(root)
    assert len(source) == 6 and source.labels["class"].names[-1] == "n05"
