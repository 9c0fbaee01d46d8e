"""The method diffusion, and scores of made pictures. 12 seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from jepa_hub.models.base import JEPAModel
from jepa_hub.models.dit import DiTModel
from tests.models.test_dit import autoencoder
from tests.official import tiny_model
from training import build, generation
from training.config import Settings
from training.loop import Run
from training.methods.diffusion import Diffusion, DiffusionSettings
from training.recipe import RecipeError, check_settings

DIT: dict[str, Any] = {
    "model__name": "dit",
    "model__image_size": 8,
    "model__patch_size": 2,
    "model__num_classes": 10,
    "method": {"name": "diffusion", "label": "digit", "momentum": 0.9},
    "masks": None,
    "data": {"source": {"name": "digits", "size": 8}, "views": {"crop_scale": None}, "batch_size": 32},
}


def method_of(settings: dict[str, Any] | None = None, **model: Any) -> Diffusion:
    model = {"image_size": 8, "patch_size": 2, **model}
    return Diffusion(tiny_model("dit", **model), DiffusionSettings(**(settings or {})))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_target_is_what_the_network_is_asked_for(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the schedule's own formulas, written out: sqrt(a) x + sqrt(1 - a) e and so on."""
    method = method_of(prediction_type=kind)
    seen: dict[str, Tensor] = {}

    def denoise(noisy: Tensor, times: Tensor, classes: Tensor | None = None) -> Tensor:
        seen.update(noisy=noisy, times=times)
        return torch.zeros_like(noisy)

    assert method.model.encoder is not None
    monkeypatch.setattr(method.model.encoder, "denoise", denoise)
    pixels = torch.randn(6, 3, 1, 8, 8)
    loss = method({"pixels": pixels, "labels": {}})["loss"]
    clean = method.model.encoder.domain(pixels).squeeze(2)
    betas = torch.linspace(1e-4, 0.02, 1000)
    kept = (1 - betas).cumprod(0)[seen["times"]].view(-1, 1, 1, 1)
    noise = (seen["noisy"] - kept.sqrt() * clean) / (1 - kept).sqrt()
    target = {"epsilon": noise, "sample": clean, "v_prediction": kept.sqrt() * noise - (1 - kept).sqrt() * clean}[kind]
    assert loss.item() == pytest.approx(target.square().mean().item(), rel=1e-4)
    if kind == "epsilon":
        assert 0.8 < noise.std() < 1.2


def test_classes_are_hidden_for_a_share_of_the_samples() -> None:
    method = method_of({"label": "kind", "label_dropout": 0.25}, num_classes=3)
    torch.manual_seed(0)
    found = method._classes({"labels": {"kind": torch.ones(4000, dtype=torch.int64)}})
    assert found is not None and set(found.tolist()) == {1, 3}
    assert (found == 3).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert method_of()._classes({"labels": {}}) is None


def test_latents_of_a_random_autoencoder(tmp_path: Path) -> None:
    """The seam for latents: encoded and scaled by the autoencoder, which is trained by nothing and written nowhere."""
    autoencoder().save_pretrained(tmp_path)
    latent = {"image_size": 4, "num_channels": 4, "latent_scale": 4, "patch_size": 1}
    method = method_of({"autoencoder": str(tmp_path)}, **latent)
    unit = torch.rand(3, 3, 1, 16, 16)
    pixels = generation.normalised(unit.squeeze(2)).unsqueeze(2)
    theirs = autoencoder()
    method.autoencoder(pixels.device)  # loaded before anything is drawn
    torch.manual_seed(0)
    found = method.clean(pixels)
    torch.manual_seed(0)
    expected = theirs.encode(2 * unit.squeeze(2) - 1).latent_dist.sample() * 0.5
    assert torch.allclose(found, expected, atol=1e-5)
    metrics = method({"pixels": pixels, "labels": {}})
    metrics["loss"].backward()
    assert metrics["loss"].isfinite() and method.features(pixels).shape == (3, 16, 48)
    assert not [name for name in method.state_dict() if "autoencoder" in name]
    assert not any(each.requires_grad for each in method.autoencoder(pixels.device).parameters())
    wrong = method_of({"autoencoder": str(tmp_path)}, **{**latent, "image_size": 8})
    with pytest.raises(ValueError, match=r"gives latents \(4, 4, 4\), .* say \(4, 8, 8\)"):
        wrong.clean(pixels)


def test_a_run_learns_and_its_average_is_what_is_sampled(settings_of: Callable[..., Settings]) -> None:
    settings = settings_of(**DIT, optim__lr=3e-3, run__steps=120, run__log_every=20, run__save_every=120)
    final = Run(settings).train()
    log = [json.loads(line) for line in (final.parent / "log.jsonl").read_text().splitlines()]
    assert log[-1]["loss"] < 0.6 * log[0]["loss"]
    model = JEPAModel.from_pretrained(final)
    assert isinstance(model, DiTModel) and list(model.config.networks) == ["encoder", "target_encoder"]
    assert model.encoder is not None and model.target_encoder is not None
    pairs = zip(model.encoder.parameters(), model.target_encoder.parameters(), strict=True)
    assert any(not torch.equal(one, two) for one, two in pairs)
    pictures = model.sample(["zero", 1], steps=5, progress=False)  # by the names of the source
    # digits have no colour, although nothing in the network knows so; noise has 0.29
    assert pictures.shape == (2, 3, 8, 8) and pictures.std(dim=1).mean() < 0.15


def test_views_are_as_large_as_the_autoencoder_needs() -> None:
    config = tiny_model("dit", image_size=32, num_channels=4, latent_scale=8).config
    assert build.view_size(config) == (256, 256)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__num_classes": 0}, "method.label and model.num_classes go together"),
        ({"method": {"name": "diffusion"}}, "method.label and model.num_classes go together"),
        ({"method": {"name": "diffusion", "label": "digit", "autoencoder": "here"}}, "method.autoencoder and"),
        ({"model__latent_scale": 8, "model__num_channels": 4}, "method.autoencoder and"),
    ],
)
def test_wrong_recipes(changes: dict[str, Any], message: str) -> None:
    from tests.training.patterns import recipe

    with pytest.raises(RecipeError, match=message):
        check_settings(recipe("unused", **{**DIT, **changes}), "test")
    with pytest.raises(ValueError, match="trains the family dit, not IJepaModel"):
        Diffusion(tiny_model("ijepa"), DiffusionSettings())


# ------------------------------------------------------------------------------------------------------------ scoring


def test_frechet_distance_is_that_of_two_gaussians() -> None:
    rng = np.random.default_rng(0)
    first = rng.standard_normal((400, 6)) @ rng.standard_normal((6, 6)) + 1
    second = rng.standard_normal((300, 6)) @ rng.standard_normal((6, 6))
    covariances = [np.cov(each, rowvar=False) for each in (first, second)]
    expected = ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(
        sum(covariances) - 2 * sqrtm(covariances[0] @ covariances[1]).real
    )
    one, two = torch.from_numpy(first), torch.from_numpy(second)
    assert generation.frechet_distance(one, two) == pytest.approx(expected, rel=1e-6)
    assert generation.frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    assert generation.frechet_distance(one, one + 2) == pytest.approx(6 * 4)
    few = torch.randn(3, 6)  # fewer samples than features: a singular covariance
    assert generation.frechet_distance(few, few) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="two and more"):
        generation.frechet_distance(one, two[:1])


def test_agreement_counts_the_labels_that_the_judge_sees() -> None:
    judge = tiny_model("pit", image_size=8, patch_size=2, num_classes=3)
    pictures = torch.rand(12, 3, 8, 8)
    features, seen = generation.judged(judge, pictures, batch_size=5)
    with torch.no_grad():
        assert torch.allclose(features, judge.pooled(generation.normalised(pictures)), atol=1e-5)
    real = torch.randn(30, 48)
    assert generation.score(judge, pictures, seen, real)["agreement"] == 100
    wrong = torch.cat([seen[:9], (seen[9:] + 1) % 3])
    assert generation.score(judge, pictures, wrong, real)["agreement"] == pytest.approx(75)
    assert set(generation.score(judge, pictures, None, real)) == {"frechet"}
    with pytest.raises(ValueError, match="no classifier"):
        generation.judged(tiny_model("pit"), pictures)


def test_the_command_line_scores_a_run_and_draws_it(
    settings_of: Callable[..., Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    short = {"run__steps": 2, "optim__warmup_steps": 0}
    made = Run(settings_of(out=tmp_path / "made", **DIT, **short)).train().parent
    own = {"name": "supervised", "label": "digit", "num_classes": 10}
    judge: dict[str, Any] = {**DIT, "model__name": "pit", "method": own}
    judges = Run(settings_of(out=tmp_path / "judge", **judge, **short)).train().parent
    picture = tmp_path / "grid.png"
    arguments = [str(made), "--judge", str(judges), "--per-class", "2", "--steps", "2", "--picture", str(picture)]
    generation.main(arguments)
    found = json.loads(capsys.readouterr().out.splitlines()[0])
    assert found["pictures"] == 20 and 0 <= found["agreement"] <= 100 and found["frechet"] > 0
    assert Image.open(picture).size == (2 * (8 * 6 + 2) - 2, 10 * (8 * 6 + 2) - 2)
