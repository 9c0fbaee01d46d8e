"""Pixels to patches to tokens: a reshape and one matrix product (a strided convolution does the same, slower)."""

from __future__ import annotations

from torch import Tensor, nn

from jepa_hub.nn.linear import Linear, linear
from jepa_hub.nn.positions import Grid


class PatchEmbed(nn.Module):
    """Tubelets of `tubelet_size` x `patch_size` x `patch_size` pixels as linear tokens.

    A still image (one frame) given to a model with a longer tubelet is repeated to fill one tubelet, as upstream does.
    """

    def __init__(
        self, dim: int, *, patch_size: int, tubelet_size: int = 1, num_channels: int = 3, bias: bool = True
    ) -> None:
        super().__init__()
        self.patch_size, self.tubelet_size, self.num_channels = patch_size, tubelet_size, num_channels
        self.proj = Linear(num_channels * tubelet_size * patch_size**2, dim, bias=bias)

    def grid(self, pixels: Tensor) -> Grid:
        """Tokens (T, H, W) of pixels [B, C, F, H, W].

        Raises:
            ValueError: not 5-D, wrong channels, or a size that would lose pixels or frames.
        """
        if pixels.ndim != 5:
            raise ValueError(f"pixels must be [batch, channels, frames, height, width], got {tuple(pixels.shape)}")
        _, channels, frames, height, width = pixels.shape
        if channels != self.num_channels:
            hint = ""
            if frames == self.num_channels:
                hint = "; these look like [batch, frames, channels, height, width]: use pixels.permute(0, 2, 1, 3, 4)"
            raise ValueError(f"expected {self.num_channels} channels on axis 1, got {tuple(pixels.shape)}{hint}")
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"a {height} x {width} input is not a multiple of the patch size {self.patch_size} and would lose "
                f"pixels; resize or crop it (JEPAProcessor does), or call encode(..., pad=True)"
            )
        if frames != 1 and frames % self.tubelet_size:
            raise ValueError(
                f"{frames} frames are not a multiple of the tubelet size {self.tubelet_size} and would lose frames; "
                f"drop or repeat one (JEPAProcessor(..., odd_frames=...) does), or call encode(..., pad=True)"
            )
        return max(frames // self.tubelet_size, 1), height // self.patch_size, width // self.patch_size

    def patches(self, pixels: Tensor) -> Tensor:
        """[B, C, F, H, W] -> [B, T*H*W, C*t*p*p], channels first as in a convolution's weight."""
        t, h, w = self.grid(pixels)
        if pixels.shape[2] == 1 and self.tubelet_size > 1:
            pixels = pixels.expand(-1, -1, self.tubelet_size, -1, -1)
        size = (pixels.shape[0], self.num_channels, t, self.tubelet_size, h, self.patch_size, w, self.patch_size)
        return pixels.reshape(size).permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)  # [B, N, C*t*p*p]

    def forward(self, patches: Tensor) -> Tensor:
        """[B, N, C*t*p*p] -> [B, N, D]."""
        return linear(patches.to(self.proj.weight.dtype), self.proj.weight, self.proj.bias)
