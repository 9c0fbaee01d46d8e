"""Pre-norm transformer blocks and their MLPs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa_hub.nn.attention import Attention
from jepa_hub.nn.linear import Linear
from jepa_hub.nn.positions import Rotary

HIDDEN_ACTS = ("gelu", "quick_gelu", "swiglu")


@dataclass(frozen=True)
class BlockSpec:
    """What all blocks of one transformer share.

    `mlp_hidden` is the width inside the MLP: for `hidden_act="swiglu"` that of the gate (see `swiglu_hidden`).
    """

    dim: int
    num_heads: int
    mlp_hidden: int
    hidden_act: str = "gelu"
    qkv_bias: bool = True
    layer_norm_eps: float = 1e-6
    causal: bool = False

    def __post_init__(self) -> None:
        if self.hidden_act not in HIDDEN_ACTS:
            raise ValueError(f"hidden_act is one of {', '.join(HIDDEN_ACTS)}, not {self.hidden_act!r}")

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads


def swiglu_hidden(dim: int, mlp_ratio: float, *, wide: bool) -> int:
    """Width of a SwiGLU gate in Meta's code: dim * mlp_ratio, or, when `wide`, two thirds of it in steps of 8.

    Upstream: `wide_silu=True` is the *narrower* of the two.
    """
    hidden = int(dim * mlp_ratio)
    return (int(2 * hidden / 3) + 7) // 8 * 8 if wide else hidden


class Mlp(nn.Module):
    """Linear, exact (erf) GELU, linear over [..., D]; `quick` takes CLIP's approximation of the GELU."""

    def __init__(self, dim: int, hidden: int, *, quick: bool = False) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, dim)
        self.quick = quick

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc1(x)
        return self.fc2(hidden * torch.sigmoid(1.702 * hidden) if self.quick else F.gelu(hidden))

    @property
    def output(self) -> nn.Linear:
        """The layer that writes to the residual stream."""
        return self.fc2


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) over [..., D]. Source: arXiv:2002.05202."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate = Linear(dim, hidden)
        self.up = Linear(dim, hidden)
        self.down = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))

    @property
    def output(self) -> nn.Linear:
        """The layer that writes to the residual stream."""
        return self.down


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), over [B, N, D]; `index` counts from 1 in its stack.

    With `last`, only the last so many tokens come out, [B, last, D]: the others are still attended to, but what a final
    block would make of them is thrown away anyhow.
    """

    def __init__(self, spec: BlockSpec, index: int = 1) -> None:
        super().__init__()
        self.index = index
        self.norm1 = nn.LayerNorm(spec.dim, eps=spec.layer_norm_eps)
        self.attn = Attention(spec.dim, spec.num_heads, qkv_bias=spec.qkv_bias, causal=spec.causal)
        self.norm2 = nn.LayerNorm(spec.dim, eps=spec.layer_norm_eps)
        self.mlp: Mlp | SwiGLU
        if spec.hidden_act == "swiglu":
            self.mlp = SwiGLU(spec.dim, spec.mlp_hidden)
        else:
            self.mlp = Mlp(spec.dim, spec.mlp_hidden, quick=spec.hidden_act == "quick_gelu")

    def forward(
        self, x: Tensor, rotary: Rotary | None = None, last: int | None = None, mask: Tensor | None = None
    ) -> Tensor:
        kept = x if last is None else x[:, -last:]
        x = kept + self.attn(self.norm1(x), rotary, last, mask)
        return x + self.mlp(self.norm2(x))


def run_block(
    stack: Any,
    block: nn.Module,
    x: Tensor,
    rotary: Rotary | None,
    last: int | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Apply one block, recomputing it in the backward pass where `gradient_checkpointing_enable()` asked for it."""
    if stack.gradient_checkpointing and stack.training:
        return stack._gradient_checkpointing_func(block.__call__, x, rotary, last, mask)
    return block(x, rotary, last, mask)
