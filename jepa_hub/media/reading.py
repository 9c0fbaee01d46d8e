"""Whatever a processor is given, as frames: paths, URLs, bytes, files, PIL images, arrays, clips."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from jepa_hub.media.clips import Clip, Sampling
from jepa_hub.media.pixels import Frames, from_array
from jepa_hub.media.sources import decode_image, open_source, still_image
from jepa_hub.media.video import read_clip


@dataclass(frozen=True)
class Request:
    """How to read inputs.

    Attributes:
        sampling: what the call asked for.
        for_files: what applies to video files when the call gave no rule.
        layout: axes of arrays, when they have to be named.
        images_only: the model takes images, so an array of four axes could be a batch of them.
    """

    sampling: Sampling
    for_files: Sampling
    layout: str | None
    images_only: bool

    @property
    def has_rule(self) -> bool:
        """Whether the call says which frames of the span."""
        rules = (self.sampling.num_frames, self.sampling.fps, self.sampling.stride, self.sampling.times)
        return any(rule is not None for rule in rules)

    @property
    def asked(self) -> bool:
        """Whether the call chose frames, by a rule or a span."""
        return self.has_rule or self.sampling.needs_times


def read_inputs(inputs: Any, request: Request) -> list[Frames]:
    """Every image or video of the inputs, sampled; images stay one frame.

    Raises:
        TypeError: something that is no image or video.
        ValueError: an empty list, images mixed with videos, or a rule that does not fit the input.
    """
    if isinstance(inputs, (list, tuple)):
        if not inputs:
            raise ValueError("the list of inputs is empty; give at least one image or video")
        named = [(item, f"inputs[{index}]") for index, item in enumerate(inputs)]
    else:
        named = [(inputs, "inputs")]
    loaded = [frames for item, name in named for frames in _read_one(item, name, request)]
    videos = [frames.name for frames in loaded if frames.is_video]
    if 0 < len(videos) < len(loaded):
        still = next(frames.name for frames in loaded if not frames.is_video)
        raise ValueError(f"a list must be all images or all videos: {still} is an image, {videos[0]} a video")
    return loaded


def _read_one(item: Any, name: str, request: Request) -> list[Frames]:
    if isinstance(item, Clip):
        return [_sample(Frames(item.frames, True, name, item.times), request, item.duration)]
    if isinstance(item, PIL.Image.Image):
        return [_still(Frames(decode_image(item, name)[None], False, name), request)]
    if isinstance(item, (np.ndarray, Tensor)):
        if request.images_only and item.ndim == 4 and request.layout is None:
            raise ValueError(
                f"{name} has shape {tuple(item.shape)}: for an image model say whether this is a batch of images"
                " (layout='BCHW' or 'BHWC', or a list of images) or a video (layout='FCHW' or 'FHWC')"
            )
        arrays = from_array(item, request.layout, name)
        return [_sample(each, request, None) if each.is_video else _still(each, request) for each in arrays]
    if isinstance(item, (list, tuple)):
        raise TypeError(f"{name} is a list in a list; to make one video of separate frames, stack them (numpy.stack)")
    return [_read_source(item, request)]


def _read_source(item: Any, request: Request) -> Frames:
    with open_source(item) as opened:
        source = dataclasses.replace(opened, expected="an image or video")
        image = still_image(source)
        if image is None:
            clip = read_clip(source, request.sampling if request.has_rule else request.for_files)
            return Frames(clip.frames, True, source.name, clip.times)
        with image:
            return _still(Frames(decode_image(image, source.name)[None], False, source.name), request)


def _still(frames: Frames, request: Request) -> Frames:
    if request.asked and request.sampling.num_frames is None:
        raise ValueError(f"{frames.name} is a still image, which has no time: only num_frames= applies, and repeats it")
    return frames


def _sample(frames: Frames, request: Request, duration: float | None) -> Frames:
    """Frames that are in memory are taken whole unless the call itself chooses."""
    if not request.asked:
        return frames
    times = frames.times
    if request.sampling.needs_times:
        if times is None or duration is None:
            raise ValueError(
                f"{frames.name} is an array without times: choose with num_frames= or stride=, or give its rate with"
                " Clip.at_rate(frames, fps)"
            )
        if not bool((times.diff() >= 0).all()):
            raise ValueError(f"the times of {frames.name} go back, so that no span of it can be chosen")
    else:
        times, duration = torch.arange(len(frames.levels), dtype=torch.float64), float(len(frames.levels))
    numbers = request.sampling.choose(times, duration, frames.name)
    return dataclasses.replace(
        frames,
        levels=frames.levels[numbers],  # [F, 3, H, W]
        times=None if frames.times is None else frames.times[numbers],
    )


def fit_tubelets(frames: Frames, tubelet_size: int, odd_frames: str) -> Frames:
    """Frames whose count is a multiple of the tubelet; a still image is left to the model, which repeats it.

    Raises:
        ValueError: the count is no multiple and nothing was chosen, or dropping would leave no frame.
    """
    count = len(frames.levels)
    rest = count % tubelet_size
    if not rest or (count == 1 and not frames.is_video):
        return frames
    if odd_frames == "pad":
        return take(frames, [*range(count), *[count - 1] * (tubelet_size - rest)])
    if odd_frames == "drop" and count > rest:
        return take(frames, range(count - rest))
    counted = f"{frames.name} gives {count} frame{'s' * (count != 1)}"
    if odd_frames == "drop":
        raise ValueError(
            f"{counted}, fewer than one tubelet of {tubelet_size}: odd_frames='drop' leaves nothing; 'pad'?"
        )
    raise ValueError(
        f"{counted}, which is no multiple of the tubelet of {tubelet_size}: use odd_frames='pad' (repeats the last) or"
        " odd_frames='drop' (drops the last), or choose another num_frames="
    )


def take(frames: Frames, numbers: Sequence[int]) -> Frames:
    """The frames of these numbers, with their times; repeated frames repeat their time."""
    index = torch.tensor(list(numbers))
    times = None if frames.times is None else frames.times[index]
    return dataclasses.replace(frames, levels=frames.levels[index.to(frames.levels.device)], times=times)
