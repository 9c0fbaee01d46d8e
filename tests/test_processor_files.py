"""JEPAProcessor: from and to files, the catalog, and transformers."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from jepa_hub import processor_lookup
from jepa_hub.media import pixels
from jepa_hub.processing import IMAGENET_MEAN, IMAGENET_STD, JEPAProcessor


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray[Any, Any]]:
    from sklearn.datasets import load_sample_images

    found: list[np.ndarray[Any, Any]] = load_sample_images().images
    return found


VIT_FILE = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 0.00392156862745098,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
VJEPA2_FILE = {
    "video_processor_type": "VJEPA2VideoProcessor",
    "do_resize": True,
    "do_center_crop": True,
    "size": {"shortest_edge": 300},
    "crop_size": {"height": 256, "width": 256},
    "do_rescale": True,
    "rescale_factor": 0.00392156862745098,
    "do_normalize": True,
    "image_mean": list(IMAGENET_MEAN),
    "image_std": list(IMAGENET_STD),
    "resample": 2,
    "return_metadata": False,
}


def folder_with(path: Path, **files: Any) -> Path:
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    "processor",
    [
        JEPAProcessor(image_size=224, resize=256, patch_size=14),
        JEPAProcessor(image_size=(64, 96), patch_size=16, mean=0.1, std=0.3),  # type: ignore[arg-type]
        JEPAProcessor(image_size=64, aspect="squash", interpolation="bicubic", rescale=1 / 127.5),
        JEPAProcessor(image_size=64, aspect="squash", resize=80, rescale=1.0, crop_rounding="down"),
        JEPAProcessor(image_size=64, aspect="pad", tubelet_size=2),
        JEPAProcessor(aspect="native", patch_size=16, multiple="pad", resize=100),
        JEPAProcessor(image_size=256, resize=292, patch_size=16, tubelet_size=2, num_frames=64, fps=4.0),
        JEPAProcessor(image_size=256, resize=256, tubelet_size=2, frame_step=4, mean=(0, 0, 0), std=(1, 1, 1)),
    ],
)
def test_round_trip(processor: JEPAProcessor, tmp_path: Path) -> None:
    folder_with(tmp_path, config={"patch_size": 8, "tubelet_size": 4, "num_frames": 128})  # the processor's file wins
    path = processor.save_pretrained(tmp_path)
    assert path.name == ("video_" if processor.tubelet_size > 1 else "") + "preprocessor_config.json"
    assert JEPAProcessor.from_pretrained(tmp_path) == processor
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(["config.json", path.name])


def test_saved_files_name_a_class_of_transformers_only_where_it_agrees(tmp_path: Path) -> None:
    def written(processor: JEPAProcessor) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(processor.save_pretrained(tmp_path / "x").read_text())
        return data

    video = written(JEPAProcessor(image_size=256, resize=292, tubelet_size=2))
    assert video["video_processor_type"] == "VJEPA2VideoProcessor"
    assert (video["size"], video["crop_size"]) == ({"shortest_edge": 292}, {"height": 256, "width": 256})
    assert (video["do_resize"], video["do_center_crop"], video["resample"]) == (True, True, 2)
    # that class would resize to 292 whatever the file says
    assert "video_processor_type" not in written(JEPAProcessor(image_size=256, resize=256, tubelet_size=2))
    with pytest.warns(UserWarning, match="also holds video_preprocessor_config.json"):
        still = written(JEPAProcessor(image_size=64, aspect="pad"))
    assert "image_processor_type" not in still


def test_auto_image_processor_reads_our_file(tmp_path: Path, photos: list[np.ndarray[Any, Any]]) -> None:
    from transformers import AutoImageProcessor

    processor = JEPAProcessor(image_size=64, resize=73, crop_rounding="down")
    processor.save_pretrained(tmp_path)
    theirs = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    expected = theirs(PIL.Image.fromarray(photos[1]), return_tensors="pt")["pixel_values"]
    off = (processor(photos[1]).pixel_values[:, :, 0] - expected).abs() * torch.tensor(IMAGENET_STD).view(3, 1, 1) * 255
    assert off.max() < 1.001


def test_stored_video_processor(tmp_path: Path) -> None:
    config = {"model_type": "vjepa2", "patch_size": 16, "tubelet_size": 2, "frames_per_clip": 64}
    folder_with(tmp_path, video_preprocessor_config=VJEPA2_FILE, config=config)
    processor = JEPAProcessor.from_pretrained(tmp_path)
    assert processor == JEPAProcessor(
        image_size=256, resize=292, patch_size=16, tubelet_size=2, num_frames=64, crop_rounding="down",
        rescale=0.00392156862745098,
    )  # fmt: skip  # the class ignores the stored 300
    # older repositories keep the video processor in the image file, and without config.json two frames per token
    folder_with(tmp_path / "old", preprocessor_config=VJEPA2_FILE)
    assert JEPAProcessor.from_pretrained(tmp_path / "old").tubelet_size == 2


def test_stored_image_processor(tmp_path: Path) -> None:
    folder_with(tmp_path, preprocessor_config=VIT_FILE)
    processor = JEPAProcessor.from_pretrained(tmp_path)
    assert (processor.image_size, processor.aspect, processor.mean, processor.tubelet_size) == (
        224, "squash", (0.5, 0.5, 0.5), 1,
    )  # fmt: skip
    folder_with(tmp_path, preprocessor_config={"image_processor_type": "ViTImageProcessor"})
    assert JEPAProcessor.from_pretrained(tmp_path).image_size == 224  # the class's defaults
    folder_with(tmp_path, preprocessor_config={**VIT_FILE, "do_resize": False})
    assert JEPAProcessor.from_pretrained(tmp_path).aspect == "native"
    folder_with(tmp_path, preprocessor_config={**VIT_FILE, "size": 96})
    assert JEPAProcessor.from_pretrained(tmp_path).image_size == 96


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"do_pad": True}, "asks for do_pad"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order"),
        ({"resample": 1}, "lanczos"),
        ({"size": {"longest_edge": 300}}, "longest_edge"),
        ({"do_resize": False, "do_center_crop": True, "crop_size": 224}, "crops without resizing"),
        ({"size": {"height": 300, "width": 200}, "do_center_crop": True, "crop_size": 64}, "squashes to 200 x 300"),
        ({"image_processor_type": "Other", "image_mean": None}, "no image_mean"),
    ],
)
def test_stored_steps_we_do_not_have(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    folder_with(tmp_path, preprocessor_config={**VIT_FILE, **change})
    with pytest.raises(ValueError, match=match):
        JEPAProcessor.from_pretrained(tmp_path)


def test_stored_files_that_are_broken(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text('{"size": ')
    with pytest.raises(ValueError, match=r"preprocessor_config.json is not readable JSON"):
        JEPAProcessor.from_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("[1]")
    with pytest.raises(ValueError, match="list, not a JSON object"):
        JEPAProcessor.from_pretrained(tmp_path)
    JEPAProcessor(image_size=32).save_pretrained(tmp_path)
    data = json.loads((tmp_path / "preprocessor_config.json").read_text())
    data["jepa_hub"]["gamma"] = 2.2
    folder_with(tmp_path, preprocessor_config=data)
    with pytest.warns(UserWarning, match="newer jepa_hub, left out: gamma"):
        assert JEPAProcessor.from_pretrained(tmp_path) == JEPAProcessor(image_size=32)


def test_nothing_says_how(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"stores no preprocessor_config.json .* give image_size="):
        JEPAProcessor.from_pretrained(tmp_path)
    assert JEPAProcessor.from_pretrained(tmp_path, image_size=96).image_size == 96
    assert JEPAProcessor.from_pretrained(tmp_path, aspect="native").image_size is None
    with pytest.raises(ValueError, match="stores no preprocessing"):
        JEPAProcessor.from_pretrained(tmp_path, preprocessing="as_stored")
    with pytest.raises(ValueError, match="'official' or 'as_stored'"):
        JEPAProcessor.from_pretrained(tmp_path, preprocessing="best")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no setting 'imagesize'; did you mean 'image_size'"):
        JEPAProcessor.from_pretrained(tmp_path, imagesize=96)


@pytest.fixture
def repositories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders standing for Hub repositories: owner/name is the folder owner--name."""

    def from_folder(name: str, filename: str, **_: Any) -> Path | None:
        path = (Path(name) if Path(name).is_dir() else tmp_path / name.replace("/", "--")) / filename
        return path if path.is_file() else None

    monkeypatch.setattr(processor_lookup, "cached_file", from_folder)
    return tmp_path


@pytest.mark.parametrize("name", ["facebook/ijepa_vith14_1k", "ijepa-vith14-in1k-hub"])
def test_ijepa_repositories_get_the_authors_preprocessing(repositories: Path, name: str) -> None:
    config = {"model_type": "ijepa", "patch_size": 14, "image_size": 224}
    folder_with(repositories / "facebook--ijepa_vith14_1k", preprocessor_config=VIT_FILE, config=config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        official = JEPAProcessor.from_pretrained(name)
        stored = JEPAProcessor.from_pretrained(name, preprocessing="as_stored")
    assert official == JEPAProcessor(image_size=224, resize=256, patch_size=14)
    assert (stored.aspect, stored.mean) == ("squash", (0.5, 0.5, 0.5))
    copy = repositories / "facebook--ijepa_vith14_1k"
    with pytest.warns(UserWarning, match="defaults of the conversion of I-JEPA"):
        assert JEPAProcessor.from_pretrained(copy).mean == (0.5, 0.5, 0.5)


def test_catalog_rows_serve_where_nothing_is_stored(repositories: Path) -> None:
    name = "facebook/vjepa2-vitl-fpc64-256"
    bare = JEPAProcessor.from_pretrained(name)
    assert (bare.image_size, bare.resize, bare.tubelet_size, bare.num_frames) == (256, 292, 2, 64)
    folder_with(repositories / "facebook--vjepa2-vitl-fpc64-256", video_preprocessor_config=VJEPA2_FILE)
    assert JEPAProcessor.from_pretrained(name).crop_rounding == "down"  # the stored file is obeyed
    official = JEPAProcessor.from_pretrained("ijepa-vith14-in1k")  # an official file, which stores nothing
    assert (official.image_size, official.resize, official.mean) == (224, 256, IMAGENET_MEAN)


def test_overrides_bring_what_follows_from_them(repositories: Path) -> None:
    name = "ijepa-vith14-in1k"
    assert JEPAProcessor.from_pretrained(name, image_size=448).resize == 512
    assert JEPAProcessor.from_pretrained(name, image_size=448, resize=448).resize == 448
    native = JEPAProcessor.from_pretrained(name, aspect="native", patch_size=14, multiple="pad")
    assert (native.image_size, native.resize) == (None, None)
    squash = JEPAProcessor.from_pretrained(name, aspect="squash", interpolation="bicubic")
    assert (squash.image_size, squash.resize, squash.interpolation) == (224, None, "bicubic")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(OSError, match="neither a file or folder"):
        JEPAProcessor.from_pretrained("ijepa-vith14-in1kk")


def test_layout_words_cover_the_axes() -> None:
    for count, orders in pixels.LAYOUTS.items():
        assert all(len(order) == count and set(order) <= set("BFCHW") for order in orders)
