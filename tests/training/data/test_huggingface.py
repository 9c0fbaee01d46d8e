"""Data sets of the datasets library, made here and read from disk. About 5 seconds, most of them its import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pytest
import torch

from tests.media_files import encode, image, numbers, saved
from tests.training.data.contract import check_source
from training.data.huggingface import HuggingFace
from training.data.source import Label, SampleError


def picture(number: int) -> bytes:
    return saved(PIL.Image.fromarray(image(20, 24, seed=number)), "PNG")


def made(count: int = 9, **changes: Any) -> Any:
    columns = {
        "image": [{"bytes": picture(number), "path": f"{number}.png"} for number in range(count)],
        "species": [number % 2 for number in range(count)],
        "count": [number % 5 for number in range(count)],
        "height": [number / 4 for number in range(count)],
        "text": [f"picture {number}" for number in range(count)],
        "texts": [["one", ""], ["two", "three"], []] * (count // 3),
        **changes,
    }
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "species": datasets.ClassLabel(names=["cat", "dog"]),
            "count": datasets.Value("int32"),
            "height": datasets.Value("float32"),
            "text": datasets.Value("string"),
            "texts": datasets.List(datasets.Value("string")),
        }
    )
    return datasets.Dataset.from_dict(columns, features=features)


def source(path: Path, **settings: Any) -> HuggingFace:
    return HuggingFace(HuggingFace.Settings(path=str(path), **settings))


def test_saved_to_disk(tmp_path: Path) -> None:
    made().save_to_disk(tmp_path / "data")
    data = source(tmp_path / "data", captions=("text", "texts"))
    assert (len(data), data.kind) == (9, "image")
    assert data.labels == {"species": Label("class", 2, ("cat", "dog"))}
    sample = data.read(4, 0)
    assert torch.equal(sample.pixels, torch.from_numpy(image(20, 24, seed=4)).permute(2, 0, 1))
    assert sample.labels == {"species": 0} and sample.captions == ("picture 4", "two", "three")
    assert sample.details == {"row": 4, "path": "4.png"}
    check_source(data)
    labels = source(tmp_path / "data", labels=("count", "height")).labels
    assert labels == {"count": Label("class", 5), "height": Label("number")}
    assert source(tmp_path / "data", labels=()).labels == {}


def test_splits_and_row_choices(tmp_path: Path) -> None:
    splits = {"train": made().select([7, 1, 3]), "test": made(3, species=[-1, -1, -1])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "data")
    assert [source(tmp_path / "data").read(row, 0).labels["species"] for row in range(3)] == [1, 1, 1]
    assert source(tmp_path / "data", split="test").labels == {}  # -1: without labels
    with pytest.raises(ValueError, match="no split 'dev'; it has train, test"):
        source(tmp_path / "data", split="dev")
    with pytest.raises(ValueError, match="classes from -1 on"):
        source(tmp_path / "data", split="test", labels=("species",))


def test_parquet_by_load_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    made().to_parquet(tmp_path / "data" / "train.parquet")
    data = source(tmp_path / "data", split="train[:5]")
    assert len(data) == 5 and data.read(3, 0).labels == {"species": 1}
    with pytest.raises(ValueError, match=r"cannot be loaded: .* no data"):
        source(tmp_path / "data", split="train[:0]")
    check_source(data)


def test_videos_by_path_and_by_type(tmp_path: Path) -> None:
    encode(tmp_path / "a.mp4", 60)
    named = datasets.Dataset.from_dict({"file": ["a.mp4", "gone.mp4"], "label": [1, 0]})
    named.save_to_disk(tmp_path / "named")
    data = source(tmp_path / "named", video="file", folder=str(tmp_path), frames=4, frame_step=3, labels=("label",))
    shown = numbers(data.read(0, 1).pixels.transpose(0, 1))
    assert [number - shown[0] for number in shown] == [0, 4, 8, 11]
    with pytest.raises(SampleError, match=r"row 1 \(gone\.mp4\).*no file"):
        data.read(1, 0)
    cells = [{"bytes": (tmp_path / "a.mp4").read_bytes(), "path": None}, {"bytes": b"", "path": None}]
    features = datasets.Features({"video": datasets.Video(decode=False)})
    datasets.Dataset.from_dict({"video": cells}, features=features).save_to_disk(tmp_path / "typed")
    typed = source(tmp_path / "typed", frames=4, frame_step=3)
    assert typed.kind == "clip"
    assert torch.equal(typed.read(0, 1).pixels, data.read(0, 1).pixels)
    with pytest.raises(SampleError, match=r"row 1 is empty"):
        typed.read(1, 0)


def test_broken_rows_are_told_by_number(tmp_path: Path) -> None:
    cells: list[Any] = [{"bytes": picture(number), "path": None} for number in range(6)]
    cells[1], cells[2], cells[3] = None, {"bytes": picture(2)[:400], "path": "x.png"}, {"bytes": b"text", "path": None}
    made(6, image=cells, species=[0, 1, 0, 1, None, 0]).save_to_disk(tmp_path / "data")
    data = source(tmp_path / "data")
    assert data.read(0, 0).pixels.shape == (3, 20, 24)
    told = (
        (1, "column image is empty"),
        (2, r"row 2 \(x\.png\)"),
        (3, "row 3 is not a picture"),
        (4, "None in column"),
    )
    for row, words in told:
        with pytest.raises(SampleError, match=words):
            data.read(row, 0)
    with pytest.raises(IndexError):
        data.read(6, 0)


def test_settings_that_do_not_fit(tmp_path: Path) -> None:
    made().save_to_disk(tmp_path / "data")
    left, right = (made().select_columns("image").rename_column("image", name) for name in ("left", "right"))
    datasets.concatenate_datasets([left, right], axis=1).save_to_disk(tmp_path / "two")
    datasets.Dataset.from_dict({"a": np.arange(3)}).save_to_disk(tmp_path / "none")
    made().select([]).save_to_disk(tmp_path / "empty")
    for name, settings, words in (
        ("data", {"image": "picture"}, "no column 'picture'; it has image"),
        ("data", {"image": "count"}, "holds no images"),
        ("data", {"image": "image", "video": "image"}, "not both"),
        ("data", {"captions": ("title",)}, "no column 'title'"),
        ("data", {"labels": ("text",)}, "is string, no label.*class_encode_column"),
        ("two", {}, "2 columns of pictures or videos"),
        ("none", {}, "no column of pictures or videos"),
        ("empty", {}, "cannot be loaded"),  # datasets itself stumbles over a saved one without rows
    ):
        with pytest.raises(ValueError, match=words):
            source(tmp_path / name, **settings)
    assert source(tmp_path / "two", image="left").read(0, 0).pixels.shape == (3, 20, 24)


def test_what_is_not_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"nobody/nothing .* cannot be loaded"):
        HuggingFace(HuggingFace.Settings(path="nobody/nothing"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=r"folder .* cannot be loaded"):
        source(tmp_path / "folder")
