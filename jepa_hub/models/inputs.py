"""From what users hand to `encode` and `predict` to a checked clip, and windows over long clips."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from jepa_hub.masks import Masks, frame_masks
from jepa_hub.nn.positions import Grid


@dataclass(frozen=True)
class Prepared:
    """pixels [B, 3, F, H, W] on the model's device; frame_times [B, T] and valid [B, N] as in `Features`."""

    pixels: Tensor
    grid: Grid
    frame_times: Tensor | None
    valid: Tensor | None

    @property
    def num_tokens(self) -> int:
        t, h, w = self.grid
        return t * h * w


def as_clip(pixels: Tensor) -> Tensor:
    """[B, 3, H, W] becomes [B, 3, 1, H, W]; a clip stays as it is."""
    if pixels.ndim == 4:
        return pixels.unsqueeze(2)
    return pixels


def prepare(inputs: Tensor | Mapping[str, Any], model: Any, *, pad: bool) -> Prepared:
    """Checked pixels on the model's device.

    Raises:
        TypeError: `inputs` is neither a tensor nor a processor's output.
        ValueError: pixels are not finite, not floating point, or lie in the wrong layout or size.
    """
    pixels, times = _unpack(inputs)
    pixels = as_clip(pixels)
    if not pixels.is_floating_point():
        raise ValueError(f"pixels are {pixels.dtype}: pass images through JEPAProcessor, which scales and normalises")
    if pixels.numel() == 0:
        raise ValueError(f"pixels are empty: {tuple(pixels.shape)}")
    if not torch.isfinite(pixels).all():
        bad = (~torch.isfinite(pixels)).flatten(1).any(1).nonzero().flatten().tolist()
        raise ValueError(f"pixels of sample(s) {bad} hold NaN or infinity; check the decoding or normalisation")
    encoder = next(each for each in (model.encoder, model.target_encoder) if each is not None)
    pixels = pixels.to(model.device)
    valid = None
    if pad:
        pixels, valid = _pad(pixels, encoder, model.config.patch_size, model.config.tubelet_size)
    grid = encoder.grid(pixels)
    return Prepared(pixels, grid, _tubelet_times(times, pixels.shape[2], grid[0]), valid)


def _unpack(inputs: Tensor | Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
    if isinstance(inputs, Tensor):
        return inputs, None
    if isinstance(inputs, Mapping) and isinstance(inputs.get("pixel_values"), Tensor):
        return inputs["pixel_values"], getattr(inputs, "frame_times", None)
    raise TypeError(f"expected a tensor or a JEPAProcessor's output, got {type(inputs).__name__}")


def _pad(pixels: Tensor, encoder: Any, size: int, tubelet: int) -> tuple[Tensor, Tensor | None]:
    """Pixels filled up to whole patches and tubelets, and which tokens are at least half real pixels."""
    if pixels.ndim != 5:
        return pixels, None  # grid() refuses it with the right words
    batch, _, frames, height, width = pixels.shape
    more_rows, more_columns = -height % size, -width % size
    more_frames = 0 if frames == 1 else -frames % tubelet
    if not (more_rows or more_columns or more_frames):
        return pixels, None
    real = F.pad(pixels.new_ones(height, width), (0, more_columns, 0, more_rows))  # [H', W']
    covered = F.avg_pool2d(real[None, None], size)[0, 0] >= 0.5  # [h, w]
    # Zeros are the mean colour of normalised pixels; a repeated last frame moves nothing.
    pixels = F.pad(pixels, (0, more_columns, 0, more_rows))  # [B, 3, F, H', W']
    if more_frames:
        pixels = torch.cat([pixels, pixels[:, :, -1:].expand(-1, -1, more_frames, -1, -1)], dim=2)
    steps = encoder.grid(pixels)[0]
    return pixels, covered.flatten().repeat(batch, steps)  # [B, N]


def _tubelet_times(times: Tensor | None, frames: int, steps: int) -> Tensor | None:
    """Centre time of each tubelet [B, T] from frame times [B, F]; frames that padding added repeat the last time."""
    if times is None:
        return None
    if times.shape[1] < frames:
        times = torch.cat([times, times[:, -1:].expand(-1, frames - times.shape[1])], dim=1)
    return times.unflatten(1, (steps, -1)).mean(dim=-1)  # [B, T]


def windows(frames: int, window: int, stride: int | None, tubelet: int) -> list[int]:
    """First frames of windows that cover all of `frames`; the last window is moved back to end with the clip.

    Raises:
        ValueError: window or stride is not a positive multiple of the tubelet size, or leaves gaps.
    """
    stride = window if stride is None else stride
    for name, value in (("window_frames", window), ("stride_frames", stride)):
        if value < 1 or value % tubelet:
            raise ValueError(f"{name} must be a positive multiple of the tubelet size {tubelet}, got {value}")
    if stride > window:
        raise ValueError(f"stride_frames ({stride}) beyond window_frames ({window}) would skip frames")
    if frames <= window:
        return [0]
    starts = list(range(0, frames - window + 1, stride))
    if starts[-1] + window < frames:
        starts.append(frames - window)
    return starts


def merge_windows(outputs: Iterable[tuple[int, dict[str, Tensor]]], tubelet: int, grid: Grid) -> dict[str, Tensor]:
    """Tokens [B, T*H*W, D] of a whole clip from those of windows; steps covered several times are averaged."""
    t, h, w = grid
    per_step = h * w
    sums: dict[str, Tensor] = {}
    count = torch.zeros(t)
    for start, named in outputs:
        first = start // tubelet
        for name, tokens in named.items():
            if name not in sums:
                sums[name] = tokens.new_zeros(len(tokens), t * per_step, tokens.shape[-1])
            sums[name][:, first * per_step : first * per_step + tokens.shape[1]] += tokens
        count[first : first + next(iter(named.values())).shape[1] // per_step] += 1
    weight = count.repeat_interleave(per_step)[None, :, None]  # [1, N, 1]
    return {name: total / weight.to(total) for name, total in sums.items()}


def masks_of(
    model: Any,
    grid: Grid,
    batch_size: int,
    *,
    context: Iterable[int] | None = None,
    target: Iterable[int] | None = None,
    masks: Masks | Sequence[Masks] | None = None,
    group: int = 0,
) -> list[Masks]:
    """The masks of a prediction: those given, those of frames, or the family's own where neither is given.

    Args:
        model: a `JEPAModel`.
        grid: (T, H, W) tokens of the input.
        batch_size: B.
        context, target, masks, group: as in `JEPAModel.predict`.

    Raises:
        ValueError: as in `JEPAModel.predict`.
    """
    if masks is None and context is None and target is None:
        masks = model.default_masks(math.prod(grid), batch_size)
    if masks is None:
        if context is None or target is None:
            raise ValueError("give context= and target= frames, or masks=")
        if grid[0] == 1:
            raise ValueError("this input is one time step: choose tokens with masks=Masks(...) instead of frames")
        tubelet = model.config.tubelet_size
        masks = frame_masks(context, target, grid=grid, tubelet_size=tubelet, batch_size=batch_size, group=group)
    elif context is not None or target is not None:
        raise ValueError("give frames or masks, not both")
    several = [masks] if isinstance(masks, Masks) else list(masks)
    for each in several:
        each.validate(math.prod(grid), overlap=model.targets_may_be_seen)
    return several
