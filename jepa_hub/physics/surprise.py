"""Surprise: how far a model's prediction of later frames is from what it then sees, in sliding windows.

The published protocol (arXiv:2502.11831): the first frames of a window are encoded alone, every later token is
predicted, and the prediction is compared with the target encoder's standardised tokens of the whole window. A family
without a target encoder is compared with what it predicts instead (pixels, for `mae`).

Legend: B clips, C context lengths, W windows, T time steps, H x W tokens of a step.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jepa_hub.masks import frame_masks, gather_tokens
from jepa_hub.media.clips import MediaError
from jepa_hub.models import inputs as model_inputs

DEFAULT_CONTEXTS = (2, 4, 6, 8, 10)  # of the published sweep, for windows of 16 frames


@dataclass(frozen=True)
class Windows:
    """Where surprise is measured.

    Attributes:
        context_frames: frames that are seen, one number or several.
        window_frames: frames of a window.
        starts: first frame of each window.
        tubelet: frames of a time step.
    """

    context_frames: tuple[int, ...]
    window_frames: int
    starts: tuple[int, ...]
    tubelet: int


def windows_of(
    model: Any, num_frames: int, context_frames: int | Sequence[int], window_frames: int | None, stride: int
) -> Windows:
    """The windows of a clip of `num_frames` frames.

    Raises:
        ValueError: the clip is shorter than a window, the model's clip length is unknown and not given, or a context
            does not fill whole tubelets or leaves nothing to predict.
    """
    config = model.config
    tubelet = config.tubelet_size
    if window_frames is None:
        window_frames = config.num_frames
        if window_frames is None:
            raise ValueError(
                "this checkpoint does not say its clip length (rotary files carry none): give window_frames=, 16 for "
                "the published models"
            )
        if window_frames <= tubelet:
            raise ValueError(f"surprise needs a video model; this one takes {window_frames} frame(s)")
    if window_frames % tubelet or window_frames <= tubelet:
        raise ValueError(f"window_frames must be two or more tubelets of {tubelet} frames, got {window_frames}")
    if isinstance(stride, bool) or stride < 1:
        raise ValueError(f"stride is a number of frames from 1 on, got {stride!r}")
    if isinstance(context_frames, Sequence):
        contexts = tuple(operator.index(each) for each in context_frames)
    else:
        contexts = (operator.index(context_frames),)
    possible = list(range(tubelet, window_frames, tubelet))
    wrong = [frames for frames in contexts if frames not in possible]
    if wrong or not contexts or len(set(contexts)) < len(contexts):
        raise ValueError(
            f"context_frames {list(contexts)} cannot split windows of {window_frames} frames in tubelets of {tubelet}; "
            f"choose one or several of {possible}, each once"
        )
    if num_frames < window_frames:
        raise ValueError(
            f"a clip of {num_frames} frames is shorter than one window of {window_frames}: take more frames, a smaller "
            f"frame step, or window_frames={num_frames - num_frames % tubelet}"
        )
    return Windows(contexts, window_frames, tuple(range(0, num_frames - window_frames + 1, stride)), tubelet)


@torch.no_grad()
def surprise(
    model: Any,
    clips: Tensor | Mapping[str, Any],
    *,
    context_frames: int | Sequence[int],
    window_frames: int | None = None,
    stride: int = 2,
    group: int = 0,
    per_token: bool = False,
    batch_size: int = 8,
) -> Tensor:
    """Surprise of every window: float32 [B, W], or [B, C, W] for a sequence of context lengths, on the CPU.

    The targets of a window are computed once and serve all context lengths; windows and clips go through the model
    `batch_size` at a time. Nothing after the context reaches the prediction.

    Args:
        model: any family with an encoder and a predictor, on any device, in any floating type.
        clips: a processor's output or pixels [B, 3, F, H, W], normalised.
        context_frames: frames seen at the start of each window.
        window_frames: frames of a window; the model's clip length by default.
        stride: frames between the starts of windows.
        group: which mask token (V-JEPA: 0 short-range, as published, 1 long-range).
        per_token: maps [B, W, T, H, W] or [B, C, W, T, H, W] instead of their means; NaN at the tokens of the context.
        batch_size: windows per forward pass.

    Raises:
        ValueError: the clip, the windows or the contexts do not fit the model; see `windows_of`.

    Source: arXiv:2502.11831, sec. 3: mean absolute error over the predicted tokens and their channels.
    """
    if isinstance(batch_size, bool) or batch_size < 1:
        raise ValueError(f"batch_size is a number of windows from 1 on, got {batch_size!r}")
    for name in ("encoder", "predictor"):
        if getattr(model, name, None) is None:
            raise ValueError(f"surprise needs the {name}, and this model has none: load it with all its networks")
    clip = model_inputs.prepare(clips, model, pad=False)
    num_clips, _, num_frames = clip.pixels.shape[:3]
    where = windows_of(model, num_frames, context_frames, window_frames, stride)
    steps, rows, columns = where.window_frames // where.tubelet, *clip.grid[1:]
    maps = torch.full((num_clips * len(where.starts), len(where.context_frames), steps * rows * columns), torch.nan)
    for first, pixels in _batches(clip.pixels, where, batch_size):
        tokens = model.prediction_targets(pixels)  # [b, N, D], once for all contexts
        for index, frames in enumerate(where.context_frames):
            masks = frame_masks(
                range(frames),
                range(frames, where.window_frames),
                (steps, rows, columns),
                where.tubelet,
                len(pixels),
                group,
                pixels.device,
            )
            predicted = model(pixels, masks).predicted[:, 0]  # [b, N', D]
            wanted = gather_tokens(tokens, masks.target[:, 0])  # [b, N', D]
            distance = (predicted.to(wanted.dtype) - wanted).abs().mean(-1)  # [b, N']
            maps[first : first + len(pixels), index, -distance.shape[1] :] = distance.float().cpu()
    maps = maps.unflatten(0, (num_clips, -1)).transpose(1, 2)  # [B, C, W, N]
    result = maps.unflatten(-1, (steps, rows, columns)) if per_token else maps.nanmean(-1)
    return result if isinstance(context_frames, Sequence) else result[:, 0]


def _batches(pixels: Tensor, where: Windows, batch_size: int) -> Iterator[tuple[int, Tensor]]:
    """(number of the first, pixels [b, 3, F, H, W]) of windows, clip by clip."""
    places = [(clip, start) for clip in range(len(pixels)) for start in where.starts]
    for first in range(0, len(places), batch_size):
        taken = places[first : first + batch_size]
        yield first, torch.stack([pixels[clip, :, start : start + where.window_frames] for clip, start in taken])


def step_means(maps: Tensor) -> Tensor:
    """Mean over the tokens of each time step, [..., T] of [..., T, H, W]; NaN where a step was context."""
    return maps.flatten(-2).mean(-1)


@dataclass(frozen=True)
class SurpriseCurve:
    """Surprise of one video.

    Attributes:
        values: [C, W].
        times: float64 [W], seconds: the middle of each window.
        maps: [C, W, T, H, W], NaN at context tokens.
        frame_times: float64 [F] seconds of the frames that were taken.
        pixels: normalised [3, F, H, W], what the model saw.
        windows: contexts, window length and starts.
    """

    values: Tensor
    times: Tensor
    maps: Tensor
    frame_times: Tensor
    pixels: Tensor
    windows: Windows

    @property
    def timeline(self) -> Tensor:
        """Surprise over time [C, S], S steps of one tubelet: the mean over the windows that predict it, NaN elsewhere.

        It tells when something surprising is on screen, where `values` say in which window.
        """
        means = step_means(self.maps)  # [C, W, T]
        return self._over_windows(means)

    @property
    def map_timeline(self) -> Tensor:
        """Where and when: [C, S, H, W], the mean over the windows that predict a token, NaN elsewhere."""
        return self._over_windows(self.maps)

    @property
    def step_times(self) -> Tensor:
        """float64 [S] seconds: the middle of each step of `timeline`."""
        steps = len(self.frame_times) // self.windows.tubelet
        return self.frame_times[: steps * self.windows.tubelet].unflatten(0, (steps, -1)).mean(-1)

    def _over_windows(self, values: Tensor) -> Tensor:
        """[C, W, T, ...] -> [C, S, ...]; a window that starts inside a tubelet counts from the step it starts in."""
        total = torch.zeros(len(values), len(self.frame_times) // self.windows.tubelet, *values.shape[3:])
        count = torch.zeros_like(total)
        for window, start in enumerate(self.windows.starts):
            first = start // self.windows.tubelet
            part = values[:, window, : total.shape[1] - first]
            total[:, first : first + part.shape[1]] += part.nan_to_num(0.0)
            count[:, first : first + part.shape[1]] += part.isfinite()
        return torch.where(count > 0, total / count.clamp(min=1), torch.nan)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON; what was not predicted is None."""
        return {
            "context_frames": list(self.windows.context_frames),
            "window_frames": self.windows.window_frames,
            "window_starts": list(self.windows.starts),
            "times": self.times.tolist(),
            "surprise": self.values.tolist(),
            "step_times": self.step_times.tolist(),
            "step_surprise": [[None if v != v else v for v in row] for row in self.timeline.tolist()],
            "mean": self.values.mean(1).tolist(),
            "max": self.values.amax(1).tolist(),
        }

    def plot(self, path: str | Path | None = None, *, mark: float | None = None) -> Any:
        """The curve as a matplotlib figure, written to `path` if given.

        Args:
            path: .png, .svg or .pdf.
            mark: seconds at which something impossible happens, drawn as a line.
        """
        from jepa_hub.physics.drawing import plot_curve

        return plot_curve(self, path, mark=mark)


def surprise_curve(
    model: Any,
    video: Any,
    *,
    context_frames: int | Sequence[int] = 8,
    window_frames: int | None = None,
    stride: int = 2,
    group: int = 0,
    processor: Any = None,
    frame_step: int | None = None,
    fps: float | None = None,
    batch_size: int = 8,
) -> SurpriseCurve:
    """Surprise of a video over time.

    Args:
        model: see `surprise`.
        video: what a processor takes: a path, URL, bytes, frames [F, H, W, 3], a Clip.
        context_frames, window_frames, stride, group, batch_size: see `surprise`.
        processor: of the model; found by the model's own name by default.
        frame_step, fps: which frames are taken, every so many or so many per second; all by default.

    Raises:
        ValueError: no processor is known, or the video is too short.
        MediaError: the video cannot be read.
    """
    from jepa_hub.processing import JEPAProcessor

    if frame_step is not None and fps is not None:
        raise ValueError("choose frame_step or fps, not both")
    if processor is None:
        name = getattr(model, "name_or_path", "") or ""
        if not name:
            raise ValueError("give processor=: the model does not know where it was loaded from")
        processor = JEPAProcessor.from_pretrained(name)
    rule = {"fps": fps} if fps is not None else {"stride": frame_step or 1}
    inputs = processor(video, odd_frames="drop", **rule)
    pixels = inputs.pixel_values
    if pixels.shape[2] < 2:
        raise MediaError(f"surprise needs a video; {video!r} has one frame")
    times = inputs.frame_times
    frame_times = torch.arange(pixels.shape[2], dtype=torch.float64) if times is None else times[0]
    contexts = context_frames if isinstance(context_frames, Sequence) else (context_frames,)
    where = windows_of(model, pixels.shape[2], contexts, window_frames, stride)
    maps = surprise(
        model,
        inputs,
        context_frames=contexts,
        window_frames=where.window_frames,
        stride=stride,
        group=group,
        per_token=True,
        batch_size=batch_size,
    )[0]  # [C, W, T, H, W]
    middles = torch.stack([frame_times[start : start + where.window_frames].mean() for start in where.starts])
    return SurpriseCurve(maps.flatten(2).nanmean(-1), middles, maps, frame_times, pixels[0].cpu(), where)
