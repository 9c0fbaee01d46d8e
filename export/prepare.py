"""What every kind of export does first: choose graphs, put preprocessing in front, name files and describe them."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export import files
from export.preprocess import with_preprocessing
from jepa_hub.models.graphs import Graph, is_image_model
from jepa_hub.processing import JEPAProcessor

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Exported:
    """One written file: the graph it holds, and the same in torch, float32, to compare with."""

    path: Path
    graph: Graph
    precision: str


def prepared(
    model: Any,
    folder: str | Path,
    kind: str,
    ending: str,
    *,
    precision: str,
    graphs: Sequence[str] | None,
    layers: Sequence[int],
    processor: JEPAProcessor | None,
    preprocessing_in_graph: bool,
) -> Iterator[tuple[Exported, dict[str, str]]]:
    """Each file to write, with what it says about itself; configuration and preprocessing are written after the last.

    Args:
        model, folder, precision, graphs, layers, processor, preprocessing_in_graph: as in `to_onnx`.
        kind: a key of `files.FOLDERS`.
        ending: of the files, such as ".onnx".

    Raises:
        ValueError: the folder holds another model, the model has no such graph, or a processor is missing.
        RuntimeError: two graphs of a family would be written to one file.
    """
    if preprocessing_in_graph and processor is None:
        raise ValueError("there is no processor to put into the graph: give processor=")
    files.refuse_other_model(model, Path(folder))
    target = Path(folder) / files.FOLDERS[kind]
    target.mkdir(parents=True, exist_ok=True)
    chosen = chosen_graphs(model, graphs, layers)
    if len({files.file_name(graph.name, precision, ending) for graph in chosen}) < len(chosen):
        raise RuntimeError(f"two graphs of {type(model).__name__} would share a file: {[each.name for each in chosen]}")
    for graph in chosen:
        if preprocessing_in_graph and "pixel_values" in graph.inputs:
            assert processor is not None  # checked above
            graph = with_preprocessing(graph, processor, example_frames(model, graph))
        told = files.metadata(
            model,
            graph.name,
            precision,
            processor,
            in_graph=preprocessing_in_graph,
            layers=list(layers),
            inputs=list(graph.inputs),
            outputs=list(graph.outputs),
        )
        yield Exported(target / files.file_name(graph.name, precision, ending), graph, precision), told
    files.write_config(model, Path(folder), processor)


def chosen_graphs(model: Any, names: Sequence[str] | None, layers: Sequence[int]) -> list[Graph]:
    """The graphs of a model by name, all by default.

    Raises:
        ValueError: it has no such graph.
    """
    found = model.graphs(layers) if layers else model.graphs()
    if names is None:
        return found
    missing = set(names) - {graph.name for graph in found}
    if missing:
        raise ValueError(
            f"this model has no graph {', '.join(sorted(missing))}; it has {', '.join(graph.name for graph in found)}"
        )
    return [graph for graph in found if graph.name in names]


def example_frames(model: Any, graph: Graph) -> int | None:
    """Frames of the example clip, None for an image model."""
    backbone = getattr(model, "backbone", None) or model
    return None if is_image_model(backbone.config) else graph.inputs["pixel_values"].shape[2]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the notes of torch's exporter about packages that are not needed."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
