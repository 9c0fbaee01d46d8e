"""Which settings a name stands for: its stored file, the catalog's row, its config.json, the caller's overrides."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jepa_hub.catalog import find
from jepa_hub.catalog_row import Checkpoint
from jepa_hub.hub import cached_file, locate
from jepa_hub.json_files import read_object
from jepa_hub.processor_files import IMAGE_FILE, VIDEO_FILE, Stored, read_settings, row_settings

# Their stored files squash to a square and normalise with 0.5, which is not how the networks were trained.
NOT_OBEYED = frozenset(f"facebook/ijepa_{size}" for size in ("vith14_1k", "vith14_22k", "vith16_1k", "vitg16_22k"))
_SAMPLING = ("num_frames", "fps", "frame_step")
_Fetch = Callable[[str], Path | None]


def find_settings(
    name: str, preprocessing: str, hub: Mapping[str, Any], overrides: Mapping[str, Any], known: Sequence[str]
) -> dict[str, Any]:
    """Keyword arguments of JEPAProcessor for a catalog name, Hub id, folder or official file.

    Args:
        name: what `hub.locate` understands.
        preprocessing: "official" or "as_stored".
        hub: revision, cache_dir, token, local_files_only, subfolder.
        overrides: what the caller wants otherwise.
        known: the settings there are.

    Raises:
        ValueError: nothing says how to preprocess.
        OSError: the repository is unknown or cannot be reached.
    """
    if preprocessing not in ("official", "as_stored"):
        raise ValueError(f"preprocessing is 'official' or 'as_stored'; got {preprocessing!r}")
    location = locate(name)
    row = location.row or (find(Path(location.name).name) if location.kind == "file" else None)

    def fetch(filename: str) -> Path | None:
        return cached_file(location.name, filename, **hub) if location.kind == "repository" else None

    official = preprocessing == "official"
    overruled = official and row is not None and location.name in NOT_OBEYED
    stored = None if overruled else _stored(fetch)
    if stored is not None and stored.is_ours:
        return merge(_known_only(stored.settings, known, name), overrides)
    config = _config(fetch)
    if stored is None and not official:
        raise ValueError(f"{name} stores no preprocessing; leave preprocessing='as_stored' out")
    if stored is None and row is None and not (overrides.get("image_size") or overrides.get("aspect") == "native"):
        raise ValueError(
            f"{name} stores no {IMAGE_FILE} or {VIDEO_FILE}, and the catalog does not know it: give image_size= (a"
            " centre crop, with ImageNet's mean and standard deviation), and mean=, std=, resize= where they differ"
        )
    if stored is not None and official and location.name not in NOT_OBEYED:
        _warn_of_conversion_defaults(name, stored.settings, config)
    settings = row_settings(row.preprocessing) if row else {}
    if stored is not None:
        settings = {**{key: settings.get(key) for key in _SAMPLING}, **stored.settings}
    is_video = stored is not None and stored.is_video
    return merge({**_architecture(config, row, is_video), **_given(settings)}, overrides)


def _stored(fetch: _Fetch) -> Stored | None:
    for filename in (VIDEO_FILE, IMAGE_FILE):
        path = fetch(filename)
        if path is not None:
            return read_settings(path)
    return None


def _known_only(settings: Mapping[str, Any], known: Sequence[str], name: str) -> dict[str, Any]:
    """Settings this version has; others are of a newer one and warned about."""
    unknown = sorted(set(settings) - set(known))
    if unknown:
        warnings.warn(f"{name} stores settings of a newer jepa_hub, left out: {', '.join(unknown)}", stacklevel=4)
    return {key: value for key, value in settings.items() if key in known}


def _config(fetch: _Fetch) -> dict[str, Any]:
    path = fetch("config.json")
    return {} if path is None else read_object(path)


def _warn_of_conversion_defaults(name: str, stored: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """A local copy of an I-JEPA repository cannot be told by its name; its file can."""
    if config.get("model_type") == "ijepa" and stored.get("mean") == (0.5, 0.5, 0.5):
        warnings.warn(
            f"{name} stores mean 0.5 and a square resize, the defaults of the conversion of I-JEPA; the networks were"
            " trained with ImageNet's mean and a centre crop. Load it by its Hub id for that, or pass"
            " preprocessing='as_stored' to silence this",
            stacklevel=4,
        )


def _architecture(config: Mapping[str, Any], row: Checkpoint | None, is_video: bool) -> dict[str, Any]:
    """patch_size, tubelet_size and clip length, as far as config.json or the catalog tell them."""
    told = {**(row.config if row else {}), **config}
    is_video = is_video or bool(row and row.preprocessing.num_frames)
    patch = told.get("patch_size")
    if isinstance(patch, (list, tuple)) and len(set(patch)) == 1:
        patch = patch[0]
    tubelet = told.get("tubelet_size") or (2 if is_video else 1)
    length = told.get("num_frames") or told.get("frames_per_clip")
    return {
        "patch_size": patch if isinstance(patch, int) else None,
        "tubelet_size": tubelet,
        "num_frames": length if tubelet > 1 and length and length % tubelet == 0 else None,
    }


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without sampling that is not set, so that it does not hide what config.json says."""
    return {key: value for key, value in settings.items() if value is not None or key not in _SAMPLING}


def merge(settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with overrides and what follows: a new image_size scales resize, a new aspect drops it."""
    merged = {**settings, **overrides}
    old, new = settings.get("image_size"), overrides.get("image_size")
    aspect = overrides.get("aspect")
    if aspect is None and new is not None and settings.get("aspect") == "native":
        merged["aspect"] = "crop"
    if "resize" not in overrides and settings.get("resize") is not None:
        if aspect is not None and aspect != settings.get("aspect"):
            merged["resize"] = None
        elif new is not None:
            merged["resize"] = None if old is None else int(_shortest(new) * settings["resize"] / _shortest(old))
    if aspect == "native" and "image_size" not in overrides:
        merged["image_size"] = None
    return merged


def _shortest(size: Any) -> int:
    return size if isinstance(size, int) else min(size)
