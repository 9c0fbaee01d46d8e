"""When each frame of a video is shown, read from its packets without decoding them."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av
import torch
from av.error import EOFError as EndOfFile
from av.error import FFmpegError
from torch import Tensor

from jepa_hub.media.clips import MediaError
from jepa_hub.media.sources import Source, breaks_off, unreadable

MAX_FRAME_PIXELS = 1 << 26  # of one frame: 8K is half of it
# Containers that hold video. FFmpeg also reads text as ANSI art, single images as video, and play lists that open other
# files and addresses; none of that is wanted here.
_CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,apng,"
    "h264,hevc,av1,obu,ivf,m4v,nut,mxf,yuv4mpegpipe,dv"
)
_DEMUX_ERRORS = (FFmpegError, IndexError)  # IndexError: PyAV, when a damaged transport stream brings up a new stream
_Packet = tuple[int | None, bool]  # presentation stamp, whether decoding can start here


@dataclass(frozen=True)
class Timeline:
    """Every frame of a video stream in the order shown.

    Attributes:
        pts: presentation stamps in units of the stream, rising.
        times: float64 [N] seconds since the first frame.
        duration: seconds until the end of the last frame.
        keyframes: numbers of the frames at which decoding can start.
        by_count: stamps are absent or wrong, so that the k-th decoded frame is frame k, and there is no seeking.
        damage: what is missing, in words; empty when nothing is.
    """

    pts: list[int]
    times: Tensor
    duration: float
    keyframes: list[int]
    by_count: bool = False
    damage: str = ""

    @property
    def fps(self) -> float:
        """Average frame rate."""
        return len(self.times) / self.duration


def open_video(source: Source) -> tuple[Any, Any]:
    """The container (to be closed) and its video stream.

    Raises:
        MediaError: not a video, no video stream in it, no decoder for it, or frames too large.
    """
    # max_pixels guards formats that only tell their size while decoding (GIF)
    options = {"format_whitelist": _CONTAINERS, "max_pixels": str(MAX_FRAME_PIXELS)}
    file: str | IO[bytes] = source.rewound()
    if isinstance(file, str):
        # "file:" keeps names such as "concat:a|b" or "http:x" plain file names
        file, options["protocol_whitelist"] = f"file:{Path(file).absolute()}", "file"
    try:
        # "r", as PyAV would take over the mode of a file object
        container = av.open(file, "r", options=options, metadata_errors="replace")
    except (FFmpegError, OSError) as error:
        why = getattr(error, "strerror", None) or error
        if getattr(error, "errno", None) == errno.EINVAL:  # what FFmpeg answers for a format that is not allowed
            why = "its format is not one of the video formats that are read"
        if isinstance(error, EndOfFile):
            why = "there is not a single frame in it"
        raise unreadable(source, why) from error
    try:
        stream = _video_stream(container, source)
        check_frame_size(source, stream.codec_context.width, stream.codec_context.height)
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
    except BaseException:
        container.close()
        raise
    return container, stream


def _video_stream(container: Any, source: Source) -> Any:
    cover = getattr(getattr(av.stream, "Disposition", None), "attached_pic", 0)  # the cover of a music file is no video
    streams = [stream for stream in container.streams.video if not (cover and stream.disposition & cover)]
    if not streams:
        if breaks_off(source):
            raise unreadable(source)
        others = ", ".join(sorted({stream.type for stream in container.streams}))
        raise MediaError(f"{source.name} has no video in it{f' (only {others})' if others else ''}")
    if streams[0].codec_context is None:
        raise MediaError(f"{source.name} uses a video codec that this build of FFmpeg cannot decode")
    return streams[0]


def check_frame_size(source: Source, width: int, height: int) -> None:
    """Refuse frames that would exhaust memory."""
    if width * height > MAX_FRAME_PIXELS:
        raise MediaError(
            f"{source.name} has frames of {width} x {height} pixels; up to {MAX_FRAME_PIXELS} pixels are decoded, scale"
            " it down first"
        )


def read_timeline(source: Source) -> Timeline:
    """The frames of a video, from its packets.

    Raises:
        MediaError: not a video, or one without a single frame.
    """
    size = source.size()
    container, stream = open_video(source)
    with container:
        # The header of Matroska says when the longest stream ends; only packets tell whether the file got that far.
        has_end = "matroska" in container.format.name and bool(container.duration)
        packets: list[_Packet] = []
        corrupt, last_duration, reached = 0, 0, 0.0
        try:
            for packet in container.demux() if has_end else container.demux(stream):
                if not packet.size or packet.is_discard:  # discarded: cut away by an edit list
                    continue
                stamp = packet.dts if packet.pts is None else packet.pts
                if stamp is not None:
                    reached = max(reached, float((stamp + (packet.duration or 0)) * packet.time_base))
                if packet.stream is not stream:
                    continue
                if packet.is_corrupt:
                    corrupt += 1
                    continue
                packets.append((packet.pts, packet.is_keyframe))
                last_duration = packet.duration or last_duration
        except _DEMUX_ERRORS:
            corrupt += 1
        missing = _missing_bytes(stream, size)
        if has_end and reached < container.duration / av.time_base - 0.5:
            missing = f"it ends after {reached:.2f} s of {container.duration / av.time_base:.2f} s"
        damage = _damage(len(packets), corrupt, missing, stream.frames)
        if not packets:
            raise MediaError(f"{source.name} has a video stream without a single frame{': ' * bool(damage)}{damage}")
        # AVI stamps frames in coding order, which is wrong when frames are reordered
        reordered = container.format.name == "avi" and bool(stream.codec_context.has_b_frames)
        if reordered or any(pts is None for pts, _ in packets):
            return _evenly_spaced(len(packets), stream, damage)
        return _by_stamp(packets, stream, last_duration, damage)


def _missing_bytes(stream: Any, size: int) -> str:
    """What the index of an mp4 points at beyond the end of the file, in words."""
    entries = getattr(stream, "index_entries", None) or ()
    beyond = sum(1 for entry in entries if entry.pos + entry.size > size)
    return f"{beyond} of {len(entries)} frames lie beyond its end" if beyond else ""


def _damage(intact: int, corrupt: int, missing: str, announced: int) -> str:
    if not corrupt and not missing:
        return ""
    of = f" of {announced}" if announced > intact else ""
    detail = missing or f"{corrupt} packet{'s' * (corrupt != 1)} cannot be read"
    return f"{intact}{of} frames can be decoded ({detail})"


def _rate(stream: Any) -> float:
    return float(stream.average_rate or stream.guessed_rate or 25)


def _evenly_spaced(count: int, stream: Any, damage: str = "") -> Timeline:
    times = torch.arange(count, dtype=torch.float64) / _rate(stream)
    return Timeline(list(range(count)), times, count / _rate(stream), [0], by_count=True, damage=damage)


def _by_stamp(packets: list[_Packet], stream: Any, last_duration: int, damage: str) -> Timeline:
    order = sorted((pts, key) for pts, key in packets if pts is not None)
    keyframes = [number for number, (_, key) in enumerate(order) if key]
    pts = [stamp for stamp, _ in order]
    return Timeline(pts, *_seconds(pts, stream, last_duration), keyframes, damage=damage)


def _seconds(pts: list[int], stream: Any, last_duration: int) -> tuple[Tensor, float]:
    """Times since the first frame [N], and when the last one ends (without a duration of its own: the average one)."""
    base = Fraction(stream.time_base)
    ticks = (torch.tensor(pts, dtype=torch.int64) - pts[0]) * base.numerator  # [N]
    times = ticks.double() / base.denominator  # one rounding only, so that 3 x 0.1 s is 0.3 s
    if last_duration:
        return times, (int(ticks[-1]) + last_duration * base.numerator) / base.denominator
    average = float(times[-1]) / (len(pts) - 1) if len(pts) > 1 else 0.0
    return times, float(times[-1]) + (average or 1 / _rate(stream))


def decode_timeline(source: Source, *, partial: bool) -> Timeline:
    """The frames as the decoder presents them: slow, for files whose packets mislead (hidden frames, equal stamps).

    Args:
        source: the opened video.
        partial: leave out what cannot be decoded instead of refusing.

    Raises:
        MediaError: nothing can be decoded, or something cannot and `partial` is False.
    """
    container, stream = open_video(source)
    with container:
        frames = decoded(container.demux(stream), source, partial=partial)
        shown = [(frame.pts, frame.duration or 0) for frame in frames]
        if not shown:
            raise MediaError(f"{source.name} has a video stream of which not a single frame can be decoded")
        stamps = [pts for pts, _ in shown]
        if None in stamps or any(late <= early for early, late in itertools.pairwise(stamps)):
            return _evenly_spaced(len(shown), stream)
        return Timeline(list(range(len(shown))), *_seconds(stamps, stream, shown[-1][1]), [0], by_count=True)


def decoded(packets: Iterable[Any], source: Source, *, partial: bool) -> Iterator[Any]:
    """Frames of these packets in the order shown.

    Raises:
        MediaError: a packet cannot be decoded; with `partial` it is left out.
    """
    remaining = iter(packets)
    while True:
        try:
            packet = next(remaining)
            yield from packet.decode()
        except (StopIteration, EndOfFile):
            return
        except _DEMUX_ERRORS as error:
            if not partial:
                why = getattr(error, "strerror", None) or error
                raise MediaError(
                    f"{source.name} is damaged, or too large to decode ({why}); read_frames(..., allow_partial=True)"
                    " leaves out what cannot be decoded"
                ) from error
