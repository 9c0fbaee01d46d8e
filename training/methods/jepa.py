"""JEPA: predict the target encoder's tokens at masked positions from the visible ones.

One method for I-JEPA, V-JEPA, V-JEPA 2 and the families that change only what the predictor is told.
Source: arXiv:2301.08243, sec. 3; arXiv:2404.08471, sec. 3; arXiv:2506.09985, sec. 2.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from jepa_hub.masks import Masks, gather_tokens
from jepa_hub.models.base import JEPAModel
from jepa_hub.models.registry import model_class
from training.config import Settings as RunSettings
from training.methods.base import Method, MethodSettings
from training.methods.moving_average import update_average
from training.objectives import channel_std, latent_distance, mean_cosine
from training.schedules import linear_between


class JEPASettings(MethodSettings):
    """Settings of `JEPA`.

    Attributes:
        distance: "l1" (V-JEPA), "l2", or "smooth_l1" (I-JEPA's code).
        momentum: of the target encoder, [start, end], straight between them over the schedule.
    """

    distance: Literal["l1", "l2", "smooth_l1"] = "l1"
    momentum: tuple[float, float] = (0.996, 1.0)


class JEPA(Method):
    """The joint-embedding predictive objective."""

    Settings: ClassVar[type[MethodSettings]] = JEPASettings
    networks: ClassVar[tuple[str, ...]] = ("encoder", "predictor", "target_encoder")

    def __init__(self, model: JEPAModel, settings: JEPASettings) -> None:
        if model.encoder is None or model.predictor is None:
            raise ValueError("JEPA trains an encoder and a predictor; the model lacks one of them")
        if model.target_encoder is None:
            model.copy_encoder_to_target()
        super().__init__(model, settings)
        self.target_encoder.requires_grad_(False)  # from_pretrained forgets flags set in the model

    @classmethod
    def check(cls, settings: RunSettings) -> None:
        """Two views need a predictor that is told how they differ; visible tokens need a second view."""
        told = model_class(settings.model.name).config_class().conditioning_size
        if settings.data.photometry is not None and not told:
            raise ValueError(
                f"data.photometry needs model.name=iwm, whose predictor is told, not {settings.model.name}"
            )
        everywhere = settings.masks is not None and settings.masks.own.get("predict") == "all"
        if everywhere and settings.data.photometry is None:
            raise ValueError("masks.predict=all asks for what is seen: it needs a second view, data.photometry")

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Distance of predictions from standardised targets, averaged over the groups of masks.

        Targets are tokens of the same pixels, or of "target_pixels" where the recipe makes a second view.
        """
        several: list[Masks] = batch["masks"]
        pixels = batch["pixels"]
        tokens = self.model.prediction_targets(batch.get("target_pixels", pixels))  # [B, N, D]
        predictions = self.model(pixels, several, batch.get("conditioning")).predicted  # [B, M, T, D] per group
        distances, cosines = [], []
        for masks, predicted in zip(several, predictions, strict=True):
            target = gather_tokens(tokens, masks.target.flatten(1)).unflatten(1, masks.target.shape[1:])  # [B, M, T, D]
            distances.append(latent_distance(predicted, target, self.settings.distance))
            cosines.append(mean_cosine(predicted, target))
        loss = torch.stack(distances).mean()
        return {
            "loss": loss,
            "target_std": channel_std(tokens),
            "cosine": torch.stack(cosines).mean(),
            **({f"loss_{index}": each.detach() for index, each in enumerate(distances)} if len(distances) > 1 else {}),
        }

    def after_step(self, progress: float) -> None:
        """Move the target encoder towards the encoder."""
        start, end = self.settings.momentum
        momentum = linear_between(min(progress, 1.0), start=start, final=end)
        assert self.model.encoder is not None  # checked in __init__
        update_average(self.target_encoder, self.model.encoder, momentum)

    @property
    def target_encoder(self) -> nn.Module:
        """The moving average of the encoder."""
        assert self.model.target_encoder is not None  # made in __init__
        return self.model.target_encoder

    def parts(self) -> dict[str, nn.Module]:
        """The encoder and the predictor."""
        return {name: getattr(self.model, name) for name in ("encoder", "predictor")}
