"""Attentive pooling: a learned query reads the tokens. Exactly the published V-JEPA and V-JEPA 2 probes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jepa_hub.nn.attention import CrossAttention
from jepa_hub.nn.block import Block, BlockSpec, Mlp


class CrossBlock(nn.Module):
    """query + attention(query, norm(tokens)), then + mlp(norm(query)).

    The query is not normalised before its projection and the attention has no output projection: so the published
    probes were trained. Source: arXiv:2404.08471, appendix; arXiv:2506.09985, appendix.
    """

    def __init__(self, spec: BlockSpec) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(spec.dim, eps=spec.layer_norm_eps)
        self.attn = CrossAttention(spec.dim, spec.num_heads, qkv_bias=spec.qkv_bias)
        self.norm2 = nn.LayerNorm(spec.dim, eps=spec.layer_norm_eps)
        self.mlp = Mlp(spec.dim, spec.mlp_hidden)

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        """[B, Q, D] and [B, N, D] -> [B, Q, D]."""
        query = query + self.attn(query, self.norm1(tokens))
        return query + self.mlp(self.norm2(query))


class AttentivePooler(nn.Module):
    """`num_blocks` self-attention blocks over all tokens, then `num_queries` learned queries that read them.

    V-JEPA's probe has no self-attention block, V-JEPA 2's has three.
    """

    def __init__(self, spec: BlockSpec, *, num_blocks: int = 0, num_queries: int = 1) -> None:
        super().__init__()
        self.query_tokens = nn.Parameter(torch.zeros(1, num_queries, spec.dim))
        self.blocks = nn.ModuleList(Block(spec, index) for index in range(1, num_blocks + 1))
        self.cross = CrossBlock(spec)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> [B, Q, D]."""
        for block in self.blocks:
            tokens = block(tokens)
        return self.cross(
            self.query_tokens.expand(tokens.shape[0], -1, -1), tokens
        )  # len() would fix an exported batch
