"""`jepa-hub export`: from a name to checked files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False)
push_app = typer.Typer(add_completion=False)

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
    from export import checking, to_tensorrt
    from export.to_aoti import to_aoti
    from export.to_onnx import to_onnx

    if to == "tensorrt" and precision not in to_tensorrt.PRECISIONS:
        raise ValueError(f"TensorRT takes {', '.join(to_tensorrt.PRECISIONS)} here, not {precision}")
    loaded, processor = checking.load(model, revision, _note)
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
        scales = checking.calibration(loaded, processor, calibration or (), precision, with_preprocessing)
        written = to_onnx(loaded, folder, calibration=scales, **chosen)
    passed = True
    if check:
        passed = checking.check(
            loaded,
            processor,
            written,
            tell=typer.echo,
            inputs=inputs or (),
            device=device,
            in_graph=with_preprocessing,
        )
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


def _note(text: str) -> None:
    typer.echo(text, err=True)


@push_app.command()
def push(
    model: Annotated[str | None, typer.Argument(help="Catalog name, Hub id, folder or official file.")] = None,
    repo_id: Annotated[str | None, typer.Argument(metavar="OWNER/NAME", help="Where to; made if need be.")] = None,
    shipped: Annotated[
        str | None, typer.Option(metavar="OWNER", help="Every model that ships with the package, as OWNER/<its name>.")
    ] = None,
    onnx: Annotated[bool, typer.Option("--onnx/--no-onnx", help="Export, check and upload ONNX files too.")] = True,
    precision: Annotated[
        list[str] | None, typer.Option(help="Of the ONNX files: fp32, fp16, bf16 or int8; repeatable.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make new repositories private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to upload to; made if need be.")] = None,
) -> None:
    """Upload a model with card, preprocessing, metrics and checked ONNX files; nothing if one is not the model."""
    if (shipped is None) == (model is None or repo_id is None):
        raise ValueError("say what to push and where: `jepa-hub push MODEL OWNER/NAME`, or `--shipped OWNER` for all")
    if shipped is not None and "/" in shipped:
        raise ValueError(f"--shipped {shipped}: an owner is wanted, without a name; each model keeps its own")
    from export.publish import publish, shipped_names

    pairs = [(name, f"{shipped}/{name}") for name in shipped_names()] if shipped else [(model or "", repo_id or "")]
    for name, target in pairs:
        typer.echo(f"{name} -> {target}")
        chosen = (precision or ["fp32"]) if onnx else []
        done = publish(name, target, precisions=chosen, private=private, revision=revision, tell=typer.echo)
        typer.echo(f"pushed to {target}: {', '.join(done)}")


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
