"""Arrays as frames: channel order, number type and range are found out or refused, never guessed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

_CHANNELS = (1, 2, 3, 4)  # grey, grey + alpha, RGB, RGBA
# Axis orders by number of axes: B batch, F frame, C channel, H row, W column.
LAYOUTS = {
    2: ("HW",),
    3: ("HWC", "CHW", "FHW"),
    4: ("FHWC", "FCHW", "CFHW", "BHWC", "BCHW"),
    5: ("BFHWC", "BFCHW", "BCFHW"),
}
_BY_REQUEST = ("FHW", "BHWC", "BCHW")  # look like another order, so they have to be named


@dataclass(frozen=True)
class Frames:
    """Frames of one image or video: [F, 3, H, W], uint8 levels or float32 levels in [0, 255].

    `times` are float64 seconds [F]; None for images and for arrays, which carry none.
    """

    levels: Tensor
    is_video: bool
    name: str
    times: Tensor | None = None


def from_array(array: np.ndarray[Any, Any] | Tensor, layout: str | None, name: str) -> list[Frames]:
    """The images or videos an array holds; more than one only when it has a batch axis.

    Args:
        array: uint8, uint16 or floating in [0, 1]; an image [H, W], [H, W, C] or [C, H, W], a video [F, H, W, C],
            [F, C, H, W] or [C, F, H, W], or a batch of videos. C is 1 (grey), 2 (grey and alpha), 3 or 4 (RGBA);
            transparency is laid over white.
        layout: the order of its axes as a word such as "FCHW"; None finds it out.
        name: what it is called in errors.

    Raises:
        TypeError: a number type whose range is unknown.
        ValueError: the shape is ambiguous or fits nothing, or pixels are outside [0, 1] or not finite.
    """
    tensor = array.detach() if isinstance(array, Tensor) else _from_numpy(array, name)
    order = _find_layout(tuple(tensor.shape), layout, name)
    is_video = "F" in order
    if not tensor.numel():
        raise ValueError(f"{name} is empty: shape {tuple(tensor.shape)}")
    levels = _levels(tensor, order, name)
    for axis in "CFB":
        if axis not in order:
            levels, order = levels.unsqueeze(0), axis + order
    levels = levels.permute([order.index(axis) for axis in "BFCHW"])  # [B, F, C, H, W]
    names = [name] if len(levels) == 1 else [f"{name}[{index}]" for index in range(len(levels))]
    return [Frames(_rgb(each), is_video, label) for each, label in zip(levels, names, strict=True)]


def _from_numpy(array: np.ndarray[Any, Any], name: str) -> Tensor:
    if array.dtype.kind not in "uif":
        raise TypeError(f"{name} has dtype {array.dtype}; give uint8, uint16, or floating pixels in [0, 1]")
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    if native.dtype == np.longdouble:
        native = native.astype(np.float64)
    # torch neither takes negative strides nor likes memory it may not write to
    copy = min(native.strides, default=0) < 0 or not native.flags.writeable
    return torch.from_numpy(native.copy() if copy else native)


def _find_layout(shape: tuple[int, ...], layout: str | None, name: str) -> str:
    """The order of the axes, as given or as the only one that fits."""
    if layout is not None:
        return _check_layout(shape, layout, name)
    fitting = []
    for order in LAYOUTS.get(len(shape), ()):
        channels = shape[order.index("C")] if "C" in order else 3
        # a leading channel axis before the frames is only believed when it is RGB: [1, 3, H, W] is one frame
        if order not in _BY_REQUEST and (channels == 3 if "CF" in order else channels in _CHANNELS):
            fitting.append(order)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ValueError(f"{name} has the ambiguous shape {shape}: say which, {_options(fitting)}")
    by_name = [order for order in LAYOUTS.get(len(shape), ()) if order in _BY_REQUEST]
    raise ValueError(
        f"{name} has shape {shape}, which is no image or video: give [H, W], [H, W, C], [C, H, W], [F, H, W, C] or"
        f" [F, C, H, W] with C = 1 to 4{', or name its axes: ' if by_name else ''}{_options(by_name)}"
    )


def _options(orders: Sequence[str]) -> str:
    return " or ".join(f"layout={order!r}" for order in orders)


def _check_layout(shape: tuple[int, ...], layout: str, name: str) -> str:
    order = layout.upper()
    if order not in LAYOUTS.get(len(shape), ()):
        known = ", ".join(LAYOUTS.get(len(shape), ())) or "none"
        raise ValueError(f"layout={layout!r} does not fit the shape {shape} of {name}; for {len(shape)} axes: {known}")
    if "C" in order and shape[order.index("C")] not in _CHANNELS:
        raise ValueError(f"{name} has {shape[order.index('C')]} channels by layout={layout!r}; 1 to 4 are read")
    return order


def _levels(tensor: Tensor, order: str, name: str) -> Tensor:
    """Pixels as uint8, or as float32 levels in [0, 255]."""
    if tensor.dtype == torch.uint8:
        return tensor
    if tensor.dtype == torch.uint16:
        return tensor.to(torch.float32) / 257  # 65535 / 257 = 255
    if not tensor.is_floating_point():
        raise TypeError(
            f"{name} has dtype {tensor.dtype}, whose range is unknown: convert levels 0 to 255 to uint8, 0 to 65535 to"
            " uint16, or scale to floating pixels in [0, 1]"
        )
    low, high = (float(value) for value in tensor.aminmax())  # NaN if any pixel is
    if not math.isfinite(low) or not math.isfinite(high):
        broken = ~tensor.isfinite()
        first, count = _where(broken, order), int(broken.sum())
        raise ValueError(
            f"{name} has {count} pixel value{'s' * (count != 1)} that are NaN or infinite, the first at {first};"
            " mend the source, or replace them (torch.nan_to_num)"
        )
    if low < 0 or high > 1:
        if low < 0:
            way_out = "pixels that are already normalised go to the model directly; else bring them to [0, 1]"
        elif high <= 255:
            way_out = "divide by 255, or convert levels to uint8"
        else:
            way_out = "divide by their maximum possible value"
        raise ValueError(f"{name} has floating pixels from {low:g} to {high:g}; they must be in [0, 1]: {way_out}")
    return tensor.to(torch.float32) * 255


def _where(mask: Tensor, order: str) -> str:
    """The first True of a mask, in words."""
    flat = int(mask.flatten().to(torch.uint8).argmax())
    words = {"B": "sample", "F": "frame", "C": "channel", "H": "row", "W": "column"}
    parts = []
    for axis, size in zip(reversed(order), reversed(mask.shape), strict=True):
        parts.append(f"{words[axis]} {flat % size}")
        flat //= size
    return ", ".join(reversed(parts))


def _rgb(levels: Tensor) -> Tensor:
    """Grey and transparent frames [F, C, H, W] as RGB [F, 3, H, W]."""
    channels = levels.shape[1]
    if channels in (2, 4):
        color, alpha = levels[:, :-1].float(), levels[:, -1:].float() / 255
        blended = color * alpha + 255 * (1 - alpha)  # [F, C - 1, H, W]
        levels = blended.round().to(torch.uint8) if levels.dtype == torch.uint8 else blended
    return levels.expand(-1, 3, -1, -1) if channels < 3 else levels  # [F, 3, H, W]
