"""Contract of every method with every family it trains: finite loss, gradients where they belong, a moving target."""

from __future__ import annotations

import pytest
import torch

from jepa_hub.masks import Masks
from jepa_hub.models.registry import MODELS, model_class
from tests.official import tiny_config, tiny_model, tiny_pixels
from training.methods.base import Method
from training.methods.jepa import JEPA, JEPASettings
from training.methods.mae import MAE
from training.methods.registry import METHODS, method_class

PAIRS = [("jepa", family) for family in MODELS if family != "mae"] + [("mae", "mae")]


def masks_of(family: str, num_targets: int = 2) -> list[Masks]:
    t, h, w = tiny_config(family).base_grid
    order = torch.randperm(t * h * w, generator=torch.Generator().manual_seed(0))
    first = Masks(order[:6].repeat(2, 1), order[6 : 6 + 4 * num_targets].view(1, num_targets, 4).repeat(2, 1, 1))
    if tiny_config(family).num_mask_tokens == 1:
        return [first]
    return [first, Masks(first.context[:, :4], first.target[:, :1], 1)]


def method_of(name: str, family: str) -> Method:
    kind = method_class(name)
    method = kind(tiny_model(family), kind.Settings())
    assert isinstance(method, Method)
    return method.train()


def test_every_method_is_tried() -> None:
    assert {name for name, _ in PAIRS} == set(METHODS)


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_one_step(name: str, family: str) -> None:
    method = method_of(name, family)
    metrics = method({"pixels": tiny_pixels(family), "masks": masks_of(family)})
    metrics["loss"].backward()
    assert metrics["loss"].isfinite() and all(value.ndim == 0 for value in metrics.values())
    for parameter_name, parameter in method.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, parameter_name
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, parameter_name
    assert sum(1 for part in method.parts().values() for _ in part.parameters()) >= sum(
        parameter.requires_grad for parameter in method.parameters()
    )


@pytest.mark.parametrize("family", [family for name, family in PAIRS if name == "jepa"])
def test_the_target_is_frozen_a_real_copy_and_follows(family: str) -> None:
    model = model_class(family)(tiny_config(family, networks=["encoder", "predictor"]))
    method = JEPA(model, JEPASettings(momentum=(0.5, 1.0)))
    encoder, target = dict(model.encoder.named_parameters()), dict(method.target_encoder.named_parameters())
    assert all(torch.equal(encoder[name], target[name]) for name in encoder)
    assert not {id(each) for each in encoder.values()} & {id(each) for each in target.values()}
    assert not any(each.requires_grad for each in target.values())
    with torch.no_grad():
        for each in encoder.values():
            each.add_(1)
    method.after_step(0.0)
    weight = "blocks.0.mlp.fc2.weight"
    assert torch.allclose(encoder[weight] - target[weight], torch.full_like(target[weight], 0.5), atol=1e-6)
    method.after_step(1.0)
    assert torch.allclose(encoder[weight] - target[weight], torch.full_like(target[weight], 0.5), atol=1e-6)


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_the_loss_of_a_batch_is_the_mean_over_its_samples(name: str, family: str) -> None:
    method = method_of(name, family).eval()
    pixels, masks = tiny_pixels(family), masks_of(family)
    whole = method({"pixels": pixels, "masks": masks})["loss"]
    each = [
        method(
            {
                "pixels": pixels[row : row + 1],
                "masks": [Masks(m.context[row : row + 1], m.target[row : row + 1], m.group) for m in masks],
            }
        )["loss"]
        for row in range(2)
    ]
    assert torch.allclose(whole, torch.stack(each).mean(), atol=1e-6)


def test_a_model_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="trains the family mae, not IJepaModel"):
        MAE(tiny_model("ijepa"), MAE.Settings())
    with pytest.raises(ValueError, match="lacks one of them"):
        JEPA(tiny_model("ijepa", networks=["encoder"]), JEPASettings())
