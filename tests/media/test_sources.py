"""Sources of all kinds, and clear errors for everything that is not a readable video."""

from __future__ import annotations

import io
import os
import threading
import types
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL.Image
import pytest
import torch

from jepa_hub.media import sources, timeline, video
from jepa_hub.media.clips import Clip, MediaError, Sampling
from jepa_hub.media.video import probe_video, read_frames
from tests.media_files import (
    FPS,
    encode,
    numbers,
    picture,
)


@pytest.fixture(scope="module")
def noisy(folder: Path) -> Path:
    """Frames that hardly compress, so that cutting the file loses some; the index is at the front."""
    generator = np.random.default_rng(0)
    return encode(
        folder / "noisy.mp4",
        draw=lambda number: generator.integers(0, 255, (48, 64, 3), dtype=np.uint8),
        container_options={"movflags": "faststart"},
    )


class Unseekable(io.RawIOBase):
    """A stream such as a socket: readable once."""

    def __init__(self, data: bytes) -> None:
        self.data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self.data.read(size)


def test_sources_of_all_kinds(clip_path: Path) -> None:
    data = clip_path.read_bytes()
    with open(clip_path, "rb") as file:
        file.read(100)  # a file somebody has read from is read from its start
        sources = [str(clip_path), clip_path, data, bytearray(data), io.BytesIO(data), file, Unseekable(data)]
        for source in sources:
            assert numbers(read_frames(source, num_frames=3).frames) == [0, 16, 32]
        assert not file.closed


def test_names_that_ffmpeg_would_interpret_are_plain_files(clip_path: Path, tmp_path: Path) -> None:
    odd = tmp_path / "concat:a|b.mp4"
    odd.write_bytes(clip_path.read_bytes())
    assert probe_video(odd).num_frames == 48
    playlist = tmp_path / "list.mp4"
    playlist.write_text(f"ffconcat version 1.0\nfile {clip_path.name}\n")
    (tmp_path / clip_path.name).write_bytes(clip_path.read_bytes())
    with pytest.raises(MediaError, match="not a video"):
        read_frames(playlist)


class Handler(BaseHTTPRequestHandler):
    """Answers by path from `content`."""

    content: dict[str, bytes]

    def do_GET(self) -> None:
        if self.path.startswith("/to?"):
            self.send_response(302)
            self.send_header("Location", self.path[4:])
            self.end_headers()
            return
        body = self.content.get(self.path.removeprefix("/chunked").removeprefix("/short"))
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        if not self.path.startswith("/chunked"):
            self.send_header("Content-Length", str(len(body) + 10 * self.path.startswith("/short")))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server(clip_path: Path) -> Iterator[str]:
    Handler.content = {"/clip": clip_path.read_bytes(), "/page": b"<html>sorry</html>", "/empty": b""}
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    http.server_close()
    thread.join()


def test_url(server: str) -> None:
    assert numbers(read_frames(f"{server}/clip", num_frames=3).frames) == [0, 16, 32]
    assert probe_video(f"{server}/to?/clip").num_frames == 48  # a redirect


@pytest.mark.parametrize(
    ("path", "error", "match"),
    [
        ("/nothing", OSError, "answered 404"),
        ("/page", MediaError, "web page"),
        ("/empty", MediaError, "empty"),
        ("/short/clip", OSError, "broke off"),
        ("/to?ftp://127.0.0.1/clip", OSError, "redirected to ftp"),
        ("/to?file:///etc/hostname", OSError, "not be downloaded|answered"),
    ],
)
def test_bad_urls(server: str, path: str, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        read_frames(server + path)


@pytest.mark.parametrize("path", ["/clip", "/chunked/clip"])
def test_downloads_are_bounded(server: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_DOWNLOAD_BYTES", 1000)
    with pytest.raises(MediaError, match="larger than 1000 bytes"):
        read_frames(server + path)


def test_unreachable_host() -> None:
    with pytest.raises(OSError, match="could not be downloaded"):
        read_frames("http://127.0.0.1:9/clip.mp4")  # the discard port: nobody listens


def test_truncated_with_the_index_in_front(noisy: Path) -> None:
    data = noisy.read_bytes()[: int(noisy.stat().st_size * 0.6)]
    with pytest.raises(MediaError, match=r"truncated or damaged: (\d+) of 48 frames can be decoded") as caught:
        read_frames(data)
    told = int(str(caught.value).split(": ")[1].split(" of")[0])
    assert 20 < told < 40
    with pytest.raises(MediaError, match="truncated"):
        probe_video(data)
    with pytest.warns(UserWarning, match="using what is there"):
        clip = read_frames(data, allow_partial=True)
    assert len(clip.frames) == told
    torch.testing.assert_close(clip.frames, read_frames(noisy).frames[:told])


def test_truncated_with_the_index_at_the_end(folder: Path, clip_path: Path) -> None:
    data = clip_path.read_bytes()
    cut = folder / "cut.mp4"
    cut.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(MediaError, match=r"cut.mp4 is not a video.*breaks off within its moov part, so that 0 frames"):
        read_frames(cut)
    with pytest.raises(MediaError, match="0 frames"):
        read_frames(cut, allow_partial=True)


def test_truncated_before_the_first_frame(noisy: Path) -> None:
    data = noisy.read_bytes()
    with pytest.raises(MediaError, match="without a single frame: 0 of 48 frames can be decoded"):
        read_frames(data[: data.index(b"mdat") + 100])


def test_truncated_matroska(folder: Path) -> None:
    generator = np.random.default_rng(0)
    path = encode(folder / "noisy.mkv", draw=lambda _: generator.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    data = path.read_bytes()
    with pytest.raises(MediaError, match="it ends after"):
        read_frames(data[: len(data) // 2])


def test_damage_in_the_middle(noisy: Path) -> None:
    data = bytearray(noisy.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
    with pytest.raises(MediaError, match="damaged"):
        read_frames(bytes(data))
    with pytest.warns(UserWarning, match="cannot be decoded"):
        clip = read_frames(bytes(data), allow_partial=True)
    assert 40 <= len(clip.frames) < 48
    assert len(clip.frames) == len(clip.times) == len(set(clip.times.tolist()))


def test_a_stream_that_appears_halfway_is_damage(clip_path: Path) -> None:
    """PyAV raises IndexError there; a damaged transport stream does that."""

    def packets() -> Iterator[Any]:
        yield types.SimpleNamespace(decode=lambda: ["frame"])
        raise IndexError("list index out of range")

    source = sources.Source("clip.ts", str(clip_path))
    assert list(timeline.decoded(packets(), source, partial=True)) == ["frame"]
    with pytest.raises(MediaError, match=r"clip.ts is damaged"):
        list(timeline.decoded(packets(), source, partial=False))


def test_not_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty.mp4"
    empty.touch()
    for source in (empty, b"", io.BytesIO()):
        with pytest.raises(MediaError, match="empty"):
            read_frames(source)
    text = tmp_path / "notes.mp4"
    text.write_text("these are not frames\n" * 50)
    with pytest.raises(MediaError, match=r"notes.mp4 is not a video"):
        read_frames(text)
    with pytest.raises(MediaError, match="Git LFS"):
        read_frames(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    with pytest.raises(MediaError, match="not one of the video formats"):
        read_frames(tmp_path / "image.png")
    with pytest.raises(FileNotFoundError, match="no file"):
        read_frames(tmp_path / "missing.mp4")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        read_frames(tmp_path)
    with pytest.raises(ValueError, match="s3:// addresses"):
        read_frames("s3://bucket/clip.mp4")
    with pytest.raises(TypeError, match="path, a URL, bytes"):
        read_frames(7)
    with open(text) as file, pytest.raises(TypeError, match="mode 'rb'"):
        read_frames(file)
    monkeypatch.setattr(sources, "MAX_DOWNLOAD_BYTES", 10)
    with pytest.raises(MediaError, match="cannot be rewound"):
        read_frames(Unseekable(b"0" * 100))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are a Unix thing")
def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(OSError, match="not a regular file"):
        read_frames(tmp_path / "pipe.mp4")


def test_without_video_or_without_frames(tmp_path: Path) -> None:
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream: Any = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(MediaError, match=r"no video in it \(only audio\)"):
        read_frames(sound)
    for suffix, match in (("mp4", "no video in it$"), ("mkv", "not a single frame")):
        nothing = tmp_path / f"nothing.{suffix}"
        with av.open(str(nothing), "w") as container:
            stream = container.add_stream("mpeg4", rate=FPS)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            container.start_encoding()
        with pytest.raises(MediaError, match=match):
            read_frames(nothing)


def test_absurd_sizes(clip_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "MAX_CLIP_BYTES", 10 * 3 * 48 * 64)
    assert len(read_frames(clip_path, num_frames=10).frames) == 10
    with pytest.raises(ValueError, match=r"48 frames of 64 x 48 pixels .* take fewer"):
        read_frames(clip_path)
    monkeypatch.setattr(timeline, "MAX_FRAME_PIXELS", 1000)
    with pytest.raises(MediaError, match="frames of 64 x 48 pixels"):
        read_frames(clip_path)


def test_a_gif_that_claims_to_be_huge() -> None:
    buffer = io.BytesIO()
    images = [PIL.Image.new("L", (8, 8), level) for level in (0, 255)]
    images[0].save(buffer, "GIF", save_all=True, append_images=images[1:])
    data = bytearray(buffer.getvalue())
    data[6:10] = (20000).to_bytes(2, "little") * 2  # the size of the canvas: 1.6 GB as BGRA
    with pytest.raises(MediaError, match="too large"):
        read_frames(bytes(data))


def test_frames_that_change_size(tmp_path: Path) -> None:
    small = encode(tmp_path / "small.h264", 4, file_format="h264")
    large = encode(tmp_path / "large.h264", 4, file_format="h264", draw=lambda number: picture(number, 64, 96))
    with pytest.raises(MediaError, match="changes its frame size from 64 x 48 to 96 x 64"):
        read_frames(small.read_bytes() + large.read_bytes())


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"num_frames": 4, "fps": 2}, "num_frames and fps"),
        ({"times": [2.5]}, r"no frame at 2.5 s: .*runs from 0 to 2.000 s"),
        ({"times": [-0.1]}, "no frame at -0.1 s"),
        ({"times": [float("nan")]}, "no frame at nan s"),
        ({"times": []}, "empty"),
        ({"times": [1.0], "start": 0.5}, "absolute"),
        ({"start": 2.0}, "beyond the end"),
        ({"start": -1.0}, "0 or later"),
        ({"start": 1.0, "end": 0.5}, "later than start"),
        ({"start": 1.01, "end": 1.03}, "no frame"),
        ({"num_frames": 49}, "48 frames in the span, fewer than num_frames=49"),
        ({"num_frames": 0}, "from 1 on"),
        ({"num_frames": 2.5}, "whole number"),
        ({"stride": True}, "whole number"),
        ({"fps": 0}, "positive"),
        ({"fps": 1e12}, "at most"),
        ({"num_frames": 10**9}, "one call may ask for"),
        ({"backend": "decord"}, "auto, pyav or torchcodec"),
    ],
)
def test_rules_that_make_no_sense(clip_path: Path, settings: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        read_frames(clip_path, **settings)


def test_short_clips_by_choice() -> None:
    times = torch.arange(3, dtype=torch.float64)
    assert Sampling(num_frames=5, short="all").choose(times, 3.0, "it") == [0, 1, 2]
    assert Sampling(num_frames=5, short="repeat").choose(times, 3.0, "it") == [0, 1, 2, 2, 2]


def test_clip_checks_itself() -> None:
    frames = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    assert Clip.at_rate(frames, 10).times.tolist() == [0, 0.1]
    assert Clip.at_rate(frames, 10).duration == pytest.approx(0.2)
    with pytest.raises(ValueError, match="uint8"):
        Clip(frames.float(), torch.zeros(2, dtype=torch.float64))
    with pytest.raises(ValueError, match="one per frame"):
        Clip(frames, torch.zeros(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="positive"):
        Clip.at_rate(frames, 0)
