"""JEPAProcessor: arithmetic, videos, and what comes out."""

from __future__ import annotations

import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from jepa_hub import processing
from jepa_hub.catalog_row import Preprocessing
from jepa_hub.media import resizing, sources
from jepa_hub.media.clips import Clip, MediaError
from jepa_hub.processing import IMAGENET_MEAN, IMAGENET_STD, Inputs, JEPAProcessor
from tests.media_files import (
    GREY_FPS,
    PLAIN,
    VIDEO,
    frame_numbers,
    image,
    levels,
    saved,
    write_video,
)


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray[Any, Any]]:
    from sklearn.datasets import load_sample_images

    found: list[np.ndarray[Any, Any]] = load_sample_images().images
    return found


@pytest.fixture(scope="module")
def clip_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("videos") / "clip.mp4", 20)


@pytest.mark.parametrize(
    ("size", "more"),
    [
        ({"height": 224, "width": 224}, {}),  # what facebook/ijepa_* store
        ({"height": 64, "width": 96}, {"resample": 3}),
        ({"shortest_edge": 256}, {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}}),
        ({"shortest_edge": 100}, {}),
        ({"height": 64, "width": 64}, {"do_normalize": False}),
        ({"height": 64, "width": 64}, {"do_rescale": False, "image_mean": [127.0] * 3, "image_std": [60.0] * 3}),
    ],
)
def test_as_stored_gives_the_numbers_of_transformers(
    photos: list[np.ndarray[Any, Any]], tmp_path: Path, size: dict[str, int], more: dict[str, Any]
) -> None:
    from transformers import ViTImageProcessorPil

    theirs = ViTImageProcessorPil(size=size, **more)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = JEPAProcessor.from_pretrained(tmp_path / "theirs", preprocessing="as_stored")
    ours.save_pretrained(tmp_path / "ours")
    reread = ViTImageProcessorPil.from_pretrained(tmp_path / "ours")
    for photo in photos:
        expected = theirs(PIL.Image.fromarray(photo), return_tensors="pt")["pixel_values"]
        found = ours(photo).pixel_values[:, :, 0]
        off = (found - expected).abs() * torch.tensor(ours.std).view(3, 1, 1) / ours.rescale  # in uint8 levels
        assert off.max() < 1.001 and off.mean() < 0.01  # measured: at most 1 level, 0.006 on average
        assert torch.equal(reread(PIL.Image.fromarray(photo), return_tensors="pt")["pixel_values"], expected)


def test_official_image_transform(photos: list[np.ndarray[Any, Any]]) -> None:
    """Shortest edge to 256, centre 224 x 224, ImageNet statistics: against Pillow and numpy, written out."""
    processor = JEPAProcessor.from_checkpoint(Preprocessing(image_size=224, resize=256), patch_size=14)
    photo = PIL.Image.fromarray(photos[0])  # 640 x 427
    small = np.asarray(photo.resize((int(256 * 640 / 427), 256), PIL.Image.Resampling.BILINEAR))
    left = round((small.shape[1] - 224) / 2)  # torchvision's rounding
    cut = small[16:240, left : left + 224] / 255
    expected = (cut - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    found = processor(photo).pixel_values[0, :, 0].permute(1, 2, 0).double().numpy()
    off = np.abs(found - expected) * np.array(IMAGENET_STD) * 255
    assert off.max() < 1.001 and off.mean() < 0.01


def test_video_frames_are_treated_like_images(photos: list[np.ndarray[Any, Any]]) -> None:
    processor = JEPAProcessor(image_size=64, resize=73, tubelet_size=2)
    clip = processor(np.stack([photos[0], photos[1]]))
    alone = [processor(photo).pixel_values[:, :, 0] for photo in photos]
    assert clip.pixel_values.shape == (1, 3, 2, 64, 64)
    assert torch.equal(clip.pixel_values[:, :, 0], alone[0]) and torch.equal(clip.pixel_values[:, :, 1], alone[1])


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizing_off_the_cpu_agrees(photos: list[np.ndarray[Any, Any]], interpolation: str) -> None:
    """The path for other devices rounds after each pass, as Pillow does; run here on float copies of the levels."""
    photo = torch.tensor(photos[0]).permute(2, 0, 1)[None]
    size = (224, 320)
    native = resizing.resize(photo, size, interpolation)
    across = resizing._interpolate(photo.float(), (photo.shape[2], size[1]), interpolation).round().clamp(0, 255)
    elsewhere = resizing._interpolate(across, size, interpolation).round().clamp(0, 255)
    assert (native.float() - elsewhere).abs().max() <= 1


@pytest.mark.parametrize("rounding", ["even", "down"])
def test_crop_rounding(rounding: Any) -> None:
    processor = JEPAProcessor(image_size=4, mean=0.0, std=1.0, crop_rounding=rounding)  # type: ignore[arg-type]
    columns = np.tile(np.arange(11, dtype=np.uint8), (4, 1))  # 7 too many: 3.5 on each side
    first = int(levels(processor(columns))[0, 0, 0, 0, 0].round())
    assert first == (4 if rounding == "even" else 3)


def test_aspects() -> None:
    wide = np.zeros((32, 96), np.uint8)
    wide[:, :48] = 255
    crop = JEPAProcessor(image_size=32, mean=0.0, std=1.0)(wide)  # type: ignore[arg-type]
    assert levels(crop)[0, 0, 0, 16].round().tolist() == [255] * 16 + [0] * 16
    squash = JEPAProcessor(image_size=32, aspect="squash", mean=0.0, std=1.0)(wide)  # type: ignore[arg-type]
    assert levels(squash)[0, 0, 0, 16, [0, 14, 17, 31]].round().tolist() == [255, 255, 0, 0]
    pad = JEPAProcessor(image_size=48, aspect="pad")(wide)
    assert pad.pixel_values.shape == (1, 3, 1, 48, 48)
    assert (pad.pixel_values[..., :16, :] == 0).all() and (pad.pixel_values[..., 32:, :] == 0).all()
    assert (pad.pixel_values[..., 16:32, :] != 0).all()
    tall = JEPAProcessor(image_size=(64, 32))(wide)  # covered, then cut
    assert tall.pixel_values.shape == (1, 3, 1, 64, 32)
    keep = JEPAProcessor(aspect="native", resize=16)(wide)
    assert keep.pixel_values.shape == (1, 3, 1, 16, 48)


def test_sizes_that_are_no_multiple_of_the_patch() -> None:
    odd = image(40, 60)
    native = {"aspect": "native", "patch_size": 16}
    with pytest.raises(ValueError, match=r"60 x 40 pixels, no multiple of the patch size 16: use multiple='pad'"):
        JEPAProcessor(**native)(odd)  # type: ignore[arg-type]
    padded = JEPAProcessor(**native, multiple="pad")(odd).pixel_values  # type: ignore[arg-type]
    assert padded.shape == (1, 3, 1, 48, 64) and (padded[..., 40:, :] == 0).all() and (padded[..., 60:] == 0).all()
    cut = JEPAProcessor(**native, multiple="crop")(odd).pixel_values  # type: ignore[arg-type]
    assert cut.shape == (1, 3, 1, 32, 48)
    assert torch.equal(cut, padded[..., 4:36, 6:54])
    with pytest.raises(ValueError, match="no multiple of the patch"):
        JEPAProcessor(**native, multiple="crop")(image(8, 60))  # type: ignore[arg-type]  # nothing would be left
    with pytest.raises(ValueError, match=r"image_size=30 is no multiple of patch_size=16: \(16, 16\) or \(32, 32\)"):
        JEPAProcessor(image_size=30, patch_size=16)


def test_elongated_images_do_not_exhaust_memory() -> None:
    with pytest.raises(ValueError, match="too elongated"):
        JEPAProcessor(image_size=224)(np.zeros((1, 5000), np.uint8))
    assert JEPAProcessor(image_size=32, aspect="pad")(np.zeros((1, 5000), np.uint8)).pixel_values.shape[-1] == 32


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({}, "needs image_size"),
        ({"image_size": 32, "aspect": "native"}, "leave image_size out"),
        ({"aspect": "native", "multiple": "pad"}, "needs patch_size"),
        ({"image_size": 32, "aspect": "stretch"}, "crop, squash, pad, native"),
        ({"image_size": 32, "interpolation": "lanczos"}, "bilinear, bicubic"),
        ({"image_size": 32, "resize": 16}, "smaller than the crop"),
        ({"image_size": 32, "resize": 40, "aspect": "pad"}, "leave resize out"),
        ({"image_size": (32, 0)}, "side or"),
        ({"image_size": 32.5}, "side or"),
        ({"image_size": 32, "tubelet_size": 0}, "tubelet_size is a whole number"),
        ({"image_size": 32, "tubelet_size": None}, "tubelet_size is a whole number from 1 on;"),
        ({"image_size": 32, "tubelet_size": 2, "num_frames": 15}, "no multiple of tubelet_size=2"),
        ({"image_size": 32, "mean": (0.5, 0.5)}, "three in all"),
        ({"image_size": 32, "std": (0.5, 0.0, 0.5)}, "positive"),
        ({"image_size": 32, "fps": -1}, "fps"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], match: str) -> None:
    with pytest.raises((ValueError, TypeError), match=match):
        JEPAProcessor(**settings)


def test_to_image_undoes_normalisation() -> None:
    picture = image(32, 32)
    processor = JEPAProcessor(image_size=32)
    inputs = processor([picture, picture])
    shown = processor.to_image(inputs.pixel_values)
    assert shown.shape == (2, 1, 32, 32, 3) and shown.dtype == torch.uint8
    assert np.array_equal(shown[1, 0].numpy(), picture)
    assert np.array_equal(processor.to_image(inputs.pixel_values[0, :, 0]).numpy(), picture)
    assert processor.to_image(inputs.pixel_values[:, :, 0]).shape == (2, 32, 32, 3)
    with pytest.raises(ValueError, match=r"\[B, 3, F, H, W\]"):
        processor.to_image(torch.zeros(2, 4, 3, 8, 8))


def test_video_file(clip_path: Path) -> None:
    inputs = VIDEO(clip_path)
    assert inputs.pixel_values.shape == (1, 3, 20, 32, 32)
    assert frame_numbers(VIDEO, inputs) == list(range(20))
    assert inputs.frame_times is not None and inputs.frame_times.dtype == torch.float64
    torch.testing.assert_close(inputs.frame_times, torch.arange(20, dtype=torch.float64)[None] / GREY_FPS)
    some = VIDEO(clip_path, fps=5, start=0.4, end=1.2)
    assert frame_numbers(VIDEO, some) == [4, 6, 8, 10]
    assert some.frame_times is not None and some.frame_times.tolist() == [[0.4, 0.6, 0.8, 1.0]]
    assert frame_numbers(VIDEO, VIDEO(clip_path, stride=5)) == [0, 5, 10, 15]
    assert frame_numbers(VIDEO, VIDEO(clip_path, times=[1.95, 0.0])) == [19, 0]


def test_batch_of_videos(clip_path: Path, tmp_path: Path) -> None:
    other = write_video(tmp_path / "other.mp4", 12, height=64, width=48)
    inputs = VIDEO([clip_path, other.read_bytes()], num_frames=4)
    assert inputs.pixel_values.shape == (2, 3, 4, 32, 32)
    assert frame_numbers(VIDEO, inputs, 0) == [0, 5, 10, 15] and frame_numbers(VIDEO, inputs, 1) == [0, 3, 6, 9]
    assert inputs.frame_times is not None and inputs.frame_times[1].tolist() == pytest.approx([0, 0.3, 0.6, 0.9])
    with pytest.raises(ValueError, match=r"different numbers of frames .*: 12, .*: 20.*num_frames="):
        VIDEO([clip_path, other])


def test_files_are_sampled_by_the_processors_own_settings(clip_path: Path) -> None:
    def own(**settings: Any) -> JEPAProcessor:
        return JEPAProcessor(image_size=32, tubelet_size=2, **settings)

    assert frame_numbers(VIDEO, own(num_frames=4)(clip_path)) == [0, 5, 10, 15]
    assert frame_numbers(VIDEO, own(num_frames=64)(clip_path)) == list(range(20))  # it has fewer: all of them
    assert frame_numbers(VIDEO, own(num_frames=4)(clip_path, stride=10)) == [0, 10]
    assert frame_numbers(VIDEO, own(fps=2)(clip_path)) == [0, 5, 10, 15]
    assert frame_numbers(VIDEO, own(frame_step=10)(clip_path)) == [0, 10]
    assert frame_numbers(VIDEO, own(num_frames=4)(clip_path, start=0.8, end=1.6)) == [8, 10, 12, 14]
    frames = torch.zeros(6, 3, 32, 32, dtype=torch.uint8)
    assert own(num_frames=4)(frames).pixel_values.shape[2] == 6  # in memory: somebody has chosen already


def test_frames_in_memory(clip_path: Path) -> None:
    frames = torch.stack([torch.full((3, 32, 32), 10 + 10 * number, dtype=torch.uint8) for number in range(8)])
    forms = [frames, frames.permute(0, 2, 3, 1), frames.permute(1, 0, 2, 3), frames.numpy(), frames.float() / 255]
    for form in forms:
        inputs = VIDEO(form)
        assert frame_numbers(VIDEO, inputs) == list(range(8)) and inputs.frame_times is None
    assert frame_numbers(VIDEO, VIDEO(frames[:, :1], stride=2)) == [0, 2, 4, 6]  # grey
    assert frame_numbers(VIDEO, VIDEO(frames[:, 0], layout="FHW", num_frames=4)) == [0, 2, 4, 6]
    with pytest.raises(ValueError, match=r"array without times: .*Clip.at_rate"):
        VIDEO(frames, fps=2)
    batch = torch.stack([frames, frames.flip(0)])
    for form in (batch, batch.permute(0, 2, 1, 3, 4), batch.permute(0, 1, 3, 4, 2)):
        inputs = VIDEO(form)
        assert inputs.pixel_values.shape == (2, 3, 8, 32, 32)
        assert frame_numbers(VIDEO, inputs, 1) == list(range(7, -1, -1))


def test_clips_carry_their_times() -> None:
    frames = torch.stack([torch.full((3, 32, 32), 10 + 10 * number, dtype=torch.uint8) for number in range(8)])
    clip = Clip.at_rate(frames, fps=4)
    inputs = VIDEO(clip, fps=2, start=0.5, end=1.5)
    assert frame_numbers(VIDEO, inputs) == [2, 4]
    assert inputs.frame_times is not None and inputs.frame_times.tolist() == [[0.5, 1.0]]
    backwards = Clip(frames, torch.arange(8, dtype=torch.float64).flip(0))
    assert VIDEO(backwards, stride=4).frame_times is not None
    with pytest.raises(ValueError, match="go back"):
        VIDEO(backwards, start=1.0)


def test_animated_gif_is_a_video() -> None:
    pictures = [PIL.Image.new("L", (32, 32), 10 + 10 * number) for number in range(4)]
    data = saved(pictures[0], "GIF", save_all=True, append_images=pictures[1:], duration=[100, 300, 100, 100])
    inputs = VIDEO(data)
    assert frame_numbers(VIDEO, inputs) == [0, 1, 2, 3]
    assert inputs.frame_times is not None and inputs.frame_times.tolist() == [[0.0, 0.1, 0.4, 0.5]]
    apng = saved(pictures[0], "PNG", save_all=True, append_images=pictures[1:], duration=100)
    assert frame_numbers(VIDEO, VIDEO(apng)) == [0, 1, 2, 3]


def test_odd_numbers_of_frames(clip_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"gives 5 frames, which is no multiple of the tubelet of 2: use odd_frames='pad'"
    ):
        VIDEO(clip_path, num_frames=5)
    padded = VIDEO(clip_path, num_frames=5, odd_frames="pad")
    assert frame_numbers(VIDEO, padded) == [0, 4, 8, 12, 16, 16]
    assert padded.frame_times is not None and padded.frame_times[0, -2:].tolist() == [1.6, 1.6]
    assert frame_numbers(VIDEO, VIDEO(clip_path, num_frames=5, odd_frames="drop")) == [0, 4, 8, 12]
    with pytest.raises(ValueError, match="20 frames in the span, fewer than num_frames=24"):
        VIDEO(clip_path, num_frames=24)
    assert frame_numbers(VIDEO, VIDEO(clip_path, num_frames=24, odd_frames="pad")) == [*range(20), *[19] * 4]
    with pytest.raises(ValueError, match="'error', 'pad' or 'drop'"):
        VIDEO(clip_path, odd_frames="wrap")  # type: ignore[arg-type]


def test_one_frame_videos(tmp_path: Path) -> None:
    path = write_video(tmp_path / "single.mp4", 1)
    for source in (path, torch.zeros(1, 3, 32, 32, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="gives 1 frame, which is no multiple"):
            VIDEO(source)
        with pytest.raises(ValueError, match="leaves nothing"):
            VIDEO(source, odd_frames="drop")
        assert VIDEO(source, odd_frames="pad").pixel_values.shape == (1, 3, 2, 32, 32)
    single = JEPAProcessor(image_size=32)(path)  # an image model takes single frames
    assert single.pixel_values.shape == (1, 3, 1, 32, 32) and single.frame_times is not None


def test_still_images_for_a_video_model() -> None:
    picture = PIL.Image.fromarray(image())
    assert VIDEO(picture).pixel_values.shape == (1, 3, 1, 32, 32)
    repeated = VIDEO([picture, picture], num_frames=4)
    assert repeated.pixel_values.shape == (2, 3, 4, 32, 32) and repeated.frame_times is None
    assert torch.equal(repeated.pixel_values[:, :, 3], VIDEO([picture, picture]).pixel_values[:, :, 0])
    with pytest.raises(ValueError, match="no multiple of the tubelet"):
        VIDEO(picture, num_frames=3)
    assert VIDEO(picture, num_frames=3, odd_frames="pad").pixel_values.shape[2] == 4
    for settings in ({"fps": 2}, {"stride": 2}, {"times": [0.0]}, {"start": 1.0}, {"end": 1.0}):
        with pytest.raises(ValueError, match="still image, which has no time"):
            VIDEO(picture, **settings)  # type: ignore[arg-type]


def test_lists_are_of_one_kind(clip_path: Path) -> None:
    with pytest.raises(ValueError, match=r"all images or all videos: inputs\[1\] is an image, .*clip.mp4 a video"):
        VIDEO([clip_path, PIL.Image.fromarray(image())])
    with pytest.raises(ValueError, match="different sizes"):
        PLAIN([image(16, 16), image(16, 32)])
    mixed = JEPAProcessor(image_size=32)([image(16, 16), image(50, 40), torch.rand(3, 16, 16), image(16, 16, seed=3)])
    assert mixed.pixel_values.shape == (4, 3, 1, 32, 32)
    assert torch.equal(mixed.pixel_values[3:], JEPAProcessor(image_size=32)(image(16, 16, seed=3)).pixel_values)


def test_truncated_videos_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="empty"):
        VIDEO(b"")
    path = tmp_path / "cut.mp4"
    whole = write_video(tmp_path / "whole.mp4", 20, options={"movflags": "faststart"}).read_bytes()
    path.write_bytes(whole[: int(len(whole) * 0.97)])
    with pytest.raises(MediaError, match=r"cut.mp4 is truncated or damaged: \d+ of 20 frames can be decoded"):
        VIDEO(path)
    path.write_bytes(whole[:200])
    with pytest.raises(MediaError, match="0 frames"):
        VIDEO(path)


def test_url(clip_path: Path) -> None:
    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, directory=str(clip_path.parent), **settings)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    (clip_path.parent / "image").write_bytes(saved(PIL.Image.fromarray(image()), "PNG"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert frame_numbers(VIDEO, VIDEO(f"{address}/clip.mp4", num_frames=4)) == [0, 5, 10, 15]
        assert levels(PLAIN(f"{address}/image")).shape == (1, 3, 1, 40, 60)
        with pytest.raises(OSError, match="answered 404"):
            VIDEO(f"{address}/missing.mp4")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sources, "MAX_DOWNLOAD_BYTES", 100)
            with pytest.raises(MediaError, match="larger than 100 bytes"):
                VIDEO(f"{address}/clip.mp4")
        server.shutdown()


def test_large_clips_are_normalised_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (10, 3, 40, 40), dtype=np.uint8))
    whole = VIDEO(frames).pixel_values
    monkeypatch.setattr(processing, "_CHUNK_VALUES", 3 * 40 * 40 * 3)
    assert torch.equal(VIDEO(frames).pixel_values, whole)


# ------------------------------------------------------------------------------------------------------------- inputs


def test_inputs_are_a_mapping_for_models(clip_path: Path) -> None:
    inputs = VIDEO(clip_path, device="cpu")
    assert list(inputs) == ["pixel_values"]
    assert dict(**inputs)["pixel_values"] is inputs.pixel_values
    half = inputs.to(dtype=torch.bfloat16)
    assert half.pixel_values.dtype == torch.bfloat16 and inputs.pixel_values.dtype == torch.float32
    assert half.frame_times is not None and half.frame_times.dtype == torch.float64
    assert inputs.to("cpu", non_blocking=True).frame_times is inputs.frame_times
    with pytest.raises(TypeError, match="floating"):
        inputs.to(dtype=torch.int64)
    with pytest.raises(ValueError, match="nothing else"):
        Inputs({"pixel_values": torch.zeros(1), "labels": torch.zeros(1)})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu(photos: list[np.ndarray[Any, Any]]) -> None:
    processor = JEPAProcessor(image_size=224, resize=256)
    there, here = processor(photos, device="cuda").pixel_values, processor(photos).pixel_values
    assert there.device.type == "cuda"
    assert ((there.cpu() - here).abs() * 0.229 * 255).max() < 1.1
    floats = [torch.tensor(photo).permute(2, 0, 1).cuda() / 255 for photo in photos]
    assert processor(floats).pixel_values.device.type == "cuda"  # stays where it came from
