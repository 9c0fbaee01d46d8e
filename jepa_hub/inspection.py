"""Looking into a model: which tokens are alike, which belong together, and where a layer looks.

Legend: B samples, T x H x W tokens of a sample (N in all), D channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from jepa_hub.features import Features
from jepa_hub.models import inputs as model_inputs
from jepa_hub.nn.block import Block

_QUERIES = 256  # asked at a time where all tokens ask: [B, heads, _QUERIES, N] weights are in memory at once


def similarity(features: Features, token: Sequence[int], *, centre: bool = True) -> Tensor:
    """Cosine similarity of every token to one of them, [B, T, H, W] in -1 .. 1; over space, time and samples.

    Args:
        features: of one or several images or clips.
        token: (sample, t, row, column).
        centre: subtract the mean over all tokens first. Tokens of a transformer share a large common part, next to
            which everything looks alike; False compares them as they are.

    Raises:
        ValueError: there is no such token, or it saw only padding.
    """
    sample, index = _place(features, token)
    tokens = features.tokens.detach().float()  # [B, N, D]
    if features.valid is not None and not bool(features.valid[sample, index]):
        raise ValueError(f"token {tuple(token)} saw only padding")
    if centre:
        real = tokens.flatten(0, 1) if features.valid is None else tokens[features.valid]  # [M, D]
        tokens = tokens - real.mean(dim=0)
    alike = F.cosine_similarity(tokens, tokens[sample, index], dim=-1)  # [B, N]
    return alike.clamp(-1, 1).unflatten(1, features.grid_size)


def segments(features: Features | Sequence[Features], count: int, *, seed: int = 0) -> list[Tensor]:
    """Tokens in `count` groups by k-means, int64 [B, T, H, W] of each; the groups are shared between all of them.

    Groups are numbered by size, 0 the largest; -1 where a token saw only padding.

    Args:
        features: tokens of one width.
        count: groups, 2 or more.
        seed: of the start.

    Raises:
        ImportError: scikit-learn is missing.
        ValueError: fewer than two groups, more groups than tokens, or features of different widths.
    """
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise ImportError("segments need scikit-learn: pip install 'jepa-hub[demo]'") from error
    several = [features] if isinstance(features, Features) else list(features)
    widths = {each.tokens.shape[-1] for each in several}
    if len(widths) != 1:
        raise ValueError(f"segments need features of one width, got {sorted(widths) or 'none'}")
    valid = [_valid(each) for each in several]  # [B, N] each
    real = torch.cat([each.tokens.detach().float().cpu()[mask] for each, mask in zip(several, valid, strict=True)])
    if not 2 <= count <= len(real):
        raise ValueError(f"count is a number of groups from 2 to the {len(real)} tokens there are, got {count}")
    if not real.isfinite().all():
        raise ValueError("the features hold NaN or infinite values; check the input pixels and the dtype of the model")
    found = KMeans(count, n_init=2, random_state=seed).fit_predict(F.normalize(real - real.mean(0), dim=-1).numpy())
    groups = torch.from_numpy(found).long()  # [M]
    order = groups.bincount(minlength=count).argsort(descending=True, stable=True)  # [K]
    groups = order.argsort()[groups]
    result = []
    for each, mask in zip(several, valid, strict=True):
        labels = torch.full(mask.shape, -1)
        labels[mask], groups = groups[: int(mask.sum())], groups[int(mask.sum()) :]
        result.append(labels.unflatten(1, each.grid_size))  # [B, T, H, W]
    return result


def has_attention(model: Any) -> bool:
    """Whether `attention` can look into a model: its feature encoder is a transformer whose blocks are told nothing."""
    blocks = getattr(model.feature_encoder, "blocks", None)
    return blocks is not None and len(blocks) > 0 and isinstance(blocks[0], Block)


@torch.no_grad()
def attention(
    model: Any, inputs: Tensor | Mapping[str, Any], *, layer: int = -1, token: Sequence[int] | None = None
) -> Tensor:
    """Where each head of a layer looks, float32 [B, heads, T, H, W]; every head's map adds up to 1.

    Where the encoder has a class token, what that one takes is left out: the maps add up to less.

    Args:
        model: any family whose encoder is a transformer; its feature encoder is looked into.
        inputs: as in `encode`.
        layer: block, 0 the first and -1 the last.
        token: (t, row, column) that looks; None is the mean over all tokens.

    Raises:
        ValueError: the encoder has no attention or no such layer, or there is no such token.
    """
    encoder = model.feature_encoder
    if not has_attention(model):
        raise ValueError(f"a {type(model).__name__} has no attention to look into: its encoder is no plain transformer")
    blocks = encoder.blocks
    if not -len(blocks) <= layer < len(blocks):
        raise ValueError(f"layer {layer}: this encoder has blocks 0 .. {len(blocks) - 1}")
    clip = model_inputs.prepare(inputs, model, pad=False)
    x, rotary = encoder.embed(clip.pixels)
    mask = encoder.reach(clip.pixels)
    for block in blocks[: layer % len(blocks)]:
        x = block(x, rotary, mask=mask)
    block = blocks[layer]
    x = block.norm1(x)
    count = math.prod(clip.grid)
    first = x.shape[1] - count  # class tokens stand before the grid
    if token is not None:
        index = torch.tensor([first + _index(token, clip.grid)], device=x.device)
        weights = block.attn.weights(x, rotary, index, mask)[:, :, 0]  # [B, heads, first + N]
    else:
        weights = x.new_zeros(len(x), block.attn.num_heads, first + count, dtype=torch.float32)
        for start in range(first, first + count, _QUERIES):
            asked = slice(start, start + _QUERIES)
            weights += block.attn.weights(x, rotary, asked, mask).sum(dim=2) / count
    return weights[..., first:].float().cpu().unflatten(-1, clip.grid)


def _place(features: Features, token: Sequence[int]) -> tuple[int, int]:
    """(sample, number of the token) of (sample, t, row, column)."""
    if len(token) != 4 or not 0 <= token[0] < len(features.tokens):
        raise ValueError(f"token is (sample, t, row, column) with a sample of 0 .. {len(features.tokens) - 1}: {token}")
    return int(token[0]), _index(token[1:], features.grid_size)


def _index(token: Sequence[int], grid: tuple[int, int, int]) -> int:
    if len(token) != 3 or not all(0 <= place < size for place, size in zip(token, grid, strict=True)):
        raise ValueError(f"token {tuple(token)} is not on the grid of {grid[0]} x {grid[1]} x {grid[2]} tokens")
    t, row, column = (int(place) for place in token)
    return (t * grid[1] + row) * grid[2] + column


def _valid(features: Features) -> Tensor:
    if features.valid is not None:
        return features.valid.cpu()
    return torch.ones(features.tokens.shape[:2], dtype=torch.bool)
