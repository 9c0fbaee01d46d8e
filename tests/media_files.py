"""Images and videos made for tests; frames carry their numbers."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL.Image
from torch import Tensor

from jepa_hub.processing import Inputs, JEPAProcessor

FPS = 24  # of `encode`
GREY_FPS = 10  # of `write_video`
PLAIN = JEPAProcessor(aspect="native", mean=0.0, std=1.0)  # type: ignore[arg-type]  # one number for all channels
VIDEO = JEPAProcessor(image_size=32, patch_size=16, tubelet_size=2)


def picture(number: int, height: int = 48, width: int = 64) -> np.ndarray[Any, Any]:
    """A frame that carries its number: the left half its units, the right half its twenties, as grey levels."""
    image = np.empty((height, width, 3), np.uint8)
    image[:, : width // 2] = 20 + 10 * (number % 20)
    image[:, width // 2 :] = 20 + 10 * (number // 20)
    return image


def numbers(frames: Tensor) -> list[int]:
    """The numbers that frames [F, 3, H, W] carry."""
    height, width = frames.shape[-2:]
    units, twenties = frames[:, 0, height // 2, width // 4].int(), frames[:, 0, height // 2, 3 * width // 4].int()
    found: list[int] = (((units - 20) / 10).round() + 20 * ((twenties - 20) / 10).round()).int().tolist()
    return found


def encode(
    path: Path,
    count: int = 48,
    *,
    codec: str = "libx264",
    stamps: Sequence[int] | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    rotation: int | None = None,
    draw: Callable[[int], np.ndarray[Any, Any]] = picture,
    file_format: str | None = None,
) -> Path:
    """Write a video; `stamps` are milliseconds."""
    with av.open(str(path), "w", format=file_format, options=container_options or {}) as container:
        stream: Any = container.add_stream(codec, rate=FPS, options=options or {})
        stream.height, stream.width = draw(0).shape[:2]
        stream.pix_fmt = "yuv420p"
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if stamps is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(draw(number), format="rgb24")
            if stamps is not None:
                frame.pts, frame.time_base = stamps[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def levels(inputs: Inputs) -> Tensor:
    """Pixels of a processor without normalisation, back as levels [B, 3, F, H, W] in [0, 255]."""
    return inputs.pixel_values * 255


def image(height: int = 40, width: int = 60, channels: int = 3, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def saved(picture: PIL.Image.Image, file_format: str, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **settings)
    return buffer.getvalue()


def write_video(
    path: Path, count: int, height: int = 48, width: int = 64, options: dict[str, str] | None = None
) -> Path:
    """A video whose frame number i is grey of level 10 + 10 i."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream: Any = container.add_stream("libx264", rate=GREY_FPS)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for number in range(count):
            grey = np.full((height, width, 3), 10 + 10 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    return path


def frame_numbers(processor: JEPAProcessor, inputs: Inputs, sample: int = 0) -> list[int]:
    shown = processor.to_image(inputs.pixel_values)[sample]  # [F, H, W, 3]
    found: list[int] = ((shown[:, 16, 16, 0].float() - 10) / 10).round().int().tolist()
    return found
