"""Diffusion transformers: adaLN-zero, patches put back, classes, guidance, schedulers, latents. 8 seconds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from jepa_hub.models import sampling
from jepa_hub.models.base import JEPAModel
from jepa_hub.models.dit import DiTConfig, DiTModel
from jepa_hub.nn.dit import sincos_of_times
from jepa_hub.processing import IMAGENET_MEAN, IMAGENET_STD
from tests.official import tiny_config, tiny_model

NAMES = ["a", "b", "c"]


def tiny(seed: int = 0, **settings: Any) -> DiTModel:
    """A random model in which every gate is open."""
    own = {"image_size": 8, "patch_size": 2, "num_classes": 3, "class_names": NAMES, **settings}
    model = tiny_model("dit", seed=seed, **own)
    assert isinstance(model, DiTModel)
    return model


def autoencoder() -> Any:
    """A random AutoencoderKL that makes 4 channels of 4 x 4 of 16 x 16 pixels."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    made: Any = AutoencoderKL(
        block_out_channels=(8, 8, 8), latent_channels=4, norm_num_groups=4, sample_size=16, scaling_factor=0.5, **blocks
    )
    return made.eval()


@torch.no_grad()
def test_a_fresh_network_says_nothing_whatever_it_is_shown() -> None:
    """adaLN-zero: every block is the identity and the output 0."""
    torch.manual_seed(0)
    model = DiTModel(tiny_config("dit", image_size=8, patch_size=2, num_classes=3))
    assert model.encoder is not None
    noisy, times = torch.randn(2, 3, 8, 8), torch.tensor([3, 700])
    assert model.encoder.denoise(noisy, times, torch.tensor([0, 3])).abs().max() == 0
    tokens, _ = model.encoder.embed(noisy.unsqueeze(2))
    block = model.encoder.blocks[0]
    assert torch.equal(block(tokens, model.encoder.condition(times, None)), tokens)


@torch.no_grad()
def test_time_and_class_matter_and_no_class_is_the_last_one() -> None:
    network: Any = tiny().feature_encoder
    noisy, times = torch.randn(2, 3, 8, 8), torch.tensor([3, 700])
    said = network.denoise(noisy, times)
    assert said.shape == noisy.shape and torch.equal(said, network.denoise(noisy, times, torch.tensor([3, 3])))
    assert not torch.allclose(said, network.denoise(noisy, times, torch.tensor([0, 1])), atol=1e-4)
    assert not torch.allclose(said, network.denoise(noisy, times.flip(0)), atol=1e-4)


def test_times_are_told_apart() -> None:
    found = sincos_of_times(torch.tensor([0, 1, 999]), 8)
    assert torch.equal(found[0], torch.tensor([1.0] * 4 + [0.0] * 4))
    assert found[1, 0].item() == pytest.approx(torch.tensor(1.0).cos().item()) and found[1, 3] > 0.9999
    assert found[2, 7].item() == pytest.approx(torch.tensor(0.999 * 10000**0.25 / 10).sin().item(), rel=1e-3)


def test_patches_are_put_back_where_they_were() -> None:
    network: Any = tiny(patch_size=2).feature_encoder
    pictures = torch.randn(2, 3, 8, 12)
    clip = pictures.unsqueeze(2)
    patches = network.patch_embed.patches(clip)
    assert torch.equal(network.unpatchify(patches, network.grid(clip)), pictures)


def test_normalised_pixels_become_minus_one_to_one_and_come_back() -> None:
    network: Any = tiny().feature_encoder
    unit = torch.rand(2, 3, 1, 8, 8)
    mean, std = (torch.tensor(each).view(3, 1, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    found = network.domain((unit - mean) / std)
    assert torch.allclose(found, 2 * unit - 1, atol=1e-6)
    assert torch.allclose(network.pixels(found), (unit - mean) / std, atol=1e-5)


@torch.no_grad()
def test_features_are_those_of_a_clean_picture() -> None:
    model, pixels = tiny(num_hidden_layers=3), torch.randn(2, 3, 8, 8)
    features = model.encode(pixels, layers=[0, -1])
    assert features.grid_size == (1, 4, 4) and torch.allclose(features.layers[-1], features.tokens, atol=1e-6)
    network = model.feature_encoder
    assert network is model.target_encoder
    x, _ = network.embed(network.domain(pixels.unsqueeze(2)))
    assert torch.allclose(
        features.layers[0], network.norm(network.blocks[0](x, network.condition(torch.zeros(2), None)))
    )
    with pytest.raises(ValueError, match=r"blocks 0 \.\. 2"):
        model.encode(pixels, layers=[3])


@pytest.mark.parametrize("scheduler", sampling.SCHEDULERS)
def test_sampling_is_a_function_of_the_seed_and_the_number(scheduler: str) -> None:
    model = tiny(image_size=4)
    settings: dict[str, Any] = {"steps": 4, "scheduler": scheduler, "progress": False}
    together = model.sample([0, 1, 2], seed=5, **settings)
    assert together.shape == (3, 3, 4, 4) and together.min() >= 0 and together.max() <= 1
    assert torch.allclose(model.sample(["a", "b", "c"], seed=5, batch_size=2, **settings), together, atol=1e-5)
    assert not torch.allclose(model.sample([0, 1, 2], seed=6, **settings), together, atol=1e-3)
    if scheduler != "dpm":  # which clips nothing: a random network drives all values to 0 or 1
        assert not torch.allclose(model.sample([1, 2, 0], seed=5, **settings), together, atol=1e-3)
    assert model.sample(count=2, **settings).shape == (2, 3, 4, 4)
    assert not model.training


def test_training_mode_is_kept() -> None:
    model = tiny(image_size=4).train()
    model.sample(count=1, steps=1, progress=False)
    assert model.training


@torch.no_grad()
def test_guidance_goes_from_any_class_past_the_one_asked_for() -> None:
    model = tiny(image_size=4)
    network: Any = model.feature_encoder
    noisy, classes = torch.randn(2, 3, 4, 4), torch.tensor([0, 2])
    time, times = torch.tensor(500), torch.full((2,), 500.0)
    asked, free = network.denoise(noisy, times, classes), network.denoise(noisy, times)
    for guidance in (0.0, 1.0, 3.0):
        found = sampling._guided(network, noisy, time, classes, guidance)
        assert torch.allclose(found, free + guidance * (asked - free), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_strong_guidance_goes_to_what_is_asked_for_along_one_noise(kind: str) -> None:
    """A class that is white in the left half; guidance drives it to 1.8, which is clipped, and only there."""
    model = tiny(image_size=4, prediction_type=kind)
    schedule = sampling.build_scheduler(model.config)
    free = torch.zeros(1, 3, 4, 4)
    asked = free.clone()
    asked[..., :2] = 0.6
    goal = (asked / 0.6)[0]
    noises = []

    def denoise(noisy: Tensor, times: Tensor, classes: Tensor | None = None) -> Tensor:
        assert classes is not None
        clean = torch.where((classes == 3).view(-1, 1, 1, 1), free, asked)
        kept = schedule.alphas_cumprod[times.long()].view(-1, 1, 1, 1)
        noise = (noisy - kept.sqrt() * clean) / (1 - kept).sqrt()
        noises.append((noisy[0] - kept[0].sqrt() * goal) / (1 - kept[0]).sqrt())
        return {"epsilon": noise, "sample": clean, "v_prediction": kept.sqrt() * noise - (1 - kept).sqrt() * clean}[
            kind
        ]

    network: Any = model.feature_encoder
    network.denoise = denoise
    found = model.sample([0], steps=20, guidance=3.0, progress=False)
    assert torch.allclose(found[0], goal / 2 + 0.5, atol=0.02)
    assert all(torch.allclose(each, noises[0], atol=0.05) for each in noises)  # nothing is added on the way


@torch.no_grad()
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_network_that_knows_the_answer_is_followed_to_it(kind: str) -> None:
    """Whatever the network is asked to say: with the true answer, 20 steps of DDIM end at the picture."""
    model = tiny(image_size=4, prediction_type=kind)
    clean = torch.rand(1, 3, 4, 4) * 2 - 1
    schedule = sampling.build_scheduler(model.config)

    def denoise(noisy: Tensor, times: Tensor, classes: Tensor | None = None) -> Tensor:
        kept = schedule.alphas_cumprod[times.long()].view(-1, 1, 1, 1)
        noise = (noisy - kept.sqrt() * clean) / (1 - kept).sqrt()
        return {"epsilon": noise, "sample": clean, "v_prediction": kept.sqrt() * noise - (1 - kept).sqrt() * clean}[
            kind
        ]

    network: Any = model.feature_encoder
    network.denoise = denoise
    found = model.sample(count=1, steps=20, progress=False)
    assert torch.allclose(found, clean / 2 + 0.5, atol=0.02)


@torch.no_grad()
def test_latents_are_decoded_by_the_autoencoder_that_the_user_brings() -> None:
    model = tiny(image_size=4, num_channels=4, latent_scale=4, patch_size=1)
    assert model.config.view_size == 16
    found = model.sample([0, 1], steps=2, autoencoder=autoencoder(), progress=False)
    assert found.shape == (2, 3, 16, 16)
    latents = torch.randn(1, 4, 4, 4)
    expected = autoencoder().decode(latents / 0.5).sample
    assert torch.allclose(model.to_pixels(latents, autoencoder()), (expected / 2 + 0.5).clamp(0, 1), atol=1e-5)
    with pytest.raises(ValueError, match=r"pass autoencoder=diffusers.AutoencoderKL"):
        model.sample([0], steps=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": [0], "count": 1}, "give the labels"),
        ({}, "give the labels"),
        ({"labels": [3]}, "labels are 0 .. 2 or a, b, c, not 3"),
        ({"labels": ["d"]}, "not d"),
        ({"labels": []}, "not none"),
        ({"count": 1, "guidance": 2.0}, "guidance needs labels"),
        ({"count": 1, "steps": 0}, r"steps are 1 \.\. 1000"),
        ({"count": 0}, "1 or more"),
        ({"count": 1, "scheduler": "euler"}, "scheduler is one of ddpm, ddim, dpm"),
    ],
)
def test_what_cannot_be_sampled(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(image_size=4).sample(**settings)


def test_a_model_without_classes_and_predictions_are_refused() -> None:
    with pytest.raises(ValueError, match="trained without classes"):
        tiny(num_classes=0, class_names=[]).sample([0])
    with pytest.raises(ValueError, match="sample\\(labels\\) makes pictures"):
        tiny().predict(torch.zeros(1, 3, 8, 8))


def test_without_diffusers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r'pip install "jepa-hub\[train\]"'):
        tiny(image_size=4).sample(count=1)


def test_diffusers_needs_no_torchvision() -> None:
    from importlib.util import find_spec

    from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

    assert all((AutoencoderKL, DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler))
    assert find_spec("torchvision") is None and "torchvision" not in sys.modules


def test_save_and_load(tmp_path: Path) -> None:
    model = tiny(image_size=4)
    model.save_pretrained(tmp_path)
    again = JEPAModel.from_pretrained(tmp_path)
    assert isinstance(again, DiTModel)
    settings: dict[str, Any] = {"steps": 2, "progress": False}
    assert torch.allclose(again.sample(["c"], **settings), model.sample([2], **settings), atol=1e-5)
    only = JEPAModel.from_pretrained(tmp_path, networks=("target_encoder",))
    assert torch.allclose(only.sample([2], **settings), model.sample([2], **settings), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prediction_type": "noise"}, "prediction_type is one of"),
        ({"num_channels": 4}, "pixels have 3 channels"),
        ({"hidden_act": "swiglu"}, "hidden_act='gelu'"),
        ({"networks": ["encoder", "predictor"]}, "no predictor"),
        ({"num_classes": 2, "class_names": ["a"]}, "1 class_names for 2 classes"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiTConfig(**settings)
