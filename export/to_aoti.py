"""AOTInductor packages: the graphs of a model compiled ahead of time, for the CPU or for CUDA; no ONNX involved."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from export import files
from export.precision import INTEGER
from export.prepare import Exported, Progress, prepared, quiet
from export.tracing import in_precision, trace
from jepa_hub.models.graphs import Graph
from jepa_hub.processing import JEPAProcessor


def to_aoti(
    model: Any,
    folder: str | Path,
    *,
    precision: str = "fp32",
    graphs: Sequence[str] | None = None,
    layers: Sequence[int] = (),
    processor: JEPAProcessor | None = None,
    preprocessing_in_graph: bool = False,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[Exported]:
    """Write `folder`/aoti/model*.pt2 and config.json; one package per graph of the model.

    A package is a program for this kind of processor or GPU and this version of torch: make it where it will run.

    Args:
        model, folder, graphs, layers, processor, preprocessing_in_graph, progress: as in `to_onnx`.
        precision: "fp32", "fp16" or "bf16".
        device: "cpu" or "cuda".

    Raises:
        ValueError: an integer precision, or a graph that this model lacks.
        RuntimeError: there is no C++ compiler, or the device is not there.
    """
    if precision in INTEGER:
        raise ValueError(f"AOTInductor packages are fp32, fp16 or bf16; for {precision} use --to onnx")
    require_compiler(device)
    tell = progress or (lambda text: None)
    wanted = prepared(
        model,
        folder,
        "aoti",
        ".pt2",
        precision=precision,
        graphs=graphs,
        layers=layers,
        processor=processor,
        preprocessing_in_graph=preprocessing_in_graph,
    )
    written = []
    for file, told in wanted:
        tell(f"{file.path.name}: tracing and compiling for {device}")
        _compile(file.graph, file.path, precision, told, device)
        written.append(file)
    return written


def require_compiler(device: str) -> None:
    """Nothing, if packages for this device can be made here.

    Raises:
        RuntimeError: there is no C++ compiler, or no GPU.
    """
    from torch._inductor import exc
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except exc.InvalidCxxCompiler as error:
        raise RuntimeError(
            "AOTInductor needs a C++ compiler: `make system` (or apt-get install g++), or set CXX to one"
        ) from error
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("there is no CUDA device here: a package for CUDA is made on a machine that has one")


def _compile(graph: Graph, path: Path, precision: str, told: dict[str, str], device: str) -> None:
    chosen = in_precision(graph, precision)
    moved = Graph(
        chosen.name,
        chosen.module.to(device),
        {name: value.to(device) for name, value in chosen.inputs.items()},
        chosen.free_axes,
        chosen.outputs,
    )
    types = {name: str(value.dtype).removeprefix("torch.") for name, value in moved.inputs.items()}
    told = {**told, files.PREFIX + "types": json.dumps(types)}
    unfinished = path.with_name(f"unfinished-{path.name}")  # torch wants the name to end in .pt2
    with quiet():
        torch._inductor.aoti_compile_and_package(
            trace(moved), package_path=str(unfinished), inductor_configs={"aot_inductor.metadata": told}
        )
    unfinished.replace(path)
