"""Two views of one crop: shared geometry, colours of their own, and a conditioning that says how they differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from jepa_hub import photometry
from jepa_hub.masking.draws import keyed
from training.config import PhotometrySettings, Settings, ViewSettings
from training.data.views import DeviceViews, normalised, photometric_draws
from training.loop import Run
from training.recipe import RecipeError

CROPS = torch.randint(0, 256, (64, 3, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
INDEX = torch.arange(64)
FULL = PhotometrySettings(grayscale=0.2, blur=0.3, solarize=0.4)
IWM = {"model__name": "iwm", "data__photometry": {"colour_jitter": [0.4, 0.4, 0.2, 0.1]}}


def many_keys() -> torch.Tensor:
    return keyed(torch.arange(4000))


def test_draws_have_the_ranges_and_shares_asked_for() -> None:
    source, target = photometric_draws(FULL, many_keys())
    reach = torch.tensor(FULL.colour_jitter)
    for table in (source, target):
        jitter = table[:, :4]
        assert (jitter.abs() <= reach).all() and (jitter.abs().amax(0) > 0.98 * reach).all()
        jittered = (jitter != 0).any(1)
        assert jittered.float().mean().item() == pytest.approx(0.8, abs=0.03)
        assert jitter[jittered].mean(0).abs().max() < 0.03
    assert not target[:, 4:].any()  # a target stays rich
    shares = (source[:, 4:] > 0).float().mean(0).tolist()
    assert shares == pytest.approx([0.2, 0.3, 0.4], abs=0.03)
    blurred = source[:, 5][source[:, 5] > 0]
    assert 0.1 <= blurred.min() < 0.2 and 1.9 < blurred.max() <= 2.0
    both = torch.stack([source[:, 0], target[:, 0]]).corrcoef()[0, 1]
    assert both.abs() < 0.05  # the views are drawn on their own


def test_a_pair_is_the_same_crop_under_two_changes() -> None:
    views = DeviceViews(ViewSettings(flip=0.5), 3)
    pair = views.pair(CROPS, INDEX, 7, FULL)
    flipped = views(CROPS, INDEX, 7)  # what one view of this recipe would be
    shift, scale = normalised(torch.zeros(1, 3, 1, 1, 1)), normalised(torch.ones(1, 3, 1, 1, 1))
    plain = (flipped - shift) / (scale - shift)
    source, target = photometric_draws(FULL, keyed(3, 7, INDEX, 107))
    torch.testing.assert_close(pair["pixels"], normalised(photometry.apply(plain, source)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(pair["target_pixels"], normalised(photometry.apply(plain, target)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(pair["conditioning"], photometry.conditioning(target, source))
    assert not torch.allclose(pair["pixels"], pair["target_pixels"], atol=0.1)


def test_pairs_are_keyed_by_sample_and_step() -> None:
    views = DeviceViews(ViewSettings(flip=0.5), 3)
    whole, part = views.pair(CROPS, INDEX, 7, FULL), views.pair(CROPS[10:20], INDEX[10:20], 7, FULL)
    for name in whole:
        torch.testing.assert_close(whole[name][10:20], part[name], atol=1e-6, rtol=1e-5)
    assert not torch.equal(views.pair(CROPS, INDEX, 8, FULL)["conditioning"], whole["conditioning"])


def test_without_colours_the_views_are_one() -> None:
    still = PhotometrySettings(jitter=0.0)
    pair = DeviceViews(ViewSettings(), 0).pair(CROPS, INDEX, 0, still)
    assert torch.equal(pair["pixels"], pair["target_pixels"]) and not pair["conditioning"].any()


def test_the_loop_hands_both_views_to_the_method(settings_of: Callable[..., Settings]) -> None:
    everywhere = {"name": "multi_block_3d", "blocks": [{"num_blocks": 2, "spatial_scale": 0.25}], "predict": "all"}
    run = Run(settings_of(**IWM, masks=everywhere))
    seen: list[dict[str, Any]] = []
    run.bare_method.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    folder = run.train()
    assert folder.is_dir() and len(seen) == 6
    batch = seen[0]
    assert batch["pixels"].shape == batch["target_pixels"].shape == (8, 3, 1, 32, 32)
    assert batch["conditioning"].shape == (8, 7) and batch["conditioning"].any()
    assert batch["masks"][0].target.tolist() == [[list(range(16))]] * 8
    assert batch["masks"][0].context.shape[1] < 16


def test_targets_are_those_of_the_second_view(settings_of: Callable[..., Settings]) -> None:
    from training.build import build_method, build_model

    settings = settings_of(**IWM)
    method = build_method(settings, build_model(settings)).eval()
    masks = Run(settings).reader[0]["masks"]
    crops = CROPS[:8].repeat_interleave(2, -1).repeat_interleave(2, -2)  # [8, 3, 1, 32, 32]
    pair = DeviceViews(ViewSettings(), 0).pair(crops, INDEX[:8], 0, PhotometrySettings())
    loss = method({**pair, "masks": masks})["loss"]
    assert not torch.isclose(loss, method({**pair, "target_pixels": pair["pixels"], "masks": masks})["loss"])
    deaf = method({**pair, "conditioning": pair["conditioning"] * 0, "masks": masks})["loss"]
    assert not torch.equal(loss, deaf)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__photometry": {}}, "data.photometry needs model.name=iwm"),
        ({**IWM, "data__views": {"grayscale": 0.2}}, "leave them out of data.views"),
        ({**IWM, "data__num_views": 2}, "two views of one crop"),
        ({**IWM, "data__photometry": {"colour_jitter": [0.4, 0.4, 0.2, 0.9]}}, r"that of hue in \[0, 0.5\]"),
        ({**IWM, "data__photometry": {"blurr": 0.2}}, "did you mean 'blur'"),
        (
            {"masks": {"name": "multi_block_3d", "predict": "all", "blocks": [{"num_blocks": 2}]}},
            "masks.predict=all asks for what is seen",
        ),
    ],
)
def test_recipes_that_make_no_sense_are_refused(
    settings_of: Callable[..., Settings], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        settings_of(**changes)
