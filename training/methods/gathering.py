"""Tensors of all workers, with exact gradients under data parallelism (which averages gradients over workers)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """How many workers train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this worker."""
    return dist.get_rank() if world_size() > 1 else 0


def gather(tensor: Tensor) -> Tensor:
    """The rows of all workers, by rank: [N, ...] -> [world * N, ...]; gradients flow back to their workers.

    The gradient of a row is the sum of what all workers' losses say about it; divided by the number of workers, as
    data parallelism does, it is that of the mean loss.

    Args:
        tensor: of the same shape on every worker.
    """
    return tensor if world_size() == 1 else _Gather.apply(tensor)


def average(tensor: Tensor) -> Tensor:
    """The mean over workers; the gradient passes unchanged, which data parallelism makes that of the mean."""
    return tensor if world_size() == 1 else _Average.apply(tensor)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.rows = len(tensor)
        parts = [torch.empty_like(tensor) for _ in range(world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous()
        dist.all_reduce(gradient)
        start = rank() * ctx.rows
        return gradient[start : start + ctx.rows]


class _Average(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor / world_size()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]
