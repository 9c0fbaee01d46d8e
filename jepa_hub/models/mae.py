"""MAE: predict the pixels of masked patches, the baseline of the JEPA papers on the same encoder.

Images: arXiv:2111.06377. Clips: arXiv:2203.12602 (VideoMAE). Unlike those, the decoder is this package's predictor, so
that a JEPA and its pixel baseline differ in nothing but what they predict.
"""

from __future__ import annotations

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor

from jepa_hub.models.base import JEPAModel
from jepa_hub.models.config import JEPAConfig

PIXEL_TARGETS = ("patch", "channel", "none")


@strict
class MAEConfig(JEPAConfig):
    """An encoder and a pixel predictor; there is no target encoder.

    Args:
        pixel_targets: what is predicted: "patch" (pixels with mean 0 and variance 1 per patch, MAE), "channel" (per
            patch and colour channel, VideoMAE), "none" (normalised pixels as they are).
    """

    model_type = "jepa_hub_mae"

    pixel_targets: str = "patch"
    position_axes: str = "time_row_column"
    uniform_power: bool = True
    networks: list[str] | tuple[str, ...] = ("encoder", "predictor")

    @property
    def prediction_size(self) -> int:
        """Pixel values of one patch."""
        return self.num_channels * self.tubelet_size * self.patch_size**2

    def _check(self) -> None:
        super()._check()
        if self.pixel_targets not in PIXEL_TARGETS:
            raise ValueError(f"pixel_targets is one of {', '.join(PIXEL_TARGETS)}, not {self.pixel_targets!r}")


class MAEModel(JEPAModel):
    """A context encoder and a predictor of pixels; `predict` gives [B, M, T, 3 * tubelet * patch * patch]."""

    networks = ("encoder", "predictor")
    config_class = MAEConfig
    config: MAEConfig

    @torch.no_grad()
    def prediction_targets(self, pixels: Tensor) -> Tensor:
        """Pixels of every patch [B, N, P], channels outermost, normalised as `config.pixel_targets` says."""
        patches = self._require("encoder").patch_embed.patches(pixels)  # [B, N, P]
        if patches.dtype != torch.float64:
            patches = patches.float()
        if self.config.pixel_targets == "none":
            return patches
        groups = self.config.num_channels if self.config.pixel_targets == "channel" else 1
        parts = patches.unflatten(-1, (groups, -1))  # [B, N, G, P/G]
        variance, mean = torch.var_mean(parts, dim=-1, keepdim=True)
        return ((parts - mean) / (variance + 1e-6).sqrt()).flatten(-2)  # [B, N, P]
