"""Tar shards: ours and those of others, whole and torn. About 8 seconds, most of them in one fresh interpreter."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import webdataset  # type: ignore[import-untyped]

from tests.media_files import encode, image, numbers, saved
from tests.training.data.contract import check_source, same
from training.data import shards as shards_module
from training.data import tar_index
from training.data.shards import Shards, write_shards
from training.data.source import Label, Sample, SampleError
from training.data.tar_index import index_tar

LABELS = {"class": Label("class", 3, ("a", "b", "c")), "height": Label("number", unit="m")}


def made(number: int, *shape: int) -> Sample:
    generator = torch.Generator().manual_seed(number)
    pixels = torch.randint(0, 256, (3, *shape), dtype=torch.uint8, generator=generator)
    labels: dict[str, int | float] = {"class": number % 3, "height": number / 7}
    return Sample(number, pixels, labels, (f"picture {number}", "ü"), {"seed": number, "box": [1, 2]})


def write(
    folder: Path, count: int = 11, *, kind: Any = "image", shape: tuple[int, ...] = (12, 9), per: int = 3
) -> Path:
    samples = (made(number, *shape) for number in range(count))
    write_shards(folder, samples, kind=kind, labels=LABELS, total=count, samples_per_shard=per, description="random")
    return folder


def shards(root: object, **settings: Any) -> Shards:
    return Shards(Shards.Settings(root=str(root), **settings))


def pack(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def jpeg(number: int) -> bytes:
    return saved(PIL.Image.fromarray(image(20, 24, seed=number)), "JPEG")


def foreign(path: Path, first: int, count: int) -> Path:
    members = {}
    for number in range(first, first + count):
        members[f"train/n{number:04d}.JPG"] = jpeg(number)
        members[f"train/n{number:04d}.cls"] = f"{number % 4}\n".encode()
        members[f"train/n{number:04d}.txt"] = f"a picture, {number}".encode()
        members[f"train/n{number:04d}.json"] = json.dumps({"id": {"size": number / 2}}).encode()
    return pack(path, members)


@pytest.mark.parametrize(("kind", "shape"), [("image", (12, 9)), ("clip", (5, 12, 9))])
def test_what_is_written_comes_back(tmp_path: Path, kind: Any, shape: tuple[int, ...]) -> None:
    source = shards(write(tmp_path / "data", kind=kind, shape=shape))
    assert (len(source), source.kind, source.labels, source.damaged) == (11, kind, LABELS, {})
    assert all(same(source.read(number, 0), made(number, *shape)) for number in range(11))
    check_source(source)
    contents = json.loads((tmp_path / "data" / "dataset.json").read_text())
    assert [shard["samples"] for shard in contents["shards"]] == [3, 3, 3, 2]
    assert contents["description"] == "random"
    assert not list(tmp_path.glob("*unfinished*"))


def test_webdataset_reads_them(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", kind="clip", shape=(2, 6, 5))
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    found = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert [each["__key__"] for each in found] == [f"{number:08d}" for number in range(11)]
    for number, each in enumerate(found):
        expected = made(number, 2, 6, 5)
        frames = torch.from_numpy(np.array(each["png"])).unflatten(0, (2, 6)).permute(3, 0, 1, 2)  # [3, F, H, W]
        assert torch.equal(frames, expected.pixels)
        assert each["json"]["labels"] == expected.labels and each["json"]["frames"] == 2


def test_the_same_data_gives_the_same_bytes(tmp_path: Path) -> None:
    one, other = write(tmp_path / "one"), write(tmp_path / "other")
    for path in one.glob("*.tar"):
        assert path.read_bytes() == (other / path.name).read_bytes()


def test_writing_leaves_what_is_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write(tmp_path / "data", 4)
    before = (folder / "dataset.json").read_bytes()
    write(folder, 9)
    assert (folder / "dataset.json").read_bytes() == before and "left as it is" in caplog.text
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="no data set of ours"):
        write(tmp_path / "notes")
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["a.txt"]


def test_two_writers_make_one_data_set(tmp_path: Path) -> None:
    """The second one arrives while the first still writes, and finishes before it."""
    folder = tmp_path / "data"

    def slow() -> Iterator[Sample]:
        yield made(0, 4, 4)
        other = threading.Thread(target=write, args=(folder, 2))
        other.start()
        other.join()
        yield made(1, 4, 4)

    write_shards(folder, slow(), kind="image", labels=LABELS, total=2)
    assert json.loads((folder / "dataset.json").read_text())["description"] == "random"
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert len(shards(folder)) == 2


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    good = [made(number, 4, 4) for number in range(3)]

    def attempt(samples: list[Sample], message: str, **changes: Any) -> None:
        with pytest.raises((ValueError, TypeError), match=message):
            write_shards(folder, samples, **{"kind": "image", "labels": LABELS, "total": 3, **changes})
        assert not list(tmp_path.iterdir())

    attempt(good[:2], "3 samples were announced, but 2 came")
    attempt([*good, good[0]], "announced, but more came")
    attempt(good, r"sample 0: expected uint8 \[3, F, H, W\]", kind="clip")
    attempt(good, "has the labels", labels={})
    attempt([Sample(0, good[0].pixels, good[0].labels, details={"what": object()})] * 3, "kept as json")
    attempt(good, "1 or more", samples_per_shard=0)


def test_shards_of_others(tmp_path: Path) -> None:
    for number in range(3):
        foreign(tmp_path / f"train-{number:03d}.tar", 10 * number, 6)
    source = shards(tmp_path)
    assert (len(source), source.kind, source.labels) == (18, "image", {"class": Label("class", 4)})
    sample = source.read(13, 0)
    assert sample.labels == {"class": 21 % 4} and sample.captions == ("a picture, 21",)
    assert sample.details["json"] == {"id": {"size": 10.5}} and sample.details["path"].endswith("train/n0021.jpg")
    check_source(source)
    sized = shards(tmp_path / "train-{000..001}.tar", label_key="json:id.size", label_kind="number")
    assert sized.labels == {"size": Label("number")} and sized.read(7, 0).labels == {"size": 5.5}
    assert len(shards(tmp_path / "train-*.tar")) == 18 and len(shards(tmp_path / "train-002.tar")) == 6
    with pytest.raises(ValueError, match="needs num_classes"):
        shards(tmp_path, label_key="json:id.size")
    with pytest.raises(SampleError, match="not among the 2 classes"):
        shards(tmp_path, num_classes=2).read(3, 0)


def test_videos_in_shards(tmp_path: Path) -> None:
    video = encode(tmp_path / "a.mp4", 30).read_bytes()
    pack(tmp_path / "v.tar", {"a.mp4": video, "a.json": b'{"caption": "grey"}', "b.mp4": video, "b.json": b"{}"})
    source = shards(tmp_path / "v.tar", frames=4, frame_step=2)
    assert (len(source), source.kind, source.labels) == (2, "clip", {})
    clips = [source.read(0, key) for key in range(6)]
    starts = {numbers(clip.pixels.transpose(0, 1))[0] for clip in clips}
    assert len(starts) > 1 and clips[0].captions == ("grey",)
    first = numbers(clips[0].pixels.transpose(0, 1))
    assert [number - first[0] for number in first] == [0, 2, 5, 7]
    check_source(source)


def test_both_kinds_in_one_tar(tmp_path: Path) -> None:
    video = encode(tmp_path / "a.mp4", 10).read_bytes()
    pack(tmp_path / "v.tar", {"a.mp4": video, "a.jpg": jpeg(0)})
    with pytest.raises(ValueError, match="1 pictures and 1 videos: say which"):
        shards(tmp_path)
    assert shards(tmp_path, kind="image").read(0, 0).pixels.shape == (3, 20, 24)
    assert shards(tmp_path, kind="clip", frames=2).read(0, 0).pixels.shape[:2] == (3, 2)


def test_members_of_a_sample_need_not_be_neighbours(tmp_path: Path) -> None:
    members = {f"{name}.jpg": jpeg(number) for number, name in enumerate("abc")}
    members |= {f"{name}.cls": str(number).encode() for number, name in enumerate("cba")}
    source = shards(pack(tmp_path / "a.tar", members))
    assert [source.read(number, 0).labels["class"] for number in range(3)] == [2, 1, 0]


@pytest.mark.parametrize("mixed", [1, 2, 8])
def test_an_epoch_keeps_shards_together(tmp_path: Path, mixed: int) -> None:
    source = shards(write(tmp_path / "data", 60, shape=(1, 1), per=10), mixed_shards=mixed)
    order = source.order(3, 5)
    assert sorted(order.tolist()) == list(range(60))
    for start in range(0, 60, 10 * mixed):
        part = order[start : start + 10 * mixed]
        assert len(set((part // 10).tolist())) == min(mixed, 6 - start // 10)
        assert part.tolist() != sorted(part.tolist())
    assert torch.equal(order, source.order(3, 5)) and not torch.equal(order, source.order(3, 6))


@pytest.mark.parametrize(
    ("cut", "left", "words"),
    [("data", 4, "breaks off within"), ("header", 5, "breaks off|no end mark"), ("label", 4, "breaks off within")],
)
def test_a_torn_tar(tmp_path: Path, caplog: pytest.LogCaptureFixture, cut: str, left: int, words: str) -> None:
    path = foreign(tmp_path / "a.tar", 0, 8)
    with tarfile.open(path) as tar:
        members = tar.getmembers()
    at = {"data": members[16].offset_data + 100, "header": members[20].offset, "label": members[17].offset_data}[cut]
    os.truncate(path, at)
    caplog.clear()
    source = shards(path)
    assert len(source) == left and list(source.damaged) == [str(path)]
    warnings = [record for record in caplog.records if str(path) in record.getMessage()]
    assert len(warnings) == 1 and re.search(words, warnings[0].getMessage())
    check_source(source)
    assert shards(path).damaged == source.damaged  # now from the kept index


def test_a_header_in_the_middle_is_broken(tmp_path: Path) -> None:
    path = foreign(tmp_path / "a.tar", 0, 8)
    with tarfile.open(path) as tar:
        offset = tar.getmembers()[12].offset
    data = bytearray(path.read_bytes())
    data[offset : offset + 512] = b"\xff" * 512
    path.write_bytes(data)
    source = shards(path)
    assert len(source) == 3 and "cannot be read" in source.damaged[str(path)]


def test_broken_samples_are_told_by_name(tmp_path: Path) -> None:
    members = {f"{name}.jpg": jpeg(0) for name in "abcdef"}
    members |= {"b.jpg": b"", "c.jpg": jpeg(0)[:300], "d.jpg": b"hello, this is text", "e.txt": b"\xff\xfe\xff"}
    video = encode(tmp_path / "v.mp4", 30).read_bytes()
    source = shards(pack(tmp_path / "a.tar", members))
    assert source.read(0, 0).pixels.shape == (3, 20, 24)
    for number, words in ((1, r"b\.jpg is empty"), (2, r"c\.jpg"), (3, r"d\.jpg is not a picture"), (4, r"e\.txt")):
        with pytest.raises(SampleError, match=words):
            source.read(number, 0)
    with pytest.raises(IndexError):
        source.read(6, 0)
    videos = shards(pack(tmp_path / "v.tar", {"x.mp4": video[: len(video) // 2], "y.mp4": b"", "z.mp4": jpeg(0)}))
    for number, name in enumerate("xyz"):
        with pytest.raises(SampleError, match=rf"{name}\.mp4"):
            videos.read(number, 0)


def test_a_tar_that_shrinks_while_in_use(tmp_path: Path) -> None:
    source = shards(foreign(tmp_path / "a.tar", 0, 4))
    os.truncate(tmp_path / "a.tar", 600)
    with pytest.raises(SampleError, match="has become shorter"):
        source.read(3, 0)
    (tmp_path / "a.tar").unlink()
    with pytest.raises(SampleError, match=r"a\.tar"):
        source.read(3, 0)


def test_the_index_is_kept_until_the_tar_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = foreign(tmp_path / "a.tar", 0, 4)
    scans: list[Path] = []
    scan = tar_index._scan

    def counted(path: Path, size: int) -> dict[str, Any]:
        scans.append(path)
        return scan(path, size)

    monkeypatch.setattr(tar_index, "_scan", counted)
    assert len(index_tar(path).keys) == len(index_tar(path).keys) == 4
    assert len(scans) == 1
    (tmp_path / "a.tar.index.json").write_text("{torn")
    assert len(index_tar(path).keys) == 4 and len(scans) == 2
    foreign(path, 0, 5)
    assert len(index_tar(path).keys) == 5 and len(scans) == 3
    write(tmp_path / "own")
    scans.clear()
    assert len(shards(tmp_path / "own")) == 11 and not scans


def test_the_index_of_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = foreign(tmp_path / "a.tar", 0, 4)
    (tmp_path / "a.tar.index.json").mkdir()  # as good as read-only, also for root
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert len(shards(path)) == 4
    assert len(list((tmp_path / "cache" / "jepa_hub" / "tar_index").iterdir())) == 1
    monkeypatch.setattr(tar_index, "_scan", lambda *_: pytest.fail("scanned again"))
    assert len(shards(path)) == 4
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.tar", "a.tar.index.json", "cache"]


def test_roots_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    foreign(tmp_path / "x-0.tar", 0, 1)
    for root, error, words in (
        ("s3://bucket/a-{000..010}.tar", ValueError, "download them first"),
        ("pipe:curl http://x/a.tar", ValueError, "is remote"),
        (tmp_path / "nothing", FileNotFoundError, "there is no .*nothing"),
        (tmp_path / "empty", FileNotFoundError, r"no \.tar in"),
        (tmp_path / "x-{0..4}.tar", FileNotFoundError, r"x-1\.tar \(4 of the 5 that"),
    ):
        with pytest.raises(error, match=words):
            shards(root)


def test_tars_without_samples(tmp_path: Path) -> None:
    (tmp_path / "zero.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"zero\.tar: it is empty"):
        shards(tmp_path)
    (tmp_path / "zero.tar").unlink()
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"))
    with pytest.raises(ValueError, match=r"compressed.*unpack"):
        shards(tmp_path)
    (tmp_path / "a.tar").rename(tmp_path / "a.tar.gz")
    with pytest.raises(FileNotFoundError, match=r"a\.tar\.gz is compressed"):
        shards(tmp_path)
    (tmp_path / "a.tar").write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(ValueError, match="no tar that can be read"):
        shards(tmp_path)
    pack(tmp_path / "a.tar", {"a.flac": b"1", "README": b"2", ".hidden": b"3"})
    with pytest.raises(ValueError, match="its members end in flac"):
        shards(tmp_path)


def test_samples_without_a_picture_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = shards(pack(tmp_path / "a.tar", {"a.jpg": jpeg(0), "b.txt": b"lost", "c.jpg": jpeg(1), "a.cls": b"5"}))
    assert len(source) == 2 and "1 samples" in caplog.text
    assert source.labels == {}  # not every sample has one
    assert source.read(1, 0).details["path"].endswith("c.jpg")


def test_an_incomplete_copy_of_ours(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write(tmp_path / "data")
    (folder / "000001.tar").unlink()
    source = shards(folder)
    assert len(source) == 8 and "000001.tar is missing" in caplog.text
    assert same(source.read(7, 0), Sample(7, *list(vars(made(10, 12, 9)).values())[1:]))
    (folder / "dataset.json").write_text('{"format": "jepa')
    with pytest.raises(ValueError, match="is torn"):
        shards(folder)
    with pytest.raises(ValueError, match="of kind image, not clip"):
        shards(write(tmp_path / "other"), kind="clip")


SCRIPT = """
import hashlib, pickle, sys
source = pickle.load(open(sys.argv[1], "rb"))
data = b"".join(source.read(index, 5).pixels.contiguous().numpy().tobytes() for index in range(len(source)))
print(hashlib.sha256(data).hexdigest(), source.order(1, 2).tolist())
"""


def test_another_process_reads_the_same(tmp_path: Path) -> None:
    source = shards(write(tmp_path / "data"))
    (tmp_path / "source.pickle").write_bytes(pickle.dumps(source))
    root = Path(shards_module.__file__).parents[2]
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "source.pickle")]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    data = b"".join(source.read(index, 5).pixels.contiguous().numpy().tobytes() for index in range(len(source)))
    assert done.stdout.strip() == f"{hashlib.sha256(data).hexdigest()} {source.order(1, 2).tolist()}"


def test_writing_says_how_far_it_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "data", 4)
    assert "4/4" in capfd.readouterr().err
