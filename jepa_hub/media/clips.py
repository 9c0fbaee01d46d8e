"""Clips: frames with their times, and which frames of a video to take."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

MAX_SAMPLES = 1_000_000  # frames one call may name; more is a slip (fps=1e9), and would exhaust memory before decoding


class MediaError(ValueError):
    """A file, URL or buffer that is not a readable image or video; the message names it and says why."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video holds, counted from its packets (headers are not trusted).

    Attributes:
        num_frames: frames that are presented.
        fps: average frame rate, num_frames / duration.
        duration: seconds from the start of the first frame to the end of the last.
        width, height: pixels as displayed, after rotation.
    """

    num_frames: int
    fps: float
    duration: float
    width: int
    height: int


@dataclass(frozen=True)
class Clip:
    """Frames of one video and when each is shown.

    Attributes:
        frames: uint8 [F, 3, H, W], RGB.
        times: float64 [F], seconds since the first frame of the video.
        fps: average frame rate of the video the frames were taken from; None when unknown.
    """

    frames: Tensor
    times: Tensor
    fps: float | None = None

    def __post_init__(self) -> None:
        frames, times = self.frames, self.times
        if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != torch.uint8 or not frames.numel():
            raise ValueError(f"frames are uint8 [F, 3, H, W]; got {frames.dtype} {tuple(frames.shape)}")
        if times.shape != frames.shape[:1] or times.dtype != torch.float64 or not bool(times.isfinite().all()):
            raise ValueError(
                f"times are {len(frames)} finite float64 seconds, one per frame; got {times.dtype} {tuple(times.shape)}"
            )
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise ValueError(f"fps is a positive number; got {self.fps}")

    @classmethod
    def at_rate(cls, frames: Tensor, fps: float) -> Clip:
        """A clip whose frames are 1 / fps seconds apart, for frames that came without times.

        Args:
            frames: uint8 [F, 3, H, W].
            fps: frames per second.

        Raises:
            ValueError: fps is not positive, or the frames have another shape or type.
        """
        if not 0 < fps < math.inf:
            raise ValueError(f"fps is a positive number; got {fps}")
        return cls(frames, torch.arange(len(frames), dtype=torch.float64) / fps, float(fps))

    @property
    def duration(self) -> float:
        """Seconds until the end of the last frame, which is taken to last as long as the average one."""
        if self.fps is not None:
            return float(self.times[-1]) + 1 / self.fps
        gap = float(self.times[-1] - self.times[0]) / (len(self.times) - 1) if len(self.times) > 1 else 1.0
        return float(self.times[-1]) + gap


@dataclass(frozen=True)
class Sampling:
    """Which frames to take: a count, a rate, a stride, or explicit times; all of them when nothing is given.

    Attributes:
        num_frames: that many frames, uniform in frame number over the span: frame floor(i * available / num_frames).
        fps: one frame every 1 / fps seconds: the frame on screen at that time, so that it is right for a variable rate.
        stride: every stride-th frame of the span.
        times: the frames on screen at these seconds.
        start, end: the span in seconds; a frame belongs to it when it appears at start <= time < end.
        short: what to do when the span holds fewer than num_frames: refuse, take all, or repeat the last.

    Raises:
        ValueError: more than one rule was given, or a value makes no sense.
    """

    num_frames: int | None = None
    fps: float | None = None
    stride: int | None = None
    times: Sequence[float] | None = None
    start: float = 0.0
    end: float | None = None
    short: Literal["error", "all", "repeat"] = "error"

    def __post_init__(self) -> None:
        rules = [name for name in ("num_frames", "fps", "stride", "times") if getattr(self, name) is not None]
        if len(rules) > 1:
            raise ValueError(f"choose one of num_frames, fps, stride and times; got {' and '.join(rules)}")
        for name in ("num_frames", "stride"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
                raise ValueError(f"{name} is a whole number from 1 on; got {value!r}")
            object.__setattr__(self, name, int(value))
        if self.num_frames is not None and self.num_frames > MAX_SAMPLES:
            raise ValueError(f"num_frames={self.num_frames} is more than the {MAX_SAMPLES} frames one call may ask for")
        if self.fps is not None:
            object.__setattr__(self, "fps", float(self.fps))
            if not 0 < self.fps < math.inf:
                raise ValueError(f"fps is a positive number of frames per second; got {self.fps!r}")
        if not 0 <= self.start < math.inf:
            raise ValueError(f"start is in seconds from the first frame, 0 or later; got {self.start!r}")
        if self.end is not None and not self.start < self.end:
            raise ValueError(f"end ({self.end!r}) must be later than start ({self.start!r}); both are in seconds")
        if self.times is not None:
            if self.start or self.end is not None:
                raise ValueError("times are absolute seconds, so start and end do not go with them")
            object.__setattr__(self, "times", tuple(float(time) for time in self.times))
            if not self.times:
                raise ValueError("times is empty; give at least one time in seconds")

    @property
    def needs_times(self) -> bool:
        """Whether the rule can only be applied to frames whose times are known."""
        return self.fps is not None or self.times is not None or self.start > 0 or self.end is not None

    def choose(self, times: Tensor, duration: float, name: str) -> list[int]:
        """Frame numbers to take, in the order asked for.

        Args:
            times: float64 [N] seconds at which each frame appears, not decreasing.
            duration: seconds until the end of the last frame.
            name: what the video is called in errors.

        Raises:
            ValueError: a time or the span lies outside the video, or it holds too few frames.
        """
        # Containers round times (Matroska to 1 ms): a frame counts as on screen half a millisecond early.
        gap = duration / len(times)
        slack = min(5.1e-4, gap / 4)
        if self.times is not None:
            return self._on_screen(times, self.times, duration, slack, name)
        if self.start >= duration:
            raise ValueError(f"start={self.start:g} s is beyond the end of {name}, which lasts {duration:.3f} s")
        if self.fps is not None:
            end = duration if self.end is None else min(self.end, duration)
            count = max(1, math.ceil((end - self.start - slack) * self.fps))
            if count > MAX_SAMPLES:
                raise ValueError(f"fps={self.fps:g} asks for {count} frames of {name}; at most {MAX_SAMPLES} per call")
            moments = [self.start + index / self.fps for index in range(count)]
            return self._on_screen(times, moments, duration, slack, name)
        inside = times >= self.start - slack
        if self.end is not None:
            inside &= times < self.end - slack
        frames: list[int] = inside.nonzero().flatten().tolist()
        if not frames:
            raise ValueError(f"no frame of {name} appears between {self.start:g} and {self.end} s")
        if self.num_frames is not None:
            return self._by_count(frames, self.num_frames, name)
        return frames[:: self.stride or 1]

    def _by_count(self, frames: list[int], count: int, name: str) -> list[int]:
        available = len(frames)
        if available >= count:
            return [frames[index * available // count] for index in range(count)]
        if self.short == "all":
            return frames
        if self.short == "repeat":
            return frames + frames[-1:] * (count - available)
        raise ValueError(
            f"{name} has {available} frame{'s' * (available != 1)} in the span, fewer than num_frames={count}: ask for"
            f" num_frames={available} or fewer, or let the processor repeat the last one (odd_frames='pad')"
        )

    @staticmethod
    def _on_screen(times: Tensor, moments: Sequence[float], duration: float, slack: float, name: str) -> list[int]:
        wanted = torch.tensor(moments, dtype=torch.float64)  # [K]
        outside = ~((wanted >= 0) & (wanted < duration + slack))  # negated, so that NaN counts as outside
        if outside.any():
            bad = float(wanted[outside][0])
            raise ValueError(f"there is no frame at {bad:g} s: {name} runs from 0 to {duration:.3f} s")
        found = torch.searchsorted(times, wanted + slack, right=True) - 1  # [K]
        frames: list[int] = found.clamp(min=0).tolist()
        return frames
