"""Which frames of a video make a clip: one window at a random place, as in the training code of V-JEPA and V-JEPA 2."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from jepa_hub.masking.draws import keyed, keyed_pick
from jepa_hub.media.clips import Sampling
from jepa_hub.media.video import read_clip
from training.data.decoding import as_source, reading
from training.data.source import SourceSettings, check_pixels

WINDOW = 102  # purpose of a key: where in a video the window starts
_ROUNDING = 1e-3  # frames per second by which a measured rate may exceed a whole number and still be that number


class WindowSettings(SourceSettings):
    """How a clip is cut out of a video; V-JEPA takes 16 frames in steps of 4, V-JEPA 2 at 4 frames per second.

    Attributes:
        frames: of a clip.
        frame_step: frames of the video per frame of the clip; not used when `fps` is given.
        fps: frames of the clip per second of the video: the step is the rate of the video, rounded up, over `fps`,
            rounded down, and at least 1.
    """

    frames: PositiveInt = 16
    frame_step: PositiveInt = 4
    fps: PositiveFloat | None = None


def window_step(settings: WindowSettings, rate: float) -> int:
    """Frames of a video of `rate` frames per second for one frame of the clip."""
    if settings.fps is None:
        return settings.frame_step
    return max(1, int(math.ceil(rate - _ROUNDING) / settings.fps))


def window_numbers(available: int, frames: int, step: int, key: int) -> list[int]:
    """The frame numbers of a clip, not decreasing; the last frame is repeated where the video is too short.

    Upstream: the window spans frames x step, but its frames are that span over (frames - 1) apart, so 16 frames in
    steps of 4 lie at 0, 4, 8, 12, 17, ..., 63. Upstream never starts at the last possible place, so that it never sees
    the last frame of a video longer than the window; here every place is as likely.

    Args:
        available: frames of the video, 1 or more.
        frames: of the clip.
        step: frames of the video per frame of the clip.
        key: decides where the window starts.
    """
    span = frames * step
    if available > span:
        start = int(keyed_pick(keyed(key, WINDOW), available - span + 1))
        offsets = np.linspace(0, span, frames).clip(0, span - 1).astype(np.int64)
        return [start + int(offset) for offset in offsets]
    # Upstream: a video shorter than one step is its last frame only; here it starts with its first.
    shown = np.linspace(0, available, max(1, available // step)).clip(0, available - 1).astype(np.int64)
    return [int(number) for number in shown] + [available - 1] * (frames - len(shown))


@dataclass(frozen=True)
class Window(Sampling):
    """The rule of `window_numbers` for the readers of jepa_hub, which decode only the frames it names."""

    settings: WindowSettings = dataclasses.field(default_factory=WindowSettings)
    key: int = 0

    def choose(self, times: Tensor, duration: float, name: str) -> list[int]:
        """Frame numbers of the window; `times` are float64 [N] seconds."""
        step = window_step(self.settings, len(times) / duration)
        return window_numbers(len(times), self.settings.frames, step, self.key)


def read_window(item: Path | bytes, settings: WindowSettings, key: int, what: str) -> Tensor:
    """A clip of a video, uint8 RGB [3, F, H, W]; the same key gives the same frames.

    Args:
        item: a path, or the bytes of a file.
        settings: how many frames, and how far apart.
        key: decides where the window starts.
        what: what it is called in errors.

    Raises:
        SampleError: missing, empty, truncated, damaged, too large, or no video.
    """
    source = as_source(item, what, "a video")
    with reading(what):
        frames = read_clip(source, Window(settings=settings, key=key)).frames  # [F, 3, H, W]
    return check_pixels(frames.transpose(0, 1), "clip", what)  # [3, F, H, W]
