"""Quadrants: tiny pictures of four shapes, one in each quarter, for the question how one vector holds many captions."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from training.data.source import Label, Sample, Source, SourceSettings

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.9, 0.1, 0.1),
    "green": (0.1, 0.8, 0.1),
    "blue": (0.15, 0.25, 0.95),
    "yellow": (0.95, 0.9, 0.1),
    "purple": (0.6, 0.1, 0.8),
    "cyan": (0.1, 0.85, 0.9),
    "orange": (1.0, 0.55, 0.05),
    "white": (1.0, 1.0, 1.0),
}
PLACES = ("top left", "top right", "bottom left", "bottom right")
SIDE = 7  # pixels of a shape; a quarter has 8, so it can lie in four places
_BLOCK = 1024  # samples drawn at once
_SPLITS = {"train": 0, "validation": 1, "test": 2}


def _shapes() -> dict[str, NDArray[np.float32]]:
    """Masks [7, 7] by name."""
    rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    away = np.hypot(rows, columns)
    middle = (abs(rows) < 1.5) | (abs(columns) < 1.5)
    inner = (abs(rows) < 1.5) & (abs(columns) < 1.5)
    masks = {
        "circle": away < 3.2,
        "square": np.ones_like(middle),
        "triangle": abs(columns) <= (rows + 3.5) / 2,
        "cross": middle,
        "ring": (away < 3.7) & (away > 1.8),
        "frame": ~inner & ((abs(rows) > 1.5) | (abs(columns) > 1.5)),
    }
    return {name: mask.astype(np.float32) for name, mask in masks.items()}


SHAPES = _shapes()
THINGS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)  # 48
_MASKS = np.stack(list(SHAPES.values()))  # [6, 7, 7]
_PALETTE = np.array(list(COLOURS.values()), np.float32)  # [8, 3]


class QuadrantsSettings(SourceSettings):
    """Settings of `quadrants`.

    Attributes:
        num_samples: of this split.
        seed: of everything drawn.
        split: part of every draw, so that no two splits share one.
        noise: standard deviation of what is added to every value in [0, 1].
        positions: captions tell the quarter ("top left: red circle"), or only that there is such a thing.
    """

    num_samples: int = Field(default=76800, ge=1)
    seed: int = 0
    split: Literal["train", "validation", "test"] = "train"
    noise: float = Field(default=0.1, ge=0)
    positions: bool = True


class Quadrants(Source):
    """Pictures of 16 x 16 pixels with one of 8 x 6 things in each quarter, all independent and uniform.

    Four captions are true of every picture, one for each quarter; so are the labels. Nothing is stored: a sample is a
    function of (settings, index).
    """

    settings: QuadrantsSettings
    Settings = QuadrantsSettings
    kind = "image"

    def __init__(self, settings: QuadrantsSettings) -> None:
        self.settings = settings

    def __len__(self) -> int:
        return self.settings.num_samples

    @property
    def labels(self) -> dict[str, Label]:
        """The thing in each quarter, such as `top_left`."""
        return {place.replace(" ", "_"): Label("class", len(THINGS), THINGS) for place in PLACES}

    def order(self, seed: int, epoch: int) -> Tensor:
        """0 .. len - 1: the samples are independent draws, and neighbours are drawn together."""
        return torch.arange(len(self))

    def read(self, index: int, key: int) -> Sample:
        """Sample `index`.

        Raises:
            IndexError: there is no such sample.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        wanted = self.settings
        pictures, things = _block(wanted.seed, _SPLITS[wanted.split], index // _BLOCK, wanted.noise)
        row = things[index % _BLOCK].tolist()
        pixels = torch.from_numpy(pictures[index % _BLOCK])
        labels: dict[str, int | float] = dict(zip(self.labels, row, strict=True))
        return Sample(index, pixels, labels, captions(row, positions=wanted.positions), {"things": row})


def captions(things: list[int], *, positions: bool) -> tuple[str, ...]:
    """What is true of a picture with these things in its quarters, each once."""
    if positions:
        return tuple(f"{place}: {THINGS[thing]}" for place, thing in zip(PLACES, things, strict=True))
    return tuple(dict.fromkeys(f"there is a {THINGS[thing]}" for thing in things))


@lru_cache(maxsize=4)
def _block(seed: int, split: int, number: int, noise: float) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pictures uint8 [1024, 3, 16, 16] and their things [1024, 4]."""
    draw = np.random.default_rng([seed, split, number])
    things = draw.integers(len(THINGS), size=(_BLOCK, len(PLACES)))
    shifts = draw.integers(2, size=(_BLOCK, len(PLACES), 2))
    pictures = np.zeros((_BLOCK, 3, 16, 16), np.float32)
    every = np.arange(_BLOCK)
    for quarter in range(len(PLACES)):
        colour, shape = np.divmod(things[:, quarter], len(SHAPES))
        drawn = _PALETTE[colour][:, :, None, None] * _MASKS[shape][:, None]  # [1024, 3, 7, 7]
        top, left = 8 * (quarter // 2), 8 * (quarter % 2)
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
            those = every[(shifts[:, quarter] == (row, column)).all(axis=1)]
            y, x = top + row, left + column
            pictures[those, :, y : y + SIDE, x : x + SIDE] = drawn[those]
    pictures += noise * draw.standard_normal(pictures.shape, np.float32)
    return (255 * pictures.clip(0, 1)).round().astype(np.uint8), things
