"""Where images and videos come from: paths, URLs, bytes, file objects; and still images as tensors.

Nothing here trusts a file extension, and nothing loads more than the stated limits.
"""

from __future__ import annotations

import http.client
import io
import os
import stat
import struct
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any, cast

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from torch import Tensor

from jepa_hub.media.clips import MediaError

MAX_DOWNLOAD_BYTES = 1 << 30  # of one URL; larger files are better downloaded once and given as a path
DOWNLOAD_TIMEOUT = 30.0  # seconds without a byte
DOWNLOAD_DEADLINE = 900.0  # seconds for the whole file
_IN_MEMORY_BYTES = 32 << 20  # a download larger than this is kept in a temporary file
# Formats Pillow may open. Left out on purpose: EPS starts Ghostscript, TGA and MPEG have signatures videos share.
_IMAGE_FORMATS = frozenset(
    ("PNG", "JPEG", "MPO", "GIF", "WEBP", "TIFF", "BMP", "DIB", "PPM", "AVIF", "JPEG2000", "ICO", "QOI", "HEIF")
)
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1")  # FFmpeg would return one tile of such an image
_BROKEN_IMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, struct.error, OverflowError)


@dataclass(frozen=True)
class Source:
    """An opened input.

    Attributes:
        name: what it is called in errors.
        file: the path of an existing file, or a seekable binary file.
        expected: what it should have been, in the error for content that cannot be read.
    """

    name: str
    file: str | IO[bytes]
    expected: str = "a video"

    def rewound(self) -> str | IO[bytes]:
        """The path, or the file set back to its start."""
        if not isinstance(self.file, str):
            self.file.seek(0)
        return self.file

    def head(self, size: int = 64) -> bytes:
        """The first bytes."""
        if isinstance(self.file, str):
            with open(self.file, "rb") as file:
                return file.read(size)
        self.file.seek(0)
        data = self.file.read(size)
        self.file.seek(0)
        return data

    def size(self) -> int:
        """Length in bytes."""
        if isinstance(self.file, str):
            return os.path.getsize(self.file)
        length = self.file.seek(0, os.SEEK_END)
        self.file.seek(0)
        return length


def is_url(value: object) -> bool:
    """Whether a value is an http or https address."""
    return isinstance(value, str) and value.lower().startswith(("http://", "https://"))


@contextmanager
def open_source(source: Any) -> Iterator[Source]:
    """The input as a file that can be read and re-read; what was opened or downloaded is released at the end.

    Args:
        source: path, http(s) URL, bytes, binary file object, or an already opened Source.

    Raises:
        TypeError: another type.
        FileNotFoundError, IsADirectoryError, OSError: the path or URL cannot be read.
        MediaError: there is nothing in it, or more than MAX_DOWNLOAD_BYTES behind a URL.
    """
    if isinstance(source, Source):
        yield source
        return
    if isinstance(source, (bytes, bytearray, memoryview)):
        opened = Source(f"a buffer of {len(source)} bytes", io.BytesIO(source))
        yield _not_empty(opened)
    elif is_url(source):
        with cast("IO[bytes]", SpooledTemporaryFile(_IN_MEMORY_BYTES)) as file:
            _download(source, file)
            yield _not_empty(Source(source, file))
    elif isinstance(source, (str, os.PathLike)):
        yield _not_empty(_from_path(source))
    elif hasattr(source, "read"):
        yield _not_empty(_from_file(source))
    else:
        raise TypeError(
            f"expected a path, a URL, bytes or a binary file, got {type(source).__name__}; arrays and PIL images go to"
            " JEPAProcessor directly"
        )


def _from_path(source: str | os.PathLike[str]) -> Source:
    path = Path(os.fsdecode(source)).expanduser()
    if "://" in str(source) and not path.exists():
        scheme = str(source).split("://")[0]
        raise ValueError(f"{source}: {scheme}:// addresses are not read here; download it and give the local path")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the files in it, one by one or as a list")
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe or device would block for ever
        raise OSError(f"{path} is not a regular file")
    return Source(str(path), str(path))


def _from_file(file: Any) -> Source:
    name = str(getattr(file, "name", None) or f"a {type(file).__name__}")
    if isinstance(file, io.TextIOBase):
        raise TypeError(f"{name} was opened as text; open it with mode 'rb'")
    if hasattr(file, "seek") and (not hasattr(file, "seekable") or file.seekable()):
        file.seek(0)
        return Source(name, file)
    data = file.read(MAX_DOWNLOAD_BYTES + 1)
    if len(data) > MAX_DOWNLOAD_BYTES:
        raise MediaError(f"{name} cannot be rewound and holds more than {MAX_DOWNLOAD_BYTES} bytes; save it to a file")
    return Source(name, io.BytesIO(data))


def _not_empty(source: Source) -> Source:
    if not source.head(1):
        raise MediaError(f"{source.name} is empty (0 bytes)")
    return source


class _OnlyWeb(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only; urllib would follow one to ftp."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not is_url(newurl):
            raise urllib.error.URLError(f"redirected to {newurl.split(':')[0]}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _download(url: str, file: IO[bytes]) -> None:
    """Write what a URL answers to a file, within size and time limits."""
    limit, deadline = MAX_DOWNLOAD_BYTES, time.monotonic() + DOWNLOAD_DEADLINE
    too_large = f"{url} is larger than {limit} bytes; download it and give the path"
    request = urllib.request.Request(url, headers={"User-Agent": "jepa_hub"})
    try:
        with urllib.request.build_opener(_OnlyWeb).open(request, timeout=DOWNLOAD_TIMEOUT) as answer:
            announced = int(answer.headers.get("Content-Length") or -1)
            if announced > limit:
                raise MediaError(f"{too_large} (it announces {announced})")
            received = 0
            while block := answer.read(1 << 20):
                received += len(block)
                if received > limit:
                    raise MediaError(too_large)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not complete after {DOWNLOAD_DEADLINE:g} s")
                file.write(block)
    except urllib.error.HTTPError as error:
        error.close()
        raise OSError(f"{url} answered {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error) or type(error).__name__
        raise OSError(f"{url} could not be downloaded: {reason}") from error
    if 0 <= received < announced:
        raise OSError(f"{url} broke off after {received} of {announced} bytes; try again")


def breaks_off(source: Source) -> str:
    """Where an mp4 or mov ends too early, in words; empty when all its boxes are whole, or it is no such file."""
    size, position = source.size(), 0
    file = source.rewound()
    with open(file, "rb") if isinstance(file, str) else nullcontext(file) as stream:
        while position < size:
            stream.seek(position)
            header = stream.read(16)
            kind = header[4:8]
            if position == 0 and kind != b"ftyp":
                return ""
            length = int.from_bytes(header[:4], "big")
            if length == 1:  # the length follows in 64 bits
                length = int.from_bytes(header[8:16], "big")
            if length == 0:  # up to the end
                return ""
            if position + length > size:
                return f"it breaks off within its {kind.decode('latin-1')} part"
            position += max(length, 8)
    return ""


def unreadable(source: Source, detail: object = "") -> MediaError:
    """The error for content that is not what was expected, with a guess at what it is instead."""
    head = source.head(256).lstrip()
    guess = ""
    if head.startswith(b"version https://git-lfs"):
        guess = "it is a Git LFS pointer: run `git lfs pull` to get the real file"
    elif head[:1] in (b"<", b"{"):
        guess = "it looks like a web page or text, not media"
    elif head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide"):
        what = breaks_off(source) or "it has no index (moov)"
        guess = f"{what}, so that 0 frames can be decoded; it is truncated or still being written"
    reason = "; ".join(str(part) for part in (guess, detail) if part)
    return MediaError(f"{source.name} is not {source.expected} that can be read{': ' if reason else ''}{reason}")


def still_image(source: Source) -> PIL.Image.Image | None:
    """The still image a source holds, not yet decoded; None when it is not an image, or an animation (a video).

    Raises:
        MediaError: an image too large to decode, or one with several pages.
    """
    PIL.Image.init()
    formats = [name for name in _IMAGE_FORMATS if name in PIL.Image.OPEN]
    try:
        image = PIL.Image.open(cast("Any", source.rewound()), formats=formats)
    except PIL.Image.DecompressionBombError as error:
        raise _bomb(source.name, error) from error
    except PIL.UnidentifiedImageError:
        head = source.head(12)
        if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
            raise MediaError(f"{source.name} is a HEIC image: convert it, or register pillow_heif") from None
        return None
    except _BROKEN_IMAGE as error:
        raise unreadable(source, error) from error
    with ExitStack() as opened:
        opened.enter_context(image)
        try:
            animated = bool(getattr(image, "is_animated", False))
        except _BROKEN_IMAGE as error:
            raise unreadable(source, error) from error
        if not animated or image.format == "MPO":  # an MPO holds one picture and its stereo twin or gain map
            opened.pop_all()
            return image
        if image.format in ("GIF", "PNG"):
            return None
    what = "pages" if image.format == "TIFF" else "frames"
    way_out = "give the page you want as a PIL image" if image.format == "TIFF" else "save it as GIF or mp4"
    raise MediaError(f"{source.name} is a {image.format} of several {what}, which is not read: {way_out}")


def _bomb(name: str, error: Exception) -> MediaError:
    return MediaError(
        f"{name} has too many pixels to decode safely: {error} Shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS if you"
        " trust it"
    )


def decode_image(image: PIL.Image.Image, name: str) -> Tensor:
    """Pixels of a still image as [3, H, W]: uint8, or float32 levels in [0, 255] for 16-bit and float images.

    The EXIF orientation is applied. Transparency is laid over white, as transformers 5 does when it converts to RGB.
    16-bit grey is scaled, not clipped. Palette, grey, CMYK and other modes become RGB.

    Args:
        image: an opened PIL image.
        name: what it is called in errors.

    Raises:
        MediaError: truncated or broken data, too many pixels, or several frames.
        ValueError: float or 32-bit pixels in no known range.
    """
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise MediaError(
            f"{name} has several frames: give its path or bytes to read it as a video, or image.copy() for the current"
            " frame"
        )
    try:
        upright = PIL.ImageOps.exif_transpose(image)
        if upright.mode.startswith("I") or upright.mode == "F":
            return _deep_levels(np.array(upright), name).expand(3, -1, -1)  # [3, H, W]
        rgb = _rgb(upright)
    except PIL.Image.DecompressionBombError as error:
        raise _bomb(name, error) from error
    except MediaError:
        raise
    except _BROKEN_IMAGE as error:
        raise MediaError(f"{name} cannot be decoded as an image: {error}") from error
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)  # [3, H, W]


def _deep_levels(pixels: np.ndarray[Any, Any], name: str) -> Tensor:
    """Grey pixels of more than 8 bits as float32 levels [1, H, W] in [0, 255]."""
    low, high = float(pixels.min()), float(pixels.max())
    if pixels.dtype.kind == "f":
        if not (low >= 0 and high <= 1):  # also true for NaN
            raise MediaError(f"{name} holds float pixels from {low:g} to {high:g}; they must be in [0, 1]")
        levels = pixels.astype(np.float32) * 255
    else:
        if low < 0 or high > 65535:
            raise MediaError(
                f"{name} holds 32-bit pixels from {low:g} to {high:g}, whose scale is unknown; convert to 8 or 16 bit"
            )
        levels = pixels.astype(np.float32) / np.float32(257)  # 65535 / 257 = 255
    return torch.from_numpy(levels)[None]  # [1, H, W]


def _rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode in ("La", "RGBa"):  # premultiplied alpha
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        opaque = PIL.Image.new("RGBA", image.size, (255, 255, 255, 255))
        opaque.alpha_composite(image.convert("RGBA"))
        return opaque.convert("RGB")
    return image.convert("RGB")
