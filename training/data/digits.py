"""Digits: the 1797 handwritten digits of 8 x 8 pixels that come with scikit-learn, for runs of a minute."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from jepa_hub.masking.draws import keyed, keyed_order
from training.data.source import Label, Sample, Source, SourceSettings

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SHARES = {"train": (0.0, 0.7), "validation": (0.7, 0.85), "test": (0.85, 1.0)}  # of each class
FOLDS = 5
_SPLIT, _PERMUTATION = 221, 222  # purposes of keys


class DigitsSettings(SourceSettings):
    """Settings of `digits`.

    Attributes:
        split: 70 % of each class are for training, 15 % for validation and 15 % for testing; always the same ones.
        fold: of cross-validation: the validation samples stay, of the others one in five is for testing, another fifth
            in each of the folds 0 to 4; null is the split above.
        size: of the pictures, pixels.
        enlarge: nearest keeps the squares of the 8 x 8 original, bilinear smooths them; smaller sizes are averages.
        permutation: number of a fixed order in which the pixels of every picture are shuffled; null leaves them.
    """

    split: Literal["train", "validation", "test"] = "train"
    fold: int | None = Field(default=None, ge=0, lt=FOLDS)
    size: int = Field(default=32, ge=1, le=512)
    enlarge: Literal["nearest", "bilinear"] = "bilinear"
    permutation: int | None = Field(default=None, ge=0)


class Digits(Source):
    """White digits on black with the label `digit`.

    Raises:
        ImportError: scikit-learn is missing.
    """

    settings: DigitsSettings
    Settings = DigitsSettings
    kind = "image"

    def __init__(self, settings: DigitsSettings) -> None:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ImportError('digits come with scikit-learn: pip install "jepa-hub[train]"') from error
        self.settings = settings
        found = load_digits()
        target = torch.from_numpy(found.target).long()
        rows = []
        for digit in range(10):
            members = (target == digit).nonzero()[:, 0]
            members = members[keyed_order(keyed(_SPLIT, digit), len(members)).argsort()]
            rows.append(members[_chosen(len(members), settings)])
        self._rows = torch.cat(rows).sort().values  # [N] in the order of scikit-learn
        self._digits = target[self._rows]
        self._levels = torch.from_numpy(found.images).float()[self._rows] * (255 / 16)  # [N, 8, 8]
        # Small pictures, a megabyte or two in all, are enlarged once instead of whenever one is read.
        self._pixels = self._enlarge(self._levels) if settings.size <= 48 else None  # [N, 1, size, size]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def labels(self) -> dict[str, Label]:
        """`digit`."""
        return {"digit": Label("class", 10, NAMES)}

    def _enlarge(self, levels: Tensor) -> Tensor:
        side = self.settings.size
        mode = self.settings.enlarge if side >= 8 else "area"
        pictures = F.interpolate(levels[:, None], (side, side), mode=mode).round().to(torch.uint8)  # [N, 1, S, S]
        if self.settings.permutation is None:
            return pictures
        order = pixel_order(self.settings.permutation, side)
        return pictures.flatten(-2)[..., order].view_as(pictures)

    def label_values(self, name: str) -> Tensor:
        """The digits [N]."""
        return self._digits.clone()

    def read(self, index: int, key: int) -> Sample:
        """Sample `index`; nothing in it is random. `details["row"]` is its number in scikit-learn's set.

        Raises:
            IndexError: there is no such sample.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        one = self._enlarge(self._levels[index, None])[0] if self._pixels is None else self._pixels[index]
        pixels = one.repeat(3, 1, 1)  # [3, size, size]
        digit = int(self._digits[index])
        caption = f"The handwritten digit {NAMES[digit]}."
        return Sample(index, pixels, {"digit": digit}, (caption,), {"row": int(self._rows[index])})


def pixel_order(permutation: int, size: int) -> Tensor:
    """Where each pixel of a shuffled picture comes from, int64 [size * size]."""
    return keyed_order(keyed(_PERMUTATION, permutation), size * size).argsort()


def _chosen(count: int, settings: DigitsSettings) -> Tensor:
    """Places among the `count` shuffled samples of a class that belong to the split."""
    places = torch.arange(count)
    low, high = SHARES[settings.split]
    if settings.fold is None or settings.split == "validation":
        return places[round(low * count) : round(high * count)]
    start, end = (round(share * count) for share in SHARES["validation"])
    others = torch.cat([places[:start], places[end:]])
    tested = torch.arange(len(others)) % FOLDS == settings.fold
    return others[tested if settings.split == "test" else ~tested]
