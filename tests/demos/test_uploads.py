"""Files from strangers: what is opened, and what is said about the rest."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from demos import uploads
from demos.uploads import check
from jepa_hub.media.clips import MediaError


def huge_png(path: Path, side: int = 50_000) -> str:
    """A few hundred bytes that claim to be `side` x `side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return str(path)


def test_pictures_and_films_are_told_by_their_content(picture: str, film: str, tmp_path: Path) -> None:
    assert check(picture).kind == "image" and check([picture, picture]).kind == "image"
    assert check(film).kind == "video"
    disguised = Path(film).rename(tmp_path / "film.png")
    assert check(str(disguised)).kind == "video"
    frames = [Image.new("RGB", (32, 32), (40 * number, 0, 0)) for number in range(5)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:], duration=100)
    assert check(str(tmp_path / "moving.gif")).kind == "video"


def bad_files(folder: Path, film: str) -> dict[str, str]:
    """Hostile files, and what must be said about each."""
    folder.mkdir(exist_ok=True)
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("hello, I am not a picture")
    (folder / "page.mp4").write_text("<html><script>alert(1)</script></html>")
    whole = Path(film).read_bytes()
    (folder / "torn.mp4").write_bytes(whole[: len(whole) // 2])
    Image.effect_noise((200, 200), 50).save(folder / "whole.png")
    (folder / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0" + b"\0" * 40)
    huge_png(folder / "huge.png")
    huge_png(folder / "large.png", 7_000)
    (folder / "pickle.png").write_bytes(b"\x80\x04\x95cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    return {
        "empty.png": "empty",
        "text.png": "not",
        "page.mp4": "web page",
        "torn.mp4": "truncated|breaks off",
        "torn.jpg": "not|cannot",
        "huge.png": "pixels",
        "large.png": "7000 x 7000",
        "pickle.png": "not",
    }


def test_each_bad_file_is_named_without_its_folder(tmp_path: Path, film: str) -> None:
    folder = tmp_path / "secret_folder"
    for name, said in bad_files(folder, film).items():
        with pytest.raises(MediaError, match=said) as caught:
            check(str(folder / name))
        assert name in str(caught.value) and "secret_folder" not in str(caught.value), str(caught.value)


def test_too_many_too_mixed_too_long(picture: str, film: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for paths, said in (
        ([], "choose"),
        (None, "choose"),
        ([picture] * 9, "9 files are more than the 8"),
        ([picture, film], "not both"),
        ([film, film], "one video"),
    ):
        with pytest.raises(MediaError, match=said):
            check(paths)
    monkeypatch.setattr(uploads, "MAX_SECONDS", 1.0)
    with pytest.raises(MediaError, match="lasts 2 s"):
        check(film)
    monkeypatch.setattr(uploads, "MAX_FRAME_PIXELS", 1000)
    with pytest.raises(MediaError, match="80 x 64"):
        check(film)
