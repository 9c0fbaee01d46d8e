"""The context encoder sees only what it was given: targets cannot reach a prediction."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import VJEPA2Config, VJEPA2Model

from jepa_hub.masks import Masks
from tests.official import predicting, tiny_config, tiny_model, tiny_pixels


def pixel_mask(family: str, tokens: Tensor) -> Tensor:
    """Bool [F, H, W]: the pixels of the given tokens."""
    config = tiny_config(family)
    t, h, w = config.base_grid
    chosen = torch.zeros(t * h * w, dtype=torch.bool)
    chosen[tokens] = True
    size, tubelet = config.patch_size, config.tubelet_size
    grid = chosen.view(t, h, w).repeat_interleave(tubelet, 0)
    return grid.repeat_interleave(size, 1).repeat_interleave(size, 2)


def masks_of(family: str) -> Masks:
    t, h, w = tiny_config(family).base_grid
    order = torch.randperm(t * h * w, generator=torch.Generator().manual_seed(3))
    count = len(order)
    context, target = order[: count // 3], order[count // 3 :]
    target = target[: len(target) // 2 * 2].view(1, 2, -1)
    return Masks(context.sort().values.repeat(2, 1), target.repeat(2, 1, 1))


@pytest.mark.parametrize("family", predicting())
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_targets_do_not_leak(family: str, attention: str) -> None:
    model = tiny_model(family)
    model.set_attn_implementation(attention)
    pixels, masks = tiny_pixels(family), masks_of(family)
    before = model.predict(pixels, masks=masks)
    assert before.shape == (*masks.target.shape, model.config.prediction_size)

    hidden = pixel_mask(family, masks.target[0].flatten())
    perturbed = torch.where(hidden, torch.randn_like(pixels) * 100, pixels)
    assert torch.equal(model.predict(perturbed, masks=masks), before)  # not by one bit

    one_patch = pixel_mask(family, masks.context[0, :1])
    moved = torch.where(one_patch, pixels + 1, pixels)
    assert not torch.allclose(model.predict(moved, masks=masks), before, atol=1e-4)


def test_frames_do_not_leak() -> None:
    model, pixels = tiny_model("vjepa2"), tiny_pixels("vjepa2")
    before = model.predict(pixels, context=range(4), target=range(4, 8))
    pixels[:, :, 4:] = 50.0
    assert torch.equal(model.predict(pixels, context=range(4), target=range(4, 8)), before)
    pixels[:, :, 1] += 1
    assert not torch.allclose(model.predict(pixels, context=range(4), target=range(4, 8)), before, atol=1e-4)


@torch.no_grad()
def test_transformers_fails_the_same_test() -> None:
    """The reason for our own encoder: transformers masks after encoding, so the targets reach the prediction."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "crop_size": 32}
    sizes |= {"frames_per_clip": 8, "pred_hidden_size": 24, "pred_num_hidden_layers": 1, "pred_num_attention_heads": 2}
    theirs = VJEPA2Model(VJEPA2Config(**sizes)).eval()
    pixels = tiny_pixels("vjepa2").transpose(1, 2)
    context, target = torch.arange(32).repeat(2, 1), torch.arange(32, 64).repeat(2, 1)

    def predict() -> Tensor:
        return theirs(pixels, context_mask=[context], target_mask=[target]).predictor_output.last_hidden_state

    before = predict()
    pixels[:, 4:] = 50.0
    assert not torch.equal(predict(), before)
