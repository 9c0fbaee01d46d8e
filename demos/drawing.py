"""From maps of tokens to pictures of one size, side by side on sheets that know where a click belongs."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Picture = Image.Image
GAP = 6
# Of matplotlib's tab10, reordered so that the first few differ in lightness too.
SEGMENT_COLOURS = (
    (31, 119, 180), (255, 160, 60), (44, 140, 60), (214, 60, 60), (148, 103, 189), (23, 190, 207), (227, 119, 194),
    (188, 189, 34), (140, 86, 75), (127, 127, 127), (80, 60, 160), (240, 220, 120),
)  # fmt: skip
PADDING = (128, 128, 128)


@dataclass(frozen=True)
class Sheet:
    """Pictures of one size in rows; `at` finds the one under a click.

    Attributes:
        cells: all of one size.
        columns: of the sheet.
    """

    cells: tuple[Picture, ...]
    columns: int

    @classmethod
    def of(cls, cells: Sequence[Picture], columns: int | None = None) -> Sheet:
        """A sheet that is about as wide as high, unless told otherwise."""
        return cls(tuple(cells), columns or math.ceil(math.sqrt(len(cells))))

    @property
    def picture(self) -> Picture:
        """All cells on a transparent sheet."""
        width, height = self.cells[0].size
        rows = -(-len(self.cells) // self.columns)
        size = (self.columns * (width + GAP) - GAP, rows * (height + GAP) - GAP)
        sheet = Image.new("RGBA", size, (0, 0, 0, 0))
        for number, cell in enumerate(self.cells):
            row, column = divmod(number, self.columns)
            sheet.paste(cell, (column * (width + GAP), row * (height + GAP)))
        return sheet

    def at(self, x: float, y: float) -> tuple[int, float, float] | None:
        """(number of the cell, share of its width, share of its height) of a pixel; None between cells."""
        width, height = self.cells[0].size
        column, row = int(x // (width + GAP)), int(y // (height + GAP))
        u, v = (x - column * (width + GAP)) / width, (y - row * (height + GAP)) / height
        number = row * self.columns + column
        inside = 0 <= column < self.columns and 0 <= u < 1 and 0 <= v < 1 and 0 <= number < len(self.cells)
        return (number, u, v) if inside else None


def cell_size(
    frame: tuple[int, int], count: int, *, room: int = 640, least: int = 96, most: int = 384
) -> tuple[int, int]:
    """(width, height) of cells for frames of (height, width), so that `count` of them fill a sheet of `room` pixels."""
    side = max(least, min(most, (room + GAP) // max(1, math.ceil(math.sqrt(count))) - GAP))
    scale = side / max(frame)
    return max(1, round(frame[1] * scale)), max(1, round(frame[0] * scale))


def pictures(frames: np.ndarray[Any, Any] | Tensor, size: tuple[int, int]) -> list[Picture]:
    """Frames uint8 [N, H, W, 3] as pictures of (width, height)."""
    array = frames.numpy() if isinstance(frames, Tensor) else frames
    return [Image.fromarray(np.ascontiguousarray(each)).resize(size, Image.Resampling.LANCZOS) for each in array]


def blocks(maps: np.ndarray[Any, Any], size: tuple[int, int]) -> list[Picture]:
    """Colours of tokens uint8 [N, h, w, 3] as pictures of (width, height), each token a rectangle."""
    return [Image.fromarray(np.ascontiguousarray(each)).resize(size, Image.Resampling.NEAREST) for each in maps]


def segment_colours(labels: Tensor) -> np.ndarray[Any, Any]:
    """Colours uint8 [..., 3] of groups int64 [...]; -1, padding, is grey."""
    table = np.array([*SEGMENT_COLOURS, PADDING], np.uint8)
    numbers = torch.where(labels < 0, len(SEGMENT_COLOURS), labels % len(SEGMENT_COLOURS))
    return np.asarray(table[numbers.numpy()])


def heat(values: Tensor, low: float, high: float, name: str = "inferno") -> np.ndarray[Any, Any]:
    """Colours uint8 [..., 3] of values [...] from `low` (dark) to `high`; NaN is grey."""
    from matplotlib import colormaps

    share = ((values.float() - low) / max(high - low, 1e-9)).clamp(0, 1)
    colours = (colormaps[name](share.nan_to_num(0).numpy())[..., :3] * 255).round().astype(np.uint8)
    colours[values.isnan().numpy()] = PADDING
    return np.asarray(colours)


def mixed(under: Sequence[Picture], over: Sequence[Picture], share: float) -> list[Picture]:
    """Greyed pictures with others laid over."""
    return [Image.blend(a.convert("L").convert("RGB"), b, share) for a, b in zip(under, over, strict=True)]


def outlined(
    picture: Picture, box: tuple[float, float, float, float], colour: tuple[int, int, int] = (255, 255, 255)
) -> Picture:
    """A copy with a rectangle, (left, top, right, bottom) as shares of the picture, drawn in white on black."""
    from PIL import ImageDraw

    copy = picture.copy()
    draw = ImageDraw.Draw(copy)
    left, top, right, bottom = (
        round(share * side) for share, side in zip(box, (*picture.size, *picture.size), strict=True)
    )
    draw.rectangle((left - 1, top - 1, right, bottom), outline=(0, 0, 0), width=4)
    draw.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=2)
    return copy


def data_url(picture: Picture, kind: str = "JPEG") -> str:
    """A picture as the address of itself, so that nothing has to be served."""
    buffer = io.BytesIO()
    (picture.convert("RGB") if kind == "JPEG" else picture).save(buffer, kind, quality=90)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
