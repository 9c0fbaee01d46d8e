"""Decoding and sampling: the right frames with the right times."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import PIL.Image
import pytest
import torch

from jepa_hub.media import sources, timeline, video
from jepa_hub.media.video import probe_video, read_frames
from tests.media_files import (
    FPS,
    encode,
    numbers,
    picture,
)


@pytest.mark.parametrize(
    ("suffix", "codec", "rounding"),
    [
        ("mp4", "libx264", 0),
        ("mkv", "libx264", 5e-4),
        ("webm", "libvpx", 5e-4),
        ("webm", "libvpx-vp9", 5e-4),
        ("avi", "libx264", 0),  # its stamps are in coding order
        ("ts", "libx264", 1e-5),
        ("mov", "mpeg4", 0),
    ],
)
def test_every_container_gives_every_frame(folder: Path, suffix: str, codec: str, rounding: float) -> None:
    path = encode(folder / f"{codec}.{suffix}", codec=codec)
    clip = read_frames(path)
    assert numbers(clip.frames) == list(range(48))
    assert clip.frames.dtype == torch.uint8 and clip.frames.shape == (48, 3, 48, 64)
    assert clip.times.dtype == torch.float64
    torch.testing.assert_close(clip.times, torch.arange(48, dtype=torch.float64) / FPS, rtol=0, atol=rounding + 1e-12)
    assert clip.fps == pytest.approx(FPS, rel=1e-3)


def test_probe(clip_path: Path) -> None:
    info = probe_video(clip_path)
    assert (info.num_frames, info.fps, info.duration, info.width, info.height) == (48, 24.0, 2.0, 64, 48)


def test_sampling_by_count(clip_path: Path) -> None:
    clip = read_frames(clip_path, num_frames=5)
    assert numbers(clip.frames) == [0, 9, 19, 28, 38]  # floor(i * 48 / 5)
    assert clip.times.tolist() == [number / FPS for number in (0, 9, 19, 28, 38)]
    assert numbers(read_frames(clip_path, num_frames=48).frames) == list(range(48))
    assert numbers(read_frames(clip_path, num_frames=cast("int", np.int64(2))).frames) == [0, 24]
    assert numbers(read_frames(clip_path, num_frames=4, start=0.5, end=1.0).frames) == [12, 15, 18, 21]


def test_sampling_by_stride_rate_and_time(clip_path: Path) -> None:
    assert numbers(read_frames(clip_path, stride=10).frames) == [0, 10, 20, 30, 40]
    assert numbers(read_frames(clip_path, stride=10, start=0.5).frames) == [12, 22, 32, 42]
    assert numbers(read_frames(clip_path, fps=4).frames) == [0, 6, 12, 18, 24, 30, 36, 42]
    assert numbers(read_frames(clip_path, fps=4, start=1.0, end=1.5).frames) == [24, 30]
    at = read_frames(clip_path, times=[1.5, 0.2, 1.5])
    assert numbers(at.frames) == [36, 4, 36]  # in the order asked for; 0.2 s is during frame 4
    assert at.times.tolist() == [1.5, 4 / FPS, 1.5]


def test_span_is_half_open(clip_path: Path) -> None:
    assert numbers(read_frames(clip_path, start=1.0, end=1.25).frames) == list(range(24, 30))
    assert numbers(read_frames(clip_path, start=1.9, end=99).frames) == [46, 47]


def test_matroska_rounds_to_milliseconds_and_still_hits_the_frame(folder: Path) -> None:
    path = encode(folder / "rounded.mkv")
    assert numbers(read_frames(path, times=[number / FPS for number in range(48)]).frames) == list(range(48))
    assert numbers(read_frames(path, start=2 / FPS, end=5 / FPS).frames) == [2, 3, 4]


def test_variable_frame_rate_goes_by_the_clock(folder: Path) -> None:
    # ten frames in the first second, then two that stay on screen for a second each
    stamps = [*range(0, 1000, 100), 1000, 2000, 3000]
    path = encode(folder / "variable.mp4", len(stamps), stamps=stamps)
    clip = read_frames(path)
    assert clip.times.tolist() == [stamp / 1000 for stamp in stamps]
    by_rate = read_frames(path, fps=2, end=3.0)
    assert numbers(by_rate.frames) == [0, 5, 10, 10, 11, 11]
    assert by_rate.times.tolist() == [0, 0.5, 1, 1, 2, 2]  # true times of the frames, not the moments asked for
    assert numbers(read_frames(path, times=[0.95, 1.99, 2.01]).frames) == [9, 10, 11]


def test_times_start_at_the_first_frame(folder: Path) -> None:
    path = encode(folder / "late.mp4", 12, stamps=[5000 + 40 * number for number in range(12)])
    assert read_frames(path, num_frames=3).times.tolist() == [0.0, 0.16, 0.32]


def test_seeking_gives_the_same_frames_and_decodes_less(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encode(folder / "long.mp4", 300, options={"g": "20"})
    decoded: list[int] = []

    def counting(packets: Any, source: Any, *, partial: bool) -> Iterator[Any]:
        for frame in timeline.decoded(packets, source, partial=partial):
            decoded.append(1)
            yield frame

    monkeypatch.setattr(video, "decoded", counting)
    wanted = [7, 130, 131, 271]
    clip = read_frames(path, times=[number / FPS for number in wanted])
    assert numbers(clip.frames) == wanted
    assert len(decoded) < 100
    decoded.clear()
    assert numbers(read_frames(path, stride=1, start=250 / FPS).frames) == list(range(250, 300))
    assert len(decoded) < 100


def test_seeking_needs_no_luck(folder: Path) -> None:
    path = encode(folder / "open.ts", 200, options={"g": "15", "bf": "3", "x264-params": "open-gop=1"})
    for wanted in ([199], [0, 199], [14, 15, 16], [90, 180], list(range(0, 200, 17))):
        assert numbers(read_frames(path, times=[number / FPS + 0.01 for number in wanted]).frames) == wanted


def test_packets_that_mislead_are_found_out(clip_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(source: sources.Source) -> timeline.Timeline:
        line = read_timeline(source)
        return timeline.Timeline([stamp + 1 for stamp in line.pts], line.times, line.duration, line.keyframes)

    read_timeline = timeline.read_timeline
    monkeypatch.setattr(video, "read_timeline", wrong)
    clip = read_frames(clip_path, num_frames=4)
    assert numbers(clip.frames) == [0, 12, 24, 36]
    assert clip.times.tolist() == [0, 0.5, 1, 1.5]


@pytest.mark.parametrize(("rotation", "corner"), [(0, (0, 0)), (90, (1, 0)), (180, (1, 1)), (-90, (0, 1))])
def test_rotation_is_applied(folder: Path, rotation: int, corner: tuple[int, int]) -> None:
    def draw(number: int) -> np.ndarray[Any, Any]:
        image = np.full((48, 96, 3), 30, np.uint8)
        image[:24, :48] = 220  # stored at the top left
        return image

    path = encode(folder / f"rotated{rotation}.mp4", 2, draw=draw, rotation=rotation)  # degrees counterclockwise
    frame = read_frames(path).frames[0, 0]
    upright = (48, 96) if rotation in (0, 180) else (96, 48)
    assert frame.shape == upright
    assert (probe_video(path).height, probe_video(path).width) == upright
    rows, columns = frame.shape[0] // 2, frame.shape[1] // 2
    bright = [(row, column) for row in (0, 1) for column in (0, 1) if frame[row * rows + 9, column * columns + 9] > 128]
    assert bright == [corner]


def test_mirrored_display_matrix() -> None:
    data = types.SimpleNamespace(type=types.SimpleNamespace(name="DISPLAYMATRIX"))
    fixed = 1 << 16

    class Matrix:
        type = data.type

        def __bytes__(self) -> bytes:
            return np.array([-fixed, 0, 0, 0, fixed, 0, 0, 0, 1 << 30], "<i4").tobytes()

    frame: Any = types.SimpleNamespace(side_data=[Matrix()])
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    reformatter: Any = types.SimpleNamespace(
        reformat=lambda frame, format: types.SimpleNamespace(to_ndarray=lambda: pixels)
    )
    assert (video._upright(frame, reformatter) == pixels[:, ::-1]).all()


def test_animated_gif(folder: Path) -> None:
    images = [PIL.Image.fromarray(picture(number)) for number in range(6)]
    durations = [100, 50, 200, 100, 100, 300]
    path = folder / "moving.gif"
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0)
    clip = read_frames(path)
    assert numbers(clip.frames) == list(range(6))
    assert clip.times.tolist() == [0, 0.1, 0.15, 0.35, 0.45, 0.55]
    assert probe_video(path).duration == pytest.approx(0.85)
    assert numbers(read_frames(path, fps=10).frames) == [0, 1, 2, 2, 3, 4, 5, 5, 5]
    clear = [PIL.Image.new("RGBA", (16, 16), (255, 0, 0, 0)) for _ in range(2)]
    clear[1].putpixel((1, 1), (0, 255, 0, 255))
    clear[0].save(folder / "clear.gif", save_all=True, append_images=clear[1:], duration=100, disposal=2)
    assert read_frames(folder / "clear.gif").frames[0, :, 9, 9].tolist() == [255, 255, 255]


def test_one_frame_video(folder: Path) -> None:
    path = encode(folder / "single.mp4", 1)
    clip = read_frames(path)
    assert clip.times.tolist() == [0.0]
    assert probe_video(path).num_frames == 1 and probe_video(path).duration == pytest.approx(1 / FPS)


class FakeDecoder:
    """The part of torchcodec's VideoDecoder that is used, over PyAV."""

    shift = 0.0

    def __init__(self, path: str, *, dimension_order: str, seek_mode: str) -> None:
        assert (dimension_order, seek_mode) == ("NCHW", "exact")
        self.clip = read_frames(path, backend="pyav")
        self.metadata = types.SimpleNamespace(
            height=self.clip.frames.shape[2], width=self.clip.frames.shape[3], begin_stream_seconds=1.4
        )

    def get_frames_at(self, indices: list[int]) -> Any:
        seconds = self.clip.times[indices] + 1.4 + self.shift
        return types.SimpleNamespace(data=self.clip.frames[indices] + 1, pts_seconds=seconds)  # + 1: seen to be used


def test_torchcodec_is_used_when_it_agrees(clip_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = types.ModuleType("torchcodec.decoders")
    module.VideoDecoder = FakeDecoder
    monkeypatch.setitem(sys.modules, "torchcodec", types.ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)
    video._torchcodec.cache_clear()
    try:
        expected = read_frames(clip_path, num_frames=4, backend="pyav")
        found = read_frames(clip_path, num_frames=4)
        assert torch.equal(found.frames, expected.frames + 1) and torch.equal(found.times, expected.times)
        assert torch.equal(read_frames(clip_path.read_bytes(), num_frames=4).frames, expected.frames)
        monkeypatch.setattr(FakeDecoder, "shift", 0.02)  # other times: not trusted
        assert torch.equal(read_frames(clip_path, num_frames=4).frames, expected.frames)
    finally:
        video._torchcodec.cache_clear()


@pytest.mark.skipif(video._torchcodec() is not None, reason="torchcodec imports here")
def test_torchcodec_is_named_when_it_is_missing(clip_path: Path) -> None:
    with pytest.raises(ImportError, match="video-gpu"):
        read_frames(clip_path, backend="torchcodec")


@pytest.mark.skipif(video._torchcodec() is None, reason="torchcodec does not import here: pip install torchcodec")
def test_torchcodec_gives_the_same(clip_path: Path) -> None:
    rules: list[dict[str, Any]] = [{}, {"num_frames": 5}, {"fps": 7}, {"times": [1.9, 0.3]}]
    for rule in rules:
        ours = read_frames(clip_path, backend="pyav", **rule)
        theirs = read_frames(clip_path, backend="torchcodec", **rule)
        assert torch.equal(ours.times, theirs.times)
        assert (ours.frames.int() - theirs.frames.int()).abs().max() <= 2
