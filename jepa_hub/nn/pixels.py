"""The encoder of pixel transformers: the shared one with a class token and attention within windows, both optional."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from jepa_hub.nn.encoder import ViTEncoder
from jepa_hub.nn.positions import Grid, Rotary


def window_mask(grid: Grid, side: int, device: torch.device | None = None) -> Tensor:
    """Bool [N, N]: which tokens of a grid lie in the square of `side` tokens around each token, at any time.

    Args:
        grid: (T, H, W) tokens.
        side: odd; 1 leaves a token alone with its copies in time.
        device: of the mask.
    """
    times, rows, columns = grid
    # expand, not repeat: an exported graph would keep the sizes that it was traced with
    row = torch.arange(rows, device=device)[None, :, None].expand(times, rows, columns).flatten()  # [N]
    column = torch.arange(columns, device=device)[None, None].expand(times, rows, columns).flatten()  # [N]
    near = [(each[:, None] - each).abs() <= side // 2 for each in (row, column)]  # [N, N] each
    return near[0] & near[1]


class PixelEncoder(ViTEncoder):
    """`ViTEncoder` with a class token, which sees all tokens and is seen by all, and windows.

    Args:
        class_token: whether there is one.
        window: side of the square of tokens that a token may look at; None is all tokens.
        settings: of `ViTEncoder`.
    """

    def __init__(self, *args: Any, class_token: bool, window: int | None, **settings: Any) -> None:
        super().__init__(*args, **settings)
        dim = self.norm.normalized_shape[0]
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim)) if class_token else None
        self.window = window

    def embed(self, pixels: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Rotary | None]:
        """As `ViTEncoder.embed`, with the class token before the others."""
        tokens, rotary = super().embed(pixels, keep)
        if self.class_token is not None:
            first = self.class_token.to(tokens.dtype).expand(tokens.shape[0], -1, -1)  # [B, 1, D]
            tokens = torch.cat([first, tokens], dim=1)  # [B, 1+K, D]
        return tokens, rotary

    def reach(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor | None:
        """The windows as a mask [N, N], or [B, 1, K, K] for chosen tokens; None without windows."""
        if self.window is None:
            return None
        mask = window_mask(self.grid(pixels), self.window, pixels.device)  # [N, N]
        if keep is not None:
            mask = mask[keep[:, :, None], keep[:, None]].unsqueeze(1)  # [B, 1, K, K]
        if self.class_token is not None:
            mask = nn.functional.pad(mask, (1, 0, 1, 0), value=True)  # [..., 1+K, 1+K]
        return mask

    def forward(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        """[B, 3, F, H, W] -> [B, N, D], or [B, K, D] for `keep`; without the class token."""
        return self.with_class(pixels, keep)[1]

    def with_class(self, pixels: Tensor, keep: Tensor | None = None) -> tuple[Tensor | None, Tensor]:
        """The class token [B, D] (None without one) and the tokens of the grid [B, N or K, D]."""
        tokens = super().forward(pixels, keep)  # [B, 1+K, D]
        return (None, tokens) if self.class_token is None else (tokens[:, 0], tokens[:, 1:])

    def forward_layers(self, pixels: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
        """As `ViTEncoder.forward_layers`, without the class token."""
        first = int(self.class_token is not None)
        return {layer: tokens[:, first:] for layer, tokens in super().forward_layers(pixels, layers).items()}
