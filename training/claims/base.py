"""Claim: a statement of a paper, the arms that test it, what is measured, and what would count as holding."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.probing.results import summarise, t_quantile

Results = dict[str, dict[int, dict[str, Any]]]  # arm -> seed -> the result file
HOLDS, FAILS, NOT_RUN = "holds", "does not hold at this scale", "not run"


@dataclass(frozen=True)
class Arm:
    """One thing that is compared.

    Attributes:
        name: as in tables and file names.
        what: in a few words, for the table.
        run: (seed, work folder) -> what was measured, by metric.
        core: whether it belongs to the core grid; the rest only to the full one.
        seeds: other than the claim's, e.g. more for a cheap arm; None takes the claim's.
    """

    name: str
    what: str
    run: Callable[[int, Path], dict[str, float]]
    core: bool = True
    seeds: int | None = None


@dataclass(frozen=True)
class Comparison:
    """`better` is said to exceed `worse` on `metric`.

    Attributes:
        metric: of the arms' results.
        better, worse: arms.
        margin: least difference that counts, in the metric's units.
        decisive: whether the verdict depends on it; the others are reported only.
    """

    metric: str
    better: str
    worse: str
    margin: float = 0.0
    decisive: bool = True


@dataclass(frozen=True)
class Claim:
    """A statement and its test.

    Attributes:
        name: of the claim, as `python -m training.reproduce NAME`.
        title: for REPRODUCTION.md.
        paper: where the statement is made.
        statement: what the paper says, in our words.
        setting: what is run here: data, sizes, budget.
        metrics: names and their explanations, in the order of the table.
        arms: what is compared.
        comparisons: what the statement predicts.
        core_seeds, full_seeds: paired seeds 0 .. n - 1 of the two grids.
        needed: how many decisive comparisons must hold, 0 for all.
        picture: draws the results into a PNG file; None takes one panel per metric, one dot per seed.
        remark: a sentence that is computed from the results.
        decimals: of metrics that are no per cent; one by default, and a power estimate for two points.
    """

    name: str
    title: str
    paper: str
    statement: str
    setting: str
    metrics: dict[str, str]
    arms: Sequence[Arm]
    comparisons: Sequence[Comparison]
    core_seeds: int = 5
    full_seeds: int = 10
    needed: int = 0
    picture: Callable[[Results, Path], None] | None = None
    remark: Callable[[Results], str] | None = None
    decimals: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Nothing, if every comparison is of arms and metrics that there are.

        Raises:
            ValueError: one is not, two arms have one name, or nothing is decisive.
        """
        arms = [each.name for each in self.arms]
        if len(set(arms)) != len(arms):
            raise ValueError(f"claim {self.name}: two arms have one name: {arms}")
        for each in self.comparisons:
            for kind, name, known in (
                ("arm", each.better, arms),
                ("arm", each.worse, arms),
                ("metric", each.metric, list(self.metrics)),
            ):
                if name not in known:
                    raise ValueError(f"claim {self.name} compares the {kind} {name!r}, which is none of {known}")
        if not any(each.decisive for each in self.comparisons):
            raise ValueError(f"claim {self.name}: no comparison is decisive")

    def arm(self, name: str) -> Arm:
        """The arm of a name."""
        return next(each for each in self.arms if each.name == name)

    def grid(self, *, full: bool) -> list[tuple[str, int]]:
        """(arm, seed) of a grid, seeds first, so that an interrupted grid holds whole pairs."""
        seeds = self.full_seeds if full else self.core_seeds
        arms = [each for each in self.arms if full or each.core]
        most = max((each.seeds or seeds) for each in arms)
        return [(each.name, seed) for seed in range(most) for each in arms if seed < (each.seeds or seeds)]


@dataclass(frozen=True)
class Effect:
    """The paired difference of two arms.

    Attributes:
        comparison: which.
        mean: over paired seeds; None where fewer than two pairs were run.
        half_width: of the 95 % t-interval.
        pairs: seeds that both arms have.
    """

    comparison: Comparison
    mean: float | None
    half_width: float | None
    pairs: int

    @property
    def verdict(self) -> str:
        """Whether the whole interval lies beyond the margin."""
        if self.mean is None or self.half_width is None:
            return NOT_RUN
        return HOLDS if self.mean - self.half_width > self.comparison.margin else FAILS


def effect(results: Results, comparison: Comparison) -> Effect:
    """The paired difference better - worse over the seeds that both have."""
    better, worse = results.get(comparison.better, {}), results.get(comparison.worse, {})
    pairs = [
        better[seed]["metrics"][comparison.metric] - worse[seed]["metrics"][comparison.metric]
        for seed in sorted(better.keys() & worse.keys())
        if comparison.metric in better[seed]["metrics"] and comparison.metric in worse[seed]["metrics"]
    ]
    if len(pairs) < 2:
        return Effect(comparison, None, None, len(pairs))
    summary = summarise(pairs)
    return Effect(comparison, summary.mean, summary.half_width, len(pairs))


def verdict(claim: Claim, results: Results) -> str:
    """The claim's verdict from its decisive comparisons."""
    each = [effect(results, comparison).verdict for comparison in claim.comparisons if comparison.decisive]
    if not each or NOT_RUN in each:
        return NOT_RUN
    needed = claim.needed or len(each)
    return HOLDS if each.count(HOLDS) >= needed else FAILS


def pairs_needed(spread: float, difference: float, *, power: float = 0.8) -> int:
    """Paired seeds needed to see `difference` at the 95 % level with the given power.

    Args:
        spread: standard deviation of the paired differences, from a pilot.
        difference: least one worth seeing, in the same units.
        power: probability of seeing it; 0.8 or 0.9.

    Raises:
        ValueError: another power, or a difference that is not positive.
    """
    if difference <= 0 or power not in (0.8, 0.9):
        raise ValueError(f"difference must be positive and power 0.8 or 0.9; got {difference}, {power}")
    z = 0.8416 if power == 0.8 else 1.2816
    for count in range(2, 1000):
        if (t_quantile(count - 1) + z) * spread / math.sqrt(count) <= difference:
            return count
    return 1000
