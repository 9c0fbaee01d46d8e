"""Linear layers that use all of a CPU.

On a CPU torch hands float32 matrix products to MKL, which leaves half of the vector unit of AMD processors unused;
oneDNN, which torch carries too, does not (2.2 x the products per second, measured on an EPYC; no difference on Intel).
Everywhere else (GPUs, other dtypes, autocast, torch.compile, torch.export) this is torch's own linear.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import _len_torch_dispatch_stack  # type: ignore[attr-defined]

LEAST_ROWS = 64  # below, rearranging the weight costs more than the product saves
_enabled = True


def _find_product() -> Callable[..., Tensor] | None:
    """OneDNN's product of [..., K] and [N, K], or None in a build of torch without it."""
    try:
        return torch.ops.mkldnn._linear_pointwise.default if torch.backends.mkldnn.is_available() else None
    except AttributeError:
        return None


_product = _find_product()


@contextlib.contextmanager
def plain_products() -> Iterator[None]:
    """Torch's own products while the context lasts, to compare with or to count."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """X @ weight.T + bias: [..., K] and [N, K] -> [..., N]."""
    few = x.numel() < LEAST_ROWS * weight.shape[-1]
    if _product is None or not _enabled or few or not (_plain(x) and _plain(weight)) or _is_watched():
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in (x, weight, bias)):
        return _Linear.apply(x, weight, bias)
    return _product(x, weight, bias, "none", [], "")


def _plain(tensor: Tensor) -> bool:
    """Whether a tensor is float32 memory of this machine: no subclass that shards, quantises or traces."""
    return type(tensor) in (Tensor, nn.Parameter) and tensor.dtype == torch.float32 and tensor.device.type == "cpu"


def _is_watched() -> bool:
    """Whether somebody wants to see torch's own product: a compiler, autocast, a tracer, a counter, a transform."""
    return (
        torch.compiler.is_compiling()
        or torch.is_autocast_enabled("cpu")
        or torch.jit.is_tracing()  # type: ignore[attr-defined]
        or _len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
    )


class _Linear(torch.autograd.Function):
    """The product and its two gradients by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        assert _product is not None
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return _product(x, weight, bias, "none", [], "")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        assert _product is not None
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias = ctx.needs_input_grad
        rows = gradient.reshape(-1, gradient.shape[-1])  # [R, N]
        of_x = of_weight = of_bias = None
        if need_x:
            of_x = _product(rows, weight.t(), None, "none", [], "").view_as(x)  # [R, K]
        if need_weight:
            inputs = x.reshape(-1, x.shape[-1])  # [R, K]
            of_weight = _product(rows.t(), inputs.t(), None, "none", [], "")  # [N, K]
        if ctx.has_bias and need_bias:
            of_bias = rows.sum(dim=0)
        return of_x, of_weight, of_bias


class Linear(nn.Linear):
    """`torch.nn.Linear` whose products are `linear`'s."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., K] -> [..., N]."""
        return linear(input, self.weight, self.bias)
