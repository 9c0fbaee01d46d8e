"""Probe frozen features: what labels can be read out of a model, beside chance, an untrained twin and raw pixels.

Run: `python -m training.probe MODEL --source scenes --labels shape,count --baselines untrained,raw_pixels`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if not __package__:  # run by its path: Python has put training/ itself first on sys.path, where the root belongs
    sys.path[:] = [str(HERE.parent), *(place for place in sys.path if Path(place).resolve() != HERE)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with status 1 and one line for what a user can mend."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    try:
        results = probe_command(chosen)
    except (ValueError, TypeError, OSError, ImportError) as error:
        parser.exit(1, f"error: {' '.join(str(error).split())}\n")
    for note in results["notes"]:
        print(f"note: {note}")
    print(table(results))
    if chosen.out is not None:
        write_json(chosen.out, results)
        print(f"written to {chosen.out}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="probe", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("model", help="Hub id, catalog name, folder, URL or official file")
    add("--source", required=True, help="where labelled samples come from, e.g. scenes or digits")
    add("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="settings of the source")
    add("--labels", type=_names, default=(), help="comma-separated; all of the source by default")
    add("--probes", type=_names, default=("linear", "knn"), help="of linear, knn, low_shot, attentive")
    add("--baselines", type=_names, default=(), help="of untrained, raw_pixels")
    add("--train", type=int, default=2000, help="training samples of each seed (default 2000)")
    add("--validation", type=int, default=500, help="samples that choose settings (default 500)")
    add("--test", type=int, default=1000, help="samples that are scored (default 1000)")
    add("--seeds", type=_seeds, default=(0,), help="comma-separated; each draws its own training samples")
    add("--epochs", type=int, default=20, help="of attentive probes (default 20)")
    add("--layers", type=int, default=1, help="how many of the last blocks to read, side by side (default 1)")
    add("--size", type=int, help="pixels per side given to the model; its own by default")
    add("--batch-size", type=int, default=64, help="samples encoded at a time (default 64)")
    add("--workers", type=int, default=0, help="processes that read samples (default 0)")
    add("--cache", type=Path, help="folder that keeps features for the next run")
    add("--save-probes", type=Path, help="folder for the attentive probes, one folder per label")
    add("--out", type=Path, help="JSON file with every result")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default auto)")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in _names(text))


def probe_command(chosen: argparse.Namespace) -> dict[str, Any]:
    """The results of a parsed command line.

    Raises:
        ValueError, TypeError, OSError: what was asked for does not exist or cannot be done.
    """
    import torch

    from jepa_hub.models.base import JEPAModel
    from training.probing.run import ProbeRun, run_probes
    from training.recipe import apply_overrides

    run = ProbeRun(
        source=chosen.source,
        source_settings=apply_overrides({}, chosen.set),
        labels=chosen.labels,
        probes=chosen.probes,
        baselines=chosen.baselines,
        train=chosen.train,
        validation=chosen.validation,
        test=chosen.test,
        seeds=chosen.seeds,
        epochs=chosen.epochs,
        layers=chosen.layers,
        batch_size=chosen.batch_size,
        cache=chosen.cache,
        save_probes=chosen.save_probes,
        num_workers=chosen.workers,
    )
    device = chosen.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = JEPAModel.from_pretrained(chosen.model).to(device).eval()
    return run_probes(model, run, name=str(chosen.model), processor=_processor(chosen.model, model, chosen.size))


def _processor(name: str, model: Any, size: int | None) -> Any:
    """The checkpoint's own preprocessing; ImageNet's at the model's size where it stores none."""
    from jepa_hub.processing import JEPAProcessor

    size = size or model.config.image_size
    if size is None:
        return JEPAProcessor.from_pretrained(name)
    return JEPAProcessor.from_pretrained(name, image_size=size)


def table(results: dict[str, Any]) -> str:
    """The results as lines of text, one per kind of features, label and probe."""
    rows = [("features", "label", "probe", "metric", "test", "chance", "baseline")]
    for each in results["results"]:
        # + 0.0 turns the -0.0 that rounding leaves into 0
        scores = (each["text"], f"{each['chance']:.3f}", f"{round(each['baseline'], 3) + 0.0:.3f}")
        rows.append((each["features"], each["label"], each["probe"], each["metric"], *scores))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def write_json(path: Path, results: dict[str, Any]) -> None:
    """Write results; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished-{os.getpid()}")
    try:
        unfinished.write_text(json.dumps(results, indent=2, default=str) + "\n", encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
