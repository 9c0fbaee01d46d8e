"""Decode frames of a video together with the times at which they are shown.

PyAV does the work; its wheels carry FFmpeg. A first pass reads the packets without decoding them and gives the true
timeline (variable frame rates, edit lists, headers that lie); a second one decodes only what was asked for, with a
seek where one saves work.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import struct
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from torch import Tensor

from jepa_hub.media.clips import Clip, MediaError, Sampling, VideoInfo
from jepa_hub.media.sources import Source, open_source
from jepa_hub.media.timeline import Timeline, check_frame_size, decode_timeline, decoded, open_video, read_timeline

__all__ = ["Clip", "MediaError", "Sampling", "VideoInfo", "probe_video", "read_clip", "read_frames"]

MAX_CLIP_BYTES = 8 << 30  # of the decoded frames one call returns
Backend = Literal["auto", "pyav", "torchcodec"]
_MIN_SKIP = 8  # frames: a seek costs about as much as decoding this many
_THREADS_FROM = 2e8  # pixels to decode from which starting FFmpeg's threads pays; below, they cost more than they save


class _Mismatch(Exception):
    """Packets and decoded frames tell different stories."""


def probe_video(source: Any) -> VideoInfo:
    """How many frames a video has, how long it lasts, how fast it runs and how large it is shown.

    Args:
        source: path, http(s) URL, bytes or binary file object; animated GIFs are videos.

    Raises:
        MediaError: empty, truncated, not a video, or too large.
        OSError: the path or URL cannot be read.
    """
    with open_source(source) as opened:
        line, _, frames = _read(opened, Sampling(num_frames=1), partial=False, backend="pyav")
    return VideoInfo(len(line.pts), line.fps, line.duration, width=frames.shape[-1], height=frames.shape[-2])


def read_frames(
    source: Any,
    *,
    num_frames: int | None = None,
    fps: float | None = None,
    stride: int | None = None,
    times: Sequence[float] | None = None,
    start: float = 0.0,
    end: float | None = None,
    allow_partial: bool = False,
    backend: Backend = "auto",
) -> Clip:
    """Frames of a video with their times; all of them unless a count, a rate, a stride or times are given.

    Only the frames asked for are kept in memory. Rotation metadata is applied; non-square pixels are left as stored.

    Args:
        source: path, http(s) URL, bytes or binary file object; animated GIFs are videos.
        num_frames: so many, uniform in frame number over the span.
        fps: one every 1 / fps seconds, by the true times of the frames.
        stride: every stride-th.
        times: those on screen at these seconds since the first frame.
        start, end: the span in seconds: start <= time < end.
        allow_partial: return what can be decoded of a truncated or damaged file, with a warning.
        backend: "auto" uses torchcodec where it imports and gives the same times, else PyAV.

    Returns:
        Clip with frames uint8 [F, 3, H, W] and times float64 [F], the true times of these frames. A frame is repeated
        when the rate or the times ask for it twice.

    Raises:
        ValueError: more than one rule, a time outside the video, too few frames, or more than fits MAX_CLIP_BYTES.
        MediaError: empty, truncated, not a video, without frames, or absurdly large.
        OSError: the path or URL cannot be read.
    """
    sampling = Sampling(num_frames, fps, stride, times, start, end)
    return read_clip(source, sampling, allow_partial=allow_partial, backend=backend)


def read_clip(source: Any, sampling: Sampling, *, allow_partial: bool = False, backend: Backend = "auto") -> Clip:
    """`read_frames` with the rule as an object."""
    if backend not in ("auto", "pyav", "torchcodec"):
        raise ValueError(f"backend is auto, pyav or torchcodec; got {backend!r}")
    with open_source(source) as opened:
        line, numbers, frames = _read(opened, sampling, partial=allow_partial, backend=backend)
    return Clip(frames, line.times[numbers], line.fps)


def _read(source: Source, sampling: Sampling, *, partial: bool, backend: Backend) -> tuple[Timeline, list[int], Tensor]:
    """The timeline, the numbers of the chosen frames, and the frames [F, 3, H, W]."""
    line = read_timeline(source)
    if line.damage and not partial:
        raise MediaError(
            f"{source.name} is truncated or damaged: {line.damage}; read_frames(..., allow_partial=True) returns what"
            " can be decoded"
        )
    if line.damage:
        warnings.warn(f"{source.name} is truncated or damaged: {line.damage}; using what is there", stacklevel=4)
    numbers = sampling.choose(line.times, line.duration, source.name)
    unique = sorted(set(numbers))
    frames = None if backend == "pyav" else _torchcodec_frames(source, line, unique, required=backend != "auto")
    if frames is None:
        frames, unique, rebuilt = _decode_somehow(source, line, unique, sampling, partial=partial)
        if rebuilt is not line:
            line = rebuilt
            numbers = sampling.choose(line.times, line.duration, source.name)
    place = {number: index for index, number in enumerate(unique)}
    if unique != numbers:  # some are repeated, in another order, or could not be decoded
        numbers = [number for number in numbers if number in place]
        frames = frames[[place[number] for number in numbers]]  # [F, 3, H, W]
    return line, numbers, frames


def _decode_somehow(
    source: Source, line: Timeline, wanted: list[int], sampling: Sampling, *, partial: bool
) -> tuple[Tensor, list[int], Timeline]:
    """`_decode`; if packets mislead, without seeking; if they still do, by a timeline made from decoding all."""
    without_seeking = dataclasses.replace(line, keyframes=[0])
    for attempt in (without_seeking,) if partial else (line, without_seeking):
        try:
            return *_decode(source, attempt, wanted, partial=partial), line
        except _Mismatch:
            continue
    line = decode_timeline(source, partial=partial)
    wanted = sorted(set(sampling.choose(line.times, line.duration, source.name)))
    try:
        return *_decode(source, line, wanted, partial=partial), line
    except _Mismatch as error:
        raise MediaError(
            f"{source.name} is damaged: {error}; read_frames(..., allow_partial=True) leaves such frames out"
        ) from error


def _decode(source: Source, line: Timeline, wanted: list[int], *, partial: bool) -> tuple[Tensor, list[int]]:
    """The wanted frames [F, 3, H, W] in order, and their numbers (fewer only when `partial`)."""
    container, stream = open_video(source)
    reformatter = VideoReformatter()
    out: Tensor | None = None
    got: list[int] = []
    with container:
        context = stream.codec_context
        runs = _runs(line, wanted)
        known = None if line.by_count else {stamp: number for number, stamp in enumerate(line.pts)}
        if sum(run[-1] - start + 1 for start, run in runs) * context.width * context.height > _THREADS_FROM:
            context.thread_type = "AUTO"
        for start, run in runs:
            shown = decoded(_packets(container, stream, line, start), source, partial=partial)
            for number, frame in _run(shown, known, run, sought=start > 0, partial=partial):
                check_frame_size(source, frame.width, frame.height)
                picture = _upright(frame, reformatter)  # [H, W, 3]
                if out is None:
                    out = _allocate(source, len(wanted), picture.shape[0], picture.shape[1])
                if picture.shape[:2] != out.shape[2:]:
                    raise MediaError(
                        f"{source.name} changes its frame size from {out.shape[3]} x {out.shape[2]} to"
                        f" {picture.shape[1]} x {picture.shape[0]} at {float(line.times[number]):.2f} s; re-encode it"
                    )
                out[len(got)] = torch.from_numpy(picture).permute(2, 0, 1)  # [3, H, W]
                got.append(number)
    lost = sorted(set(wanted).difference(got))
    if lost and not partial:
        at = float(line.times[lost[0]])
        raise _Mismatch(f"frame {lost[0]} of {len(line.pts)} ({at:.2f} s) cannot be decoded")
    if out is None:
        raise MediaError(f"{source.name} is damaged: none of the {len(wanted)} frames asked for can be decoded")
    if lost:
        warnings.warn(f"{source.name}: {len(lost)} of {len(wanted)} frames cannot be decoded", stacklevel=6)
    return out[: len(got)], got


def _runs(line: Timeline, wanted: list[int]) -> list[tuple[int, list[int]]]:
    """Stretches to decode: the keyframe to seek to (0: go on from where decoding is), and the frames it yields."""
    runs: list[tuple[int, list[int]]] = []
    for number in wanted:
        before = bisect.bisect_right(line.keyframes, number)
        keyframe = line.keyframes[before - 1] if before else 0
        position = runs[-1][1][-1] if runs else -1
        seek = not line.by_count and keyframe - position > _MIN_SKIP
        if runs and not seek:
            runs[-1][1].append(number)
        else:
            runs.append((keyframe if seek else 0, [number]))
    return runs


def _packets(container: Any, stream: Any, line: Timeline, start: int) -> Any:
    """Packets from a keyframe on; 0: from where the container is."""
    if start:
        try:
            container.seek(line.pts[start], stream=stream, backward=True, any_frame=False)
        except FFmpegError as error:
            raise _Mismatch("it cannot be sought") from error
    return container.demux(stream)


def _run(
    frames: Iterable[Any], known: Mapping[int, int] | None, run: list[int], *, sought: bool, partial: bool
) -> Iterator[tuple[int, Any]]:
    """The wanted frames of one stretch with their numbers, by stamp where `known` has them, else by counting."""
    wanted, first = set(run), True
    for position, frame in enumerate(frames):
        number = position if known is None else known.get(frame.pts, -1)
        if number < 0 and partial:  # a frame of a packet that was counted as damaged
            continue
        if number < 0 or (first and sought and number > run[0]):
            raise _Mismatch("its index does not fit its frames")
        first = False
        if number in wanted and not frame.is_corrupt:
            wanted.discard(number)
            yield number, frame
        if number >= run[-1]:
            return


def _allocate(source: Source, count: int, height: int, width: int) -> Tensor:
    size = count * 3 * height * width
    if size > MAX_CLIP_BYTES:
        raise ValueError(
            f"{count} frames of {width} x {height} pixels of {source.name} take {size / 2**30:.1f} GiB, over the limit"
            f" of {MAX_CLIP_BYTES / 2**30:g} GiB; take fewer with num_frames=, fps=, stride=, or with start= and end="
        )
    return torch.empty(count, 3, height, width, dtype=torch.uint8)


def _upright(frame: Any, reformatter: VideoReformatter) -> np.ndarray[Any, Any]:
    """The frame as RGB uint8 [H, W, 3], turned and mirrored as its display matrix says."""
    picture = reformatter.reformat(frame, format="rgb24").to_ndarray()  # [H, W, 3]
    for data in frame.side_data:
        if getattr(data.type, "name", "") == "DISPLAYMATRIX":
            # x' = a x + c y, y' = b x + d y, with x to the right and y down, in 16.16 fixed point
            a, b, _, c, d = struct.unpack("=5i", bytes(data)[:20])
            quarter_turn = abs(b) > abs(a)
            if quarter_turn:
                picture = picture.transpose(1, 0, 2)  # [W, H, 3]
            x_sign, y_sign = (c, b) if quarter_turn else (a, d)
            picture = picture[:: -1 if y_sign < 0 else 1, :: -1 if x_sign < 0 else 1]
    return np.ascontiguousarray(picture)


@functools.cache
def _torchcodec() -> Any:
    """The VideoDecoder of torchcodec, or None where it does not import (it needs FFmpeg's or CUDA's libraries)."""
    try:
        from torchcodec.decoders import VideoDecoder
    except Exception:  # a missing shared library surfaces as RuntimeError or OSError
        return None
    return VideoDecoder


def _torchcodec_frames(source: Source, line: Timeline, wanted: list[int], *, required: bool) -> Tensor | None:
    """The wanted frames [F, 3, H, W] by torchcodec; None where it is absent or disagrees with the timeline."""
    decoder_class = _torchcodec()
    if decoder_class is None:
        if required:
            raise ImportError("torchcodec does not import here; pip install 'jepa-hub[video-gpu]', or backend='pyav'")
        return None
    if not isinstance(source.file, str) or line.by_count or line.damage:
        return None
    try:
        decoder = decoder_class(source.file, dimension_order="NCHW", seek_mode="exact")
        _allocate(source, len(wanted), decoder.metadata.height, decoder.metadata.width)
        batch = decoder.get_frames_at(indices=wanted)
        times = batch.pts_seconds.double() - float(decoder.metadata.begin_stream_seconds)  # [F]
    except RuntimeError:
        return None
    try:
        first, _ = _decode(source, line, wanted[:1], partial=False)
    except _Mismatch:
        return None
    agrees = batch.data.shape[1:] == first.shape[1:] and torch.allclose(times, line.times[wanted], rtol=0, atol=1e-3)
    return batch.data if agrees else None
