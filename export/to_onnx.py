"""ONNX files of a model: features, predictions, probes; any batch, size and length; fp32, fp16, bf16, int8."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from export import files, quantise
from export.precision import INTEGER
from export.prepare import Exported, Progress, prepared, quiet
from export.tracing import in_precision, trace
from jepa_hub.models.graphs import Graph
from jepa_hub.processing import JEPAProcessor

OPSET = 20  # the first with Gelu and antialiased resizing; onnxruntime 1.17 and TensorRT 10 read it
LARGEST_FILE = (1 << 31) - (1 << 24)  # protobuf ends at 2 GiB; the graph itself needs some room
SCOPES = "pkg.torch.onnx.name_scopes"  # where torch's exporter notes the module a node came from


def to_onnx(
    model: Any,
    folder: str | Path,
    *,
    precision: str = "fp32",
    graphs: Sequence[str] | None = None,
    layers: Sequence[int] = (),
    processor: JEPAProcessor | None = None,
    preprocessing_in_graph: bool = False,
    calibration: Callable[[Graph], Sequence[Mapping[str, Tensor]]] | None = None,
    external_data_above: int = LARGEST_FILE,
    progress: Progress | None = None,
) -> list[Exported]:
    """Write `folder`/onnx/model*.onnx and config.json; one file per graph of the model.

    Args:
        model: a `JEPAModel` or `Probe`, in eval mode, of any dtype.
        folder: where to; it may be the folder of the weights.
        precision: "fp32", "fp16", "bf16" (norms, softmax and rotary turns stay float32), "int8" (activations scaled as
            they come) or "int8_static" (scaled as `calibration` was).
        graphs: names of those wanted (see `Graph`); all by default.
        layers: blocks whose outputs features are to give too.
        processor: recorded in the file.
        preprocessing_in_graph: let the graph take uint8 frames [B, F, H, W, 3] ([B, H, W, 3] for images) and resize,
            crop and normalise them as `processor` does.
        calibration: gives the inputs of a graph, by name: to scale "int8_static" by, and to find the layers that int8
            would harm.
        external_data_above: bytes of weights above which they go to a file of their own beside the graph.
        progress: is told what is being done.

    Raises:
        ValueError: an unknown graph or precision, or calibration or a processor is missing.
        ImportError: onnx or onnxscript is missing.
    """
    require_packages()
    if precision == "int8_static" and calibration is None:
        raise ValueError("int8_static needs calibration inputs: some dozens of the images or clips it will see")
    tell = progress or (lambda text: None)
    wanted = prepared(
        model,
        folder,
        "onnx",
        ".onnx",
        precision=precision,
        graphs=graphs,
        layers=layers,
        processor=processor,
        preprocessing_in_graph=preprocessing_in_graph,
    )
    written = []
    for file, told in wanted:
        tell(f"{file.path.name}: tracing")
        build = file.path if precision not in INTEGER else file.path.with_name(f".unfinished-{file.path.name}")
        write_graph(file.graph, build, precision, told, external_data_above)
        if precision in INTEGER:
            tell(f"{file.path.name}: quantising")
            scales = calibration(file.graph) if calibration else ()
            quantise.quantise(build, file.path, precision, file.graph, scales, tell)
        written.append(file)
    return written


def require_packages() -> None:
    """Nothing, if what writing needs is installed.

    Raises:
        ImportError: it is not; the message names the extra.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"export needs {error.name}: pip install 'jepa-hub[export]' (or [export-gpu])") from error


def write_graph(graph: Graph, path: Path, precision: str, told: dict[str, str], external_data_above: int) -> None:
    """Write one graph that computes in float32 or half precision."""
    import onnx_ir

    with quiet():
        program = trace(in_precision(graph, precision))
        onnx_program = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
        )
    assert onnx_program is not None  # dynamo=True returns one
    model = onnx_program.model
    _name_axes(model, graph)
    blocks = _layer_values(model)
    model.metadata_props.update(
        {**told, files.PREFIX + "opset": str(OPSET), files.PREFIX + "blocks": json.dumps(blocks)}
    )
    for node in model.graph:
        node.metadata_props.clear()  # stack traces with paths of this machine
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    external = f"{path.name}_data" if size > external_data_above else None
    unfinished = path.with_name(f".unfinished-{path.name}")
    path.with_name(f"{path.name}_data").unlink(missing_ok=True)
    onnx_ir.save(model, unfinished, external_data=external)
    unfinished.replace(path)


def _name_axes(model: Any, graph: Graph) -> None:
    """Free axes get the names of the graph instead of torch's symbols."""
    import onnx_ir

    renamed: dict[str, str] = {}
    for value in model.graph.inputs:
        shape = list(value.shape)
        for axis, name in graph.free_axes[value.name].items():
            renamed[str(shape[axis])] = name
            shape[axis] = onnx_ir.SymbolicDim(name)
        value.shape = onnx_ir.Shape(shape)
    for value in model.graph.outputs:
        shape = [
            dim if isinstance(dim, int) else onnx_ir.SymbolicDim(renamed.get(str(dim), f"{value.name}_{axis}"))
            for axis, dim in enumerate(value.shape)
        ]
        value.shape = onnx_ir.Shape(shape)


def _layer_values(model: Any) -> dict[str, str]:
    """Module name -> the ONNX value it ends in, for blocks and their direct parts; verify compares there."""
    ends: dict[str, str] = {}
    for node in model.graph:
        scopes = node.metadata_props.get(SCOPES)
        if not scopes:
            continue
        # "['', 'inner', 'inner.encoder', 'inner.encoder.blocks.0', ..., 'add_3']": the last one is the node itself
        for name in _strings(scopes)[:-1]:
            parts = name.split(".")
            if "blocks" in parts and len(parts) - parts.index("blocks") in (2, 3):
                ends[name.removeprefix("inner.")] = node.outputs[0].name
    return ends


def _strings(text: str) -> list[str]:
    import ast

    found = ast.literal_eval(text)
    return [str(each) for each in found]
