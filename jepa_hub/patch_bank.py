"""What a predicted token looks like: the known patch whose token is nearest to it.

A JEPA predicts features, which nobody can look at. A bank of patches with their tokens makes them readable: of each
predicted token the patch is shown that the model itself finds most alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from jepa_hub.models import inputs as model_inputs

_CHUNK = 1024  # predicted tokens compared at a time


@dataclass(frozen=True)
class PatchBank:
    """Patches and their tokens.

    Attributes:
        tokens: [K, D], as `prediction_targets` gives them.
        patches: [K, 3, t, p, p], normalised pixels of the same tubelets.
    """

    tokens: Tensor
    patches: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, model: Any, pixels: Tensor, *, batch_size: int = 16) -> PatchBank:
        """The bank of some pictures or clips.

        Args:
            model: with a predictor.
            pixels: [B, 3, H, W] or [B, 3, F, H, W], normalised, preprocessed as what is to be predicted.
            batch_size: pictures per forward pass.
        """
        clips = model_inputs.prepare(pixels, model, pad=False).pixels  # [B, 3, F, H, W]
        tokens = torch.cat([model.prediction_targets(part).flatten(0, 1) for part in clips.split(batch_size)])
        return cls(tokens.float(), as_patches(clips, model.config.tubelet_size, model.config.patch_size).flatten(0, 1))

    def nearest(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers of the nearest patches int64 [N], and their cosine similarities [N].

        Args:
            tokens: [N, D], predicted.

        Raises:
            ValueError: tokens of another width.
        """
        if tokens.ndim != 2 or tokens.shape[-1] != self.tokens.shape[-1]:
            raise ValueError(f"expected tokens [N, {self.tokens.shape[-1]}], got {tuple(tokens.shape)}")
        known = F.normalize(self.tokens, dim=-1)  # [K, D]
        best = [(F.normalize(part.float(), dim=-1) @ known.mT).max(dim=-1) for part in tokens.split(_CHUNK)]
        return torch.cat([each.indices for each in best]), torch.cat([each.values for each in best])

    def paint(self, pixels: Tensor, where: Tensor, tokens: Tensor) -> Tensor:
        """`pixels` with the nearest patch of each predicted token in its place, [3, F, H, W].

        Args:
            pixels: [3, F, H, W], normalised.
            where: int64 [N], numbers of the predicted tokens on the grid of `pixels`.
            tokens: [N, D], predicted.
        """
        _, _, tubelet, side, _ = self.patches.shape
        filled = as_patches(pixels[None], tubelet, side)[0].clone()  # [N', 3, t, p, p]
        filled[where] = self.patches[self.nearest(tokens)[0]].to(filled)
        frames, height, width = pixels.shape[1:]
        steps = max(1, frames // tubelet)  # a single frame was repeated
        grid = filled.unflatten(0, (steps, height // side, width // side))  # [T, H, W, 3, t, p, p]
        return grid.permute(3, 0, 4, 1, 5, 2, 6).reshape(3, steps * tubelet, height, width)[:, :frames]


def as_patches(pixels: Tensor, tubelet: int, side: int) -> Tensor:
    """Pixels [B, 3, F, H, W] as the tubelets of their tokens [B, N, 3, t, p, p], row-major (t, row, column).

    Raises:
        ValueError: sizes that are no multiples; a single frame fills a tubelet by being repeated.
    """
    if pixels.shape[2] == 1 and tubelet > 1:
        pixels = pixels.expand(-1, -1, tubelet, -1, -1)
    batch, channels, frames, height, width = pixels.shape
    if frames % tubelet or height % side or width % side:
        raise ValueError(f"{frames} x {height} x {width} pixels do not divide into {tubelet} x {side} x {side}")
    shape = (batch, channels, frames // tubelet, tubelet, height // side, side, width // side, side)
    return pixels.reshape(shape).permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(1, 3)
