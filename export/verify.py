"""Is the exported file the model? The same inputs both ways, bounds per precision, and where it parts on failure."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export.sessions import EMULATED, Session, emulated
from jepa_hub.models.graphs import Graph


@dataclass(frozen=True)
class Bounds:
    """What an export must reach; cosines are over the channels of one token.

    Attributes:
        cosine: least mean over tokens.
        lowest: least for any token.
        relative: most of |difference| / |reference|, both root mean square.
    """

    cosine: float
    lowest: float
    relative: float


BOUNDS = {
    "fp32": Bounds(0.99999, 0.9999, 1e-3),
    "fp16": Bounds(0.9999, 0.999, 1e-2),
    "bf16": Bounds(0.999, 0.99, 5e-2),
    "int8": Bounds(0.999, 0.98, 5e-2),
    "int8_static": Bounds(0.999, 0.98, 5e-2),
}


@dataclass(frozen=True)
class Comparison:
    """One output on one input."""

    case: str
    output: str
    cosine: float
    lowest: float
    max_error: float
    relative: float
    finite: bool
    passed: bool


@dataclass(frozen=True)
class Drift:
    """How far one module's output is from torch's."""

    module: str
    cosine: float
    relative: float


@dataclass
class Report:
    """What `verify` found for one file.

    Attributes:
        ratios: torch / exported: "latency" (best of each; above 1: the export is faster) with the spread of its rounds,
            and "size" of the weights.
        drift: on failure, module by module in the order they run; the first one that parts is the culprit.
    """

    file: str
    graph: str
    precision: str
    runs_on: list[str]
    bounds: Bounds
    comparisons: list[Comparison] = field(default_factory=list)
    ratios: dict[str, Any] = field(default_factory=dict)
    drift: list[Drift] = field(default_factory=list)
    note: str = ""

    @property
    def passed(self) -> bool:
        """Every output of every case within its bounds."""
        return bool(self.comparisons) and all(each.passed for each in self.comparisons)

    @property
    def culprit(self) -> Drift | None:
        """The first module out of bounds."""
        beyond = (
            each for each in self.drift if each.cosine < self.bounds.lowest or each.relative > self.bounds.relative
        )
        return next(beyond, None)

    def to_json(self) -> str:
        """Everything, machine readable."""
        return json.dumps({**asdict(self), "passed": self.passed}, indent=2)

    def text(self) -> str:
        """Everything, for people."""
        head = f"{self.file} ({self.graph}, {self.precision}, {', '.join(self.runs_on)}): "
        lines = [head + ("passed" if self.passed else "FAILED")]
        lines += [
            f"  {each.case:<28} {each.output:<10} cosine {each.cosine:.6f} (lowest {each.lowest:.6f})  "
            f"max error {each.max_error:.1e}  relative {each.relative:.1e}" + ("" if each.passed else "  OUT OF BOUNDS")
            for each in self.comparisons
        ]
        if "latency" in self.ratios:
            low, high = self.ratios["latency_spread"]
            lines.append(
                f"  {self.ratios['latency']:.2f} x the speed of torch float32 ({low:.2f} .. {high:.2f}); weights "
                f"{self.ratios['size']:.2f} x as small"
            )
        if self.drift:
            lines += [
                f"  {each.module:<40} cosine {each.cosine:.6f}  relative {each.relative:.1e}" for each in self.drift
            ]
            if self.culprit is not None:
                lines.append(f"  the export leaves torch at {self.culprit.module}")
        return "\n".join(lines + [f"  {self.note}"] * bool(self.note))


@torch.no_grad()
def verify(
    graph: Graph,
    session: Session,
    cases: Sequence[Mapping[str, Tensor]],
    *,
    path: Path,
    precision: str,
    rounds: int = 5,
    bounds: Bounds | None = None,
) -> Report:
    """Compare an exported file with its graph in torch, float32.

    Args:
        graph: the graph as it was before export.
        session: the opened file.
        cases: inputs by name; the first is timed too.
        path: the file, for its size, and to look into its layers on failure.
        precision: which bounds hold.
        rounds: of timing, torch and export in turn; 0 leaves it out.
        bounds: others than those of `precision`.
    """
    report = Report(path.name, graph.name, precision, session.providers, bounds or BOUNDS[precision])
    module = graph.module.eval()
    for case in cases:
        wanted = module(*(case[name] for name in graph.inputs))
        got = session.run(case)
        shapes = ", ".join(f"{'x'.join(map(str, case[name].shape))}" for name in list(graph.inputs)[:1])
        for name, reference in zip(graph.outputs, wanted, strict=True):
            report.comparisons.append(compare(shapes, name, reference, got[name], report.bounds))
    if rounds:
        report.ratios = _ratios(graph, session, cases[0], path, rounds)
    if not report.passed and path.suffix == ".onnx":
        report.drift = layer_drift(graph, path, cases[0], emulate_half=EMULATED in session.providers)
    return report


def compare(case: str, name: str, reference: Tensor, got: Tensor, bounds: Bounds) -> Comparison:
    """One output against torch's; anything that is not finite, or of another shape, fails."""
    a, b = reference.double().cpu(), got.double().cpu()
    if a.shape != b.shape:
        raise ValueError(f"{name} is {tuple(b.shape)}, torch gives {tuple(a.shape)}: the file is of another model")
    cosine, lowest, relative = _distances(a, b)
    finite = bool(torch.isfinite(b).all())
    good = finite and cosine >= bounds.cosine and lowest >= bounds.lowest and relative <= bounds.relative
    return Comparison(case, name, cosine, lowest, (a - b).abs().max().item(), relative, finite, good)


def _distances(a: Tensor, b: Tensor) -> tuple[float, float, float]:
    """Mean and lowest cosine over the last axis, and relative error; what is not finite counts as -1 and infinity."""
    cosines = torch.nn.functional.cosine_similarity(a, b, dim=-1, eps=1e-30)
    cosines = torch.nan_to_num(cosines, nan=-1.0)
    error = (a - b).square().mean().sqrt() / a.square().mean().sqrt().clamp(min=1e-30)
    return cosines.mean().item(), cosines.min().item(), torch.nan_to_num(error, nan=torch.inf).item()


def _ratios(graph: Graph, session: Session, case: Mapping[str, Tensor], path: Path, rounds: int) -> dict[str, Any]:
    inputs = [case[name] for name in graph.inputs]
    torch_times: list[float] = []
    export_times: list[float] = []
    for index in range(rounds):
        runs: list[tuple[Callable[[], Any], list[float]]] = [
            (lambda: graph.module(*inputs), torch_times),
            (lambda: session.run(case), export_times),
        ]
        for run, times in runs[:: 1 if index % 2 else -1]:  # who goes first alternates
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    ratios = [a / b for a, b in zip(torch_times, export_times, strict=True)]
    weights = sum(parameter.numel() * 4 for parameter in graph.module.parameters())
    beside = path.with_name(f"{path.name}_data")
    size = path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)
    return {
        "latency": min(torch_times) / min(export_times),  # the best of each: what else runs here only adds
        "latency_spread": [min(ratios), max(ratios)],
        "torch_seconds": min(torch_times),
        "export_seconds": min(export_times),
        "size": weights / size,
        "file_bytes": size,
    }


@torch.no_grad()
def layer_drift(graph: Graph, path: Path, case: Mapping[str, Tensor], *, emulate_half: bool = False) -> list[Drift]:
    """Module by module, how far the values inside an ONNX file are from torch's, in the order they run."""
    import onnx
    import onnxruntime

    model = emulated(path) if emulate_half else onnx.load_model(str(path))
    properties = {each.key: each.value for each in model.metadata_props}
    produced = {name for node in model.graph.node for name in node.output}
    places = {
        name: value for name, value in json.loads(properties.get("jepa_hub.blocks", "{}")).items() if value in produced
    }
    model.graph.output.extend(onnx.ValueInfoProto(name=value) for value in dict.fromkeys(places.values()))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with _openable(model, path) as source:
        inside = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    values = inside.run(list(dict.fromkeys(places.values())), {name: case[name].cpu().numpy() for name in graph.inputs})
    got = dict(zip(dict.fromkeys(places.values()), values, strict=True))
    found: list[Drift] = []

    def hook(name: str, wanted: Tensor) -> None:
        value = torch.from_numpy(got[places[name]].astype("float32")).double()
        if value.shape == wanted.shape:
            _, lowest, relative = _distances(wanted.double(), value)
            found.append(Drift(_plain(name), lowest, relative))

    _watched(graph.module, places, lambda: graph.module(*(case[name] for name in graph.inputs)), hook)
    return found


class _openable:
    """A changed model as something onnxruntime opens: bytes, or a file where it is too large for that."""

    def __init__(self, model: Any, path: Path) -> None:
        self.model, self.path = model, path
        self.temporary: Any = None

    def __enter__(self) -> Any:
        import tempfile

        import onnx

        if self.model.ByteSize() < 1 << 31:
            return self.model.SerializeToString()
        self.temporary = tempfile.TemporaryDirectory()
        target = Path(self.temporary.name) / "inside.onnx"
        onnx.save_model(self.model, str(target), save_as_external_data=True)
        return str(target)

    def __exit__(self, *_: Any) -> None:
        if self.temporary is not None:
            self.temporary.cleanup()


def _plain(name: str) -> str:
    """The module's name in the graph as it was: what traces and half precision wrapped around it is left out."""
    return ".".join(part for part in name.split(".") if part != "inner")


def _watched(
    module: nn.Module, names: Mapping[str, str], run: Callable[[], Any], tell: Callable[[str, Tensor], None]
) -> None:
    """Run, and tell of the output of every module in `names`."""
    handles = []
    children = dict(module.named_modules())
    for name in names:
        child = children.get(_plain(name))
        if child is not None:

            def hook(_: Any, __: Any, output: Any, name: str = name) -> None:
                if isinstance(output, Tensor):
                    tell(name, output)

            handles.append(child.register_forward_hook(hook))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
