"""Diffusion transformers: blocks whose norms are shifted, scaled and gated by what is asked for (adaLN-zero).

Source: arXiv:2212.09748, sec. 3. As there, norms have no weights of their own and every block starts as the identity;
unlike there, the MLP's GELU is exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa_hub.nn.attention import Attention
from jepa_hub.nn.block import BlockSpec, Mlp
from jepa_hub.nn.encoder import ViTEncoder
from jepa_hub.nn.linear import Linear
from jepa_hub.nn.positions import Rotary

FREQUENCIES = 256  # channels of the sine-cosine embedding of a time step


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Scale and shift tokens x [B, N, D] by [B, D] each; 0 and 0 leave them."""
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


def sincos_of_times(times: Tensor, dim: int = FREQUENCIES) -> Tensor:
    """Cosines, then sines of times [B] at dim / 2 frequencies from 1 down to 1 / 10000: float32 [B, dim]."""
    half = dim // 2
    omega = torch.exp(-math.log(10000) / half * torch.arange(half, device=times.device))  # [dim/2]
    angles = times.float()[:, None] * omega
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class ModulatedBlock(nn.Module):
    """x + gate * attention(modulated norm), then the same with the MLP, over [B, N, D]."""

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(spec.dim, eps=spec.layer_norm_eps, elementwise_affine=False)
        self.attn = Attention(spec.dim, spec.num_heads, qkv_bias=spec.qkv_bias)
        self.norm2 = nn.LayerNorm(spec.dim, eps=spec.layer_norm_eps, elementwise_affine=False)
        self.mlp = Mlp(spec.dim, spec.mlp_hidden)
        self.modulation = Linear(spec.dim, 6 * spec.dim)

    def forward(self, x: Tensor, condition: Tensor, rotary: Rotary | None = None) -> Tensor:
        """[B, N, D] and what is asked for [B, D] -> [B, N, D]."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(condition)).chunk(6, dim=-1)
        x = x + gate1.unsqueeze(1) * self.attn(modulate(self.norm1(x), shift1, scale1), rotary)
        return x + gate2.unsqueeze(1) * self.mlp(modulate(self.norm2(x), shift2, scale2))


class DiTEncoder(ViTEncoder):
    """Noisy pixels or latents, a time step and a class to tokens, and to what the noise is thought to be.

    As an encoder it gives the tokens of a clean input: time 0 and no class.

    Args:
        num_classes: of the input; one more embedding stands for "any".
        offset, factor: pixels * factor + offset is what is diffused: the way from normalised pixels to -1 .. 1.
        settings: of `ViTEncoder`.
    """

    def __init__(
        self,
        spec: BlockSpec,
        depth: int,
        *args: Any,
        num_classes: int,
        offset: Sequence[float],
        factor: Sequence[float],
        **settings: Any,
    ) -> None:
        super().__init__(spec, 0, *args, **settings)
        dim = spec.dim
        self.num_classes = num_classes
        self.offset, self.factor = tuple(offset), tuple(factor)
        self.blocks = nn.ModuleList(ModulatedBlock(spec) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=spec.layer_norm_eps, elementwise_affine=False)
        self.time1, self.time2 = Linear(FREQUENCIES, dim), Linear(dim, dim)
        self.classes = nn.Embedding(num_classes + 1, dim)
        self.modulation = Linear(dim, 2 * dim)
        self.output = Linear(dim, self.patch_embed.proj.in_features)

    def domain(self, pixels: Tensor) -> Tensor:
        """What is diffused, of normalised pixels [B, C, F, H, W]; latents stay as they are."""
        return pixels * self._like(pixels, self.factor) + self._like(pixels, self.offset)

    def pixels(self, found: Tensor) -> Tensor:
        """The way back from `domain`."""
        return (found - self._like(found, self.offset)) / self._like(found, self.factor)

    @staticmethod
    def _like(x: Tensor, values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, dtype=x.dtype, device=x.device).view(-1, 1, 1, 1)

    def condition(self, times: Tensor, classes: Tensor | None) -> Tensor:
        """What is asked for [B, D]: time steps [B] and classes int64 [B], of which `num_classes` is any."""
        dtype = self.time1.weight.dtype
        if classes is None:
            classes = torch.full_like(times, self.num_classes, dtype=torch.int64)
        return self.time2(F.silu(self.time1(sincos_of_times(times).to(dtype)))) + self.classes(classes)

    def _outputs(self, x: Tensor, condition: Tensor, rotary: Rotary | None) -> Iterator[Tensor]:
        """What each block gives."""
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                x = self._gradient_checkpointing_func(block.__call__, x, condition, rotary)  # type: ignore[operator]
            else:
                x = block(x, condition, rotary)
            yield x

    def forward(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        """Tokens [B, N, D], or [B, K, D] for `keep`, of clean normalised pixels [B, C, F, H, W] (or latents)."""
        x, rotary = self.embed(self.domain(pixels), keep)
        for each in self._outputs(x, self._clean(pixels), rotary):
            x = each
        return self.norm(x)

    def _clean(self, pixels: Tensor) -> Tensor:
        return self.condition(pixels.new_zeros(pixels.shape[0]), None)

    def forward_layers(self, pixels: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
        """As `ViTEncoder.forward_layers`."""
        depth = len(self.blocks)
        wanted = {layer: layer % depth for layer in layers if -depth <= layer < depth}
        if len(wanted) != len(set(layers)):
            raise ValueError(f"layers {list(layers)}: this encoder has blocks 0 .. {depth - 1}")
        x, rotary = self.embed(self.domain(pixels))
        outputs = [self.norm(each) for each in self._outputs(x, self._clean(pixels), rotary)]
        return {layer: outputs[wanted[layer]] for layer in layers}

    def denoise(self, noisy: Tensor, times: Tensor, classes: Tensor | None = None) -> Tensor:
        """What the network says of noisy inputs, of their shape: by its configuration the noise, or a mix of both.

        Args:
            noisy: [B, C, H, W], in `domain`.
            times: [B], steps of the noise schedule.
            classes: int64 [B], 0 .. num_classes (any); None is any.
        """
        clip = noisy.unsqueeze(2)  # [B, C, 1, H, W]
        x, rotary = self.embed(clip)
        condition = self.condition(times, classes)
        for each in self._outputs(x, condition, rotary):
            x = each
        shift, scale = self.modulation(F.silu(condition)).chunk(2, dim=-1)
        values = self.output(modulate(self.norm(x), shift, scale))  # [B, N, C*p*p]
        return self.unpatchify(values, self.grid(clip))

    def unpatchify(self, values: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """[B, H*W, C*p*p], channels outermost as `PatchEmbed.patches` gives them -> [B, C, H*p, W*p]."""
        _, rows, columns = grid
        size, channels = self.patch_embed.patch_size, self.patch_embed.num_channels
        parts = values.reshape(values.shape[0], rows, columns, channels, size, size)
        return parts.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, rows * size, columns * size)
