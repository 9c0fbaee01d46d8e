"""The command `jepa-hub`.

Commands are thin: each imports what it needs when it runs, so that `--help` is instant. Other packages add commands
through the entry-point group `jepa_hub.commands` (name -> typer app or function), loaded when the command is used.
"""

from __future__ import annotations

import errno
import functools
import json
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

ENTRY_POINTS = "jepa_hub.commands"
_USER_ERRORS = (ValueError, OSError, ImportError, TypeError)
# Commands of ours that live beside what they run, loaded like those of other packages: where, and what --help says.
_OWN = {
    "surprise": ("jepa_hub.physics.commands:surprise_command", "Show where a model is surprised by a film."),
    "zero-shot": ("jepa_hub.zero_shot_command:zero_shot_command", "Name what is in pictures with words of your own."),
    "physics": ("jepa_hub.physics.commands:physics_app", "Violation of expectation: evaluate, score, make worlds."),
}


@functools.cache
def extensions() -> dict[str, metadata.EntryPoint]:
    """Commands that are loaded on use, ours and those of installed packages, by name; nothing is imported."""
    own = {name: metadata.EntryPoint(name, where, ENTRY_POINTS) for name, (where, _) in _OWN.items()}
    return {entry.name: entry for entry in metadata.entry_points(group=ENTRY_POINTS)} | own


class CommandGroup(TyperGroup):
    """Our commands and those of other packages; an error of theirs is one line, or a traceback with --debug."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Our commands first, then the others by name."""
        own = super().list_commands(ctx)
        return own + sorted(set(extensions()).difference(own))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """One of ours, or a stand-in for another package's that names the package."""
        own = super().get_command(ctx, cmd_name)
        if own is not None or cmd_name not in extensions():
            return own
        if cmd_name in _OWN:
            return _command(cmd_name, lambda: None, help=_OWN[cmd_name][1])
        package = getattr(extensions()[cmd_name].dist, "name", None) or extensions()[cmd_name].module
        return _command(cmd_name, lambda: None, help=f"(from {package})")

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Load another package's command now that it is used."""
        name, command, rest = super().resolve_command(ctx, args)
        if name in extensions() and super().get_command(ctx, name) is None:
            command = _load_extension(extensions()[name])
        return name, command, rest

    def invoke(self, ctx: Any) -> Any:
        """Run, and say in one line what went wrong."""
        try:
            return super().invoke(ctx)
        except _USER_ERRORS as error:
            if ctx.params.get("debug") or getattr(error, "errno", None) == errno.EPIPE:
                raise
            typer.echo(f"error: {' '.join(_words(error).split())}", err=True)
            raise typer.Exit(1) from error


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def _command(name: str, function: Any, **settings: Any) -> Any:
    app = typer.Typer(add_completion=False)
    app.command(name, **settings)(function)
    return typer.main.get_command(app)


def _load_extension(entry: metadata.EntryPoint) -> Any:
    try:
        loaded = entry.load()
    except Exception as error:
        raise ImportError(f"the command {entry.name!r} ({entry.value}) cannot be loaded: {error}") from error
    if isinstance(loaded, typer.Typer):
        return typer.main.get_command(loaded)
    return loaded if hasattr(loaded, "make_context") else _command(entry.name, loaded)


app = typer.Typer(
    name="jepa-hub",
    cls=CommandGroup,
    help="Pretrained models of the JEPA family: find them, look into them, get features, convert them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        from jepa_hub.version import __version__

        typer.echo(f"jepa-hub {__version__}")
        raise typer.Exit


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """What every command shares."""


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
ModelName = Annotated[
    str, typer.Option("--model", "-m", help="Catalog name, Hub id, folder or official checkpoint file.")
]
WindowFrames = Annotated[
    int | None, typer.Option(min=1, help="Frames of a window; by default the model's clip length.")
]
Rate = Annotated[float | None, typer.Option(min=1e-3, help="Frames taken per second; by default the model's rate.")]
Stride = Annotated[int | None, typer.Option(min=1, help="Frames between the starts of windows; by default one window.")]
CropSize = Annotated[int | None, typer.Option(min=1, help="Pixels of the centre crop; by default the model's.")]


def _json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, default=str))


@app.command("list")
def list_(
    family: Annotated[str | None, typer.Option(help="Only this family: ijepa, vjepa, vjepa2, paws.")] = None,
    licence: Annotated[
        str | None, typer.Option("--licence", "--license", help="Only this licence, such as mit or cc-by-nc-4.0.")
    ] = None,
    commercial: Annotated[bool, typer.Option("--commercial", help="Only licences for commercial use.")] = False,
    max_parameters: Annotated[
        str | None, typer.Option(help="Only encoders of at most so many parameters, such as 400M or 1B.")
    ] = None,
    size: Annotated[str | None, typer.Option(help="Only names with this part, such as vitl.")] = None,
    kind: Annotated[str, typer.Option(help="model, probe or all.")] = "model",
    as_json: AsJson = False,
) -> None:
    """List the published weights this package knows."""
    from jepa_hub import describe
    from jepa_hub.catalog import CHECKPOINTS

    rows = describe.select(
        CHECKPOINTS.values(),
        family=family,
        licence=licence,
        commercial=commercial,
        max_parameters=None if max_parameters is None else describe.parse_count(max_parameters),
        size=size,
        kind=None if kind == "all" else kind,
    )
    if as_json:
        _json([describe.row_data(row) for row in rows])
    elif rows:
        typer.echo(describe.table(rows))
    else:
        typer.echo("no row meets all of these conditions", err=True)


@app.command()
def info(
    name: Annotated[str, typer.Argument(help="Catalog name, Hub id, URL, model folder or official checkpoint file.")],
    as_json: AsJson = False,
) -> None:
    """Show what is known of a model: networks, parameters, tokens, preprocessing, licence, scores."""
    from jepa_hub import describe
    from jepa_hub.catalog import find

    path = Path(name).expanduser()
    row = None if path.exists() else find(name)
    if row is not None:
        if as_json:
            _json(describe.row_data(row))
        else:
            typer.echo(describe.row_text(row))
        return
    if path.is_dir():
        found = describe.folder_data(path)
    elif path.is_file():
        found = _official_file(path)
    else:
        found = _hub_config(name)
    if as_json:
        _json(found)
    else:
        typer.echo(describe.folder_text(found))


def _official_file(path: Path) -> dict[str, Any]:
    """Networks and parameters of an official checkpoint on disk, and the catalog row its name stands for."""
    from jepa_hub import catalog, describe, hub

    entries = {key: value for key, value in hub.read_official(path).items() if isinstance(value, dict)}
    networks = [name for name in describe.NETWORKS if name in entries]
    counts = {
        name: describe.count_parameters(
            {key: tuple(value.shape) for key, value in entries[name].items() if hasattr(value, "shape")}
        )["all"]
        for name in networks
    }
    row = catalog.find(path.name)
    return {
        "name": str(path),
        "model_type": f"official checkpoint, {row.family if row else 'family unknown'}",
        "networks": networks,
        "parameters": counts,
        "licence": f"{row.licence} (by its file name, {row.name})" if row else None,
    }


def _hub_config(name: str) -> dict[str, Any]:
    """What config.json of a Hub repository says."""
    from jepa_hub import describe, hub

    location = hub.locate(name)
    config = hub.read_config(location, hub.Access())
    return {"name": location.name, **describe.config_data(config)}


@app.command()
def embed(
    inputs: Annotated[list[str], typer.Argument(help="Images, videos, or folders of them (searched recursively).")],
    model: ModelName,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where the vectors go: .safetensors, .npz or .parquet.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the PCA of one image or clip here: .png, .jpg, .webp, or .mp4.")
    ] = None,
    file_format: Annotated[str | None, typer.Option("--format", help="safetensors, npz or parquet.")] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Keep every token, not only their mean.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images or windows per forward pass.")] = 8,
    num_workers: Annotated[int, typer.Option(min=0, help="Threads that read files ahead.")] = 2,
    num_frames: WindowFrames = None,
    fps: Rate = None,
    stride_frames: Stride = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16: what the model computes in.")] = "float32",
    stored_dtype: Annotated[str, typer.Option(help="float32 or float16: what is written.")] = "float32",
    preprocessing: Annotated[str, typer.Option(help="official, or as_stored (what the repository says).")] = "official",
    image_size: CropSize = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the Hub repository.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Forget what earlier runs wrote.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with an error when a file could not be read.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Turn images and videos into feature vectors; run it again to go on where it stopped, or to add files."""
    from jepa_hub.embedding import files as bulk
    from jepa_hub.embedding.embedder import Embedder, Settings

    if output is None and picture is None:
        raise ValueError("say where the result goes: --output features.safetensors, or --picture pca.png")
    settings = Settings(
        model=model,
        tokens=tokens,
        batch_size=batch_size,
        num_workers=num_workers,
        num_frames=num_frames,
        fps=fps,
        stride_frames=stride_frames,
        device=device,
        dtype=dtype,
        stored_dtype=stored_dtype,
        preprocessing=preprocessing,
        image_size=image_size,
        revision=revision,
    )
    embedder = Embedder.load(settings)
    if picture is not None:
        typer.echo(f"wrote {bulk.draw(embedder, inputs, picture)}")
    if output is None:
        return
    report = bulk.embed_files(
        embedder, inputs, output, file_format=file_format, overwrite=overwrite, progress=not quiet
    )
    typer.echo(str(report))
    if strict and report.num_bad:
        raise typer.Exit(1)


@app.command()
def classify(
    inputs: Annotated[list[str], typer.Argument(help="Images, videos, or folders of them (searched recursively).")],
    model: ModelName,
    support: Annotated[
        Path | None, typer.Option(help="Labelled pictures, a folder per class: what a PAWS model classifies by.")
    ] = None,
    per_class: Annotated[int | None, typer.Option(min=1, help="Labelled pictures to take of each class.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Labels of each file.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures per forward pass.")] = 16,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps ...")] = "cpu",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the Hub repository.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with an error when a file could not be read.")] = False,
    as_json: AsJson = False,
) -> None:
    """Label images by a few labelled ones (PAWS), or images and videos by a model's own classes (probes)."""
    from jepa_hub import classifying
    from jepa_hub.labelled import report

    if per_class is not None and support is None:
        raise ValueError("--per-class goes with --support")
    files = None if support is None else classifying.support_files(support, per_class)
    loaded, processor = classifying.load(model, has_support=files is not None, device=device, revision=revision)
    known = None if files is None else classifying.make_support(loaded, processor, files, device, batch_size)
    found = classifying.classify_files(
        loaded, processor, inputs, support=known, top=top, batch_size=batch_size, device=device
    )
    report(found, as_json=as_json, strict=strict)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="INPUT", help="Catalog name, Hub id, folder or official file.")],
    output: Annotated[Path, typer.Argument(help="Folder to write (for official: the file).")],
    to: Annotated[str, typer.Option(help="jepa_hub, transformers or official.")] = "jepa_hub",
    family: Annotated[
        str | None, typer.Option(help="Family of an official file that the catalog does not know.")
    ] = None,
    num_frames: Annotated[int | None, typer.Option(min=1, help="Clip length, where the file cannot tell.")] = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Training resolution, where the file cannot tell.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Configuration the file cannot tell.")
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="For transformers, which holds one encoder: encoder or target_encoder.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the Hub repository.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write over what is there.")] = False,
) -> None:
    """Write a model in another layout: ours, transformers', or that of Meta's code."""
    layouts = ("jepa_hub", "transformers", "official")
    if to not in layouts:
        raise ValueError(f"--to {to}: choose one of {', '.join(layouts)}")
    if network is not None and to != "transformers":
        raise ValueError("--network belongs to --to transformers; the other layouts hold every network there is")
    _check_target(source, output, to, overwrite)

    from jepa_hub.models.base import JEPAModel

    given = {"family": family, "num_frames": num_frames, "image_size": image_size, "revision": revision}
    chosen = {key: value for key, value in given.items() if value is not None}
    model = JEPAModel.from_pretrained(source, **chosen, **dict(map(_setting, settings or ())))
    if to == "jepa_hub":
        model.save_pretrained(output)
    elif to == "transformers":
        model.save_transformers(output, network=network)
    else:
        model.save_official(output)
    if to != "official":
        _save_preprocessing(source, output, revision)
    networks = ", ".join(model.config.networks)
    typer.echo(f"wrote {output} ({to} layout, from {networks}; licence {model.config.licence or 'not stated'})")


def _check_target(source: str, output: Path, to: str, overwrite: bool) -> None:
    """Refuse to write over anything but a model, and over that only with --overwrite."""
    if Path(source).exists() and output.exists() and output.samefile(source):
        raise ValueError(f"{output} is what is to be converted; choose another place")
    if to == "official" and output.is_dir():
        raise ValueError(f"{output} is a folder; the official layout is one file, such as {output / 'model.pth.tar'}")
    if to != "official" and output.is_file():
        raise ValueError(f"{output} is a file; the {to} layout is a folder")
    taken = output.is_file() or (output.is_dir() and any(output.iterdir()))
    if taken and not overwrite:
        raise ValueError(f"{output} is there already; choose another place, or add --overwrite")
    if taken and output.is_dir() and not (output / "config.json").is_file():
        raise ValueError(f"{output} holds files that are no model, and they stay; choose another place")


def _setting(text: str) -> tuple[str, Any]:
    """A NAME=VALUE of --set; the value is read as JSON where it is JSON."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"--set {text}: write NAME=VALUE, such as num_attention_heads=16")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _save_preprocessing(source: str, output: Path, revision: str | None) -> None:
    """Let the preprocessing of the source travel with the weights."""
    from jepa_hub.processing import JEPAProcessor
    from jepa_hub.processor_files import IMAGE_FILE, VIDEO_FILE

    if (output / IMAGE_FILE).is_file() or (output / VIDEO_FILE).is_file():
        return
    try:
        JEPAProcessor.from_pretrained(source, revision=revision).save_pretrained(output)
    except ValueError as error:
        typer.echo(f"note: no preprocessing was written: {' '.join(str(error).split())}", err=True)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check what is installed, whether it fits together, and how to mend what does not."""
    from jepa_hub import doctor as checks

    findings = checks.examine()
    if as_json:
        _json(checks.as_json(findings))
    else:
        typer.echo(checks.report(findings))
    if checks.has_errors(findings):
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
