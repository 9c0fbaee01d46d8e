"""Load what is to be exported, and compare exported files with it on real pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from export import samples
from export.precision import HALF
from export.prepare import Exported
from export.runtime import output_size
from export.sessions import open_session
from export.verify import verify
from jepa_hub import hub
from jepa_hub.models.base import JEPAModel
from jepa_hub.models.probe import Probe, ProbeConfig
from jepa_hub.processing import JEPAProcessor

Tell = Callable[[str], None]


def load(name: str, revision: str | None, tell: Tell) -> tuple[Any, JEPAProcessor | None]:
    """The model or probe of a name, and its preprocessing if that is known.

    Raises:
        ValueError, OSError: see `JEPAModel.from_pretrained`.
    """
    location = hub.locate(name)
    is_probe = location.row is not None and location.row.kind == "probe"
    if location.kind == "repository" and not is_probe:
        config = hub.read_config(location, hub.Access(revision))
        is_probe = config.get("model_type") == ProbeConfig.model_type
        is_probe |= "VJEPA2ForVideoClassification" in (config.get("architectures") or [])
    loaded = (Probe if is_probe else JEPAModel).from_pretrained(name, revision=revision).eval()
    try:
        return loaded, JEPAProcessor.from_pretrained(name, revision=revision)
    except ValueError as error:
        tell(f"note: no preprocessing is recorded: {' '.join(str(error).split())}")
        return loaded, None


def _backbone(model: Any) -> Any:
    return getattr(model, "backbone", None) or model


def _cases(model: Any, graph: Any, processor: Any, inputs: Sequence[Path], in_graph: bool, seed: int = 0) -> list[Any]:
    """Inputs of a graph: at the model's size one by one and together, and at sizes it was not traced at."""
    config = _backbone(model).config
    if in_graph and "frames" in graph.inputs:
        count = samples.clip_length(config)
        frames = [
            samples.frames_of_photo(batch, count, size, seed) for batch, size in ((1, (240, 320)), (3, (181, 130)))
        ]
        tokens = _tokens(model, processor)
        return [_with_frames(graph, each if count > 1 else each[:, 0], tokens) for each in frames]
    pixels = samples.pixels(config, processor, inputs=[str(path) for path in inputs], batch=3, seed=seed)
    t, h, w = (max(size // step, 1) for size, step in zip(pixels.shape[2:], _patch(config), strict=True))
    shapes = [(max(t // 2, 1), max(h - 1, 2), w + 1), (t + 1, h, max(w - 2, 2))]
    chosen = [pixels[:1], pixels, *(samples.at_size(pixels, config, shape) for shape in shapes)]
    return [
        samples.graph_inputs(graph, each, config, targets=1 + index % 2, group=index)  # each mask token in its turn
        for index, each in enumerate(chosen)
    ]


def _patch(config: Any) -> tuple[int, int, int]:
    return config.tubelet_size, config.patch_size, config.patch_size


def _tokens(model: Any, processor: Any) -> int:
    """Tokens of the processor's output, for masks."""
    config = _backbone(model).config
    height, width = output_size(processor, (240, 320))
    return (
        max(samples.clip_length(config) // config.tubelet_size, 1)
        * (height // config.patch_size)
        * (width // config.patch_size)
    )


def _with_frames(graph: Any, frames: Any, tokens: int) -> dict[str, Any]:
    known = {"frames": frames, **samples.random_masks(len(frames), tokens, 2)}
    return {name: known.get(name, example) for name, example in graph.inputs.items()}


def calibration(model: Any, processor: Any, paths: Sequence[Path], precision: str, in_graph: bool) -> Any:
    """What gives the inputs of a graph that integers are scaled by; None where nothing is scaled.

    Raises:
        ValueError: "int8_static" without pictures, or integers with the preprocessing in the graph.
    """
    if precision not in ("int8", "int8_static"):
        return None
    if precision == "int8_static" and not paths:
        raise ValueError("int8_static is scaled by pictures: --calibration FILE, some dozens of what it will see")
    if in_graph:
        raise ValueError("--with-preprocessing and integers do not go together yet; normalise outside, or take fp16")
    return lambda graph: _cases(model, graph, processor, paths, False, seed=1)


def check(
    model: Any,
    processor: JEPAProcessor | None,
    written: Sequence[Exported],
    *,
    tell: Tell,
    inputs: Sequence[Path] = (),
    device: str = "cpu",
    in_graph: bool = False,
) -> bool:
    """Whether all files are the model, within the bounds of their precision; reports are told and kept beside them.

    A file that is not the model is removed.

    Args:
        model: what was exported.
        processor: its preprocessing.
        written: the files.
        tell: is given every report as text.
        inputs: pictures or clips to compare on; a photograph by default.
        device: where the files run.
        in_graph: whether they do the preprocessing.
    """
    reports = []
    for each in written:
        emulate = each.precision in HALF and device == "cpu" and each.path.suffix == ".onnx"
        settings = {"emulate_half": True} if emulate else {}
        session = open_session(each.path, "auto" if device == "cpu" else device, **settings)
        cases = _cases(model, each.graph, processor, inputs, in_graph)
        rounds = 0 if emulate else 5
        reports.append(verify(each.graph, session, cases, path=each.path, precision=each.precision, rounds=rounds))
        tell(reports[-1].text())
    where = written[0].path.parent
    name = f"verify_{written[0].precision}"
    (where / f"{name}.json").write_text(
        json.dumps([json.loads(each.to_json()) for each in reports], indent=2) + "\n", encoding="utf-8"
    )
    (where / f"{name}.txt").write_text("\n".join(each.text() for each in reports) + "\n", encoding="utf-8")
    for each, report in zip(written, reports, strict=True):
        if not report.passed:  # nobody shall load or upload it; the report stays
            each.path.unlink()
            each.path.with_name(f"{each.path.name}_data").unlink(missing_ok=True)
            tell(f"{each.path.name} was removed: it is not the model")
    return all(each.passed for each in reports)
