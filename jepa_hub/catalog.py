"""CHECKPOINTS: one row per published weight: where it is, what it holds, its licence, its preprocessing, its scores.

Data, never logic: `find` looks a row up, `nearest` suggests names. What a row says, and how sure it is:

- `source` is a Hub id, an https URL, or `package:<folder>` for a weight shipped with this package.
- `sha256` is None where nobody here has read the file, which is every published file so far; it is never a guess.
- `scores` are numbers read in the authors' README. Numbers known only from memory or from an abstract are left out,
  which is why I-JEPA has none. They belong to official files and their probes, not to conversions of one encoder.
- `parameters` counts the learned parameters of one encoder, from its shapes. A file with all three networks holds that
  twice, plus the predictor.
- `config` holds only what tensors cannot tell (image size, clip length, head counts), and for probes their protocol.
"""

from __future__ import annotations

import difflib
from typing import Any

from jepa_hub.catalog_official import IJEPA, LLIP, PAWS, UNSUPPORTED, VJEPA, VJEPA2
from jepa_hub.catalog_row import ALL_NETWORKS, Checkpoint, Preprocessing

_HUB_PAGE = "https://huggingface.co/"

# Shipped with this package: small, trained here, for demonstrations and tests -----------------------------------------
_OURS: dict[str, Any] = {
    "layout": "jepa_hub",
    "licence": "apache-2.0",
    "licence_source": "LICENSE of this package",
    "networks": ALL_NETWORKS,
}
_SHIPPED = (
    Checkpoint(
        "ijepa-tiny-scenes",
        family="ijepa",
        source="package:ijepa-tiny-scenes",
        paper="2301.08243",
        preprocessing=Preprocessing(image_size=64, resize=64),
        grid_size=(1, 8, 8),
        parameters=818_048,
        note="Trained by this project on drawn pictures of solids; it has seen no photograph.",
        **_OURS,
    ),
    Checkpoint(
        "iwm-tiny-scenes",
        family="iwm",
        source="package:iwm-tiny-scenes",
        paper="2403.00504",
        preprocessing=Preprocessing(image_size=32, resize=32),
        grid_size=(1, 4, 4),
        parameters=112_448,
        note="Trained by this project on drawn pictures of solids; told a change of colours, it follows brightness.",
        **_OURS,
    ),
    Checkpoint(
        "vjepa-tiny-sliding-scenes",
        family="vjepa",
        source="package:vjepa-tiny-sliding-scenes",
        paper="2404.08471",
        preprocessing=Preprocessing(image_size=32, resize=32, num_frames=16),
        grid_size=(8, 4, 4),
        parameters=842_624,
        note="Trained by this project on drawn clips of a plain that slides by; it has seen no film.",
        **_OURS,
    ),
    Checkpoint(
        "paws-tiny-scenes",
        family="paws",
        source="package:paws-tiny-scenes",
        paper="2104.13963",
        preprocessing=Preprocessing(image_size=64, resize=64),
        grid_size=(1, 4, 4),
        parameters=311_200,
        note="Trained by this project on drawn pictures of one solid; it knew the colours of 5 pictures each.",
        **{**_OURS, "networks": ("encoder",)},
    ),
    Checkpoint(
        "llip-tiny-scenes",
        family="llip",
        source="package:llip-tiny-scenes",
        paper="2405.00740",
        preprocessing=Preprocessing(image_size=64, resize=64),
        grid_size=(1, 8, 8),
        parameters=828_416,
        note="Trained by this project on drawn pictures of solids and phrases about them; it has seen no photograph.",
        **{**_OURS, "networks": ("encoder",)},
    ),
    Checkpoint(
        "vjepa-tiny-worlds",
        family="vjepa",
        source="package:vjepa-tiny-worlds",
        paper="2502.11831",
        preprocessing=Preprocessing(image_size=48, resize=48, num_frames=16),
        grid_size=(8, 4, 4),
        parameters=904_064,
        note="Trained by this project on possible clips of simulated worlds, to be surprised by impossible ones.",
        **_OURS,
    ),
    Checkpoint(
        "mae-tiny-worlds",
        family="mae",
        source="package:mae-tiny-worlds",
        paper="2203.12602",
        preprocessing=Preprocessing(image_size=48, resize=48, num_frames=16),
        grid_size=(8, 4, 4),
        parameters=904_064,
        note="The pixel-prediction baseline of vjepa-tiny-worlds: the same encoder and clips, as many FLOPs.",
        **(_OURS | {"networks": ("encoder", "predictor")}),
    ),
    Checkpoint(
        "pit-tiny-digits",
        family="pit",
        source="package:pit-tiny-digits",
        paper="2406.09415",
        preprocessing=Preprocessing(image_size=8, resize=8),
        grid_size=(1, 8, 8),
        parameters=40_352,
        note="Trained by this project: tells handwritten digits of 8 x 8 pixels apart, a token per pixel.",
        **(_OURS | {"networks": ("encoder",)}),
    ),
    Checkpoint(
        "dit-tiny-digits",
        family="dit",
        source="package:dit-tiny-digits",
        paper="2406.09415",
        preprocessing=Preprocessing(image_size=8, resize=8),
        grid_size=(1, 8, 8),
        parameters=70_755,
        note="Trained by this project: makes handwritten digits of 8 x 8 pixels, by class: sample(['three']).",
        **(_OURS | {"networks": ("encoder", "target_encoder")}),
    ),
)

CHECKPOINTS: dict[str, Checkpoint] = {
    row.name: row for row in (*_SHIPPED, *IJEPA, *VJEPA, *VJEPA2, *PAWS, *LLIP, *UNSUPPORTED)
}
_BY_SOURCE = {row.source: row for row in CHECKPOINTS.values()}
# File names of official downloads, where one name means one row: the probes of V-JEPA share theirs.
_FILES = [row.source.rsplit("/", 1)[-1] for row in CHECKPOINTS.values() if row.layout == "official"]
_BY_FILE = {url.rsplit("/", 1)[-1]: row for url, row in _BY_SOURCE.items() if _FILES.count(url.rsplit("/", 1)[-1]) == 1}


def find(name: str) -> Checkpoint | None:
    """The row of a catalog name, Hub id (or its page), URL or official file name; None when the catalog has none."""
    key = name.strip().removeprefix(_HUB_PAGE).rstrip("/")
    return CHECKPOINTS.get(key) or _BY_SOURCE.get(key) or _BY_FILE.get(key)


def nearest(name: str, count: int = 3) -> tuple[str, ...]:
    """Up to `count` catalog names that look like `name` (a misspelt name, Hub id or file name), best first."""
    wanted = name.strip().lower().rstrip("/").split("/")[-1].replace("_", "-")
    keys: dict[str, str] = {}  # every spelling a row goes by -> its catalog name
    for row in CHECKPOINTS.values():
        keys[row.name] = row.name
        keys.setdefault(row.source.lower().split("/")[-1].replace("_", "-"), row.name)
    close = difflib.get_close_matches(wanted, keys, n=4 * count, cutoff=0.6)
    starting = [key for key in keys if wanted and key.startswith(wanted)]
    return tuple(dict.fromkeys(keys[key] for key in (*starting, *close)))[:count]
