"""Names, metadata and trust of exported files: the layout of a folder, and what is refused when one is opened.

A folder holds config.json (and the weights and preprocessing of the model, where they are wanted) beside `onnx/`,
`aoti/` or `tensorrt/`, so that one Hub repository serves torch and exports. Files are `model[_GRAPH][_PRECISION]`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from jepa_hub.json_files import read_object
from jepa_hub.processing import JEPAProcessor
from jepa_hub.processor_files import IMAGE_FILE, VIDEO_FILE
from jepa_hub.version import __version__

FOLDERS = {"onnx": "onnx", "aoti": "aoti", "tensorrt": "tensorrt"}
MAIN_GRAPHS = ("features", "logits")  # the file that is called just `model`
PREFIX = "jepa_hub."


def file_name(graph: str, precision: str, suffix: str) -> str:
    """model.onnx, model_fp16.onnx, model_prediction_int8.onnx, ..."""
    parts = ["model"] + [graph] * (graph not in MAIN_GRAPHS) + [precision] * (precision != "fp32")
    return "_".join(parts) + suffix


def metadata(
    model: Any, graph: str, precision: str, processor: JEPAProcessor | None, *, in_graph: bool, **more: Any
) -> dict[str, str]:
    """What an exported file says about itself; values that are no strings are JSON.

    Args:
        model: what was exported, for its name, revision, licence and configuration.
        graph, precision: of this file.
        processor: the preprocessing of the model, if known.
        in_graph: whether the graph does the preprocessing itself.
        more: further entries.
    """
    backbone = getattr(model, "backbone", None)
    config = model.config
    told: dict[str, Any] = {
        "version": __version__,
        "model_id": config.provenance or config.name_or_path or type(model).__name__,
        "revision": getattr(config, "_commit_hash", None) or "",
        "licence": config.licence or getattr(getattr(backbone, "config", None), "licence", None) or "not stated",
        "graph": graph,
        "precision": precision,
        "preprocessing": None if processor is None else asdict(processor),
        "preprocessing_in_graph": in_graph,
        "config": {**config.settings(), "model_type": config.model_type} if hasattr(config, "settings") else {},
        **more,
    }
    return {PREFIX + key: value if isinstance(value, str) else json.dumps(value) for key, value in told.items()}


def read_metadata(properties: dict[str, str]) -> dict[str, Any]:
    """Back from what `metadata` wrote; other entries are left out."""
    found: dict[str, Any] = {}
    for key, value in properties.items():
        if key.startswith(PREFIX):
            try:
                found[key.removeprefix(PREFIX)] = json.loads(value)
            except json.JSONDecodeError:
                found[key.removeprefix(PREFIX)] = value
    return found


def refuse_other_model(model: Any, folder: Path) -> None:
    """Return if the folder is free or holds this model's configuration.

    Raises:
        ValueError: it holds that of another model.
    """
    path = folder / "config.json"
    if not path.is_file():
        return
    there, own = read_object(path), json.loads(model.config.to_json_string(use_diff=True))
    differing = [key for key in ("model_type", "hidden_size", "num_hidden_layers") if there.get(key) != own.get(key)]
    if differing:
        raise ValueError(f"{folder} holds another model (its {', '.join(differing)} differ); choose another folder")


def write_config(model: Any, folder: Path, processor: JEPAProcessor | None) -> None:
    """config.json and the preprocessing, where there are none yet."""
    path = folder / "config.json"
    if not path.is_file():
        own = json.loads(model.config.to_json_string(use_diff=True))
        path.write_text(json.dumps(own, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if processor is not None and not any((folder / name).is_file() for name in (IMAGE_FILE, VIDEO_FILE)):
        processor.save_pretrained(folder)


def external_files(path: Path) -> list[str]:
    """Names of the files beside an ONNX file that hold its large tensors.

    Raises:
        OSError: the file is not ONNX, or names a file outside its own folder. Such a file could make a runtime read
            anything this user may read, so it is refused before any runtime sees it.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise OSError(f"{path} is torn or is not an ONNX file ({error}); download or export it again") from error
    found = set()
    for tensor in _tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if not _is_inside(location):
            raise OSError(
                f"{path}: the tensor {tensor.name!r} lies in {location!r}, outside the folder of the file; refused. "
                "Get the model from its source again"
            )
        found.add(location)
    for location in found:
        _refuse_links_that_leave(path.parent / location, path)
    return sorted(found)


def _is_inside(location: str) -> bool:
    """Whether a location is a plain relative path below the folder, on any system."""
    if not location or "\0" in location:
        return False
    for kind in (PurePosixPath, PureWindowsPath):
        path = kind(location)
        if path.is_absolute() or path.drive or path.root or ".." in path.parts:
            return False
    return True


def _refuse_links_that_leave(path: Path, owner: Path) -> None:
    """A link may lead to where the Hub's cache keeps the blobs of this very repository, and nowhere else outside."""
    if not path.exists():
        return
    allowed = [owner.parent.resolve()]
    if owner.is_symlink():  # the cache: snapshots/<revision>/onnx/model.onnx -> blobs/<hash>
        allowed.append(owner.resolve().parent)
    resolved = path.resolve()
    if not any(resolved.is_relative_to(folder) for folder in allowed):
        raise OSError(f"{owner}: {path.name} is a link to {resolved}, outside the folder of the file; refused")


def _tensors(model: Any) -> Iterator[Any]:
    """Every tensor of a model: of its graph, of graphs within nodes, of functions, and of attributes."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _of_node(node)
    for training in model.training_info:
        yield from _of_graph(training.initialization)
        yield from _of_graph(training.algorithm)


def _of_graph(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _of_node(node)


def _of_node(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        yield from [attribute.t, *attribute.tensors]
        for sparse in [attribute.sparse_tensor, *attribute.sparse_tensors]:
            yield from (sparse.values, sparse.indices)
        for graph in [attribute.g, *attribute.graphs]:
            yield from _of_graph(graph)
