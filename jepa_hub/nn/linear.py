"""The linear layer of every network here: `torch.nn.Linear` with the faster products of `onednn` on a CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from jepa_hub.nn.onednn import product, usable

LEAST_ROWS = 64  # below, rearranging the weight costs more than the product saves


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """X @ weight.T + bias: [..., K] and [N, K] -> [..., N]."""
    if x.numel() < LEAST_ROWS * weight.shape[-1] or not usable(x, weight):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in (x, weight, bias)):
        return _Linear.apply(x, weight, bias)
    return product(x, weight, bias)


class _Linear(torch.autograd.Function):
    """The product and its two gradients by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        rows = gradient.reshape(-1, gradient.shape[-1])  # [R, N]
        of_x = of_weight = of_bias = None
        if need_x:
            of_x = product(rows, weight.t()).view_as(x)  # [R, K]
        if need_weight:
            of_weight = product(rows.t(), x.reshape(-1, x.shape[-1]).t())  # [N, K]
        if ctx.has_bias and need_bias:
            of_bias = rows.sum(dim=0)
        return of_x, of_weight, of_bias


class Linear(nn.Linear):
    """`torch.nn.Linear` whose products are `linear`'s."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., K] -> [..., N]."""
        return linear(input, self.weight, self.bias)
