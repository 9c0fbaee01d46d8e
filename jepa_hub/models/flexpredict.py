"""FlexPredict (StoP): targets whose positions are uncertain. Source: arXiv:2308.00566, sec. 3."""

from __future__ import annotations

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor

from jepa_hub.masks import Masks
from jepa_hub.models.base import JEPAModel, predictor_parts
from jepa_hub.models.config import JEPAConfig
from jepa_hub.nn.linear import Linear
from jepa_hub.nn.positions import Grid
from jepa_hub.nn.predictor import Predictor

NOISES = ("tied", "untied", "fixed")
_LEAST = 1e-6  # added to variances, so that a matrix that has shrunk to nothing can be inverted


@strict
class FlexPredictConfig(JEPAConfig):
    """I-JEPA with stochastic target positions.

    Args:
        position_noise_std: standard deviation of the noise, in units of encoder features. Upstream names it a variance
            and uses it as a standard deviation; 0.25 for B and L, 0.20 for H.
        position_noise: what spreads the noise over positions: "tied" (the projection of the context, the method),
            "untied" (a matrix of its own, the ablation that can shrink) or "fixed" (none: the same noise in every
            channel of the predictor, in units of positions).
    """

    model_type = "jepa_hub_flexpredict"

    position_noise_std: float = 0.25
    position_noise: str = "tied"

    def _check(self) -> None:
        super()._check()
        if self.position_noise not in NOISES:
            raise ValueError(f"position_noise is one of {', '.join(NOISES)}, not {self.position_noise!r}")
        if self.position_noise_std < 0:
            raise ValueError(f"position_noise_std is 0 or more, got {self.position_noise_std:g}")


class StochasticPredictor(Predictor):
    """Targets stand at positions blurred by noise that shares the context's projection; exact in eval mode.

    Upstream has an unused mask token: the bias of `embed` plays its part. The ablations use theirs.
    """

    def __init__(self, *args: Any, position_noise: str, position_noise_std: float, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.position_noise, self.position_noise_std = position_noise, position_noise_std
        self.spread = None
        if position_noise == "untied":
            self.spread = Linear(self.embed.in_features, self.embed.out_features, bias=False)
        if position_noise == "tied":
            self.mask_tokens.requires_grad_(False)  # kept for upstream's files, never used

    def query(self, masks: Masks, conditioning: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """Projected noise [B, M, T, P]; positions are added by `forward`.

        Args:
            masks: where the targets are.
            conditioning: must be None.
            noise: replaces the draw, [B, M, T, D], or [B, M, T, P] for "fixed".
        """
        if conditioning is not None:
            raise ValueError("FlexPredict takes no conditioning; Image World Models do")
        fixed = self.position_noise == "fixed"
        if noise is None:
            shape = (*masks.target.shape, self.embed.out_features if fixed else self.embed.in_features)  # [B, M, T, D]
            device, dtype = self.embed.weight.device, self.embed.weight.dtype
            if self.training:  # drawn in float32: a half-precision draw is coarse
                noise = (self.position_noise_std * torch.randn(shape, device=device)).to(dtype)
            else:
                noise = torch.zeros(shape, device=device, dtype=dtype)
        if self.position_noise == "tied":
            return self.embed(noise)
        return super().query(masks) + (noise if self.spread is None else self.spread(noise))

    @torch.no_grad()
    def noise_matrix(self) -> Tensor:
        """The matrix A [P, D] (or the identity [P, P]) that spreads unit noise over positions, without its scale."""
        if self.position_noise == "fixed":
            return torch.eye(self.embed.out_features)
        return (self.embed if self.spread is None else self.spread).weight.detach().float().cpu()

    @torch.no_grad()
    def identifiability(self, grid: Grid, *, draws: int = 64, seed: int = 0) -> float:
        """Share of noisy target positions that the best guess places right: 1 is no uncertainty, 1 / N is all of it.

        Args:
            grid: (T, H, W) tokens.
            draws: of noise, per position.
            seed: of the draws.

        Raises:
            ValueError: positions are not a table that is added (rotary ones).
        """
        where = self.positions(grid, torch.device("cpu"))
        if not isinstance(where, Tensor):
            raise ValueError("identifiability needs positions that are added, not rotary ones or none")
        places = where.float().cpu()  # [N, P]
        spread = self.position_noise_std * self.noise_matrix().double()  # [P, D]
        covariance = spread @ spread.T + _LEAST * torch.eye(len(spread), dtype=torch.float64)
        whiten = torch.linalg.inv(torch.linalg.cholesky(covariance))  # [P, P]
        draw = torch.Generator().manual_seed(seed)
        clean = places.double() @ whiten.T  # [N, P], in which noise is white
        right = 0
        for _ in range(draws):
            noisy = clean + torch.randn(clean.shape, generator=draw, dtype=torch.float64)
            guess = torch.cdist(noisy, clean).argmin(dim=1)
            right += int((guess == torch.arange(len(places))).sum())
        return right / (draws * len(places))


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
            position_noise=config.position_noise,
            position_noise_std=config.position_noise_std,
            **predictor_parts(config),
        )
