"""Preprocessing as JSON: transformers' formats and our own, as keyword arguments of JEPAProcessor."""

from __future__ import annotations

import difflib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jepa_hub.catalog_row import Preprocessing
from jepa_hub.json_files import read_object

IMAGE_FILE, VIDEO_FILE = "preprocessor_config.json", "video_preprocessor_config.json"
_OWN_KEY = "jepa_hub"  # our exact settings, inside a file that transformers reads too
_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}  # Pillow's codes
_VIT: dict[str, Any] = {
    "size": {"height": 224, "width": 224},
    "resample": 2,
    "image_mean": (0.5, 0.5, 0.5),
    "image_std": (0.5, 0.5, 0.5),
}
_VJEPA2: dict[str, Any] = {
    "size": {"shortest_edge": 292},
    "crop_size": 256,
    "resample": 2,
    "image_mean": (0.485, 0.456, 0.406),
    "image_std": (0.229, 0.224, 0.225),
    "do_center_crop": True,
}
# What these classes of transformers assume when a file leaves a key out.
_CLASS_DEFAULTS = {
    "ViTImageProcessor": _VIT,
    "ViTImageProcessorFast": _VIT,
    "ViTImageProcessorPil": _VIT,
    "ViTFeatureExtractor": _VIT,
    "VJEPA2VideoProcessor": _VJEPA2,
}
# Steps we do not have: a file that switches one on means other numbers than ours.
_UNKNOWN_STEPS = ("do_pad", "do_flip_channel_order", "do_grayscale", "do_reduce_labels")


def row_settings(preprocessing: Preprocessing) -> dict[str, Any]:
    """Settings for JEPAProcessor from a catalog row."""
    names = ("image_size", "resize", "mean", "std", "interpolation", "num_frames", "fps", "frame_step")
    return {"aspect": "crop", **{name: getattr(preprocessing, name) for name in names}}


def check_names(given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse settings that do not exist, naming the nearest that does.

    Raises:
        TypeError: a name is unknown.
    """
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known)}"
            raise TypeError(f"JEPAProcessor has no setting {name!r}; {hint}")


@dataclass(frozen=True)
class Stored:
    """Settings for JEPAProcessor from a file, whether it is for video, and whether it is ours (then complete)."""

    settings: dict[str, Any]
    is_video: bool
    is_ours: bool


def read_settings(path: Path) -> Stored:
    """What a stored preprocessor file says.

    Raises:
        ValueError: not a JSON object, or steps that JEPAProcessor does not have.
    """
    data = read_object(path)
    kind = str(
        data.get("video_processor_type") or data.get("image_processor_type") or data.get("feature_extractor_type")
    )
    is_video = path.name == VIDEO_FILE or "Video" in kind
    own = data.get(_OWN_KEY)
    if isinstance(own, dict):
        settings = {key: tuple(value) if isinstance(value, list) else value for key, value in own.items()}
        return Stored(settings, is_video, is_ours=True)
    return Stored(_from_transformers(data, kind, path.name), is_video, is_ours=False)


def _from_transformers(data: Mapping[str, Any], kind: str, file: str) -> dict[str, Any]:
    data = {**_CLASS_DEFAULTS.get(kind, {}), **{key: value for key, value in data.items() if value is not None}}
    switched_on = [step for step in _UNKNOWN_STEPS if data.get(step)]
    if switched_on:
        raise ValueError(f"{file} asks for {' and '.join(switched_on)}, which JEPAProcessor does not do")
    resample = data.get("resample", 2)
    settings: dict[str, Any] = {
        **_sizes(data, kind, file),
        "interpolation": _RESAMPLE.get(resample, str(resample)),
        "rescale": float(data.get("rescale_factor", 1 / 255)) if data.get("do_rescale", True) else 1.0,
        "crop_rounding": "down",  # Upstream: transformers rounds down where torchvision rounds half to even
    }
    if data.get("do_normalize", True):
        missing = [key for key in ("image_mean", "image_std") if key not in data]
        if missing:
            raise ValueError(f"{file} normalises but has no {' and no '.join(missing)}")
        settings.update(mean=_three(data["image_mean"]), std=_three(data["image_std"]))
    else:
        settings.update(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    if data.get("num_frames"):
        settings["num_frames"] = int(data["num_frames"])
    return settings


def _sizes(data: Mapping[str, Any], kind: str, file: str) -> dict[str, Any]:
    """image_size, resize and aspect of a file of transformers."""
    crop = _edges(data["crop_size"], file) if data.get("do_center_crop") and "crop_size" in data else None
    if kind == "VJEPA2VideoProcessor" and crop is not None:
        # Upstream: this class derives the shortest edge from the crop's height, whatever `size` says
        return {"image_size": _simple(crop), "resize": int(crop[0] * 256 / 224), "aspect": "crop"}
    if not data.get("do_resize", True):
        if crop is not None:
            raise ValueError(
                f"{file} crops without resizing, which JEPAProcessor does not do; pass image_size and aspect"
            )
        return {"image_size": None, "resize": None, "aspect": "native"}
    size = data.get("size")
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
        edge = int(size["shortest_edge"])
        if crop is None:
            return {"image_size": None, "resize": edge, "aspect": "native"}
        return {"image_size": _simple(crop), "resize": edge, "aspect": "crop"}
    height, width = _edges(size, file)
    if crop is None or crop == (height, width):
        return {"image_size": _simple((height, width)), "resize": None, "aspect": "squash"}
    if height != width:
        raise ValueError(f"{file} squashes to {width} x {height} before it crops; JEPAProcessor squashes to a square")
    return {"image_size": _simple(crop), "resize": height, "aspect": "squash"}


def _edges(size: Any, file: str) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if isinstance(size, Mapping) and {"height", "width"} <= set(size):
        return int(size["height"]), int(size["width"])
    if isinstance(size, (list, tuple)) and len(size) == 2:
        return int(size[0]), int(size[1])
    raise ValueError(f"{file} gives the size {size!r}; a number, height and width, or shortest_edge is read")


def _simple(size: tuple[int, int]) -> int | tuple[int, int]:
    return size[0] if size[0] == size[1] else size


def _three(values: Any) -> tuple[float, ...]:
    return (float(values),) * 3 if isinstance(values, (int, float)) else tuple(float(value) for value in values)


def write_settings(folder: Path, settings: Mapping[str, Any]) -> Path:
    """Write settings where our loader and transformers' find them; the file's path.

    The file holds transformers' keys, and ours whole under "jepa_hub". A class of transformers is named only where it
    computes the same, so that an Auto class refuses the file rather than misreads it.
    """
    is_video = settings["tubelet_size"] > 1
    data = {**_to_transformers(settings, is_video), _OWN_KEY: dict(settings)}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (VIDEO_FILE if is_video else IMAGE_FILE)
    other = folder / (IMAGE_FILE if is_video else VIDEO_FILE)
    if other.exists():
        warnings.warn(f"{folder} also holds {other.name}; remove it if it belongs to another model", stacklevel=3)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    os.replace(beside, path)
    return path


def _to_transformers(settings: Mapping[str, Any], is_video: bool) -> dict[str, Any]:
    aspect, resize, image_size = settings["aspect"], settings["resize"], settings["image_size"]
    target = None if image_size is None else _edges(image_size, "settings")
    mean, std = tuple(settings["mean"]), tuple(settings["std"])
    data: dict[str, Any] = {
        "do_resize": aspect != "native" or resize is not None,
        "do_center_crop": aspect == "crop" or (aspect == "squash" and resize is not None),
        "do_rescale": settings["rescale"] != 1,
        "rescale_factor": settings["rescale"] if settings["rescale"] != 1 else 1 / 255,
        "do_normalize": (mean, std) != ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        "image_mean": list(mean),
        "image_std": list(std),
        "resample": {name: code for code, name in _RESAMPLE.items()}[settings["interpolation"]],
        "do_convert_rgb": True,
    }
    if aspect == "squash" and target:
        data["size"] = {"height": resize or target[0], "width": resize or target[1]}
    elif aspect != "pad" and (resize or target):
        data["size"] = {"shortest_edge": resize or max(target or (0,))}
    if data["do_center_crop"] and target:
        data["crop_size"] = {"height": target[0], "width": target[1]}
    if settings["num_frames"]:
        data["num_frames"] = settings["num_frames"]
    square = target is None or target[0] == target[1]
    same = aspect != "pad" and settings["multiple"] == "error" and (square or resize is not None or aspect == "squash")
    if is_video:
        # Upstream: the class overwrites `size` by this rule
        same = aspect == "crop" and target is not None and resize == int(target[0] * 256 / 224)
        return {"video_processor_type": "VJEPA2VideoProcessor", **data} if same else data
    return {"image_processor_type": "ViTImageProcessor", **data} if same else data
