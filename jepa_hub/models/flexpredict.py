"""FlexPredict (StoP): targets whose positions are uncertain. Source: arXiv:2308.00566, sec. 3."""

from __future__ import annotations

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor

from jepa_hub.masks import Masks
from jepa_hub.models.base import JEPAModel, predictor_parts
from jepa_hub.models.config import JEPAConfig
from jepa_hub.nn.predictor import Predictor


@strict
class FlexPredictConfig(JEPAConfig):
    """I-JEPA with stochastic target positions.

    Args:
        position_noise_std: standard deviation of the noise, in units of encoder features. Upstream names it a variance
            and uses it as a standard deviation; 0.25 for B and L, 0.20 for H.
    """

    model_type = "jepa_hub_flexpredict"

    position_noise_std: float = 0.25


class StochasticPredictor(Predictor):
    """Targets stand at positions blurred by noise that shares the context's projection; exact in eval mode.

    Upstream has an unused mask token: the bias of `embed` plays its part.
    """

    def __init__(self, *args: Any, position_noise_std: float, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.position_noise_std = position_noise_std
        self.mask_tokens.requires_grad_(False)  # kept for upstream's files, never used

    def query(self, masks: Masks, conditioning: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """Projected noise [B, M, T, P]; positions are added by `forward`. `noise` [B, M, T, D] replaces the draw."""
        if conditioning is not None:
            raise ValueError("FlexPredict takes no conditioning; Image World Models do")
        if noise is None:
            shape = (*masks.target.shape, self.embed.in_features)  # [B, M, T, D]
            device, dtype = self.embed.weight.device, self.embed.weight.dtype
            if self.training:  # drawn in float32: a half-precision draw is coarse
                noise = (self.position_noise_std * torch.randn(shape, device=device)).to(dtype)
            else:
                noise = torch.zeros(shape, device=device, dtype=dtype)
        return self.embed(noise)


class FlexPredictModel(JEPAModel):
    """FlexPredict's encoder, stochastic predictor and target encoder."""

    config_class = FlexPredictConfig
    config: FlexPredictConfig

    @staticmethod
    def build_predictor(config: Any) -> Predictor:
        """The stochastic predictor of `config`, uninitialised."""
        return StochasticPredictor(
            config.predictor_spec,
            config.predictor_num_hidden_layers,
            position_noise_std=config.position_noise_std,
            **predictor_parts(config),
        )
