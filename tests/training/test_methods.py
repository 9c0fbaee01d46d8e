"""Contract of every method with every family it trains: finite loss, gradients where they belong, a moving target."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from jepa_hub.masks import Masks
from jepa_hub.models.registry import model_class
from tests.official import predicting, tiny_config, tiny_model, tiny_pixels
from training.methods.base import Method
from training.methods.jepa import JEPA, JEPASettings
from training.methods.mae import MAE
from training.methods.paws import PAWS, PAWSSettings
from training.methods.registry import METHODS, method_class

PIXELS = ("mae", "pit")  # families that predict pixels
MASKED = [("mae" if family in PIXELS else "jepa", family) for family in predicting()]
PAIRS = [
    *MASKED,
    *((name, "paws") for name in ("paws", "suncet", "finetune")),
    *(("supervised", family) for family in ("pit", "ijepa", "vjepa2")),
    ("predictor_finetune", "iwm"),
    ("diffusion", "dit"),
    ("llip", "llip"),
]
CLASSES = {"label": "kind", "num_classes": 3}
NEEDED: dict[str, Any] = {  # settings without a default
    "finetune": CLASSES,
    "supervised": {**CLASSES, "mixup": 0.2, "cutmix": 1.0},
    "predictor_finetune": {"tasks": {"kind": 3}},
    "diffusion": {"label": "kind"},
}
MODEL: dict[str, dict[str, Any]] = {
    "suncet": {"prediction": False},
    "diffusion": {"num_classes": 3},
    "llip": {"tokenizer": "package:captions", "vocab_size": 59},
}


def masks_of(family: str, num_targets: int = 2) -> list[Masks]:
    t, h, w = tiny_config(family).base_grid
    order = torch.randperm(t * h * w, generator=torch.Generator().manual_seed(0))
    first = Masks(order[:6].repeat(2, 1), order[6 : 6 + 4 * num_targets].view(1, num_targets, 4).repeat(2, 1, 1))
    if tiny_config(family).num_mask_tokens == 1:
        return [first]
    return [first, Masks(first.context[:, :4], first.target[:, :1], 1)]


def method_of(name: str, family: str) -> Method:
    kind = method_class(name)
    method = kind(tiny_model(family, **MODEL.get(name, {})), kind.Settings(**NEEDED.get(name, {})))
    assert isinstance(method, Method)
    if name == "finetune":  # its last layer starts at zero and would let no gradient through
        torch.nn.init.normal_(method.model.classifier.fc2.weight)
    if name == "supervised":
        torch.nn.init.normal_(method.model.classifier.weight)
    return method.train()


def batch_of(name: str, family: str) -> dict[str, Any]:
    pixels = tiny_pixels(family)
    if method_class(name).needs_masks:
        return {"pixels": pixels, "masks": masks_of(family)}
    if name == "llip":
        ids = {"caption_ids": torch.tensor([1, 2]), "known_ids": torch.tensor([[1, 0], [2, 3]])}
        return {"pixels": pixels, "captions": ["a red cube", "a blue cone"], **ids}
    labels = torch.tensor([0, 1, 2] * 2)
    support: dict[str, Any] = {
        "pixels": tiny_pixels(family, batch=6, seed=2),
        "labels": labels,
        "classes": torch.arange(3),
    }
    support |= {"num_classes": 3, "label": "kind"}
    views = [pixels, tiny_pixels(family, seed=3), tiny_pixels(family, seed=4)[..., :16, :16]]
    return {"pixels": pixels, "views": views, "support": support, "labels": {"kind": torch.tensor([1, 2])}}


def test_every_method_is_tried() -> None:
    assert {name for name, _ in PAIRS} == set(METHODS)


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_one_step(name: str, family: str) -> None:
    method = method_of(name, family)
    metrics = method(batch_of(name, family))
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


@pytest.mark.parametrize(("name", "family"), MASKED)
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
    with pytest.raises(ValueError, match="trains the family paws, not IJepaModel"):
        PAWS(tiny_model("ijepa"), PAWSSettings())
    with pytest.raises(ValueError, match="lacks one of them"):
        JEPA(tiny_model("ijepa", networks=["encoder"]), JEPASettings())
