"""The text tower of contrastive image-text models: a causal transformer read at the end-of-text token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from jepa_hub.nn.block import Block, BlockSpec, run_block
from jepa_hub.nn.linear import Linear


class TextEncoder(nn.Module):
    """Token numbers to one vector per text.

    Args:
        spec: width, heads and MLP of the blocks; `causal` as the weights were trained.
        depth: number of blocks.
        vocab_size: token numbers.
        context_length: most tokens of a text.
        end_token_id: the token whose output is the text's; attention is causal, so what follows it does not matter.
    """

    def __init__(self, spec: BlockSpec, depth: int, *, vocab_size: int, context_length: int, end_token_id: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, spec.dim)
        self.positions = nn.Parameter(torch.zeros(context_length, spec.dim))
        self.blocks = nn.ModuleList(Block(spec, index) for index in range(1, depth + 1))
        self.norm = nn.LayerNorm(spec.dim, eps=spec.layer_norm_eps)
        self.end_token_id = end_token_id
        self.gradient_checkpointing = False

    def forward(self, ids: Tensor) -> Tensor:
        """Int64 [T, L] -> [T, D]; texts are padded on the right with anything.

        Raises:
            ValueError: a text has more tokens than there are positions.
        """
        length = ids.shape[1]
        if length > len(self.positions):
            raise ValueError(f"texts have {length} tokens, this model takes {len(self.positions)}: truncate them")
        x = self.embedding(ids) + self.positions[:length]  # [T, L, D]
        for block in self.blocks:
            x = run_block(self, block, x, None)
        end = (ids == self.end_token_id).to(torch.int32).argmax(dim=1)  # the first one
        index = end[:, None, None].expand(-1, 1, x.shape[-1])  # [T, 1, D]
        return self.norm(x.gather(1, index)[:, 0])  # [T, D]


class TextTower(nn.Module):
    """A text encoder with a head for what is compared (target) and one for what is asked of pictures (query).

    Args:
        encoder: of width `dim`.
        dim: of the encoder.
        embed_size: E, of both heads.
        queries: whether there is a query head.
        norm: whether queries are normalised (a layer norm over E).
        eps: of that norm.
    """

    def __init__(
        self, encoder: TextEncoder, dim: int, embed_size: int, *, queries: bool, norm: bool, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.target = Linear(dim, embed_size, bias=False)
        self.query = Linear(dim, embed_size, bias=False) if queries else None
        self.query_norm = nn.LayerNorm(embed_size, eps=eps) if queries and norm else None

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Int64 [T, L] -> queries [T, E] and targets [T, E], the latter of unit length; without queries, zeros."""
        hidden = self.encoder(ids)  # [T, D]
        target = unit(self.target(hidden))
        if self.query is None:
            return torch.zeros_like(target), target
        query = self.query(hidden)
        return query if self.query_norm is None else self.query_norm(query), target


def unit(x: Tensor) -> Tensor:
    """Vectors [..., E] of length 1, computed in float32."""
    whole: Any = x if x.dtype == torch.float64 else x.float()
    return torch.nn.functional.normalize(whole, dim=-1).to(x.dtype)
