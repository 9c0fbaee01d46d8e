"""Source: numbered samples of pictures or clips, read one by one in worker processes; and what a sample is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from jepa_hub.masking.draws import keyed, keyed_order

EPOCH_ORDER = 101  # purpose of a key, so that no two draws of a run share one


class SampleError(Exception):
    """One sample cannot be read; the text names the file and what is wrong with it. The run goes on without it."""


@dataclass(frozen=True)
class Label:
    """What a source tells about its samples.

    Attributes:
        kind: "class" (an integer 0 .. num_classes - 1) or "number" (a float).
        num_classes: of a class label; None for a number.
        names: of the classes, where they have names.
        unit: of a number, e.g. "objects" or "scene units".
    """

    kind: Literal["class", "number"]
    num_classes: int | None = None
    names: tuple[str, ...] = ()
    unit: str = ""


@dataclass(frozen=True)
class Sample:
    """One picture or clip.

    Attributes:
        index: its number in the source.
        pixels: uint8 RGB, [3, H, W] for a picture and [3, F, H, W] for a clip; any size.
        labels: values of `Source.labels`, by name.
        captions: sentences about the sample.
        details: anything else that is known (a scene graph, a path), never used in training.
    """

    index: int
    pixels: Tensor
    labels: dict[str, int | float] = field(default_factory=dict)
    captions: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)


class SourceSettings(BaseModel):
    """Settings of a source; each source adds its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(ABC):
    """Samples 0 .. len - 1. Reading is a pure function of (index, key), so that a resumed run sees the same data.

    A source is built once in the main process and pickled to the workers: it holds paths and offsets, and opens files
    in `read`.
    """

    Settings: ClassVar[type[SourceSettings]]
    kind: Literal["image", "clip"]

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def read(self, index: int, key: int) -> Sample:
        """Sample `index`; `key` decides what is random in it, such as which frames of a long video.

        Raises:
            SampleError: the sample cannot be read.
        """

    @property
    def labels(self) -> dict[str, Label]:
        """What is known about every sample, by name; empty for unlabelled data."""
        return {}

    def label_values(self, name: str) -> Tensor:
        """The label `name` of every sample [N]; sources that know it without reading pixels say so faster.

        Raises:
            SampleError: a sample cannot be read.
        """
        return torch.tensor([self.read(index, 0).labels[name] for index in range(len(self))])

    def order(self, seed: int, epoch: int) -> Tensor:
        """The order of an epoch: a permutation of 0 .. len - 1, int64; a slow source may keep neighbours near."""
        return keyed_order(keyed(seed, epoch, EPOCH_ORDER), len(self)).argsort()


def check_pixels(pixels: Tensor, kind: str, what: str) -> Tensor:
    """`pixels` if they are uint8 RGB of the right number of axes, else SampleError naming `what`."""
    axes = 3 if kind == "image" else 4
    if pixels.dtype != torch.uint8 or pixels.ndim != axes or pixels.shape[0] != 3 or pixels.numel() == 0:
        shape = "[3, H, W]" if kind == "image" else "[3, F, H, W]"
        raise SampleError(f"{what}: expected uint8 {shape}, got {pixels.dtype} {tuple(pixels.shape)}")
    return pixels
