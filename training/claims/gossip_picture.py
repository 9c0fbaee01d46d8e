"""The pictures of the claims `averaging` and `async_steps`, from their result files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.claims.base import Results

SPEEDS = (1, 2, 5, 10, 25, 50, 100, 200, 400)  # Gb/s of a worker's link
BLUE, RED, GREY = "#3b6ea8", "#c44e52", "#777777"


def values(results: Results, arm: str, metric: str) -> list[float]:
    """What an arm measured, over its seeds."""
    return [entry["metrics"][metric] for entry in results.get(arm, {}).values() if metric in entry["metrics"]]


def mean(numbers: list[float]) -> float:
    """Of a list that is not empty."""
    return sum(numbers) / len(numbers)


def draw(results: Results, path: Path) -> None:
    """Test errors of every arm; modelled seconds per step against bandwidth; modelled seconds to 95 %."""
    plt = pyplot()
    figure, (errors, steps, times) = plt.subplots(1, 3, figsize=(13, 4.2), gridspec_kw={"width_ratios": [1.5, 1.2, 1]})
    arms = [arm for arm in ORDER if arm in results]
    for row, arm in enumerate(reversed(arms)):
        for metric, colour, shift in (("even", BLUE, 0.16), ("sorted", RED, -0.16)):
            for name, marker in ((metric, "o"), (f"{metric}_worst", "|")):
                found = [max(100 - each, 0.1) for each in values(results, arm, name)]
                errors.plot(found, [row + shift] * len(found), marker, color=colour, alpha=0.45, markersize=5)
    errors.set_xscale("log")
    errors.set_yticks(range(len(arms)), reversed(arms), fontsize=8)
    errors.set_xlabel("test error, % (dot: mean worker of a seed, bar: its worst)")
    errors.plot([], [], "o", color=BLUE, label="shards at random")
    errors.plot([], [], "o", color=RED, label="shards by label")
    errors.legend(fontsize=7, loc="upper right")
    timed = [arm for arm in arms if values(results, arm, f"step_{SPEEDS[0]}")]
    for arm in timed:
        steps.plot(SPEEDS, [mean(values(results, arm, f"step_{speed}")) for speed in SPEEDS], "o-", label=arm, ms=3)
    steps.set_xscale("log")
    steps.set_yscale("log")
    steps.set_xlabel("Gb/s of a worker's link")
    steps.set_title("modelled seconds per step", fontsize=10)
    steps.legend(fontsize=7)
    for row, arm in enumerate(reversed(timed)):
        for speed, colour in ((10, GREY), (100, "#4c9f70")):
            found = values(results, arm, f"time_{speed}")
            times.plot(found, [row] * len(found), "o", color=colour, alpha=0.5, markersize=5)
    times.set_xscale("log")
    times.set_yticks(range(len(timed)), reversed(timed), fontsize=8)
    times.set_ylim(-0.6, len(timed) - 0.4)
    times.set_title("modelled seconds to 95 %", fontsize=10)
    times.plot([], [], "o", color=GREY, label="10 Gb/s")
    times.plot([], [], "o", color="#4c9f70", label="100 Gb/s")
    times.legend(fontsize=7)
    finish(figure, path)


ORDER = (
    "all_reduce", "sgp", "osgp", "dpsgd", "adpsgd", "local", "alone", "irregular", "irregular_plain", "lost_kept",
    "lost_dropped", "lost_weightless",
)  # fmt: skip


def draw_steps(results: Results, path: Path) -> None:
    """Measured edges on the closed form's curve, and the digits gained by every rule of steps."""
    from training.claims.delayed_runs import DELAYS, closed_form

    plt = pyplot()
    figure, (edges, gains) = plt.subplots(1, 2, figsize=(10, 3.6))
    every = range(21)
    edges.plot(every, [closed_form(delay) for delay in every], "-", color=GREY, label="closed form")
    edges.plot(every, [1 / (delay + 0.5) for delay in every], ":", color=GREY, label="1 / (delay + 1/2)")
    for delay in DELAYS:
        found = [closed_form(delay) * each / 100 for each in values(results, "measured", f"edge_{delay}")]
        edges.plot([delay] * len(found), found, "o", color=BLUE, alpha=0.5, markersize=5)
    edges.plot([], [], "o", color=BLUE, label="measured, one dot per seed")
    edges.set_yscale("log")
    edges.set_xlabel("delay in updates")
    edges.set_ylabel("largest stable step x L")
    edges.legend(fontsize=8)
    arms = [arm for arm in results if values(results, arm, "gain")]
    arms.sort(key=lambda arm: (arm.endswith("tuned"), arm))
    for row, arm in enumerate(reversed(arms)):
        found = values(results, arm, "gain")
        gains.plot(found, [row] * len(found), "o", color=BLUE, alpha=0.5, markersize=5)
        gains.plot([mean(found)] * 2, [row - 0.3, row + 0.3], color=RED, linewidth=2)
    gains.set_yticks(range(len(arms)), reversed(arms), fontsize=8)
    gains.set_xlabel("decimal digits gained, delays with a heavy tail")
    finish(figure, path)


def pyplot() -> Any:
    """Matplotlib without a window."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def finish(figure: Any, path: Path) -> None:
    """Write the figure so that equal results give equal bytes."""
    for axis in figure.axes:
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot().close(figure)
