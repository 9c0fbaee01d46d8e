"""Features: what an encoder saw, with names instead of flat tensors."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Features:
    """Tokens of a batch and where they are.

    Attributes:
        tokens: [B, N, D], row-major (t, row, column).
        grid_size: (T, H, W) tokens, N = T * H * W.
        frame_times: [B, T] seconds (float64), the centre of each tubelet's frames; None for images.
        layers: outputs [B, N, D] of the blocks asked for, through the final norm.
        valid: bool [B, N], False where a token is mostly padding; None when nothing was padded.
    """

    tokens: Tensor
    grid_size: tuple[int, int, int]
    frame_times: Tensor | None = None
    layers: dict[int, Tensor] = field(default_factory=dict)
    valid: Tensor | None = None

    def __post_init__(self) -> None:
        t, h, w = self.grid_size
        if self.tokens.ndim != 3 or self.tokens.shape[1] != t * h * w:
            raise ValueError(f"tokens {tuple(self.tokens.shape)} do not fill a {t} x {h} x {w} grid")

    @property
    def grid(self) -> Tensor:
        """Tokens as [B, T, H, W, D]."""
        return self.tokens.unflatten(1, self.grid_size)

    @property
    def pooled(self) -> Tensor:
        """Mean over tokens [B, D]; padding is left out."""
        if self.valid is None:
            return self.tokens.mean(dim=1)
        weight = self.valid.to(self.tokens.dtype).unsqueeze(-1)  # [B, N, 1]
        return (self.tokens * weight).sum(dim=1) / weight.sum(dim=1)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Features:
        """The same features elsewhere; `dtype` applies to tokens and layers."""
        return replace(
            self,
            tokens=self.tokens.to(device=device, dtype=dtype),
            frame_times=None if self.frame_times is None else self.frame_times.to(device),
            layers={index: layer.to(device=device, dtype=dtype) for index, layer in self.layers.items()},
            valid=None if self.valid is None else self.valid.to(device),
        )
