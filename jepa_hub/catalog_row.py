"""Checkpoint: what a row of the catalog says of one published weight. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

COMMERCIAL_LICENCES = frozenset({"apache-2.0", "bsd-2-clause", "bsd-3-clause", "cc-by-4.0", "cc0-1.0", "mit"})
ALL_NETWORKS = ("encoder", "predictor", "target_encoder")


@dataclass(frozen=True)
class Preprocessing:
    """How the authors turn a picture or clip into pixels: shortest edge, centre crop, normalisation, frame sampling."""

    image_size: int  # side of the centre crop, pixels
    resize: int | None  # shortest edge before the crop, pixels; None: no resize
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    num_frames: int | None = None  # None: an image model
    fps: float | None = None  # sample frames at this rate ...
    frame_step: int | None = None  # ... or every frame_step-th frame of the file


@dataclass(frozen=True)
class Score:
    """One reported number, with the protocol that makes it comparable and where it was read."""

    dataset: str
    metric: str
    value: float
    protocol: str
    source: str


@dataclass(frozen=True)
class Checkpoint:
    """One published weight."""

    name: str
    family: str
    source: str
    layout: Literal["official", "transformers", "jepa_hub"]
    licence: str  # SPDX id in lower case
    licence_source: str
    paper: str  # arXiv id
    networks: tuple[str, ...]
    preprocessing: Preprocessing
    grid_size: tuple[int, int, int] | None = None  # tokens (T, H, W) of an input preprocessed so
    config: Mapping[str, Any] = field(default_factory=dict)
    kind: Literal["model", "probe"] = "model"
    backbone: str | None = None  # catalog name of the model whose features a probe reads
    sha256: str | None = None
    scores: tuple[Score, ...] = ()
    parameters: int | None = None
    unsupported: str | None = None  # why this package does not load it
    note: str = ""
