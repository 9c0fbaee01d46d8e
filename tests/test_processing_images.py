"""JEPAProcessor: every form of an image and array, and what is refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from jepa_hub.media.clips import MediaError
from jepa_hub.processing import JEPAProcessor
from tests.media_files import (
    PLAIN,
    VIDEO,
    image,
    levels,
    saved,
)


def test_every_form_of_one_image_gives_the_same(tmp_path: Path) -> None:
    array = image()
    picture = PIL.Image.fromarray(array)
    data = saved(picture, "PNG")
    path = tmp_path / "wrong_extension.mp4"
    path.write_bytes(data)
    channels_first = np.moveaxis(array, -1, 0)
    expected = torch.from_numpy(channels_first.copy())
    read_only = array.copy()
    read_only.flags.writeable = False
    forms: list[Any] = [
        picture, array, read_only, torch.from_numpy(array), channels_first, expected,
        data, io.BytesIO(data), path, str(path),
        array[::-1][::-1], array.astype(np.float32) / 255, array.astype(np.float64) / 255, expected.float() / 255,
        array.astype(np.uint16) * 257, (array.astype(np.uint16) * 257).astype(">u2"),
        (expected.float() / 255).requires_grad_(),
    ]  # fmt: skip
    for form in forms:
        found = levels(PLAIN(form))
        assert found.shape == (1, 3, 1, 40, 60) and found.dtype == torch.float32
        assert (found[0, :, 0] - expected).abs().max() < 1e-3
    half = levels(PLAIN(expected.half() / 255))[0, :, 0]
    assert (half - expected).abs().max() < 0.2


def test_grey_and_transparent_images() -> None:
    grey = image(channels=1)[..., 0]
    expected = torch.from_numpy(grey).expand(3, -1, -1)
    for form in (grey, grey[None], grey[..., None], PIL.Image.fromarray(grey), saved(PIL.Image.fromarray(grey), "PNG")):
        assert torch.equal(levels(PLAIN(form))[0, :, 0].round(), expected.float())
    rgba = image(channels=4)
    rgba[:20, :, 3], rgba[20:, :, 3] = 0, 255
    grey_alpha = rgba[..., [0, 3]]
    for form in (rgba, np.moveaxis(rgba, -1, 0), PIL.Image.fromarray(rgba), saved(PIL.Image.fromarray(rgba), "PNG")):
        found = levels(PLAIN(form))[0, :, 0].round()
        assert (found[:, :20] == 255).all()  # clear shows white
        assert torch.equal(found[:, 20:], torch.from_numpy(rgba[20:, :, :3]).permute(2, 0, 1).float())
    for form in (
        grey_alpha,
        PIL.Image.fromarray(grey_alpha, "LA"),
        saved(PIL.Image.fromarray(grey_alpha, "LA"), "PNG"),
    ):
        found = levels(PLAIN(form))[0, :, 0].round()
        assert (found[:, :20] == 255).all() and torch.equal(found[1, 20:], torch.from_numpy(rgba[20:, :, 0]).float())
    half = np.full((6, 6, 4), 128, np.uint8)
    assert torch.equal(levels(PLAIN(half)).round(), levels(PLAIN(PIL.Image.fromarray(half))).round())


def test_transparency_agrees_with_transformers() -> None:
    from transformers.image_transforms import convert_to_rgb

    picture = PIL.Image.fromarray(image(channels=4))
    expected = convert_to_rgb(picture, return_numpy=True)
    assert np.array_equal(levels(PLAIN(picture))[0, :, 0].round().permute(1, 2, 0).numpy(), expected)


def test_palette_cmyk_and_other_modes() -> None:
    rgb = PIL.Image.fromarray(image())
    palette = rgb.quantize(16)
    assert np.array_equal(levels(PLAIN(palette))[0, :, 0].round().permute(1, 2, 0), np.asarray(palette.convert("RGB")))
    clear = palette.copy()
    clear.info["transparency"] = 0
    data = saved(clear, "PNG", transparency=0)
    found = levels(PLAIN(data))[0, :, 0].round().permute(1, 2, 0)
    assert (found[torch.tensor(np.asarray(palette)) == 0] == 255).all()
    for mode in ("CMYK", "YCbCr", "HSV", "1", "LAB"):
        other = (
            rgb.convert("L").convert("1")
            if mode == "1"
            else rgb.convert("YCbCr")
            if mode == "LAB"
            else rgb.convert(mode)
        )
        expected = np.asarray(other.convert("RGB"))
        assert np.array_equal(levels(PLAIN(other))[0, :, 0].round().permute(1, 2, 0), expected), mode
    jpeg = saved(rgb.convert("CMYK"), "JPEG", quality=95)
    assert levels(PLAIN(jpeg)).shape == (1, 3, 1, 40, 60)


def test_sixteen_bit_images_are_scaled_not_clipped() -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (20, 30), dtype=np.uint16)
    expected = torch.from_numpy(deep.astype(np.float32) / 65535)
    picture = PIL.Image.fromarray(deep)
    assert picture.mode.startswith("I")
    for form in (deep, picture, saved(picture, "PNG"), saved(picture, "TIFF"), torch.from_numpy(deep)):
        found = PLAIN(form).pixel_values[0, :, 0]
        torch.testing.assert_close(found, expected.expand(3, -1, -1), rtol=0, atol=1e-6)
    assert len(PLAIN(picture).pixel_values.unique()) > 256  # more than 8 bits survive
    with pytest.raises(ValueError, match="scale is unknown"):
        PLAIN(PIL.Image.fromarray(np.full((4, 4), 70000, np.int32)))
    unit = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    torch.testing.assert_close(PLAIN(PIL.Image.fromarray(unit)).pixel_values[0, 0, 0], torch.from_numpy(unit))
    for bad in (unit * 255, np.full((4, 4), np.nan, np.float32)):
        with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
            PLAIN(PIL.Image.fromarray(bad))


def test_exif_orientation_is_respected() -> None:
    array = np.zeros((20, 40, 3), np.uint8)
    array[:10, :20] = 255  # stored at the top left
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    data = saved(PIL.Image.fromarray(array), "PNG", exif=exif)
    found = levels(PLAIN(data))[0, 0, 0]
    assert found.shape == (40, 20)
    assert found[5, 15] == 255 and found[5, 5] == 0 and found[35, 15] == 0  # now at the top right


def test_ambiguous_and_impossible_shapes() -> None:
    with pytest.raises(ValueError, match=r"ambiguous shape \(3, 50, 3\): say which, layout='HWC' or layout='CHW'"):
        PLAIN(np.zeros((3, 50, 3), np.uint8))
    assert PLAIN(np.zeros((3, 50, 3), np.uint8), layout="HWC").pixel_values.shape == (1, 3, 1, 3, 50)
    assert PLAIN(np.zeros((3, 50, 3), np.uint8), layout="chw").pixel_values.shape == (1, 3, 1, 50, 3)
    with pytest.raises(ValueError, match=r"inputs has shape \(16, 50, 60\).*layout='FHW'"):
        PLAIN(np.zeros((16, 50, 60), np.uint8))
    with pytest.raises(ValueError, match="no image or video"):
        PLAIN(np.zeros(7, np.uint8))
    with pytest.raises(ValueError, match="does not fit the shape"):
        PLAIN(np.zeros((8, 8, 3), np.uint8), layout="FCHW")
    with pytest.raises(ValueError, match="8 channels"):
        PLAIN(np.zeros((8, 8, 3), np.uint8), layout="CHW")
    with pytest.raises(ValueError, match="is empty"):
        PLAIN(np.zeros((0, 8, 3), np.uint8))
    video = JEPAProcessor(aspect="native", tubelet_size=2)
    with pytest.raises(ValueError, match="layout='FCHW' or layout='CFHW'"):
        video(np.zeros((3, 3, 16, 16), np.uint8))
    with pytest.raises(ValueError, match="layout='FHWC' or layout='FCHW'"):
        video(np.zeros((4, 3, 16, 3), np.uint8))


def test_a_batch_of_images_is_not_mistaken_for_a_video() -> None:
    batch = torch.zeros(5, 3, 16, 16, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"batch of images \(layout='BCHW'"):
        PLAIN(batch)
    assert PLAIN(batch, layout="BCHW").pixel_values.shape == (5, 3, 1, 16, 16)
    assert PLAIN(batch, layout="FCHW").pixel_values.shape == (1, 3, 5, 16, 16)
    assert PLAIN(list(batch)).pixel_values.shape == (5, 3, 1, 16, 16)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_pixels_that_are_not_finite_are_located(bad: float) -> None:
    clip = torch.zeros(4, 3, 16, 16)
    clip[2, 1, 5, 7] = bad
    with pytest.raises(
        ValueError, match="1 pixel value that are NaN or infinite, the first at frame 2, channel 1, row 5"
    ):
        VIDEO(clip)
    with pytest.raises(ValueError, match="frame 2, channel 1, row 5, column 7"):
        VIDEO([torch.zeros(4, 3, 16, 16), clip])
    picture = np.zeros((16, 16, 3))
    picture[5, 7, 1] = bad
    with pytest.raises(ValueError, match=r"inputs\[1\] .*row 5, column 7, channel 1"):
        PLAIN([np.zeros((16, 16, 3)), picture])


@pytest.mark.parametrize(
    ("array", "error", "match"),
    [
        (np.full((8, 8, 3), 200.0), ValueError, r"from 200 to 200; they must be in \[0, 1\]: divide by 255"),
        (np.full((8, 8, 3), -1.5), ValueError, "already normalised"),
        (np.full((8, 8, 3), 1000.0), ValueError, "maximum possible"),
        (np.full((8, 8, 3), 3, np.int64), TypeError, "int64, whose range is unknown: convert"),
        (np.ones((8, 8, 3), bool), TypeError, "dtype bool"),
        (np.array([["a"]]), TypeError, "dtype"),
        (torch.zeros(8, 8, 3, dtype=torch.bool), TypeError, "range is unknown"),
        ([], ValueError, "empty"),
        ([[image()]], TypeError, "stack them"),
        (None, TypeError, "path, a URL"),
        ({"a": 1}, TypeError, "path, a URL"),
    ],
)
def test_wrong_types_and_ranges(array: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        PLAIN(array)


def huge_png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_files_that_are_no_good(tmp_path: Path) -> None:
    data = saved(PIL.Image.fromarray(image(100, 100)), "JPEG")
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(data[: len(data) // 2])
    with pytest.raises(MediaError, match=r"cut.jpg cannot be decoded as an image: .*truncated"):
        PLAIN(cut)
    for broken in (saved(PIL.Image.fromarray(image()), "PNG")[:80], b"\x89PNG\r\n\x1a\n" + b"\0" * 50, b"GIF89a\1"):
        with pytest.raises(MediaError):
            PLAIN(broken)
    with pytest.raises(MediaError, match=r"too many pixels .*MAX_IMAGE_PIXELS"):
        PLAIN(huge_png(20000, 20000))
    empty = tmp_path / "empty.jpg"
    empty.touch()
    with pytest.raises(MediaError, match="empty"):
        PLAIN(empty)
    with pytest.raises(MediaError, match="is not an image or video that can be read"):
        PLAIN(b"just text, nothing to see here")
    with pytest.raises(FileNotFoundError, match="no file"):
        PLAIN(tmp_path / "missing.png")
    with pytest.raises(MediaError, match="HEIC"):
        PLAIN(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 64)


def test_images_with_several_pages() -> None:
    pictures = [PIL.Image.fromarray(image(16, 16, seed=seed)) for seed in range(3)]
    with pytest.raises(MediaError, match="several pages, which is not read: give the page"):
        PLAIN(saved(pictures[0], "TIFF", save_all=True, append_images=pictures[1:]))
    with pytest.raises(MediaError, match="save it as GIF or mp4"):
        PLAIN(saved(pictures[0], "WEBP", save_all=True, append_images=pictures[1:], duration=100))
    gif = PIL.Image.open(io.BytesIO(saved(pictures[0], "GIF", save_all=True, append_images=pictures[1:])))
    with pytest.raises(MediaError, match=r"several frames: .*image.copy\(\)"):
        PLAIN(gif)
    assert PLAIN(gif.copy()).pixel_values.shape == (1, 3, 1, 16, 16)
    still = saved(pictures[0], "GIF")
    assert PLAIN(still).frame_times is None
