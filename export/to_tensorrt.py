"""TensorRT engines from exported ONNX files, by NVIDIA's Python API, and the same as a `trtexec` line.

Networks are strongly typed: TensorRT computes each layer in the type the file says, and may not lower norms, softmax or
rotary turns to float16, which is what silently breaks vision transformers. Precision is therefore chosen when the ONNX
file is written. This module was tested up to the import of `tensorrt`; it has not been run on a GPU.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export import files

PRECISIONS = ("fp32", "fp16", "bf16")  # integers would need TensorRT's own quantised operators
WORKSPACE_BYTES = 4 << 30


@dataclass(frozen=True)
class Profile:
    """Smallest, usual and largest shape of one input."""

    least: tuple[int, ...]
    usual: tuple[int, ...]
    most: tuple[int, ...]


def profiles(
    shapes: Mapping[str, Sequence[int | str]], ranges: Mapping[str, tuple[int, int, int]]
) -> dict[str, Profile]:
    """Optimisation profiles of all inputs with free axes.

    Args:
        shapes: input -> fixed sizes and names of free axes, as in an ONNX file.
        ranges: name of a free axis -> (least, usual, most).

    Raises:
        ValueError: an axis has no range, or a range is not in order.
    """
    for name, (least, usual, most) in ranges.items():
        if not 1 <= least <= usual <= most:
            raise ValueError(
                f"the range of {name} must be least <= usual <= most from 1 on, got {least}:{usual}:{most}"
            )
    missing = {axis for shape in shapes.values() for axis in shape if isinstance(axis, str)} - set(ranges)
    if missing:
        raise ValueError(f"give the sizes of {', '.join(sorted(missing))}: --range NAME=LEAST:USUAL:MOST for each")
    found = {}
    for name, shape in shapes.items():
        if any(isinstance(axis, str) for axis in shape):
            each = [tuple(ranges[axis][i] if isinstance(axis, str) else axis for axis in shape) for i in range(3)]
            found[name] = Profile(*each)
    return found


def input_shapes(path: Path) -> dict[str, list[int | str]]:
    """Input -> fixed sizes and names of free axes of an ONNX file."""
    import onnx

    files.external_files(path)
    graph = onnx.load_model(str(path), load_external_data=False).graph
    return {
        each.name: [dim.dim_param or dim.dim_value for dim in each.type.tensor_type.shape.dim] for each in graph.input
    }


def trtexec_line(path: Path, engine: Path, chosen: Mapping[str, Profile]) -> str:
    """The command that builds the same engine with the program that comes with TensorRT."""
    words = ["trtexec", f"--onnx={path}", f"--saveEngine={engine}", "--stronglyTyped"]
    words.append(f"--memPoolSize=workspace:{WORKSPACE_BYTES >> 20}")
    for option, field in (("minShapes", "least"), ("optShapes", "usual"), ("maxShapes", "most")):
        sizes = (f"{name}:{'x'.join(map(str, getattr(profile, field)))}" for name, profile in chosen.items())
        words += [f"--{option}={','.join(sizes)}"] * bool(chosen)
    return shlex.join(words)


def engine_path(path: Path, device: str, version: str, chosen: Mapping[str, Profile]) -> Path:
    """Where the engine of a file is cached: it depends on the file, the GPU, TensorRT's version and the profiles."""
    beside = path.with_name(f"{path.name}_data")
    state = [(each.stat().st_size, each.stat().st_mtime_ns) for each in (path, beside) if each.exists()]
    key = hashlib.sha256(repr((state, sorted(chosen.items()))).encode()).hexdigest()[:12]
    folder = path.parent.parent / files.FOLDERS["tensorrt"]
    safe = "".join(letter if letter.isalnum() else "-" for letter in f"{device}-trt{version}")
    return folder / f"{path.stem}.{safe}.{key}.engine"


def to_tensorrt(path: Path, ranges: Mapping[str, tuple[int, int, int]]) -> Path:
    """Build (or find in the cache) the engine of an exported ONNX file.

    Args:
        path: as `to_onnx` wrote it, in "fp32", "fp16" or "bf16".
        ranges: see `profiles`.

    Raises:
        ImportError: TensorRT is missing.
        RuntimeError: TensorRT refuses the file; its own words are given.
    """
    chosen = profiles(input_shapes(path), ranges)
    trt = _tensorrt()
    import torch

    engine = engine_path(path, torch.cuda.get_device_name(), trt.__version__, chosen)
    if engine.is_file():
        return engine
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        raise RuntimeError(f"{path}: " + "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors)))
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    profile = builder.create_optimization_profile()
    for name, each in chosen.items():
        profile.set_shape(name, each.least, each.usual, each.most)
    config.add_optimization_profile(profile)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise RuntimeError(f"TensorRT could not build {path.name}; its log above says why")
    engine.parent.mkdir(parents=True, exist_ok=True)
    unfinished = engine.with_suffix(".unfinished")
    unfinished.write_bytes(bytes(built))
    return unfinished.replace(engine)


def _tensorrt() -> Any:
    try:
        import tensorrt
    except ImportError as error:
        raise ImportError(
            "TensorRT is missing: on a machine with an NVIDIA GPU, pip install tensorrt (10 or newer); or run the "
            "ONNX file with provider='tensorrt', or the trtexec line that --show-command prints"
        ) from error
    return tensorrt
