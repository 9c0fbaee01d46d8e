"""TensorRT up to its import: profiles, the command line, the cache, the published names; and what is said without."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch

from export import to_tensorrt
from export.to_tensorrt import Profile, profiles, trtexec_line

# Names and enumerators of TensorRT's Python documentation that building an engine uses.
PUBLISHED = {
    "Logger", "WARNING", "Builder", "create_network", "NetworkDefinitionCreationFlag", "STRONGLY_TYPED", "OnnxParser",
    "parse_from_file", "get_error", "num_errors", "create_builder_config", "set_memory_pool_limit", "MemoryPoolType",
    "WORKSPACE", "create_optimization_profile", "set_shape", "add_optimization_profile", "build_serialized_network",
    "__version__",
}  # fmt: skip
RANGES = {"batch": (1, 8, 32), "height": (64, 224, 448), "width": (64, 224, 448)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An ONNX file with free axes, without weights."""
    shape: list[str | int | None] = ["batch", 3, "height", "width"]
    sides = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("pixel_values", "y")]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["pixel_values"], ["y"])], "g", sides[:1], sides[1:]
    )
    path = tmp_path / "onnx" / "model_fp16.onnx"
    path.parent.mkdir()
    onnx.save_model(onnx.helper.make_model(graph), path)
    return path


def test_profiles_and_command(file: Path) -> None:
    shapes = to_tensorrt.input_shapes(file)
    assert shapes == {"pixel_values": ["batch", 3, "height", "width"]}
    found = profiles({**shapes, "group": [1]}, RANGES)
    assert found == {"pixel_values": Profile((1, 3, 64, 64), (8, 3, 224, 224), (32, 3, 448, 448))}
    line = trtexec_line(Path("model.onnx"), Path("model.engine"), found)
    assert line == (
        "trtexec --onnx=model.onnx --saveEngine=model.engine --stronglyTyped --memPoolSize=workspace:4096 "
        "--minShapes=pixel_values:1x3x64x64 --optShapes=pixel_values:8x3x224x224 --maxShapes=pixel_values:32x3x448x448"
    )
    with pytest.raises(ValueError, match=r"sizes of width.*--range"):
        profiles(shapes, {name: RANGES[name] for name in ("batch", "height")})
    with pytest.raises(ValueError, match="least <= usual <= most"):
        profiles(shapes, {**RANGES, "batch": (8, 1, 32)})


def test_only_published_names_are_called() -> None:
    tree = ast.parse(inspect.getsource(to_tensorrt.to_tensorrt))
    objects = {"trt", "builder", "network", "parser", "config", "profile"}
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).split(".")[0] in objects
    }
    assert used and used <= PUBLISHED


class Recorder:
    """Stands for TensorRT: writes down what is called."""

    def __init__(self, calls: list[tuple[str, Any]]) -> None:
        self.calls = calls

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self.calls.append((name, arguments))
            return b"engine" if name == "build_serialized_network" else self

        return call


def test_engines_are_strongly_typed_and_cached(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, Any]] = []
    double = Recorder(calls)
    library = SimpleNamespace(
        __version__="10.9.0", Logger=SimpleNamespace(WARNING=1), Builder=double.Builder, OnnxParser=double.OnnxParser,
        NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1), MemoryPoolType=SimpleNamespace(WORKSPACE=0),
    )  # fmt: skip
    library.Logger = type("Logger", (), {"WARNING": 1, "__init__": lambda self, level: None})
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB")
    engine = to_tensorrt.to_tensorrt(file, RANGES)
    assert engine.read_bytes() == b"engine" and engine.parent == file.parent.parent / "tensorrt"
    assert "H100" in engine.name and "trt10-9-0" in engine.name
    assert dict(calls)["create_network"] == (2,)  # 1 << STRONGLY_TYPED
    assert dict(calls)["set_shape"] == ("pixel_values", (1, 3, 64, 64), (8, 3, 224, 224), (32, 3, 448, 448))
    before = len(calls)
    assert to_tensorrt.to_tensorrt(file, RANGES) == engine and len(calls) == before
    other = to_tensorrt.to_tensorrt(file, {**RANGES, "batch": (1, 1, 1)})
    assert other != engine


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_without_tensorrt_the_error_says_how_to_get_it(file: Path) -> None:
    with pytest.raises(ImportError, match="pip install tensorrt"):
        to_tensorrt.to_tensorrt(file, RANGES)
