"""REPRODUCTION.md from committed result files; rendering runs nothing and invents nothing."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import Any

from training.claims.base import NOT_RUN, Claim, Effect, Results, effect, pairs_needed, verdict
from training.claims.registry import CLAIMS, claim
from training.probing.results import summarise

_PANELS = 5  # in a row of a picture
HEAD = """# Reproduction

Claims of the papers, tested at a scale that two processor cores can carry. Rendered from the result files in
`training/claims/results` by `python -m training.reproduce --render`; nothing here is typed by hand. A claim *holds*
when the 95 % t-interval of every decisive paired difference lies above zero (or above the margin that its row names,
below zero for "no worse than"); *does not hold at this scale* says just
that, and is no statement about the paper's scale. What was not run is said to be not run.

| claim | paper | verdict |
|---|---|---|
"""


def render(results_root: Path, out: Path) -> None:
    """Write REPRODUCTION.md and, beside it, a picture per claim that has results."""
    from training.reproduce import load_results

    lines, sections = [], []
    pictures = out.parent / "docs" / "reproduction"
    for name in CLAIMS:
        each = claim(name)
        results = load_results(results_root, name)
        lines.append(f"| [{name}](#{anchor(each.title)}) | {each.paper} | {verdict(each, results)} |")
        picture = None
        if any(arm.name in results for arm in each.arms):
            pictures.mkdir(parents=True, exist_ok=True)
            picture = pictures / f"{name}.png"
            if each.picture is None:
                draw(each, results, picture)
            else:
                each.picture(results, picture)
        sections.append(section(each, results, picture.relative_to(out.parent).as_posix() if picture else None))
    draft = out.with_name(out.name + ".unfinished")
    draft.write_text(HEAD + "\n".join(lines) + "\n\n" + "\n\n".join(sections) + "\n", encoding="utf-8")
    draft.replace(out)


def anchor(title: str) -> str:
    """The anchor that GitHub gives a heading."""
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -")
    return kept.replace(" ", "-")


def section(each: Claim, results: Results, picture: str | None) -> str:
    """One claim: statement, setting, table, effects, verdict."""
    parts = [
        f"## {each.title}",
        f"**The paper** ({each.paper}): {each.statement}",
        f"**Here**: {each.setting}",
        scores(each, results),
        effects(each, results),
        f"**Verdict: {verdict(each, results)}.** {cost(each, results)}",
    ]
    if each.remark is not None:
        parts.insert(5, each.remark(results))
    if picture:
        parts.insert(4, f"![{each.title}]({picture})")
    return "\n\n".join(parts)


def scores(each: Claim, results: Results) -> str:
    """Means and intervals of every arm."""
    rows = ["| arm | " + " | ".join(each.metrics) + " | seeds |", "|---" * (len(each.metrics) + 2) + "|"]
    for arm in each.arms:
        runs = results.get(arm.name, {})
        cells = [
            shown([entry["metrics"].get(metric) for entry in runs.values()], each.decimals.get(metric, 1))
            for metric in each.metrics
        ]
        rows.append(f"| {arm.name}: {arm.what} | " + " | ".join(cells) + f" | {len(runs) or NOT_RUN} |")
    legend = "; ".join(f"{metric}: {what}" for metric, what in each.metrics.items())
    return "\n".join(rows) + f"\n\n{legend}. Means over seeds with 95 % t-intervals."


def shown(values: list[Any], decimals: int = 1) -> str:
    """A mean with its interval, or that there is none: nothing was run, or the arm does not measure this."""
    known = [value for value in values if value is not None]
    if not known:
        return "-" if values else NOT_RUN
    summary = summarise(known)
    mean = f"{summary.mean:.{decimals}f}"
    return mean if summary.half_width is None else f"{mean} ± {summary.half_width:.{decimals}f}"


def effects(each: Claim, results: Results) -> str:
    """Paired differences."""
    rows = ["| paired difference | metric | effect | pairs | pairs to see 2 points (80 % power) | |", "|---" * 6 + "|"]
    for comparison in each.comparisons:
        found = effect(results, comparison)
        kind = "" if comparison.decisive else " (reported only)"
        margin = f" > {comparison.margin:g}" if comparison.margin else ""
        decimals = each.decimals.get(comparison.metric)
        needed = power(each, results, found) if decimals is None else "-"  # two points of what is no per cent
        rows.append(
            f"| {comparison.better} - {comparison.worse}{margin} | {comparison.metric} | "
            f"{interval(found, decimals or 1)} | {found.pairs} | {needed} | {found.verdict}{kind} |"
        )
    return "\n".join(rows)


def interval(found: Effect, decimals: int = 1) -> str:
    """Mean and interval of a paired difference."""
    if found.mean is None or found.half_width is None:
        return NOT_RUN
    return f"{found.mean:+.{decimals}f} ± {found.half_width:.{decimals}f}"


def power(each: Claim, results: Results, found: Effect) -> str:
    """How many pairs would show a difference of two points, from the spread of those that were run."""
    if found.pairs < 2:
        return "unknown"
    better, worse = results[found.comparison.better], results[found.comparison.worse]
    metric = found.comparison.metric
    pairs = [better[seed]["metrics"][metric] - worse[seed]["metrics"][metric] for seed in better.keys() & worse.keys()]
    mean = sum(pairs) / len(pairs)
    spread = (sum((value - mean) ** 2 for value in pairs) / (len(pairs) - 1)) ** 0.5
    return str(pairs_needed(spread, 2.0))


def cost(each: Claim, results: Results) -> str:
    """Time and hardware of what was run."""
    entries = [entry for runs in results.values() for entry in runs.values()]
    if not entries:
        return f"Run it: `python -m training.reproduce {each.name}`."
    hours = sum(entry["seconds"] for entry in entries) / 3600
    hardware = ", ".join(sorted({entry["hardware"] for entry in entries}))
    return f"{len(entries)} runs, {hours:.1f} hours in all, each on {hardware}."


def draw(each: Claim, results: Results, path: Path) -> None:
    """A picture of all arms: one panel per metric, one dot per seed, the mean as a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = [arm.name for arm in each.arms if arm.name in results]
    columns = min(len(each.metrics), _PANELS)
    rows = math.ceil(len(each.metrics) / columns)
    tall = 1.3 + 0.33 * len(names)
    figure, axes = plt.subplots(rows, columns, figsize=(3 * columns, tall * rows), squeeze=False, sharey=True)
    for axis in axes.flat[len(each.metrics) :]:
        axis.set_visible(False)
    for axis, metric in zip(axes.flat, each.metrics, strict=False):
        for row, name in enumerate(reversed(names)):
            values = [entry["metrics"][metric] for entry in results[name].values() if metric in entry["metrics"]]
            axis.plot(values, [row] * len(values), "o", alpha=0.55, markersize=5, color="#3b6ea8")
            if values:
                axis.plot([sum(values) / len(values)] * 2, [row - 0.3, row + 0.3], color="#c44e52", linewidth=2)
        axis.set_yticks(range(len(names)), list(reversed(names)))
        axis.set_ylim(-0.6, len(names) - 0.4)
        axis.set_title(metric, fontsize=10)
        axis.set_xlabel(textwrap.fill(each.metrics[metric], 44), fontsize=7)
        axis.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
