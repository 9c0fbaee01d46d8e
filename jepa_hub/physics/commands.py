"""The commands `jepa-hub surprise` and `jepa-hub physics`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

ModelName = Annotated[
    str, typer.Option("--model", "-m", help="Catalog name, Hub id, folder or official checkpoint file.")
]
Contexts = Annotated[
    str | None, typer.Option("--context", help="Frames that are seen, such as 8 or 4,6,8; more than one are compared.")
]
Window = Annotated[int | None, typer.Option("--window", min=2, help="Frames of a window; by default the model's.")]
Stride = Annotated[int | None, typer.Option(min=1, help="Frames between the starts of windows.")]
Group = Annotated[int, typer.Option(min=0, help="Which learned mask token (V-JEPA: 0 short-range, 1 long-range).")]
BatchSize = Annotated[int, typer.Option(min=1, help="Windows per forward pass.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps ...")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16: what the model computes in.")]

physics_app = typer.Typer(
    help="Violation of expectation: evaluate a model on a suite, score again, make simulated worlds.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


def _contexts(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--context {text}: expected numbers of frames such as 8 or 4,6,8") from None


def _load(name: str, device: str, dtype: str) -> tuple[Any, Any]:
    import torch

    from jepa_hub.models.base import JEPAModel
    from jepa_hub.processing import JEPAProcessor

    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in kinds:
        raise ValueError(f"--dtype {dtype}: choose one of {', '.join(kinds)}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = JEPAModel.from_pretrained(name, dtype=kinds[dtype]).to(device).eval()
    return model, JEPAProcessor.from_pretrained(name)


def surprise_command(
    video: Annotated[Path, typer.Argument(help="A film, or an animated GIF.")],
    model: ModelName,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the results; by default VIDEO.surprise.")
    ] = None,
    context: Contexts = None,
    window: Window = None,
    stride: Stride = 2,
    frame_step: Annotated[int | None, typer.Option(min=1, help="Take every so many frames.")] = None,
    fps: Annotated[float | None, typer.Option(min=1e-3, help="Take so many frames per second.")] = None,
    group: Group = 0,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    dtype: Dtype = "float32",
    mark: Annotated[float | None, typer.Option(help="Mark these seconds in the curve.")] = None,
) -> None:
    """Where a model is surprised by a film: numbers (JSON), a curve (PNG), the film with its map laid over (MP4)."""
    from jepa_hub.physics.drawing import plot_curve, write_overlay
    from jepa_hub.physics.surprise import surprise_curve

    loaded, processor = _load(model, device, dtype)
    length = window or loaded.config.num_frames
    chosen = _contexts(context) or ((length or 16) // 2 // loaded.config.tubelet_size * loaded.config.tubelet_size,)
    curve = surprise_curve(
        loaded,
        video,
        context_frames=chosen,
        window_frames=window,
        stride=stride or 2,
        group=group,
        processor=processor,
        frame_step=frame_step,
        fps=fps,
        batch_size=batch_size,
    )
    folder = output or video.with_name(f"{video.name}.surprise")
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {"video": str(video), "model": model, **curve.to_dict()}
    (folder / "surprise.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    plot_curve(curve, folder / "curve.png", mark=mark)
    write_overlay(folder / "overlay.mp4", curve, processor.to_image(curve.pixels[None])[0].numpy())
    row = curve.values[-1]
    most = int(row.argmax())
    typer.echo(
        f"{len(row)} windows of {curve.windows.window_frames} frames, {chosen[-1]} seen: surprise {row.mean():.4f}, "
        f"most {row[most]:.4f} around {curve.times[most]:.2f} s\nwrote {folder}/surprise.json, curve.png, overlay.mp4"
    )


@physics_app.command("eval")
def evaluate_command(
    suite: Annotated[
        str, typer.Option(help="worlds, intphys-dev, intphys-test, grasp, inflevel-lab or inflevel-lab-priming.")
    ],
    model: ModelName,
    root: Annotated[Path | None, typer.Option(help="Folder of the data; for worlds a file of `physics make`.")] = None,
    lists: Annotated[Path | None, typer.Option(help="InfLevel-lab: folder of the CSV files of pairs.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; by default physics/SUITE/MODEL.")
    ] = None,
    context: Contexts = None,
    window: Window = None,
    stride: Stride = None,
    group: Group = 0,
    batch_size: BatchSize = 16,
    untrained: Annotated[
        int, typer.Option(min=0, help="Also so many models of the same architecture with random weights.")
    ] = 0,
    table_context: Annotated[str | None, typer.Option(help="Context of the table; by default the longest.")] = None,
    reduction: Annotated[str, typer.Option(help="mean, max or step_max, of the table.")] = "mean",
    device: Device = "auto",
    dtype: Dtype = "float32",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Forget what earlier runs wrote.")] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with an error when a video could not be read.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Score a model on a suite, per property with intervals; run it again to go on where it stopped."""
    from jepa_hub.physics.evaluation import Protocol, evaluate, untrained_like, write_answers
    from jepa_hub.physics.suites import open_suite

    if lists is not None and not suite.startswith("inflevel"):
        raise ValueError("--lists belongs to InfLevel-lab")
    videos = open_suite(suite, root, **({"lists": lists} if lists else {}))
    loaded, processor = _load(model, device, dtype)
    folder = output or Path("physics") / suite / Path(model).name
    protocol = Protocol(_contexts(context), window, stride, group, batch_size)
    about = {"model": model, "dtype": dtype, "root": None if root is None else root.name}
    raw = evaluate(
        loaded, processor, videos, folder / "raw.jsonl", protocol, about=about, overwrite=overwrite, progress=not quiet
    )
    for name, reason in list(raw.bad.items())[:20]:
        typer.echo(f"not scored: {name}: {reason}", err=True)
    if videos.answers:
        typer.echo("wrote " + ", ".join(str(path) for path in write_answers(raw, folder)))
    else:
        _write_scores(raw, folder, reduction, table_context)
    for seed in range(untrained):
        fresh = untrained_like(loaded, seed).to(loaded.device, loaded.dtype)
        path = folder / f"untrained-{seed}.jsonl"
        control = evaluate(
            fresh, processor, videos, path, protocol, about={**about, "untrained": seed}, overwrite=overwrite,
            progress=not quiet,
        )  # fmt: skip
        if not videos.answers:
            _write_scores(control, folder, reduction, table_context, f"untrained-{seed}")
    if strict and raw.bad:
        raise typer.Exit(1)


def _write_scores(raw: Any, folder: Path, reduction: str, context: str | None, name: str = "scores") -> None:
    from jepa_hub.physics.tables import markdown, score_table

    rows = score_table(raw)
    text = markdown(rows, reduction=reduction, context=context)
    content = {"about": raw.about, "bad": raw.bad, "rows": [row.to_dict() for row in rows]}
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    note = f" ({len(raw.bad)} videos could not be read)" if raw.bad else ""
    typer.echo(f"{text}\n\nwrote {folder / name}.json, .md{note}")


@physics_app.command("score")
def score_command(
    raw: Annotated[Path, typer.Argument(help="raw.jsonl of `physics eval`.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder; by default that of the file.")] = None,
    table_context: Annotated[str | None, typer.Option(help="Context of the table; by default the longest.")] = None,
    reduction: Annotated[str, typer.Option(help="mean, max or step_max, of the table.")] = "mean",
) -> None:
    """Score raw surprises again; no model is needed."""
    from jepa_hub.physics.evaluation import load_raw

    folder = output or raw.parent
    folder.mkdir(parents=True, exist_ok=True)
    _write_scores(load_raw(raw), folder, reduction, table_context)


@physics_app.command("show")
def show_command(
    output: Annotated[Path, typer.Argument(help="Picture to write, such as pairs.png.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Draw the surprise of this model beside the frames.")
    ] = None,
    properties: Annotated[
        str | None, typer.Option("--property", help="Such as permanence,shape; all by default.")
    ] = None,
    variants: Annotated[str | None, typer.Option("--variant", help="Such as passing or resting_seen.")] = None,
    number: Annotated[int, typer.Option(min=0, help="Which quadruplet; odd numbers show the other direction.")] = 0,
    context: Annotated[int, typer.Option(min=1, help="Frames that the model sees.")] = 8,
    root: Annotated[Path | None, typer.Option(help="File of `physics make`; by default what ships.")] = None,
    device: Device = "auto",
) -> None:
    """Draw one pair of the simulated worlds per property, possible above impossible, with a model's surprise."""
    from jepa_hub.physics.showing import show_pairs

    loaded, processor = _load(model, device, "float32") if model else (None, None)
    path = show_pairs(
        output,
        model=loaded,
        processor=processor,
        properties=properties.split(",") if properties else (),
        variants=variants.split(",") if variants else (),
        number=number,
        context_frames=context,
        suite=root,
    )
    typer.echo(f"wrote {path}")


@physics_app.command("make")
def make_command(
    output: Annotated[Path, typer.Argument(help="File to write, .zip.")],
    hidden: Annotated[int, typer.Option(min=1, help="Quadruplets of each variant with a screen.")] = 30,
    seen: Annotated[int, typer.Option(min=0, help="Quadruplets of each variant without one.")] = 8,
    size: Annotated[int, typer.Option(min=32, help="Pixels of the square pictures.")] = 48,
    seed: Annotated[int, typer.Option(min=0, help="Of everything drawn.")] = 0,
    split: Annotated[str, typer.Option(help="validation or test.")] = "test",
    processes: Annotated[int | None, typer.Option(min=1, help="By default one per processor.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Draw a suite of simulated worlds; needs MuJoCo (pip install 'jepa-hub[physics]')."""
    from jepa_hub.physics.worlds import make_suite

    if split not in ("validation", "test"):
        raise ValueError(f"--split {split}: choose validation or test")
    path = make_suite(
        output, hidden=hidden, seen=seen, size=size, seed=seed, split=split, processes=processes, progress=not quiet
    )
    typer.echo(f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB)")
