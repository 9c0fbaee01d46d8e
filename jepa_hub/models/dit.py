"""DiT: transformers that make pictures out of noise, with a token per pixel or latent. Source: arXiv:2212.09748.

Pixel transformers (arXiv:2406.09415, sec. 4.3) are these with patch size 1. The target encoder is the moving average
that pictures are sampled from. Unlike the paper's, the variance is not learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import initialization as init

from jepa_hub.models import sampling
from jepa_hub.models.base import build_positions
from jepa_hub.models.config import JEPAConfig
from jepa_hub.models.encoder_only import EncoderOnlyModel
from jepa_hub.nn.dit import DiTEncoder, ModulatedBlock
from jepa_hub.nn.patchify import PatchEmbed
from jepa_hub.nn.positions import LearnedPositions
from jepa_hub.processing import IMAGENET_MEAN, IMAGENET_STD

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")


@strict
class DiTConfig(JEPAConfig):
    """A diffusion transformer over pixels, or over the latents of an autoencoder.

    Args:
        image_size, num_channels: of what is diffused: 3 channels of pixels, or the latents' size and channels.
        latent_scale: pixels per latent along a side; 1 diffuses pixels.
        num_classes: that can be asked for; 0 makes pictures of no class.
        class_names: of those classes, in order.
        embedding_std, position_std: as of `PiTConfig`.
        prediction_type: what the network gives: "epsilon" (the noise), "v_prediction" or "sample".
        beta_schedule, beta_start, beta_end, num_train_timesteps: of the noise, as diffusers' schedulers take them.
    """

    model_type = "jepa_hub_dit"

    patch_size: int = 1
    image_size: int | list[int] | tuple[int, int] | None = 32
    position_type: str = "learned"
    latent_scale: int = 1
    num_classes: int = 0
    class_names: list[str] | tuple[str, ...] = ()
    embedding_std: float = 0.5
    position_std: float | None = None
    prediction_type: str = "epsilon"
    beta_schedule: str = "linear"
    beta_start: float = 1e-4
    beta_end: float = 0.02
    num_train_timesteps: int = 1000
    networks: list[str] | tuple[str, ...] = ("encoder", "target_encoder")

    @property
    def view_size(self) -> int | list[int] | tuple[int, int] | None:
        """Pixels of the pictures, whatever is diffused."""
        if self.image_size is None:
            return None
        if isinstance(self.image_size, int):
            return self.image_size * self.latent_scale
        return [side * self.latent_scale for side in self.image_size]

    @property
    def is_latent(self) -> bool:
        """Whether latents of an autoencoder are diffused."""
        return self.latent_scale > 1

    def _check(self) -> None:
        super()._check()
        self.class_names = list(self.class_names)  # as they are read from files
        if self.prediction_type not in PREDICTION_TYPES or self.beta_schedule not in BETA_SCHEDULES:
            raise ValueError(
                f"prediction_type is one of {', '.join(PREDICTION_TYPES)} and beta_schedule one of "
                f"{', '.join(BETA_SCHEDULES)}, not {self.prediction_type!r} and {self.beta_schedule!r}"
            )
        if self.hidden_act != "gelu" or self.tubelet_size != 1 or self.num_frames != 1:
            raise ValueError("a diffusion transformer makes still pictures, with hidden_act='gelu'")
        if not self.is_latent and self.num_channels != 3:
            raise ValueError(f"pixels have 3 channels, not {self.num_channels}; latents need latent_scale above 1")
        if "predictor" in self.networks:
            raise ValueError("a diffusion transformer has no predictor: networks are encoder and target_encoder")
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ValueError(f"{len(self.class_names)} class_names for {self.num_classes} classes")


class DiTModel(EncoderOnlyModel):
    """A diffusion transformer: `sample` makes pictures; `encode` gives tokens of clean ones."""

    networks = ("encoder", "target_encoder")
    refusal = "a diffusion transformer predicts no tokens: sample(labels) makes pictures"
    card_examples: ClassVar[Mapping[str, str]] = {
        "sample": "pictures = model.sample(count=4)  # [4, 3, H, W], 0 to 1; of classes: model.sample([0, 1])",
    }
    config_class = DiTConfig
    config: DiTConfig
    encoder: DiTEncoder | None
    target_encoder: DiTEncoder | None
    _no_split_modules = ["ModulatedBlock"]  # noqa: RUF012 - as in the base class

    @staticmethod
    def build_encoder(config: JEPAConfig) -> DiTEncoder:
        """The network of `config`, uninitialised."""
        assert isinstance(config, DiTConfig)
        patch_embed = PatchEmbed(config.hidden_size, patch_size=config.patch_size, num_channels=config.num_channels)
        pixels = not config.is_latent
        return DiTEncoder(
            config.encoder_spec,
            config.num_hidden_layers,
            patch_embed,
            build_positions(config, config.hidden_size, config.encoder_spec.head_dim),
            num_classes=config.num_classes,
            # normalised pixels n stand for n * std + mean in 0 .. 1, which is 2 * (n * std + mean) - 1 in -1 .. 1
            factor=[2 * std for std in IMAGENET_STD] if pixels else [1.0] * config.num_channels,
            offset=[2 * mean - 1 for mean in IMAGENET_MEAN] if pixels else [0.0] * config.num_channels,
        )

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.LayerNorm) and module.weight is None:
            return
        super()._init_weights(module)
        std = self.config.embedding_std
        if isinstance(module, PatchEmbed):
            init.normal_(module.proj.weight, std=std * module.proj.in_features**-0.5)
        elif isinstance(module, LearnedPositions):
            init.normal_(module.table, std=self.config.position_std or std)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=std)  # at the scale of the time steps' embedding, not a hundredth of it
        elif isinstance(module, (ModulatedBlock, DiTEncoder)):  # adaLN-zero: every block starts as the identity
            layers = [module.modulation, module.output] if isinstance(module, DiTEncoder) else [module.modulation]
            for layer in layers:
                init.zeros_(layer.weight)
                init.zeros_(layer.bias)

    def sample(
        self,
        labels: Sequence[int | str] | Tensor | None = None,
        *,
        count: int | None = None,
        steps: int = 50,
        guidance: float = 1.0,
        scheduler: str = "ddim",
        seed: int = 0,
        batch_size: int = 64,
        autoencoder: Any = None,
        progress: bool = True,
    ) -> Tensor:
        """Pictures [B, 3, H, W], 0 to 1, made out of noise; see `jepa_hub.models.sampling.sample`."""
        return sampling.sample(
            self,
            labels,
            count=count,
            steps=steps,
            guidance=guidance,
            scheduler=scheduler,
            seed=seed,
            batch_size=batch_size,
            autoencoder=autoencoder,
            progress=progress,
        )

    def to_pixels(self, found: Tensor, autoencoder: Any = None) -> Tensor:
        """Pictures [B, 3, H, W], 0 to 1, of what was diffused [B, C, h, w].

        Raises:
            ValueError: latents without an autoencoder.
        """
        if self.config.is_latent:
            if autoencoder is None:
                raise ValueError(
                    "this model makes latents: pass autoencoder=diffusers.AutoencoderKL.from_pretrained(...)"
                )
            latents = found / autoencoder.config.scaling_factor
            found = autoencoder.decode(latents.to(autoencoder.dtype)).sample.float()
        return (found / 2 + 0.5).clamp(0, 1)

    def class_numbers(self, labels: Sequence[int | str] | Tensor) -> Tensor:
        """Numbers int64 [B] of classes given by number or name.

        Raises:
            ValueError: the model has no classes, or there is no such class.
        """
        if not self.config.num_classes:
            raise ValueError("this model was trained without classes: give count= instead of labels")
        names: Mapping[str, int] = {name: index for index, name in enumerate(self.config.class_names)}
        given = labels.tolist() if isinstance(labels, Tensor) else list(labels)
        numbers = [names.get(label, -1) if isinstance(label, str) else int(label) for label in given]
        wrong = [
            label for label, number in zip(given, numbers, strict=True) if not 0 <= number < self.config.num_classes
        ]
        if wrong or not given:
            raise ValueError(
                f"labels are 0 .. {self.config.num_classes - 1}"
                + (f" or {', '.join(self.config.class_names)}" if names else "")
                + f", not {', '.join(map(str, wrong[:5])) or 'none'}"
            )
        return torch.tensor(numbers)
