"""Photometric changes: named operations in one fixed order, and the numbers that tell a predictor of them.

The order is brightness, contrast, saturation, hue, grayscale, blur, solarize. It is fixed because the difference of two
sets of parameters says nothing certain about pictures whose operations ran in different orders. Nothing is clipped
between operations or at the end: clipping loses what no parameter tells of. Hue turns the two colour axes of YIQ, which
is linear and can be undone, instead of going through HSV, which is neither.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# name -> (what its number means, the strength of the paper's colour jitter or 1 for a flag)
JITTER: dict[str, float] = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}
FLAGS = ("grayscale", "blur", "solarize")  # done to a source only, and told as yes or no
NAMES = (*JITTER, *FLAGS)

LUMA = (0.299, 0.587, 0.114)
THRESHOLD = 0.5  # solarize inverts what is brighter
_YIQ = ((0.299, 0.587, 0.114), (0.595716, -0.274453, -0.321263), (0.211456, -0.522591, 0.311135))
Amount = float | Sequence[float] | Tensor


def parameters(changes: Mapping[str, Amount], batch_size: int | None = None) -> Tensor:
    """Named changes as parameters [B, 7] in the order of NAMES; what is not named stays as it is.

    Args:
        changes: "brightness", "contrast" and "saturation": +0.3 multiplies by 1.3; "hue": turns of the colour circle,
            +0.25 is a quarter; "grayscale" and "solarize": 0 or 1, or between, which mixes; "blur": standard deviation
            in pixels. One number for all pictures or one per picture.
        batch_size: pictures B; by default as many as there are numbers.

    Raises:
        ValueError: an unknown name (the nearest one is given), a number that is not finite or out of range, or as many
            numbers as fit no batch.
    """
    columns: dict[str, Tensor] = {}
    for name, amount in changes.items():
        if name not in NAMES:
            close = difflib.get_close_matches(name, NAMES, 1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ValueError(f"unknown change {name!r}{hint}; there are {', '.join(NAMES)}")
        columns[name] = torch.as_tensor(amount, dtype=torch.float32).reshape(-1)
    given = {len(column) for column in columns.values()} - {1}
    count = batch_size if batch_size is not None else max(given, default=1)
    if given - {count}:
        raise ValueError(
            f"{sorted(given - {count})[0]} numbers for {count} pictures: give one for all, or one for each"
        )
    table = torch.zeros(count, len(NAMES))
    for name, column in columns.items():
        if not torch.isfinite(column).all():
            raise ValueError(f"{name} must be finite, got {column.tolist()}")
        most = 1.0 if name in ("grayscale", "solarize") else float("inf")
        if name in FLAGS and ((column < 0) | (column > most)).any():
            raise ValueError(f"{name} is {'0 or more' if name == 'blur' else 'between 0 and 1'}, got {column.tolist()}")
        table[:, NAMES.index(name)] = column
    return table


def conditioning(target: Tensor, source: Tensor | None = None) -> Tensor:
    """What a predictor is told [B, 7]: differences target - source of the jitter, and flags of what the source lost.

    Differences are in units of the paper's jitter strengths, so that all are of one size (hue would else be drowned).

    Args:
        target: parameters [B, 7] of the picture that is predicted; its flags must be 0.
        source: parameters [B, 7] of the picture that is seen; none for a clean one.

    Raises:
        ValueError: the shapes differ, or the target is grey, blurred or solarized, which the numbers cannot tell.

    Source: arXiv:2403.00504, sec. 3 (which leaves the encoding open; here differences and flags).
    """
    source = torch.zeros_like(target) if source is None else source
    if target.shape != source.shape or target.ndim != 2 or target.shape[-1] != len(NAMES):
        raise ValueError(
            f"target and source are parameters [B, {len(NAMES)}], got {tuple(target.shape)} and {tuple(source.shape)}"
        )
    count = len(JITTER)
    if target[:, count:].any():
        raise ValueError(f"a target is never changed by {', '.join(FLAGS)}: the source is, and the predictor undoes it")
    units = torch.tensor(list(JITTER.values()), dtype=target.dtype, device=target.device)
    return torch.cat([(target - source)[:, :count] / units, (source[:, count:] > 0).to(target.dtype)], dim=1)


def named_conditioning(changes: Mapping[str, Amount], batch_size: int | None = None) -> Tensor:
    """What a predictor is told [B, 7] of named changes, e.g. {"brightness": 0.3} or {"grayscale": 1}.

    Jitter is how the predicted picture differs from the seen one; a flag says that the seen picture is grey, blurred or
    solarized, which the predictor is to undo.

    Args:
        changes, batch_size: see `parameters`.
    """
    table = parameters(changes, batch_size)
    seen = table.clone()
    seen[:, : len(JITTER)] = 0
    wanted = table - seen
    return conditioning(wanted, seen)


def apply(pixels: Tensor, table: Tensor) -> Tensor:
    """The changed pictures, of the same shape; values may leave [0, 1].

    Args:
        pixels: [B, 3, H, W] or [B, 3, F, H, W] in [0, 1], not normalised; all frames of a clip change alike.
        table: parameters [B, 7], see `parameters`.

    Raises:
        ValueError: the shapes do not fit.
    """
    if pixels.ndim not in (4, 5) or pixels.shape[1] != 3 or table.shape != (len(pixels), len(NAMES)):
        raise ValueError(
            f"expected pixels [B, 3, (F,) H, W] and parameters [B, {len(NAMES)}], got {tuple(pixels.shape)} and "
            f"{tuple(table.shape)}"
        )
    brightness, contrast, saturation, hue, grey, blur, solar = (
        column.view(-1, *[1] * (pixels.ndim - 1)) for column in table.to(pixels).unbind(1)
    )
    changed = pixels * (1 + brightness)
    middle = luma(changed).flatten(1).mean(1).view_as(contrast)  # one grey per picture, or clip
    changed = middle + (changed - middle) * (1 + contrast)
    grey_picture = luma(changed)
    changed = grey_picture + (changed - grey_picture) * (1 + saturation)
    if hue.any():
        changed = turn_hue(changed, hue)
    if grey.any():
        changed = torch.lerp(changed, luma(changed).expand_as(changed), grey)
    if blur.any():
        changed = gaussian_blur(changed, blur.flatten())
    if solar.any():
        inverted = torch.where(changed >= THRESHOLD, 1 - changed, changed)
        changed = torch.lerp(changed, inverted, solar)
    return changed


def apply_normalised(pixels: Tensor, table: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """`apply` for pixels that a processor has normalised with `mean` and `std`; normalised again."""
    shift, scale = (torch.tensor(each, dtype=pixels.dtype, device=pixels.device) for each in (mean, std))
    shape = (1, 3, *[1] * (pixels.ndim - 2))
    shift, scale = shift.view(shape), scale.view(shape)
    return (apply(pixels * scale + shift, table) - shift) / scale


def luma(pixels: Tensor) -> Tensor:
    """The grey picture [B, 1, ...] of [B, 3, ...]."""
    red, green, blue = pixels.unbind(1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue).unsqueeze(1)


def turn_hue(pixels: Tensor, turns: Tensor) -> Tensor:
    """Pictures [B, 3, ...] with the colours of each turned about the grey axis.

    Args:
        pixels: [B, 3, ...].
        turns: B numbers, 1 is the whole circle.
    """
    angle = 2 * math.pi * turns.flatten()
    to_yiq = torch.tensor(_YIQ, dtype=torch.float64, device=pixels.device)
    turn = torch.zeros(len(angle), 3, 3, dtype=torch.float64, device=pixels.device)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = angle.double().cos()
    turn[:, 2, 1] = angle.double().sin()
    turn[:, 1, 2] = -turn[:, 2, 1]
    matrix = torch.linalg.inv(to_yiq) @ turn @ to_yiq  # [B, 3, 3]
    return torch.einsum("bij,bj...->bi...", matrix.to(pixels.dtype), pixels)


def gaussian_blur(pixels: Tensor, std: Tensor) -> Tensor:
    """Pictures [B, 3, ..., H, W] blurred, edges reflected; those of standard deviation 0 stay as they are.

    Args:
        pixels: of B pictures.
        std: [B], in pixels.
    """
    radius = max(1, math.ceil(3 * float(std.max())))
    radius = min(radius, min(pixels.shape[-2:]) - 1)  # what reflection can give
    place = torch.arange(-radius, radius + 1, device=pixels.device, dtype=torch.float32)
    weight = torch.exp(-0.5 * (place / std.float().clamp(min=1e-3)[:, None]) ** 2)  # [B, K]
    weight = (weight / weight.sum(1, keepdim=True)).to(pixels.dtype)
    batch, height, width = len(pixels), *pixels.shape[-2:]
    planes = pixels.reshape(batch, -1, height, width).transpose(0, 1)  # [C*F, B, H, W]: one group per picture
    planes = F.pad(planes, (radius, radius, radius, radius), mode="reflect")
    planes = F.conv2d(planes, weight[:, None, None, :], groups=batch)
    planes = F.conv2d(planes, weight[:, None, :, None], groups=batch)
    return planes.transpose(0, 1).reshape(pixels.shape)
