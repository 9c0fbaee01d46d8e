"""`jepa-hub export`: from a name to checked files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False)

FORMATS = ("onnx", "aoti", "tensorrt")


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="Catalog name, Hub id, folder or official file; a probe, too.")],
    to: Annotated[str, typer.Option(help="onnx, aoti or tensorrt.")] = "onnx",
    precision: Annotated[str, typer.Option(help="fp32, fp16, bf16, int8 or int8_static.")] = "fp32",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; by default the model's own, else exported/NAME.")
    ] = None,
    graph: Annotated[list[str] | None, typer.Option(help="Only this graph, such as features; repeatable.")] = None,
    layer: Annotated[list[int] | None, typer.Option(help="Let features give this block too; repeatable.")] = None,
    with_preprocessing: Annotated[
        bool, typer.Option("--with-preprocessing", help="uint8 frames go in: resize, crop and normalise in the graph.")
    ] = False,
    inputs: Annotated[
        list[Path] | None, typer.Option(help="Images or clips to compare on; by default a photograph; repeatable.")
    ] = None,
    calibration: Annotated[
        list[Path] | None, typer.Option(help="Images or clips to scale int8_static by; repeatable.")
    ] = None,
    sizes: Annotated[
        list[str] | None, typer.Option("--range", metavar="AXIS=LEAST:USUAL:MOST", help="For TensorRT; repeatable.")
    ] = None,
    show_command: Annotated[
        bool, typer.Option("--show-command", help="For TensorRT: print the trtexec line, build nothing.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda: what to compile for, and where to compare.")] = "cpu",
    check: Annotated[bool, typer.Option("--verify/--no-verify", help="Compare with torch; exit 1 past bounds.")] = True,
    push_to_hub: Annotated[str | None, typer.Option(help="Upload the files to this repository if they pass.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the model's repository.")] = None,
) -> None:
    """Write a model as files that production runs, and compare them with the model on real pictures."""
    if to not in FORMATS:
        raise ValueError(f"--to {to}: choose one of {', '.join(FORMATS)}")
    from export import to_tensorrt
    from export.to_aoti import to_aoti
    from export.to_onnx import to_onnx

    if to == "tensorrt" and precision not in to_tensorrt.PRECISIONS:
        raise ValueError(f"TensorRT takes {', '.join(to_tensorrt.PRECISIONS)} here, not {precision}")
    loaded, processor = _load(model, revision)
    folder = output or (Path(model) if Path(model).is_dir() else Path("exported") / Path(model).name)
    chosen: dict[str, Any] = {
        "precision": precision,
        "graphs": graph,
        "layers": tuple(layer or ()),
        "processor": processor,
        "preprocessing_in_graph": with_preprocessing,
        "progress": typer.echo,
    }
    if to == "aoti":
        written = to_aoti(loaded, folder, device=device, **chosen)
    else:
        scales = _calibration(loaded, processor, calibration or (), precision, with_preprocessing)
        written = to_onnx(loaded, folder, calibration=scales, **chosen)
    passed = True
    if check:
        passed = _verify(loaded, processor, written, inputs or (), device, with_preprocessing)
    if not passed:
        typer.echo("error: the exported files are not the model; nothing was uploaded", err=True)
        raise typer.Exit(1)
    if to == "tensorrt":
        _engines(written, sizes or (), show_command)
    if push_to_hub:
        from export.publish import push

        push(folder, push_to_hub)
        typer.echo(f"pushed to {push_to_hub}")
    typer.echo(f"wrote {', '.join(str(each.path) for each in written)}")


def _load(name: str, revision: str | None) -> tuple[Any, Any]:
    """The model or probe, and its preprocessing if that is known."""
    from jepa_hub import hub
    from jepa_hub.models.base import JEPAModel
    from jepa_hub.models.probe import Probe, ProbeConfig
    from jepa_hub.processing import JEPAProcessor

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
        typer.echo(f"note: no preprocessing is recorded: {' '.join(str(error).split())}", err=True)
        return loaded, None


def _backbone(model: Any) -> Any:
    return getattr(model, "backbone", None) or model


def _cases(model: Any, graph: Any, processor: Any, inputs: Sequence[Path], in_graph: bool, seed: int = 0) -> list[Any]:
    """Inputs of a graph: at the model's size one by one and together, and at sizes it was not traced at."""
    from export import samples

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
    return [samples.graph_inputs(graph, each, config, targets=1 + index % 2) for index, each in enumerate(chosen)]


def _patch(config: Any) -> tuple[int, int, int]:
    return config.tubelet_size, config.patch_size, config.patch_size


def _tokens(model: Any, processor: Any) -> int:
    """Tokens of the processor's output, for masks."""
    from export import samples
    from export.runtime import output_size

    config = _backbone(model).config
    height, width = output_size(processor, (240, 320))
    return (
        max(samples.clip_length(config) // config.tubelet_size, 1)
        * (height // config.patch_size)
        * (width // config.patch_size)
    )


def _with_frames(graph: Any, frames: Any, tokens: int) -> dict[str, Any]:
    from export import samples

    known = {"frames": frames, **samples.random_masks(len(frames), tokens, 2)}
    return {name: known.get(name, example) for name, example in graph.inputs.items()}


def _calibration(model: Any, processor: Any, paths: Sequence[Path], precision: str, in_graph: bool) -> Any:
    """Inputs to scale integers by, for every graph in one mapping; none where they are not needed."""
    if precision not in ("int8", "int8_static"):
        return None
    if precision == "int8_static" and not paths:
        raise ValueError("int8_static is scaled by pictures: --calibration FILE, some dozens of what it will see")
    if in_graph:
        raise ValueError("--with-preprocessing and integers do not go together yet; normalise outside, or take fp16")
    return lambda graph: _cases(model, graph, processor, paths, False, seed=1)


def _verify(
    model: Any, processor: Any, written: Sequence[Any], inputs: Sequence[Path], device: str, in_graph: bool
) -> bool:
    """Compare all files, print and keep the reports; whether all passed."""
    from export.precision import HALF
    from export.sessions import open_session
    from export.verify import verify

    reports = []
    for each in written:
        emulate = each.precision in HALF and device == "cpu" and each.path.suffix == ".onnx"
        settings = {"emulate_half": True} if emulate else {}
        session = open_session(each.path, "auto" if device == "cpu" else device, **settings)
        cases = _cases(model, each.graph, processor, inputs, in_graph)
        rounds = 0 if emulate else 5
        reports.append(verify(each.graph, session, cases, path=each.path, precision=each.precision, rounds=rounds))
        typer.echo(reports[-1].text())
    where = written[0].path.parent
    name = f"verify_{written[0].precision}"
    (where / f"{name}.json").write_text(
        json.dumps([json.loads(each.to_json()) for each in reports], indent=2) + "\n", encoding="utf-8"
    )
    (where / f"{name}.txt").write_text("\n".join(each.text() for each in reports) + "\n", encoding="utf-8")
    return all(each.passed for each in reports)


def _engines(written: Sequence[Any], sizes: Sequence[str], show_command: bool) -> None:
    """Build the engine of every file, or print the command that does."""
    from export import to_tensorrt

    ranges = dict(map(_range, sizes))
    for each in written:
        if show_command:
            chosen = to_tensorrt.profiles(to_tensorrt.input_shapes(each.path), ranges)
            typer.echo(to_tensorrt.trtexec_line(each.path, each.path.with_suffix(".engine"), chosen))
        else:
            typer.echo(f"wrote {to_tensorrt.to_tensorrt(each.path, ranges)}")


def _range(text: str) -> tuple[str, tuple[int, int, int]]:
    """NAME=LEAST:USUAL:MOST, or NAME=SIZE."""
    name, _, values = text.partition("=")
    parts = values.split(":")
    if len(parts) not in (1, 3) or not all(part.isdigit() for part in parts):
        raise ValueError(f"--range {text}: write NAME=LEAST:USUAL:MOST, such as batch=1:8:32, or NAME=SIZE")
    least, usual, most = (int(part) for part in (parts * 3)[:3])
    return name, (least, usual, most)
