"""Pictures of samples decoded safely, with SampleError for whatever cannot be; long lists of names in little memory."""

from __future__ import annotations

import dataclasses
import io
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from av.error import FFmpegError
from torch import Tensor

from jepa_hub.media import sources as media
from training.data.source import SampleError, check_pixels

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".gif", ".jp2", ".avif")
)
# What decoders raise for broken content. MemoryError is left out: it is the machine's fault, not the sample's.
_BROKEN = (FFmpegError, OSError, ValueError, RuntimeError, LookupError, EOFError, SyntaxError)


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Whatever goes wrong with a file inside becomes a SampleError that names `what`."""
    try:
        yield
    except SampleError:
        raise
    except _BROKEN as error:
        text = str(error) or type(error).__name__
        raise SampleError(text if what in text else f"{what}: {text}") from error


def as_source(item: Path | bytes, what: str, expected: str) -> media.Source:
    """A path or the bytes of a file as what the decoders of jepa_hub read, named `what` in their errors.

    Raises:
        SampleError: there is no such file, or nothing in it.
    """
    with reading(what):
        if isinstance(item, bytes):
            if not item:
                raise SampleError(f"{what} is empty (0 bytes)")
            return media.Source(what, io.BytesIO(item), expected)
        with media.open_source(item) as opened:  # a path: nothing is held open
            return dataclasses.replace(opened, expected=expected)


def read_image(item: Path | bytes, what: str) -> Tensor:
    """Pixels of a picture, uint8 RGB [3, H, W], upright; 16-bit grey is scaled to 8 bits.

    Args:
        item: a path, or the bytes of a file.
        what: what it is called in errors.

    Raises:
        SampleError: missing, empty, truncated, too large, or no still picture.
    """
    source = as_source(item, what, "a picture")
    with reading(what), warnings.catch_warnings():
        # up to twice Pillow's limit is decoded, and one line of warning per picture and worker helps nobody
        warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
        image = media.still_image(source)
        if image is None:
            raise media.unreadable(source)
        with image:
            pixels = media.decode_image(image, what)
    if pixels.dtype != torch.uint8:
        pixels = pixels.round().to(torch.uint8)
    return check_pixels(pixels, "image", what)


class Names:
    """Texts by number, packed: a million names cost their own length, not a million Python objects per worker."""

    def __init__(self, texts: Iterable[str]) -> None:
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        self._packed = b"".join(encoded)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> str:
        start, end = self._ends[number], self._ends[number + 1]
        return self._packed[start:end].decode("utf-8", "surrogateescape")
