"""Mixture tokens of a picture and the weights with which a text mixes them. Source: arXiv:2405.00740.

Legend: B pictures, T texts, K mixture tokens, N patches, D width of the vision tower, E embedding, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa_hub.nn.block import BlockSpec, run_block
from jepa_hub.nn.encoder import ViTEncoder
from jepa_hub.nn.linear import Linear
from jepa_hub.nn.patchify import PatchEmbed
from jepa_hub.nn.positions import Rotary
from jepa_hub.nn.text import unit

MIXINGS = ("text", "uniform", "learned", "first")


class MixtureEncoder(ViTEncoder):
    """A vision transformer with K learned tokens, each with a position of its own, before the patches.

    `forward` gives the patches, as every encoder does; `all_tokens` the mixture tokens too.
    """

    def __init__(
        self, spec: BlockSpec, depth: int, patch_embed: PatchEmbed, positions: nn.Module, num_mixture_tokens: int
    ) -> None:
        super().__init__(spec, depth, patch_embed, positions)
        self.mixture_tokens = nn.Parameter(torch.zeros(num_mixture_tokens, spec.dim))
        self.mixture_positions = nn.Parameter(torch.zeros(num_mixture_tokens, spec.dim))
        self.norm_pre = nn.LayerNorm(spec.dim, eps=spec.layer_norm_eps)

    def embed(self, pixels: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Rotary | None]:
        """Mixture tokens and patches before the first block [B, K+N, D]."""
        patches, _ = super().embed(pixels, keep)
        mixture = (self.mixture_tokens + self.mixture_positions).to(patches.dtype)  # [K, D]
        x = torch.cat([mixture.expand(patches.shape[0], -1, -1), patches], dim=1)  # [B, K+N, D]
        return self.norm_pre(x), None

    def all_tokens(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        """[B, 3, F, H, W] -> [B, K+N, D], mixture tokens first."""
        return super().forward(pixels, keep)

    def forward(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        """[B, 3, F, H, W] -> patches [B, N, D]."""
        return self.all_tokens(pixels, keep)[:, len(self.mixture_tokens) :]

    def mixture(self, pixels: Tensor) -> Tensor:
        """[B, 3, F, H, W] -> mixture tokens [B, K, D]; the last block computes nothing else."""
        x, rotary = self.embed(pixels)
        *first, last = self.blocks
        for block in first:
            x = run_block(self, block, x, rotary)
        count = len(self.mixture_tokens)
        # Order means nothing to attention, and a block counts the tokens that it is asked for from the end.
        x = torch.cat([x[:, count:], x[:, :count]], dim=1)  # [B, N+K, D]
        return self.norm(run_block(self, last, x, rotary, count))

    def forward_layers(self, pixels: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
        """Patches [B, N, D] after the blocks `layers`; see `ViTEncoder.forward_layers`."""
        found = super().forward_layers(pixels, layers)
        return {layer: tokens[:, len(self.mixture_tokens) :] for layer, tokens in found.items()}


class Mixing(nn.Module):
    """From the tokens of a picture to the vector that is compared with a text.

    Every token has a matrix of its own for its key and its value. A text's query weighs the tokens, head by head; the
    mixture goes through one linear layer. Kinds that ignore the text, for comparison: "uniform" and "learned" weights,
    and "first" (the first token; with one token that is SigLIP or CLIP). They have neither keys nor the linear layer,
    which would only follow another one.

    Args:
        dim: D.
        embed_size: E.
        num_tokens: K, or K+N where patches are mixed too.
        num_heads: H.
        temperature: tau, in the place of the square root of E/H.
        kind: one of MIXINGS.
        norm: layer norms over E on keys and values.
        eps: of those norms.

    Source: arXiv:2405.00740, sec. 3.
    """

    def __init__(
        self,
        dim: int,
        embed_size: int,
        *,
        num_tokens: int,
        num_heads: int,
        temperature: float,
        kind: str,
        norm: bool,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.kind, self.num_heads, self.temperature = kind, num_heads, temperature
        asked = kind == "text"
        used = 1 if kind == "first" else num_tokens
        self.value_proj = nn.Parameter(torch.zeros(used, dim, embed_size))
        self.key_proj = nn.Parameter(torch.zeros(used, dim, embed_size)) if asked else None
        self.key_norm = nn.LayerNorm(embed_size, eps=eps) if asked and norm else None
        self.value_norm = nn.LayerNorm(embed_size, eps=eps) if norm else None
        self.output = Linear(embed_size, embed_size, bias=False) if asked else None
        self.token_weights = nn.Parameter(torch.zeros(num_heads, num_tokens)) if kind == "learned" else None
        self.logit_scale = nn.Parameter(torch.zeros(1))  # of the logarithm
        self.logit_bias = nn.Parameter(torch.zeros(1))

    def project(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, K, E] of tokens [B, K, D]; without keys, zeros."""
        values = project_each(tokens[:, : len(self.value_proj)], self.value_proj)
        values = values if self.value_norm is None else self.value_norm(values)
        if self.key_proj is None:
            return torch.zeros_like(values), values
        keys = project_each(tokens, self.key_proj)
        return keys if self.key_norm is None else self.key_norm(keys), values

    def weights(self, keys: Tensor, queries: Tensor, temperature: float | None = None) -> Tensor:
        """How much of each token a text takes, [B, T, H, K]; sums to 1 over K.

        Args:
            keys: [B, K, E].
            queries: [T, E].
            temperature: another one than the model's.
        """
        per_head = keys.unflatten(-1, (self.num_heads, -1))  # [B, K, H, E/H]
        asked = queries.unflatten(-1, (self.num_heads, -1))  # [T, H, E/H]
        scores = torch.einsum("bkhd,thd->bthk", per_head, asked) / self.temperature_or(temperature)
        return scores.softmax(dim=-1)

    def forward(self, keys: Tensor, values: Tensor, queries: Tensor, temperature: float | None = None) -> Tensor:
        """One vector of unit length per picture and text, [B, T, E]: T times as large as the pictures' own.

        Args:
            keys, values: [B, K, E].
            queries: [T, E], or [B, T, E] where every picture is asked by texts of its own.
            temperature: another one than the model's.
        """
        if self.output is None:
            return self.alone(values)[:, None].expand(-1, queries.shape[-2], -1)  # [B, T, E]
        key, value = (each.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for each in (keys, values))
        query = queries.unflatten(-1, (self.num_heads, -1)).transpose(-3, -2)  # [(B,) H, T, E/H]
        query = query.expand(keys.shape[0], -1, -1, -1)  # [B, H, T, E/H]
        mixed = F.scaled_dot_product_attention(query, key, value, scale=1 / self.temperature_or(temperature))
        return unit(self.output(mixed.transpose(1, 2).flatten(2)))  # [B, T, E]

    def alone(self, values: Tensor) -> Tensor:
        """The text-free vector of unit length of each picture, [B, E]: the uniform mixture where a text would weigh."""
        if self.kind == "first":
            return unit(values[:, 0])
        if self.token_weights is None:
            mixed = values.mean(dim=1)
        else:
            share = self.token_weights.softmax(dim=-1)  # [H, K]
            mixed = torch.einsum("hk,bkhd->bhd", share, values.unflatten(-1, (self.num_heads, -1))).flatten(1)  # [B, E]
        return unit(mixed if self.output is None else self.output(mixed))

    def temperature_or(self, temperature: float | None) -> float:
        """The given temperature, or the model's.

        Raises:
            ValueError: it is not positive.
        """
        if temperature is not None and temperature <= 0:
            raise ValueError(f"the mixing temperature must be positive, got {temperature}")
        return self.temperature if temperature is None else temperature


def project_each(tokens: Tensor, matrices: Tensor) -> Tensor:
    """Tokens [B, K, D], each times its own matrix of [K, D, E]: [B, K, E]."""
    return torch.bmm(tokens.transpose(0, 1), matrices.to(tokens.dtype)).transpose(0, 1)
