"""Lists of videos as V-JEPA's: which frames, which share of an epoch, and broken files. About 3 seconds."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.media_files import FPS, encode, numbers
from tests.training.data.contract import check_source, same
from training.data.clip_window import WindowSettings, window_numbers, window_step
from training.data.source import Label, SampleError
from training.data.video_list import VideoList

OFFSETS = [0, 4, 8, 12, 17, 21, 25, 29, 34, 38, 42, 46, 51, 55, 59, 63]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    encode(folder / "long.mp4", 100)
    encode(folder / "short one.mp4", 10)
    encode(folder / "exact.mp4", 64)
    return folder


def listed(folder: Path, text: str, name: str = "list.csv") -> Path:
    (folder / name).write_text(text)
    return folder / name


def source(*files: Path, **settings: Any) -> VideoList:
    return VideoList(VideoList.Settings(files=tuple(map(str, files)), **settings))


def test_windows_are_those_of_v_jepa() -> None:
    starts = set()
    for key in range(200):
        chosen = window_numbers(70, 16, 4, key)
        assert [number - chosen[0] for number in chosen] == OFFSETS
        starts.add(chosen[0])
    assert starts == set(range(7))  # the last frame can be reached
    assert window_numbers(64, 16, 4, 0) == OFFSETS
    assert window_numbers(40, 16, 4, 3) == [0, 4, 8, 13, 17, 22, 26, 31, 35, 39, 39, 39, 39, 39, 39, 39]
    assert window_numbers(1, 4, 2, 0) == [0, 0, 0, 0]
    assert window_numbers(3, 4, 4, 0) == [0, 2, 2, 2]
    assert window_numbers(100, 1, 4, 0)[0] in range(97)


def test_steps_by_rate_are_those_of_v_jepa_2() -> None:
    settings = WindowSettings(fps=4)
    rates = {30.0: 7, 29.97: 7, 25.0: 6, 24.0: 6, 23.976: 6, 60.0: 15, 2.0: 1, 24.0000001: 6}
    assert {rate: window_step(settings, rate) for rate in rates} == rates
    assert window_step(WindowSettings(frame_step=3), 30.0) == 3


def test_clips_show_the_frames_of_their_window(videos: Path) -> None:
    data = source(listed(videos, f"long.mp4 3\nshort one.mp4 0\n{videos}/exact.mp4 12\n"))
    assert (len(data), data.kind, data.labels) == (3, "clip", {"class": Label("class", 13)})
    starts = set()
    for key in range(5):
        sample = data.read(0, key)
        shown = numbers(sample.pixels.transpose(0, 1))
        assert [number - shown[0] for number in shown] == OFFSETS
        assert same(sample, data.read(0, key))
        starts.add(shown[0])
    assert len(starts) > 1
    assert numbers(data.read(1, 0).pixels.transpose(0, 1)) == [0] + [9] * 15  # 10 // 4 = 2 frames, the last repeated
    assert numbers(data.read(2, 9).pixels.transpose(0, 1)) == OFFSETS
    assert [data.read(number, 0).labels["class"] for number in range(3)] == [3, 0, 12]
    check_source(data)


def test_frames_per_second(videos: Path) -> None:
    data = source(listed(videos, "long.mp4 3\n"), frames=4, fps=FPS / 8)
    shown = numbers(data.read(0, 0).pixels.transpose(0, 1))
    assert [number - shown[0] for number in shown] == [0, 10, 21, 31]


def test_lists_without_labels_and_in_quotes(videos: Path) -> None:
    data = source(listed(videos, '﻿"short one.mp4"\nlong.mp4\n\n'))
    assert data.labels == {} and data.read(0, 0).labels == {} and len(data) == 2
    quoted = source(listed(videos, '"short one.mp4" 4\r\nlong.mp4 -1\r\n'))
    assert quoted.labels == {} and quoted.read(0, 0).details["path"] == str(videos / "short one.mp4")
    with pytest.raises(SampleError, match="beyond the 2 classes"):
        source(listed(videos, "long.mp4 5\n"), num_classes=2).read(0, 0)


def many(folder: Path, name: str, count: int) -> Path:
    for number in range(count):
        (folder / f"{name}{number}.mp4").touch()
    return listed(folder, "".join(f"{name}{number}.mp4 0\n" for number in range(count)), f"{name}.csv")


def test_weights_share_out_every_epoch(tmp_path: Path) -> None:
    files = many(tmp_path, "a", 10), many(tmp_path, "b", 30), many(tmp_path, "c", 5)
    data = source(*files, weights=(1, 1, 0))
    counts = torch.zeros(45, dtype=torch.int64)
    for epoch in range(6):
        order = data.order(0, epoch)
        assert len(order) == 45 and torch.equal(order, data.order(0, epoch))
        assert abs(int((order < 10).sum()) - 22.5) <= 0.5 and int((order >= 40).sum()) == 0
        counts += order.bincount(minlength=45)
    assert counts[:10].max() - counts[:10].min() <= 1  # all videos of a list are seen equally often
    assert counts[10:40].max() - counts[10:40].min() <= 1
    assert not torch.equal(data.order(0, 0), data.order(1, 0))
    assert sorted(source(*files).order(0, 0).tolist()) == list(range(45))
    by_size = source(*files, weights=(10, 30, 5)).order(0, 2)
    assert sorted(by_size.tolist()) == list(range(45))
    for weights, words in (((1, 1), "2 weights for 3 files"), ((0, 0, 0), "all weights are 0")):
        with pytest.raises(ValueError, match=words):
            source(*files, weights=weights)


def test_lists_that_lead_nowhere(tmp_path: Path, videos: Path) -> None:
    for text, error, words in (
        ("", ValueError, "is empty"),
        ("none.mp4 0\nneither.mp4 1\n", FileNotFoundError, r"none of the 2 videos .*none\.mp4"),
        ("http://host/a.mp4 0\n", ValueError, "download them first"),
        ("a.mp4 0\nb.mp4\n", ValueError, r"line 2: 'b\.mp4' has no label"),
        ("a.mp4\nb.mp4 1\n", ValueError, "line 2: .* has a label"),
    ):
        with pytest.raises(error, match=words):
            source(listed(tmp_path, text))
    with pytest.raises(FileNotFoundError, match="there is no list"):
        source(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="files is empty"):
        source()


def test_broken_videos_are_told_by_path(tmp_path: Path, videos: Path) -> None:
    whole = (videos / "long.mp4").read_bytes()
    (tmp_path / "zero.mp4").write_bytes(b"")
    (tmp_path / "small.mp4").write_bytes(whole[:1000])
    (tmp_path / "torn.mp4").write_bytes(whole[: len(whole) // 2])
    shutil.copy(videos / "long.mp4", tmp_path / "cut.mkv")
    encode(tmp_path / "cut.mkv", 60)
    os.truncate(tmp_path / "cut.mkv", (tmp_path / "cut.mkv").stat().st_size // 2)
    (tmp_path / "page.mp4").write_bytes(b"<html>not here</html>" * 100)
    damaged = bytearray(whole)
    damaged[200:-3000] = bytes(len(damaged) - 3200)
    (tmp_path / "damaged.mp4").write_bytes(damaged)
    names = {
        "zero": "0 bytes",
        "small": "1000 bytes",
        "torn": "torn.mp4",
        "page": "web page",
        "damaged": "",
        "gone": "",
    }
    lines = [f"{name}.mp4 0" for name in names] + ["cut.mkv 0"]
    data = source(listed(tmp_path, "\n".join(lines)))
    for number, (line, words) in enumerate(zip(lines, [*names.values(), "truncated"], strict=True)):
        with pytest.raises(SampleError) as told:
            data.read(number, 0)
        assert words in str(told.value) and str(tmp_path / line.split()[0]) in str(told.value)
