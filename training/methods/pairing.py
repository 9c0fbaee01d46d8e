"""Logits of all pairs of pictures and texts over all workers, without ever holding all mixtures.

A mixture is a vector per pair: B x T x E numbers, T the texts of all workers. Here they are made for a few pictures at
a time and made again in the backward pass, so that a chunk of them is all that exists. The texts of a worker travel
around the ring of workers; pictures stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from training.methods.gathering import rank, world_size

Logits = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # keys, values, queries, targets -> [B, T]


class Texts(NamedTuple):
    """queries [T, E], targets [T, E], int64 owner [T] (which picture of all workers) and id [T] (which text)."""

    queries: Tensor
    targets: Tensor
    owner: Tensor
    id: Tensor


def chunked(logits: Logits, keys: Tensor, values: Tensor, queries: Tensor, targets: Tensor, most: int) -> Tensor:
    """[B, T] as `logits` gives them, for a few pictures at a time, each chunk recomputed in the backward pass.

    Args:
        logits: of keys, values [B', K, E], queries and targets [T, E].
        keys, values: [B, K, E].
        queries, targets: [T, E].
        most: numbers of an array [pictures, T, E] that may exist at once; one picture always may.
    """
    rows = max(1, most // max(1, queries.numel()))
    if rows >= keys.shape[0]:
        return _recomputed(logits, keys, values, queries, targets)
    # split, not slices: its backward joins the gradients once instead of padding each to the whole
    parts = zip(keys.split(rows), values.split(rows), strict=True)
    return torch.cat([_recomputed(logits, key, value, queries, targets) for key, value in parts])


def _recomputed(logits: Logits, *tensors: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        return logits(*tensors)
    found: Any = checkpoint(logits, *tensors, use_reentrant=False, preserve_rng_state=False)
    return found


def ring(texts: Texts) -> list[Texts]:
    """The texts of every worker, by rank; gradients travel back the way the texts came.

    The gradient of a text is the sum of what all workers' losses say about it; divided by the number of workers, as
    data parallelism does, it is that of the mean loss.

    Args:
        texts: of this worker, as many as of every other.
    """
    world = world_size()
    if world == 1:
        return [texts]
    found: list[Texts | None] = [None] * world
    moving, numbers = torch.cat([texts.queries, texts.targets], dim=1), torch.stack([texts.owner, texts.id])
    for hop in range(world):
        if hop:
            moving, numbers = _Shift.apply(moving), _shift(numbers, 1)
        queries, targets = moving.split([texts.queries.shape[1], texts.targets.shape[1]], dim=1)
        found[(rank() - hop) % world] = Texts(queries, targets, *numbers)
    return [each for each in found if each is not None]


def _shift(tensor: Tensor, step: int) -> Tensor:
    """What the worker `step` before this one in the ring holds; every worker calls it."""
    world, own = world_size(), rank()
    sent, received = tensor.contiguous(), torch.empty_like(tensor, memory_format=torch.contiguous_format)
    operations = [
        dist.P2POp(dist.isend, sent, (own + step) % world),
        dist.P2POp(dist.irecv, received, (own - step) % world),
    ]
    for work in dist.batch_isend_irecv(operations):
        work.wait()
    return received


class _Shift(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _shift(tensor, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _shift(gradients[0], -1)
