"""Diffusion: tell the noise in a noisy picture or latent. Source: arXiv:2212.09748; arXiv:2406.09415, sec. 4.3.

Noise, targets and schedules are those of diffusers' DDPMScheduler. Unlike the papers', the variance is not learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from jepa_hub.models.base import JEPAModel
from jepa_hub.models.dit import DiTModel
from jepa_hub.models.sampling import build_scheduler
from training.config import Settings as RunSettings
from training.data.source import Label
from training.methods.base import Method, MethodSettings
from training.methods.labelled import names_of
from training.methods.moving_average import update_average
from training.objectives import pixel_error


class DiffusionSettings(MethodSettings):
    """Settings of `Diffusion`.

    Attributes:
        label: of the source, a class that pictures can be asked for; null learns pictures alone.
        label_dropout: share of samples whose class is hidden, so that guidance has something to compare with.
        momentum: of the moving average that pictures are sampled from.
        autoencoder: diffusers' AutoencoderKL (Hub id or folder) whose latents are diffused; it stays as it is.
    """

    label: str | None = None
    label_dropout: float = Field(default=0.1, ge=0, lt=1)
    momentum: float = Field(default=0.9999, ge=0, lt=1)
    autoencoder: str | None = None


class Diffusion(Method):
    """A diffusion transformer, its moving average and, for latents, a frozen autoencoder."""

    Settings: ClassVar[type[MethodSettings]] = DiffusionSettings
    settings: DiffusionSettings
    needs_masks = False
    networks: ClassVar[tuple[str, ...]] = ("encoder", "target_encoder")
    model: DiTModel

    def __init__(self, model: JEPAModel, settings: DiffusionSettings) -> None:
        if not isinstance(model, DiTModel):
            raise ValueError(f"the method diffusion trains the family dit, not {type(model).__name__}: set model.name")
        if bool(settings.label) != bool(model.config.num_classes):
            raise ValueError("method.label and model.num_classes go together: give both, or neither")
        if bool(settings.autoencoder) != model.config.is_latent:
            raise ValueError("method.autoencoder and a model.latent_scale above 1 go together: give both, or neither")
        if model.target_encoder is None:
            model.copy_encoder_to_target()
        super().__init__(model, settings)
        self.schedule = build_scheduler(model.config)
        # In a list, so that it is no part of the method: neither trained nor wrapped nor written to checkpoints.
        self._autoencoder: list[nn.Module] = []
        assert model.target_encoder is not None  # made above
        model.target_encoder.requires_grad_(False)

    @classmethod
    def check(cls, settings: RunSettings) -> None:
        """Label and classes, autoencoder and latents go together."""
        own, model = settings.method.own, settings.model.own
        if bool(own.get("label")) != bool(model.get("num_classes")):
            raise ValueError("method.label and model.num_classes go together: give both, or neither")
        if bool(own.get("autoencoder")) != (model.get("latent_scale", 1) > 1):
            raise ValueError("method.autoencoder and a model.latent_scale above 1 go together: give both, or neither")

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Squared error of what the network says of noisy inputs at random times."""
        clean = self.clean(batch["pixels"])  # [B, C, h, w]
        noise = torch.randn_like(clean)
        times = torch.randint(self.model.config.num_train_timesteps, (len(clean),), device=clean.device)
        noisy = self.schedule.add_noise(clean, noise, times)
        said = self._network.denoise(noisy, times, self._classes(batch))
        kind = self.model.config.prediction_type
        if kind == "epsilon":
            target = noise
        elif kind == "sample":
            target = clean
        else:
            target = self.schedule.get_velocity(clean, noise, times)
        return {"loss": pixel_error(said, target)}

    @torch.no_grad()
    def clean(self, pixels: Tensor) -> Tensor:
        """What is diffused [B, C, h, w], of normalised pixels [B, 3, 1, H, W]."""
        if self.settings.autoencoder is None:
            return self._network.domain(pixels).squeeze(2)
        autoencoder = self.autoencoder(pixels.device)
        shown = _to_unit(pixels.squeeze(2)).to(next(autoencoder.parameters()).dtype)
        latents = autoencoder.encode(shown).latent_dist.sample() * autoencoder.config.scaling_factor
        size = self.model.config.image_size
        sides = (size, size) if isinstance(size, int) else tuple(size or ())
        expected = (self.model.config.num_channels, *sides)
        if tuple(latents.shape[1:]) != expected:
            raise ValueError(
                f"the autoencoder gives latents {tuple(latents.shape[1:])}, model.num_channels, image_size and "
                f"latent_scale say {expected}"
            )
        return latents.to(pixels.dtype)

    def autoencoder(self, device: torch.device) -> Any:
        """The frozen autoencoder, loaded when first used."""
        if not self._autoencoder:
            from diffusers import AutoencoderKL

            found = AutoencoderKL.from_pretrained(self.settings.autoencoder)
            self._autoencoder.append(found.requires_grad_(False).eval().to(device))
        return self._autoencoder[0]

    def _classes(self, batch: dict[str, Any]) -> Tensor | None:
        """Classes [B], hidden (the number after the last) for a share of the samples."""
        own = self.settings
        if own.label is None:
            return None
        classes = batch["labels"][own.label]
        hidden = torch.rand(len(classes), device=classes.device) < own.label_dropout
        return torch.where(hidden, self.model.config.num_classes, classes)

    def name_classes(self, labels: Mapping[str, Label]) -> None:
        """Pictures can be asked for by the names of the classes."""
        config = self.model.config
        if self.settings.label is not None:
            config.class_names = config.class_names or names_of(labels, self.settings.label, config.num_classes)

    def after_step(self, progress: float) -> None:
        """Move the average towards the network."""
        assert self.model.target_encoder is not None  # made in __init__
        update_average(self.model.target_encoder, self._network, self.settings.momentum)

    def features(self, pixels: Tensor) -> Tensor:
        """Tokens [B, N, D] of clean inputs."""
        if self.settings.autoencoder is None:
            return self.model.feature_encoder(pixels)
        return self.model.feature_encoder(self.clean(pixels).unsqueeze(2))

    def parts(self) -> dict[str, nn.Module]:
        """The network."""
        return {"encoder": self._network}

    @property
    def _network(self) -> Any:
        assert self.model.encoder is not None  # the method's networks
        return self.model.encoder


def _to_unit(pixels: Tensor) -> Tensor:
    """Normalised pixels [B, 3, H, W] as -1 .. 1."""
    from jepa_hub.processing import IMAGENET_MEAN, IMAGENET_STD

    mean, std = (
        torch.tensor(each, dtype=pixels.dtype, device=pixels.device).view(3, 1, 1)
        for each in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return (pixels * std + mean) * 2 - 1
