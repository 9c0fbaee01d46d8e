"""What the claims on pixel transformers share: arms as overrides of a recipe, folds of digits, costs, curves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.claims.arms import recipe_settings, train
from training.claims.base import Results

FOLDS = 5
WIDE = ("model.patch_size=2", "model.hidden_size=72", "model.num_attention_heads=4")  # as many FLOPs as one per pixel
CURVE = "curve_"  # metrics that only the picture shows: validation accuracy after so many steps


def fold(seed: int) -> str:
    """Override: another fifth of the digits is for testing for each of five seeds."""
    return f"data.source.fold={seed % FOLDS}"


def costs(recipe: str, overrides: Sequence[str]) -> dict[str, float]:
    """Tokens of a picture, parameters in thousands and TFLOPs of a whole run."""
    from training import flops
    from training.build import build_masks, model_config
    from training.whole_costs import num_tokens

    settings = recipe_settings(recipe, 0, Path("unused"), overrides)
    config = model_config(settings)
    sampler = build_masks(settings.masks, config) if settings.masks else None
    each = flops.training_flops_per_sample(settings, config, sampler)
    assert each is not None  # all these methods have a formula
    return {
        "tokens": float(num_tokens(config)),
        "kilo_parameters": flops.count_parameters(config)["encoder"] / 1e3,
        "tflops": each * settings.data.batch_size * settings.run.steps / 1e12,
    }


def steps_for(recipe: str, overrides: Sequence[str], tflops: float) -> int:
    """Steps after which a recipe has spent so much."""
    one = costs(recipe, [*overrides, "run.steps=1", "optim.warmup_steps=0"])["tflops"]
    return round(tflops / one)


def supervised(recipe: str, overrides: Sequence[str], seed: int, work: Path) -> dict[str, float]:
    """Test accuracy in per cent on the fold of a seed, validation accuracy on the way, and costs."""
    from training import few_labels

    given = [*overrides, fold(seed)]
    model = train(recipe, seed, work, given)
    settings = recipe_settings(recipe, seed, work, given)
    found = {"accuracy": 100 * few_labels.evaluate(model, settings).top1, **costs(recipe, given)}
    for line in (work / "log.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if "probe_digit" in entry:
            found[f"{CURVE}{entry['step']}"] = 100 * entry["probe_digit"]
    return found


def mean(runs: Sequence[dict[str, Any]], metric: str) -> float:
    """Of a metric over seeds."""
    return sum(entry["metrics"][metric] for entry in runs) / len(runs)


def curve(runs: Sequence[dict[str, Any]]) -> tuple[list[int], list[float]]:
    """Steps, and the mean over seeds of the validation accuracy there."""
    steps = sorted(int(name.removeprefix(CURVE)) for name in runs[0]["metrics"] if name.startswith(CURVE))
    return steps, [mean(runs, f"{CURVE}{step}") for step in steps]


def finish(figure: Any, path: Path) -> None:
    """Write a figure, the same bytes for the same results."""
    from matplotlib import pyplot as plt

    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def draw_curves(results: Results, arms: dict[str, str], axes: Sequence[Any]) -> None:
    """Validation accuracy of some arms (name -> colour) against steps on the first axis, FLOPs on the second."""
    for name, colour in arms.items():
        runs = list(results.get(name, {}).values())
        if not runs:
            continue
        steps, values = curve(runs)
        before = mean(runs, "pretraining_tflops") if "pretraining_tflops" in runs[0]["metrics"] else 0.0
        spent = [before + (mean(runs, "tflops") - before) * step / steps[-1] for step in steps]
        for axis, places in zip(axes, (steps, spent), strict=True):
            axis.plot(places, values, "o-", markersize=3, color=colour, label=f"{name} ({len(runs)})")
    axes[0].set_xlabel("steps")
    axes[1].set_xlabel("training TFLOPs")
    axes[1].set_xscale("log")
    for axis in axes:
        axis.set_ylabel("validation accuracy, %")
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7)
