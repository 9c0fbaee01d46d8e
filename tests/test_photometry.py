"""Photometric changes: kornia's formulas where it has them, what each leaves alone, and what a predictor is told."""

from __future__ import annotations

import kornia
import pytest
import torch
from torch import Tensor

from jepa_hub import photometry
from jepa_hub.photometry import FLAGS, JITTER, NAMES, apply, conditioning, named_conditioning, parameters


def pictures(count: int = 2, size: int = 16, frames: int | None = None) -> Tensor:
    shape = (count, 3, size, size) if frames is None else (count, 3, frames, size, size)
    return 0.3 + 0.3 * torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("amount", [-0.4, 0.3])
def test_jitters_are_those_of_kornia(amount: float) -> None:
    pixels = pictures()
    factor = torch.full((2,), 1 + amount)
    theirs = {
        "brightness": kornia.enhance.adjust_brightness_accumulative(pixels, factor),
        "contrast": kornia.enhance.adjust_contrast_with_mean_subtraction(pixels, factor),
        "saturation": kornia.enhance.adjust_saturation_with_gray_subtraction(pixels, factor),
    }
    for name, wanted in theirs.items():
        ours = apply(pixels, parameters({name: amount}, 2))
        assert ours.min() > 0 and ours.max() < 1  # so that kornia clips nothing
        torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-5, msg=name)


def test_flags_are_those_of_kornia() -> None:
    pixels = pictures(size=24)
    grey = apply(pixels, parameters({"grayscale": 1}, 2))
    torch.testing.assert_close(grey, kornia.color.rgb_to_grayscale(pixels).expand_as(pixels))
    inverted = apply(pixels, parameters({"solarize": 1}, 2))
    torch.testing.assert_close(inverted, kornia.enhance.solarize(pixels, 0.5))
    assert (pixels >= 0.5).any() and (pixels < 0.5).any()
    stds = [0.8, 1.5]
    soft = apply(pixels, parameters({"blur": stds}))
    for row, std in enumerate(stds):
        wanted = kornia.filters.gaussian_blur2d(pixels[row : row + 1], (11, 11), (std, std))
        torch.testing.assert_close(soft[row : row + 1], wanted, atol=1e-5, rtol=1e-5)


def test_hue_turns_colours_and_keeps_the_grey_picture() -> None:
    pixels = pictures()
    turned = apply(pixels, parameters({"hue": [0.2, -0.1]}))
    assert not torch.allclose(turned, pixels, atol=1e-2)
    torch.testing.assert_close(photometry.luma(turned), photometry.luma(pixels), atol=1e-5, rtol=1e-5)
    back = apply(turned, parameters({"hue": [-0.2, 0.1]}))
    torch.testing.assert_close(back, pixels, atol=1e-5, rtol=1e-5)  # nothing was clipped
    torch.testing.assert_close(apply(pixels, parameters({"hue": 1.0}, 2)), pixels, atol=1e-5, rtol=1e-5)
    third = apply(torch.tensor([0.8, 0.2, 0.2]).view(1, 3, 1, 1), parameters({"hue": 1 / 3}))
    assert third.flatten().argmax() == 1 or third.flatten().argmax() == 2  # red is red no more


def test_the_order_is_fixed_and_each_step_follows_the_last() -> None:
    pixels = pictures()
    amounts = {"brightness": 0.5, "contrast": 0.6, "saturation": -0.3, "hue": 0.1, "blur": 1.0, "solarize": 1}
    together = apply(pixels, parameters(dict(reversed(amounts.items())), 2))
    stepwise = pixels
    for name in (each for each in NAMES if each in amounts):
        stepwise = apply(stepwise, parameters({name: amounts[name]}, 2))
    torch.testing.assert_close(together, stepwise, atol=1e-5, rtol=1e-5)
    swapped = apply(apply(pixels, parameters({"solarize": 1}, 2)), parameters({"brightness": 0.5}, 2))
    assert not torch.allclose(swapped, apply(pixels, parameters({"brightness": 0.5, "solarize": 1}, 2)), atol=1e-2)


def test_no_change_and_other_rows_are_left_alone() -> None:
    pixels = pictures(3)
    assert torch.equal(apply(pixels, parameters({}, 3)), pixels)
    table = parameters({"brightness": [0.0, 0.4, 0.0], "blur": [0.0, 1.0, 0.0], "hue": [0.0, 0.2, 0.0]})
    changed = apply(pixels, table)
    torch.testing.assert_close(changed[[0, 2]], pixels[[0, 2]], atol=1e-6, rtol=0)
    assert not torch.allclose(changed[1], pixels[1], atol=1e-2)
    torch.testing.assert_close(changed[1:2], apply(pixels[1:2], table[1:2]))  # a picture alone, as in company


def test_frames_of_a_clip_change_alike_around_one_grey() -> None:
    clip = pictures(2, frames=3)
    table = parameters({"brightness": 0.2, "saturation": [0.3, -0.3], "hue": 0.1, "blur": 1.2})
    changed = apply(clip, table)
    alone = torch.stack([apply(clip[:, :, frame], table) for frame in range(3)], dim=2)
    torch.testing.assert_close(changed, alone, atol=1e-5, rtol=1e-5)
    grey = photometry.luma(clip).mean((1, 2, 3, 4), keepdim=True)
    torch.testing.assert_close(apply(clip, parameters({"contrast": 0.5}, 2)), grey + 1.5 * (clip - grey))


def test_normalised_pixels_change_as_plain_ones() -> None:
    pixels, table = pictures(), parameters({"contrast": 0.4, "hue": 0.1}, 2)
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1), torch.tensor([0.2, 0.3, 0.25]).view(1, 3, 1, 1)
    changed = photometry.apply_normalised((pixels - mean) / std, table, mean.flatten().tolist(), std.flatten().tolist())
    torch.testing.assert_close(changed * std + mean, apply(pixels, table), atol=1e-5, rtol=1e-5)


def test_what_a_predictor_is_told() -> None:
    told = named_conditioning({"brightness": 0.2, "hue": [0.1, -0.05], "grayscale": 1})
    assert told.shape == (2, len(NAMES))
    torch.testing.assert_close(told[:, 0], torch.tensor([0.5, 0.5]))  # in units of the paper's strengths
    torch.testing.assert_close(told[:, 3], torch.tensor([1.0, -0.5]))
    assert told[:, NAMES.index("grayscale")].tolist() == [1, 1] and told[:, 1].tolist() == [0, 0]
    source, target = parameters({"contrast": 0.4, "blur": 1.7}), parameters({"contrast": -0.4})
    told = conditioning(target, source)
    assert told[0, 1] == pytest.approx(-2.0) and told[0, NAMES.index("blur")] == 1
    assert torch.equal(named_conditioning({}, 3), torch.zeros(3, 7))
    assert (*JITTER, *FLAGS) == NAMES


def test_bad_changes_are_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"unknown change 'brightnes' .did you mean 'brightness'"):
        parameters({"brightnes": 0.1})
    with pytest.raises(ValueError, match="hue must be finite"):
        parameters({"hue": float("nan")})
    with pytest.raises(ValueError, match="grayscale is between 0 and 1"):
        parameters({"grayscale": 2})
    with pytest.raises(ValueError, match="blur is 0 or more"):
        parameters({"blur": -1.0})
    with pytest.raises(ValueError, match="3 numbers for 2 pictures"):
        parameters({"hue": [0.1, 0.2, 0.3]}, 2)
    with pytest.raises(ValueError, match="numbers for"):
        parameters({"hue": [0.1, 0.2, 0.3], "contrast": [0.1, 0.2]})
    with pytest.raises(ValueError, match="a target is never changed by"):
        conditioning(parameters({"blur": 1.0}))
    with pytest.raises(ValueError, match="expected pixels"):
        apply(torch.zeros(2, 1, 8, 8), parameters({}, 2))
