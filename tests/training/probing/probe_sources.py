"""Sources for tests of probes: pictures whose labels are known and easy or hard on purpose."""

from __future__ import annotations

from typing import Literal

import torch

from jepa_hub.masking.draws import keyed
from training.data.source import Label, Sample, SampleError, Source, SourceSettings


class SquaresSettings(SourceSettings):
    length: int = 200
    size: int = 32
    frames: int = 0  # 0: pictures
    bad: tuple[int, ...] = ()
    repeat: int = 0  # the first so many samples all show the same


class Squares(Source):
    """A grey square: `place` is which quarter it lies in, `level` its brightness, `always` never varies."""

    Settings = SquaresSettings
    kind: Literal["image", "clip"] = "image"
    SPLIT = 0

    def __init__(self, settings: SquaresSettings) -> None:
        self.settings = settings
        self.reads = 0
        if settings.frames:
            self.kind = "clip"

    def __len__(self) -> int:
        return self.settings.length

    def read(self, index: int, key: int) -> Sample:
        self.reads += 1
        if index in self.settings.bad:
            raise SampleError(f"square {index} is torn")
        seed = int(keyed(self.SPLIT, 0 if index < self.settings.repeat else index))
        generator = torch.Generator().manual_seed(seed)
        size, half = self.settings.size, self.settings.size // 2
        place = int(torch.randint(4, (1,), generator=generator))
        level = int(torch.randint(100, 256, (1,), generator=generator))
        pixels = torch.randint(0, 60, (3, size, size), generator=generator, dtype=torch.uint8)
        row, column = divmod(place, 2)
        pixels[:, row * half : (row + 1) * half, column * half : (column + 1) * half] = level
        if self.settings.frames:
            pixels = pixels.unsqueeze(1).repeat(1, self.settings.frames, 1, 1)
        return Sample(index, pixels, {"place": place, "level": float(level), "always": 0})

    @property
    def labels(self) -> dict[str, Label]:
        return {
            "place": Label("class", 4, ("top left", "top right", "bottom left", "bottom right")),
            "level": Label("number", unit="levels"),
            "always": Label("class", 2),
        }


class SplitSquaresSettings(SquaresSettings):
    split: Literal["train", "validation", "test"] = "train"
    num_samples: int = 50


class SplitSquares(Squares):
    """Squares with splits of their own, drawn on the fly."""

    Settings = SplitSquaresSettings

    def __init__(self, settings: SplitSquaresSettings) -> None:
        super().__init__(settings)
        self.SPLIT = 1 + ("train", "validation", "test").index(settings.split)
        self.count = settings.num_samples

    def __len__(self) -> int:
        return self.count


class TwoSplitsSettings(SquaresSettings):
    split: Literal["train", "test"] = "train"


class TwoSplits(Squares):
    """Squares without a validation split."""

    Settings = TwoSplitsSettings

    def __init__(self, settings: TwoSplitsSettings) -> None:
        super().__init__(settings)
        self.SPLIT = 5 + ("train", "test").index(settings.split)


class AnySplitSettings(SquaresSettings):
    split: str = "train"


class AnySplit(Squares):
    """Squares whose splits may be called anything."""

    Settings = AnySplitSettings
