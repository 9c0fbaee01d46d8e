"""A processor as part of the graph: uint8 frames in, the model's pixels out, at any source size.

Resizing repeats, number for number, what the processor does to uint8 frames on a CPU (weights of 16 bits, one rounding
after the pass across, one after the pass down; Pillow's arithmetic), as two products of float64 matrices: these hold
all sums exactly. Sizes stay symbolic, so one graph takes frames of any height and width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa_hub.models.graphs import Graph
from jepa_hub.processing import JEPAProcessor

FRAMES = "frames"  # name of the input that takes the place of pixel_values
_LEVELS = 255


class Preprocess(nn.Module):
    """uint8 [B, F, H, W, 3] -> float32 [B, 3, F, h, w], or [B, H, W, 3] -> [B, 3, h, w], as `processor` would."""

    def __init__(self, processor: JEPAProcessor) -> None:
        super().__init__()
        self.processor = processor
        # Plain numbers, not buffers: a model in half precision would round them.
        self.scale = [processor.rescale / std for std in processor.std]
        self.shift = [mean / std for mean, std in zip(processor.mean, processor.std, strict=True)]

    def forward(self, frames: Tensor) -> Tensor:
        """Pixels of `frames`; see the class for shapes."""
        levels = frames.movedim(-1, -3)  # [B, (F,) 3, H, W]
        resized, crop, pad = self._plan(levels.shape[-2], levels.shape[-1])
        top, left, height, width = crop
        if resized is None:
            levels = levels[..., top : top + height, left : left + width].float()
        else:
            across = _weights(levels.shape[-1], resized[1], self.processor.interpolation, levels.device)
            down = _weights(levels.shape[-2], resized[0], self.processor.interpolation, levels.device)
            # [B, (F,) 3, H, W] -> [.., H, w] -> [.., h, w]
            levels = _rounded(levels.double() @ across[0][left : left + width].t(), across[1])
            levels = _rounded(down[0][top : top + height] @ levels, down[1]).float()
        scale, shift = (torch.tensor(each, device=frames.device).view(3, 1, 1) for each in (self.scale, self.shift))
        pixels = levels * scale - shift
        if pad is not None:  # 0 after normalisation is the mean colour
            pixels = F.pad(pixels, pad)
        return pixels if pixels.ndim == 4 else pixels.transpose(1, 2)  # [B, 3, F, h, w]

    def _plan(self, height: int, width: int) -> tuple[Any, tuple[Any, Any, Any, Any], Any]:
        """(resized, crop, pad) of `media.resizing.plan`, in arithmetic that works for symbolic sizes."""
        processor, size = self.processor, self.processor.image_size
        if processor.aspect == "native":
            resized = _shortest_edge(height, width, processor.resize) if processor.resize else None
            return resized, *_whole_patches(resized or (height, width), processor)
        assert size is not None  # checked by the processor
        target = (size, size) if isinstance(size, int) else size
        if processor.aspect == "pad":
            fitted = _fit_inside(height, width, target)
            top, left = (target[0] - fitted[0]) // 2, (target[1] - fitted[1]) // 2
            pad = (left, target[1] - fitted[1] - left, top, target[0] - fitted[0] - top)
            return fitted, (0, 0, *fitted), pad
        if processor.aspect == "squash":
            covered = (processor.resize, processor.resize) if processor.resize else target
        elif processor.resize:
            covered = _shortest_edge(height, width, processor.resize)
        else:
            covered = (
                torch.sym_max(target[0], target[1] * height // width),
                torch.sym_max(target[1], target[0] * width // height),
            )
        top, left = (_half(covered[axis] - target[axis], processor.crop_rounding) for axis in (0, 1))
        return covered, (top, left, *target), None


def with_preprocessing(graph: Graph, processor: JEPAProcessor, frames: int | None) -> Graph:
    """The same graph from uint8 frames; `frames` is the example's number of frames, None for image models.

    Raises:
        ValueError: the graph takes no pixels, or a size of the processor's output would not be whole patches.
    """
    if "pixel_values" not in graph.inputs:
        raise ValueError(f"the graph {graph.name!r} takes no pixels, so no preprocessing can go before it")
    shape = (2, 67, 83, 3) if frames is None else (2, frames, 67, 83, 3)
    if processor.aspect == "native":  # whole patches are the caller's affair, as in the processor
        pixels = graph.inputs["pixel_values"]
        shape = (*shape[:-3], *pixels.shape[-2:], 3)
    example = torch.randint(0, _LEVELS + 1, shape, dtype=torch.uint8)
    axes = (
        {0: "batch", 1: "rows", 2: "columns"} if frames is None else {0: "batch", 1: "frames", 2: "rows", 3: "columns"}
    )
    rest = {name: value for name, value in graph.inputs.items() if name != "pixel_values"}
    free = {name: value for name, value in graph.free_axes.items() if name != "pixel_values"}
    module = _Joined(Preprocess(processor), graph.module)
    return Graph(graph.name, module, {FRAMES: example, **rest}, {FRAMES: axes, **free}, graph.outputs)


class _Joined(nn.Module):
    def __init__(self, preprocess: nn.Module, then: nn.Module) -> None:
        super().__init__()
        self.preprocess, self.then = preprocess, then

    def forward(self, frames: Tensor, *rest: Tensor) -> Any:
        return self.then(self.preprocess(frames), *rest)


def _weights(source: int, target: int, interpolation: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Whole-number weights float64 [target, source] and the power of two they are to be divided by."""
    taps = 4 if interpolation == "bicubic" else 2
    scale = torch.full((), 1.0, dtype=torch.float64, device=device) * source / target
    stretch = scale.clamp(min=1.0)
    support = stretch * (taps / 2)
    centre = (torch.arange(target, dtype=torch.float64, device=device) + 0.5) * scale  # [target]
    first = (centre - support + 0.5).floor().clamp(min=0)[:, None]  # [target, 1]
    last = (centre + support + 0.5).floor().clamp(max=source)[:, None]  # [target, 1]
    at = torch.arange(source, dtype=torch.float64, device=device)[None]  # [1, source]
    kernel = _cubic if interpolation == "bicubic" else _triangle
    weights = kernel((at - centre[:, None] + 0.5) * (1 / stretch))  # [target, source]
    weights = torch.where((at >= first) & (at < last), weights, torch.zeros_like(weights))
    weights = weights / weights.sum(dim=1, keepdim=True)
    powers = 2.0 ** torch.arange(1, 23, dtype=torch.float64, device=device)  # [22]
    bits = ((weights.max() * powers + 0.5).floor() < 2**15).double().sum()
    divisor = 2.0**bits
    scaled = weights * divisor
    whole = torch.where(scaled < 0, (scaled - 0.5).ceil(), (scaled + 0.5).floor())
    return whole, divisor


def _rounded(sums: Tensor, divisor: Tensor) -> Tensor:
    return ((sums + divisor / 2) / divisor).floor().clamp(0, _LEVELS)


def _triangle(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _cubic(x: Tensor) -> Tensor:
    """Keys' kernel with a = -0.5, as Pillow has it."""
    x, a = x.abs(), -0.5
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def _shortest_edge(height: Any, width: Any, edge: int) -> tuple[Any, Any]:
    shortest = torch.sym_min(height, width)
    return edge * height // shortest, edge * width // shortest


def _fit_inside(height: Any, width: Any, target: tuple[int, int]) -> tuple[Any, Any]:
    return (
        torch.sym_min(target[0], torch.sym_max(1, _nearest(height * target[1], width))),
        torch.sym_min(target[1], torch.sym_max(1, _nearest(width * target[0], height))),
    )


def _nearest(numerator: Any, denominator: Any) -> Any:
    """round(numerator / denominator), halves to even, in whole numbers."""
    twice = 2 * numerator + denominator
    up = twice // (2 * denominator)
    is_half = 1 - torch.sym_min(twice % (2 * denominator), 1)
    return up - is_half * (up % 2)


def _half(excess: Any, rounding: str) -> Any:
    down = excess // 2
    return down + (excess % 2) * (down % 2) if rounding == "even" else down


def _whole_patches(size: tuple[Any, Any], processor: JEPAProcessor) -> tuple[tuple[Any, Any, Any, Any], Any]:
    height, width = size
    patch = processor.patch_size
    if patch is None or processor.multiple == "error":
        return (0, 0, height, width), None
    if processor.multiple == "pad":
        return (0, 0, height, width), (0, -width % patch, 0, -height % patch)
    top, left = (_half(edge % patch, processor.crop_rounding) for edge in size)
    return (top, left, height // patch * patch, width // patch * patch), None
