"""The predictor: context tokens and target positions to target tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jepa_hub.masks import Masks
from jepa_hub.nn.block import Block, BlockSpec, run_block
from jepa_hub.nn.linear import Linear
from jepa_hub.nn.positions import Grid, Rotary


class Predictor(nn.Module):
    """A narrow transformer that fills mask tokens placed at the target positions.

    Each of the M targets of a sample is predicted in a row of its own and never sees the other targets.
    Source: arXiv:2301.08243, sec. 3; arXiv:2404.08471, sec. 3.

    Args:
        spec: width P, heads and MLP of the blocks.
        depth: number of blocks.
        encoder_dim: channels D of the encoder.
        positions: as in `ViTEncoder`, at width P.
        num_mask_tokens: learned mask tokens; `Masks.group` chooses one.
        output_dim: channels of a prediction; None for D, what encoders give.
    """

    def __init__(
        self,
        spec: BlockSpec,
        depth: int,
        *,
        encoder_dim: int,
        positions: nn.Module,
        num_mask_tokens: int = 1,
        output_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.embed = Linear(encoder_dim, spec.dim)
        self.mask_tokens = nn.Parameter(torch.zeros(num_mask_tokens, 1, spec.dim))
        self.positions = positions
        self.blocks = nn.ModuleList(Block(spec, index) for index in range(1, depth + 1))
        self.norm = nn.LayerNorm(spec.dim, eps=spec.layer_norm_eps)
        self.proj = Linear(spec.dim, output_dim or encoder_dim)
        self.gradient_checkpointing = False

    def query(self, masks: Masks, conditioning: Tensor | None = None) -> Tensor:
        """Tokens [B, M, T, P] that stand for the targets, before positions are added.

        The seam where families differ (noise in FlexPredict, the known change in image world models).
        """
        if conditioning is not None:
            raise ValueError(f"{type(self).__name__} takes no conditioning; Image World Models do")
        if isinstance(masks.group, Tensor):  # an input of an exported graph
            token = self.mask_tokens.index_select(0, masks.group.reshape(1)).squeeze(0)  # [1, P]
        elif 0 <= masks.group < len(self.mask_tokens):
            token = self.mask_tokens[masks.group]  # [1, P]
        else:
            raise ValueError(f"group {masks.group}: this predictor has mask tokens 0 .. {len(self.mask_tokens) - 1}")
        return token.expand(*masks.target.shape, -1)  # [B, M, T, P]

    def placed(self, query: Tensor, conditioning: Tensor) -> Tensor:
        """Queries [B*M, T, P] after positions were added; the seam for what has to know them.

        Args:
            query: [B*M, T, P].
            conditioning: [B*M, A], see `query`.
        """
        return query

    def forward(
        self,
        context: Tensor,
        masks: Masks,
        grid: Grid,
        conditioning: Tensor | None = None,
        prefix: Tensor | None = None,
    ) -> Tensor:
        """Predicted target tokens [B, M, T, D].

        Args:
            context: [B, C, D], the context encoder's output at `masks.context`.
            masks: where context and targets are on the grid.
            grid: (T, H, W) tokens of the whole input.
            conditioning: see `query`.
            prefix: tokens [B, E, P] without a place that stand before the context (not with rotary positions).
        """
        num_targets, length = masks.target.shape[1:]
        query = self.query(masks, conditioning).flatten(0, 1)  # [B*M, T, P]
        known = self.embed(context)  # [B, C, P]
        where = self.positions(grid, context.device)
        rotary = None
        if isinstance(where, Rotary):
            both = torch.cat([_per_target(masks.context, num_targets), masks.target.flatten(0, 1)], dim=1)
            rotary = where.select(both)  # [B*M, C+T, head_dim]
        elif where is not None:
            known = known + where[masks.context].to(known.dtype)
            query = query + where[masks.target.flatten(0, 1)].to(query.dtype)
        if conditioning is not None:
            query = self.placed(query, _per_target(conditioning, num_targets))
        if prefix is not None:
            known = torch.cat([prefix.to(known.dtype), known], dim=1)  # [B, E+C, P]
        x = torch.cat([_per_target(known, num_targets), query.to(known.dtype)], dim=1)  # [B*M, C+T, P]
        final = len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            x = run_block(self, block, x, rotary, length if index == final else None)  # finally [B*M, T, P]
        x = self.proj(self.norm(x[:, -length:]))  # [B*M, T, D]
        return x.unflatten(0, (-1, num_targets))  # [B, M, T, D]


def _per_target(x: Tensor, num_targets: int) -> Tensor:
    """Repeat each sample's rows once per target: [B, ...] -> [B*M, ...].

    Not `repeat_interleave`: torch.onnx writes that for the number of targets it was traced with.
    """
    return x if num_targets == 1 else x.unsqueeze(1).expand(-1, num_targets, *x.shape[1:]).flatten(0, 1)
