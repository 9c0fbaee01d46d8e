"""Views: crops within bounds and in distribution, keyed draws, device steps against plain formulas."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_hub.masking.draws import keyed
from training.config import ViewSettings
from training.data.views import IMAGENET_MEAN, IMAGENET_STD, DeviceViews, blotches, crop, crop_box, uniforms


def key(number: int) -> torch.Tensor:
    return keyed(torch.tensor([number]))[0]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 10**6))
def test_a_crop_lies_in_the_picture(height: int, width: int, number: int) -> None:
    top, left, box_height, box_width = crop_box(height, width, ViewSettings(), key(number))
    assert 0 <= top <= height - box_height and 0 <= left <= width - box_width and min(box_height, box_width) >= 1


def test_crops_have_the_areas_and_aspects_asked_for() -> None:
    boxes = [crop_box(200, 300, ViewSettings(crop_scale=(0.3, 0.6)), key(number)) for number in range(2000)]
    shares = torch.tensor([box[2] * box[3] / 60_000 for box in boxes])
    aspects = torch.tensor([math.log(box[3] / box[2]) for box in boxes])
    assert shares.min() > 0.29 and shares.max() < 0.61 and abs(shares.mean() - 0.45) < 0.01
    assert aspects.abs().max() < math.log(4 / 3) + 0.02 and abs(aspects.mean()) < 0.02
    assert min(box[0] for box in boxes) == 0 and max(box[0] + box[2] for box in boxes) == 200


def test_no_crop_scale_means_the_largest_centred_square() -> None:
    assert crop_box(200, 300, ViewSettings(crop_scale=None), key(0)) == (0, 50, 200, 200)


def test_all_frames_share_the_crop_and_pictures_become_one_frame() -> None:
    frame = torch.arange(64 * 64, dtype=torch.int64).remainder(251).view(64, 64).to(torch.uint8)
    clip = frame.expand(3, 5, 64, 64)
    view = crop(clip, (32, 32), ViewSettings(), key(3))
    assert view.shape == (3, 5, 32, 32) and torch.equal(view[:, 0], view[:, 4])
    assert torch.equal(crop(clip[:, 0], (32, 32), ViewSettings(), key(3))[:, 0], view[:, 0])


def test_pixels_are_normalised_with_imagenet_statistics() -> None:
    crops = torch.randint(0, 256, (2, 3, 1, 8, 8), dtype=torch.uint8)
    pixels = DeviceViews(ViewSettings(), 0)(crops, torch.tensor([0, 1]), 0)
    plain = (crops.float() / 255 - torch.tensor(IMAGENET_MEAN).view(3, 1, 1, 1)) / torch.tensor(IMAGENET_STD).view(
        3, 1, 1, 1
    )
    assert torch.allclose(pixels, plain, atol=1e-6)


def test_flips_are_per_sample_and_keyed() -> None:
    crops = torch.randint(0, 256, (64, 3, 2, 8, 8), dtype=torch.uint8)
    index = torch.arange(64)
    straight = DeviceViews(ViewSettings(), 5)(crops, index, 3)
    views = DeviceViews(ViewSettings(flip=0.5), 5)
    flipped = views(crops, index, 3)
    turned = [torch.equal(flipped[i], straight[i].flip(-1)) for i in range(64)]
    kept = [torch.equal(flipped[i], straight[i]) for i in range(64)]
    assert all(a != b for a, b in zip(turned, kept, strict=True)) and 16 < sum(turned) < 48
    assert torch.equal(views(crops[10:20], index[10:20], 3), flipped[10:20])
    assert not torch.equal(views(crops, index, 4), flipped)


@pytest.mark.parametrize(
    "change",
    [{"colour_jitter": (0.4, 0.4, 0.2, 0.1)}, {"grayscale": 1.0}, {"blur": 1.0}],
    ids=lambda each: next(iter(each)),
)
def test_colours_change_clips_as_a_whole_and_by_key(change: dict[str, object]) -> None:
    still = torch.randint(0, 256, (4, 3, 1, 16, 16), dtype=torch.uint8).expand(-1, -1, 3, -1, -1).contiguous()
    views = DeviceViews(ViewSettings(**change), 1)  # type: ignore[arg-type]
    changed = views(still, torch.arange(4), 0)
    assert torch.allclose(changed[:, :, 0], changed[:, :, 2], atol=1e-6) and changed.isfinite().all()
    assert not torch.allclose(changed, DeviceViews(ViewSettings(), 1)(still, torch.arange(4), 0), atol=1e-2)
    assert torch.allclose(views(still[1:3], torch.arange(1, 3), 0), changed[1:3], atol=1e-6)
    if "grayscale" in change:
        mean, std = (torch.tensor(each).view(3, 1, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
        levels = changed * std + mean
        assert torch.allclose(levels[:, 0], levels[:, 2], atol=1e-5)


def test_uniforms_are_uniform() -> None:
    draws = uniforms(torch.arange(20_000), 3)
    assert draws.min() >= 0 and draws.max() < 1 and (draws.mean(0) - 0.5).abs().max() < 0.01
    assert abs(torch.corrcoef(draws.T)[0, 1]) < 0.03


def test_flicker_is_other_light_in_every_frame_keyed_by_sample_and_step() -> None:
    crops = torch.full((4, 3, 6, 16, 12), 128, dtype=torch.uint8)
    index = torch.arange(4)
    views, steady = DeviceViews(ViewSettings(flicker=0.15), 5), DeviceViews(ViewSettings(), 5)(crops, index, 3)
    lit = views(crops, index, 3)
    assert torch.equal(views(crops[2:], index[2:], 3), lit[2:]) and not torch.equal(views(crops, index, 4), lit)
    light = (lit - steady) * torch.tensor(IMAGENET_STD).view(3, 1, 1, 1)  # [B, 3, F, H, W]
    assert torch.allclose(light[:, 0], light[:, 1], atol=1e-6)  # white
    flat = light[:, 0].flatten(2)  # [B, F, H*W]
    alike = torch.corrcoef(flat.flatten(0, 1)) - torch.eye(24)
    assert alike.abs().mean() < 0.4  # 16 blotches in each of 24 frames
    corners = blotches(torch.arange(4000), 1, (8, 8))[:, 0, 0, 0, 0]
    assert abs(corners.std() - 1) < 0.05 and abs(corners.mean()) < 0.05
