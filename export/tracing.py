"""Graphs as torch.export programs, with every free axis free."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from export.precision import HALF, PRECISIONS, in_half, plain_attention
from jepa_hub.models.graphs import Graph


def in_precision(graph: Graph, precision: str) -> Graph:
    """The graph that computes in "fp32", "fp16" or "bf16"; for integers the float32 one, which is what they start from.

    Raises:
        ValueError: there is no such precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
    return in_half(graph, HALF[precision]) if precision in HALF else plain_attention(graph)


class Positional(nn.Module):
    """A module behind `*inputs`, so that every graph is described to torch.export in one way."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self.inner(*inputs)


@torch.no_grad()
def trace(graph: Graph) -> ExportedProgram:
    """The program of a graph, free in all of its `free_axes`."""
    shapes = tuple(dict.fromkeys(graph.free_axes[name], Dim.DYNAMIC) for name in graph.inputs)
    return torch.export.export(Positional(graph.module).eval(), tuple(graph.inputs.values()), dynamic_shapes=(shapes,))
