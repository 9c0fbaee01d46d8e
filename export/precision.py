"""Half precision that stays right: which parts of a network keep float32, written into the graph as casts.

Matrix products, residual sums and activations run in the half type. Norms, softmax and rotary turns are computed in
float32: their squares and exponentials leave the range of float16, and a runtime that is free to choose does that
silently. The casts are part of the graph, so a strongly typed TensorRT network cannot undo them.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa_hub.models.graphs import Graph
from jepa_hub.nn.attention import Attention, CrossAttention

HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}
INTEGER = ("int8", "int8_static")  # weights and activations of matrix products; made from the float32 file
PRECISIONS = ("fp32", *HALF, *INTEGER)
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, nn.RMSNorm)


def in_half(graph: Graph, dtype: torch.dtype) -> Graph:
    """The same graph with weights of `dtype`; inputs and outputs stay float32."""
    module = copy.deepcopy(graph.module).to(dtype)
    for name, child in list(module.named_modules()):
        if isinstance(child, NORMS):
            module.set_submodule(name, Float32Norm(child))
        elif isinstance(child, (Attention, CrossAttention)):
            child.attend = attend_in_float32
    return Graph(graph.name, _Boundary(module, dtype), graph.inputs, graph.free_axes, graph.outputs)


class Float32Norm(nn.Module):
    """A norm computed in float32, whatever comes in; the same type goes out."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm.float()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.float()).to(x.dtype)


def attend_in_float32(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Attention [B, heads, Q, head_dim] whose softmax is float32; the scale goes first, so that products stay small."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # [B, heads, Q, K]
    scores = scores.float()
    if getattr(module, "causal", False):
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(dim=-1).to(value.dtype) @ value


class _Boundary(nn.Module):
    def __init__(self, inner: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner, self.dtype = inner, dtype

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        cast = (each.to(self.dtype) if each.is_floating_point() else each for each in inputs)
        return tuple(each.float() for each in self.inner(*cast))


def plain_attention(graph: Graph) -> Graph:
    """The same graph with torch's own attention, whatever kernel the model was loaded with: exporters know that one."""
    module = copy.deepcopy(graph.module)
    for child in module.modules():
        if isinstance(child, (Attention, CrossAttention)):
            child.attend = _sdpa
    return Graph(graph.name, module, graph.inputs, graph.free_axes, graph.outputs)


def _sdpa(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    causal = getattr(module, "causal", False)  # of a CrossAttention there is no such thing
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
