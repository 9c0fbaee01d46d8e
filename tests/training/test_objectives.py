"""Objectives against plain formulas and, for the latent distance, against what the official code computed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from jepa_hub.masks import Masks
from jepa_hub.models.base import JEPAModel
from tests.official import golden, tiny_model, write_official
from training.methods.jepa import JEPA, JEPASettings
from training.objectives import channel_std, latent_distance, mean_cosine, pixel_error, rank_me


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_distances_are_their_formulas() -> None:
    predicted, target = rows(2, 3, 5), rows(2, 3, 5, seed=1)
    gap = (predicted - target).abs()
    assert torch.isclose(latent_distance(predicted, target, "l1"), gap.mean())
    assert torch.isclose(latent_distance(predicted, target, "l2"), gap.square().mean() / 2)
    smooth = torch.where(gap < 1, gap.square() / 2, gap - 0.5).mean()
    assert torch.isclose(latent_distance(predicted, target, "smooth_l1"), smooth)
    assert torch.isclose(pixel_error(predicted, target), gap.square().mean())


def test_no_gradient_reaches_targets() -> None:
    predicted, target = rows(4, 5).requires_grad_(), rows(4, 5, seed=1).requires_grad_()
    latent_distance(predicted, target).backward()
    assert predicted.grad is not None and target.grad is None


@pytest.mark.parametrize("objective", [latent_distance, pixel_error])
def test_shapes_that_would_broadcast_are_refused(objective: Any) -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 5\) and target \(1, 3, 5\) differ"):
        objective(rows(2, 3, 5), rows(1, 3, 5))
    with pytest.raises(ValueError, match="one of l1, l2, smooth_l1, not 'l3'"):
        latent_distance(rows(2, 5), rows(2, 5), "l3")


def test_half_precision_is_compared_in_float32() -> None:
    predicted, target = rows(64, 64).bfloat16(), rows(64, 64, seed=1)
    assert latent_distance(predicted, target).dtype == torch.float32
    assert latent_distance(predicted.double(), target.double()).dtype == torch.float64


def test_rank_of_known_spectra() -> None:
    assert rank_me(torch.eye(8)) == pytest.approx(8, rel=1e-4)
    line = rows(50, 1) @ rows(1, 8, seed=1)
    assert rank_me(line) == pytest.approx(1, abs=1e-3)
    two = torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0]))
    assert rank_me(two) == pytest.approx(2, rel=1e-4)
    weights = torch.tensor([0.75, 0.25])
    assert rank_me(torch.diag(weights)) == pytest.approx(math.exp(-(weights * weights.log()).sum()), rel=1e-4)


def test_collapse_measures() -> None:
    assert channel_std(torch.ones(4, 6, 8)) == 0
    features = rows(4, 6, 8)
    assert torch.isclose(channel_std(features), features.flatten(0, 1).std(dim=0).mean())
    assert mean_cosine(features, -features) == pytest.approx(-1, abs=1e-6)


@pytest.mark.parametrize(("name", "distance"), [("ijepa_tiny_p16", "smooth_l1"), ("vjepa_tiny_p16", "l1")])
def test_the_method_computes_the_official_loss(name: str, distance: Any, tmp_path: Path) -> None:
    _, known = golden(name)
    family = "ijepa" if name.startswith("ijepa") else "vjepa"
    model = JEPAModel.from_pretrained(write_official(tmp_path / "official.pth.tar", name), family=family)
    if family == "ijepa":
        pixels = known["pixel_values"][:, :, None]  # [B, 3, 1, H, W]
        masks = [Masks(known["context_indices"], known["target_indices"].transpose(0, 1).contiguous())]
    else:
        pixels = known["pixel_values_videos"]
        masks = [
            Masks(known[f"context_indices_{group}"], known[f"target_indices_{group}"][:, None], group)
            for group in (0, 1)
        ]
    method = JEPA(model, JEPASettings(distance=distance))
    assert float(method({"pixels": pixels, "masks": masks})["loss"].detach()) == pytest.approx(
        float(known["loss"]), abs=1e-5
    )


def test_targets_are_standardised_once() -> None:
    model = tiny_model("ijepa")
    pixels = rows(2, 3, 1, 32, 32)
    tokens = model.target_encoder(pixels)
    assert torch.allclose(model.prediction_targets(pixels), F.layer_norm(tokens, tokens.shape[-1:]), atol=1e-6)
    pixel_model = tiny_model("mae")
    patches = pixel_model.encoder.patch_embed.patches(pixels)
    plain = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    assert torch.allclose(pixel_model.prediction_targets(pixels), plain, atol=1e-5)
