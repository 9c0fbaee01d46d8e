"""Half precision as hardware computes it, on a CPU: every value is rounded to its type, so that overflow shows.

onnxruntime's CPU provider computes float16 graphs in float32 and has no bfloat16 products at all; a file that overflows
on a GPU would pass there unnoticed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

# These only move values that are rounded already.
MOVES = {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Concat", "Expand", "Gather", "Identity", "Split"}


def rounded(path: Path) -> Any:
    """The model of an ONNX file in float32, with every half-precision value rounded to its type; an onnx_ir model."""
    import onnx_ir as ir

    half = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
    model = ir.load(path)
    graph = model.graph
    for value in graph.initializers.values():
        if value.dtype in half:
            assert value.const_value is not None  # initializers have one
            value.const_value = ir.tensor(value.const_value.numpy().astype("float32"), name=value.name)
            value.dtype = ir.DataType.FLOAT
    for node in list(graph):
        for output in node.outputs:
            kind = output.dtype
            if kind not in half:
                continue
            if node.op_type in MOVES:
                output.dtype = ir.DataType.FLOAT
            else:
                _round_output(ir, graph, node, output, kind)
    return model


def _round_output(ir: Any, graph: Any, node: Any, output: Any, kind: Any) -> None:
    """Put the casts kind -> float32 behind an output; all who read it read what comes out of them."""
    after = node
    last = output
    makes_half = node.op_type in ("Cast", "Constant", "ConstantOfShape")  # these write the type itself
    for to in (() if makes_half else (kind,)) + (ir.DataType.FLOAT,):
        cast = ir.node("Cast", [last], attributes={"to": to})
        cast.outputs[0].name = f"{output.name}_as_{to.name.lower()}"
        cast.outputs[0].dtype, cast.outputs[0].shape = to, output.shape
        graph.insert_after(after, cast)
        after, last = cast, cast.outputs[0]
    first = after if makes_half else after.inputs[0].producer()
    output.replace_all_uses_with(last)
    first.replace_input_with(0, output)  # the first cast reads the value itself, not what comes of it
    if not makes_half:
        output.dtype = ir.DataType.FLOAT
    for index, value in enumerate(graph.outputs):
        if value is output:
            graph.outputs[index] = last
