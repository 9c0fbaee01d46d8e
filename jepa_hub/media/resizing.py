"""Bring frames to the size a model takes: resize, crop, pad, in the way the published preprocessing does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_RESIZED_PIXELS = 1 << 26  # of one resized frame; a very long, very thin image would otherwise exhaust memory

Aspect = Literal["crop", "squash", "pad", "native"]
Size = tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """What happens to a frame of one size.

    Attributes:
        resized: (H, W) after resizing; None: not resized.
        crop: (top, left, H, W) cut out of that; None: nothing is cut.
        pad: (left, right, top, bottom) pixels of the mean colour put around that; None: none.
    """

    resized: Size | None = None
    crop: tuple[int, int, int, int] | None = None
    pad: tuple[int, int, int, int] | None = None

    def final(self, size: Size) -> Size:
        """(H, W) that frames of `size` end up with."""
        height, width = self.crop[2:] if self.crop else self.resized or size
        left, right, top, bottom = self.pad or (0, 0, 0, 0)
        return height + top + bottom, width + left + right


def plan(
    size: Size,
    *,
    image_size: Size | None,
    resize: int | None,
    aspect: Aspect,
    patch_size: int | None,
    multiple: Literal["error", "pad", "crop"],
    crop_rounding: Literal["even", "down"],
    name: str,
) -> Geometry:
    """How a frame of `size` (H, W) becomes what the model takes.

    Raises:
        ValueError: the crop is larger than the resized frame, the size is no multiple of the patch, or the frame is too
            elongated to resize.
    """
    if aspect == "native":
        resized = _shortest_edge(size, resize) if resize else size
        geometry = _whole_patches(resized, patch_size, multiple, crop_rounding, name)
        geometry = Geometry(resized if resize else None, geometry.crop, geometry.pad)
    elif image_size is None:  # refused by the processor's own checks
        raise ValueError(f"aspect={aspect!r} needs image_size")
    elif aspect == "pad":
        resized = _fit_inside(size, image_size)
        top, left = ((outer - inner) // 2 for outer, inner in zip(image_size, resized, strict=True))
        bottom, right = image_size[0] - resized[0] - top, image_size[1] - resized[1] - left
        geometry = Geometry(resized, pad=(left, right, top, bottom))
    else:
        if aspect == "squash":
            resized = (resize, resize) if resize else image_size
        else:
            resized = _shortest_edge(size, resize) if resize else _cover(size, image_size)
        geometry = Geometry(resized, _centre(resized, image_size, crop_rounding, name))
    if geometry.resized and geometry.resized[0] * geometry.resized[1] > MAX_RESIZED_PIXELS:
        raise ValueError(
            f"{name} is {size[1]} x {size[0]} pixels, too elongated: resized it would be {geometry.resized[1]} x"
            f" {geometry.resized[0]}; crop it first, or use aspect='squash' or 'pad'"
        )
    return geometry


def _shortest_edge(size: Size, edge: int) -> Size:
    height, width = size
    if width <= height:
        return int(edge * height / width), edge
    return edge, int(edge * width / height)


def _cover(size: Size, target: Size) -> Size:
    """The smallest size of the same shape that covers the target."""
    if target[0] * size[1] >= target[1] * size[0]:
        return target[0], max(target[1], int(target[0] * size[1] / size[0]))
    return max(target[0], int(target[1] * size[0] / size[1])), target[1]


def _fit_inside(size: Size, target: Size) -> Size:
    """The largest size of the same shape inside the target."""
    scale = min(target[0] / size[0], target[1] / size[1])
    return tuple(min(max(1, round(edge * scale)), limit) for edge, limit in zip(size, target, strict=True))  # type: ignore[return-value]


def _centre(size: Size, target: Size, rounding: str, name: str) -> tuple[int, int, int, int] | None:
    if size == target:
        return None
    if size[0] < target[0] or size[1] < target[1]:
        raise ValueError(
            f"{name} is {size[1]} x {size[0]} pixels after resizing, less than the crop of {target[1]} x {target[0]}:"
            " give a larger resize, or resize=None to resize it to what the crop needs"
        )
    top, left = (_half(outer - inner, rounding) for outer, inner in zip(size, target, strict=True))
    return top, left, *target


def _half(excess: int, rounding: str) -> int:
    """Pixels cut off before the centre: torchvision rounds half to even, transformers down."""
    return round(excess / 2) if rounding == "even" else excess // 2


def _whole_patches(size: Size, patch: int | None, multiple: str, rounding: str, name: str) -> Geometry:
    if patch is None or (size[0] % patch == 0 and size[1] % patch == 0):
        return Geometry()
    if multiple == "pad":
        bottom, right = (-edge % patch for edge in size)
        return Geometry(pad=(0, right, 0, bottom))
    smaller = (size[0] // patch * patch, size[1] // patch * patch)
    if multiple == "crop" and min(smaller) > 0:
        return Geometry(crop=_centre(size, smaller, rounding, name))
    raise ValueError(
        f"{name} is {size[1]} x {size[0]} pixels, no multiple of the patch size {patch}: use multiple='pad' (adds a"
        " border of the mean colour), multiple='crop' (cuts the edges), or an aspect with an image_size"
    )


def resize(levels: Tensor, size: Size, interpolation: str) -> Tensor:
    """Frames [F, 3, H, W] resized with antialiasing; uint8 stays uint8, floats stay within [0, 255].

    On a CPU uint8 goes through torch's integer kernel, which repeats Pillow's arithmetic to one level (two when bicubic
    enlarges). Elsewhere the two passes, across and down, are rounded one by one as Pillow does.
    """
    if tuple(levels.shape[-2:]) == size:
        return levels
    if levels.dtype == torch.uint8 and levels.device.type == "cpu":
        return _interpolate(levels, size, interpolation)
    if levels.is_floating_point():
        return _interpolate(levels, size, interpolation).clamp(0, 255)
    across = _interpolate(levels.float(), (levels.shape[-2], size[1]), interpolation).round().clamp(0, 255)
    return _interpolate(across, size, interpolation).round().clamp(0, 255).to(torch.uint8)


def _interpolate(levels: Tensor, size: Size, mode: str) -> Tensor:
    return F.interpolate(levels, size=size, mode=mode, antialias=True, align_corners=False)  # [F, 3, h, w]


def apply(levels: Tensor, geometry: Geometry, interpolation: str) -> Tensor:
    """Frames [F, 3, H, W] resized and cropped; padding comes after normalisation, where the mean is 0."""
    if geometry.resized:
        levels = resize(levels, geometry.resized, interpolation)
    if geometry.crop:
        top, left, height, width = geometry.crop
        levels = levels[..., top : top + height, left : left + width]  # [F, 3, h, w]
    return levels
