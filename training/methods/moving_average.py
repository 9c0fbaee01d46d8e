"""The moving average that makes a target encoder."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def update_average(average: nn.Module, source: nn.Module, momentum: float) -> None:
    """Average <- momentum * average + (1 - momentum) * source, in one pass over all parameters; buffers are copied.

    Args:
        average: the target encoder, changed in place.
        source: the encoder, of the same architecture.
        momentum: in [0, 1].

    Raises:
        ValueError: momentum is out of range, or the two share a parameter (an alias would train the target).
    """
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum must be in [0, 1], got {momentum}")
    targets: list[torch.Tensor] = list(average.parameters())
    sources: list[torch.Tensor] = list(source.parameters())
    if len(targets) != len(sources) or any(a is b for a, b in zip(targets, sources, strict=False)):
        raise ValueError("the moving average must be a real copy of the network it follows")
    torch._foreach_lerp_(
        targets, [each.to(mine.dtype) for mine, each in zip(targets, sources, strict=True)], 1 - momentum
    )
    for mine, theirs in zip(average.buffers(), source.buffers(), strict=True):
        mine.copy_(theirs)
