"""MAE: predict pixels of masked patches; the baseline of the JEPA papers. Source: arXiv:2111.06377, 2203.12602."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from jepa_hub.masks import Masks, gather_tokens
from jepa_hub.models.base import JEPAModel
from jepa_hub.models.mae import MAEModel
from training.methods.base import Method, MethodSettings
from training.objectives import channel_std, mean_cosine, pixel_error


class MAE(Method):
    """Pixel prediction with the same encoder, masks and predictor as a JEPA."""

    networks: ClassVar[tuple[str, ...]] = ("encoder", "predictor")

    def __init__(self, model: JEPAModel, settings: MethodSettings) -> None:
        if not isinstance(model, MAEModel):
            raise ValueError(f"the method mae trains the family mae, not {type(model).__name__}: set model.name=mae")
        super().__init__(model, settings)

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Squared error of the predicted pixels, averaged over the groups of masks."""
        several: list[Masks] = batch["masks"]
        pixels = batch["pixels"]
        patches = self.model.prediction_targets(pixels)  # [B, N, P]
        output = self.model(pixels, several)
        errors, cosines = [], []
        for masks, predicted in zip(several, output.predicted, strict=True):
            target = gather_tokens(patches, masks.target.flatten(1)).unflatten(
                1, masks.target.shape[1:]
            )  # [B, M, T, P]
            errors.append(pixel_error(predicted, target))
            cosines.append(mean_cosine(predicted, target))
        return {
            "loss": torch.stack(errors).mean(),
            "target_std": channel_std(output.last_hidden_state[0]),
            "cosine": torch.stack(cosines).mean(),
        }

    def parts(self) -> dict[str, nn.Module]:
        """The encoder and the predictor."""
        return {name: getattr(self.model, name) for name in ("encoder", "predictor")}
