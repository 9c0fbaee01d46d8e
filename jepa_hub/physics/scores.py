"""Scores of violation of expectation, from raw surprises: pairs, thresholds, rankings, with bootstrap intervals.

Raw surprises are [V, C, W, T]: videos, context lengths, windows, time steps, NaN where there is none (context steps,
windows that a shorter video does not have). Everything else follows from them, so that they can be scored again.

Differences from the published evaluation code, each of which had led to wrong numbers there: absent windows are NaN,
not zeros that dilute means; pairs go by their names, not by their order in the file; the threshold at a quantile exists
for any number of videos; accuracies divide by the number of videos; the best context length is reported as what it is,
an oracle, beside each fixed length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
REDUCTIONS = ("mean", "max", "step_max")
FILTERED, ORACLE = "filtered", "oracle"
_RESAMPLES, _SEED, _FOLDS = 2000, 0, 5


@dataclass(frozen=True)
class Video:
    """One video of a suite.

    Attributes:
        name: unique in the suite.
        property: of the physical world, such as "permanence".
        group: what belongs together (a quadruplet, a scene); groups are resampled as a whole.
        pair: shared by the possible and the impossible video that begin alike; None where there are no pairs.
        possible: whether nothing impossible happens; None where it is secret.
        ending: shared by the possible and the impossible video that end alike; None where unknown.
        variant: such as "passing", for tables.
        direction: what is wrong, such as "appears"; for a possible video, in the video it is paired with.
        event: frame at which the impossible happens or would, or None.
    """

    name: str
    property: str
    group: str
    pair: str | None = None
    possible: bool | None = None
    ending: str | None = None
    variant: str = ""
    direction: str = ""
    event: int | None = None


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % bootstrap interval; NaN where there is nothing to compute it from."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return "-" if math.isnan(self.value) else f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}]"


@dataclass(frozen=True)
class Raw:
    """Raw surprises of a suite.

    Attributes:
        videos: V of them.
        surprises: float64 [V, C, W, T].
        contexts: frames of the C context lengths.
        about: model, suite, windows: what a reader must know.
        bad: videos that could not be read, with the reason; they are in no score.
    """

    videos: Sequence[Video]
    surprises: Floats
    contexts: Sequence[int]
    about: dict[str, Any] = field(default_factory=dict)
    bad: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.surprises.ndim != 4 or self.surprises.shape[:2] != (len(self.videos), len(self.contexts)):
            raise ValueError(
                f"surprises are [V, C, W, T] with V = {len(self.videos)} and C = {len(self.contexts)}, "
                f"got {self.surprises.shape}"
            )

    def select(self, keep: Callable[[Video], bool]) -> Raw:
        """The videos for which `keep` is true."""
        rows = [row for row, video in enumerate(self.videos) if keep(video)]
        return Raw([self.videos[row] for row in rows], self.surprises[rows], self.contexts, self.about, self.bad)


def reduced(surprises: Floats, reduction: str) -> Floats:
    """One number per video and context, [V, C].

    Args:
        surprises: [V, C, W, T].
        reduction: "mean" and "max" over windows (of the mean over their steps), as published, or "step_max", the
            largest step of any window.

    Raises:
        ValueError: another reduction.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is one of {', '.join(REDUCTIONS)}, not {reduction!r}")
    if reduction == "step_max":
        return np.nanmax(surprises, axis=(2, 3))
    windows = _mean(surprises)  # [V, C, W]
    return _mean(windows) if reduction == "mean" else np.nanmax(windows, axis=2)


def filtered(surprises: Floats) -> Floats:
    """[V, 1, W, 1]: the least of all context lengths, window by window (the published "filtered" row)."""
    return np.nanmin(_mean(surprises), axis=1)[:, None, :, None]


def _mean(values: Floats) -> Floats:
    """Mean over the last axis without NaN; NaN where all are, without a warning."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(-1)
    count = known.sum(-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def by_context(raw: Raw, reduction: str) -> dict[str, Floats]:
    """One number per video [V], by context: "2", "4", ..., and "filtered" where there are several lengths."""
    table = reduced(raw.surprises, reduction)
    found = {str(frames): table[:, column] for column, frames in enumerate(raw.contexts)}
    if len(raw.contexts) > 1:
        found[FILTERED] = reduced(filtered(raw.surprises), "max" if reduction == "step_max" else reduction)[:, 0]
    return found


# Pairs ----------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Pair:
    """Rows of a possible and an impossible video that belong together, and their group."""

    possible: int
    impossible: int
    group: str
    direction: str = ""


def pairs(videos: Sequence[Video], link: str = "pair") -> list[Pair]:
    """Pairs that share `link`: "pair" (they begin alike, the published ones) or "ending" (they end alike).

    Raises:
        ValueError: a link does not join one possible and one impossible video.
    """
    joined: dict[tuple[str, str], list[int]] = {}
    for row, video in enumerate(videos):
        name = getattr(video, link)
        if name is not None and video.possible is not None:
            joined.setdefault((video.property, name), []).append(row)
    found = []
    for (kind, name), rows in joined.items():
        if len(rows) == 1:
            continue  # the partner could not be read, and is reported as bad
        good = [row for row in rows if videos[row].possible]
        wrong = [row for row in rows if not videos[row].possible]
        if len(good) != 1 or len(wrong) != 1:
            raise ValueError(
                f"{kind}, {link} {name!r} joins {len(good)} possible and {len(wrong)} impossible videos: "
                "one of each is needed"
            )
        found.append(Pair(good[0], wrong[0], videos[good[0]].group, videos[wrong[0]].direction))
    return found


def wins(score: Floats, several: Sequence[Pair]) -> Floats:
    """Per pair 1 where the impossible video is more surprising, 0 where less, 1/2 where equal."""
    gap = np.array([score[each.impossible] - score[each.possible] for each in several], dtype=np.float64)
    return np.where(gap == 0, 0.5, gap > 0).astype(np.float64)


def resampled(groups: Sequence[str], statistic: Callable[[NDArray[np.int64]], float], empty: float) -> Estimate:
    """A statistic of rows with its interval, resampling whole groups.

    Args:
        groups: of each row.
        statistic: of row numbers, with repetition.
        empty: the value where there are no rows.
    """
    if not groups:
        return Estimate(empty, empty, empty)
    names = sorted(set(groups))
    members = [np.array([row for row, group in enumerate(groups) if group == name]) for name in names]
    rng = np.random.default_rng(_SEED)
    draws = [
        statistic(np.concatenate([members[index] for index in rng.integers(len(members), size=len(members))]))
        for _ in range(_RESAMPLES)
    ]
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return Estimate(statistic(np.concatenate(members)), float(low), float(high))


def relative_accuracy(score: Floats, several: Sequence[Pair]) -> Estimate:
    """Share of pairs, in per cent, whose impossible video is the more surprising; a tie is half."""
    won = wins(score, several)
    return resampled([each.group for each in several], lambda rows: 100 * float(won[rows].mean()), math.nan)


def margin(score: Floats, several: Sequence[Pair]) -> Estimate:
    """Mean surprise of the impossible over that of the possible video of a pair, per cent of the latter."""
    gaps = np.array([score[each.impossible] - score[each.possible] for each in several])
    base = np.array([score[each.possible] for each in several])
    return resampled(
        [each.group for each in several], lambda rows: 100 * float(gaps[rows].mean() / base[rows].mean()), math.nan
    )


def group_accuracy(score: Floats, several: Sequence[Pair]) -> Estimate:
    """Share of groups, in per cent, whose impossible videos are together more surprising than their possible ones.

    What is merely a surprising thing to see is in both sums, so that only what does not follow counts.
    """
    names = sorted({each.group for each in several})
    totals, sizes = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for each in several:
        totals[each.group] += float(score[each.impossible] - score[each.possible])
        sizes[each.group] += float(abs(score[each.impossible]) + abs(score[each.possible]))
    tied = {name for name in names if abs(totals[name]) <= 1e-9 * sizes[name]}  # rounding is no difference
    won = np.array([0.5 if name in tied else float(totals[name] > 0) for name in names])
    return resampled(names, lambda rows: 100 * float(won[rows].mean()), math.nan)


# Single videos --------------------------------------------------------------------------------------------------------
def quantile_threshold(possible: Floats, share: float = 0.9) -> float:
    """The surprise that `share` of the possible videos do not exceed; exists for any number of videos, one or more."""
    if not len(possible):
        raise ValueError("a threshold needs at least one possible video")
    ordered = np.sort(possible)
    return float(ordered[min(max(math.ceil(share * len(ordered)) - 1, 0), len(ordered) - 1)])


def accuracy_at(threshold: float, possible: Floats, impossible: Floats) -> float:
    """Share of all videos, in per cent, on the right side of a threshold."""
    right = (possible <= threshold).sum() + (impossible > threshold).sum()
    return 100 * float(right) / (len(possible) + len(impossible))


def best_threshold(possible: Floats, impossible: Floats) -> float:
    """The threshold of greatest accuracy: the middle between neighbouring surprises."""
    values = np.unique(np.concatenate([possible, impossible]))
    between = np.concatenate([[values[0] - 1], (values[1:] + values[:-1]) / 2, [values[-1] + 1]])
    return float(max(between, key=lambda each: accuracy_at(each, possible, impossible)))


def held_out_accuracy(score: Floats, possible: NDArray[np.bool_], groups: Sequence[str]) -> Estimate:
    """Accuracy in per cent of a threshold that was chosen on other groups (five folds of whole groups)."""
    names = sorted(set(groups))
    if len(names) < 2 or possible.all() or not possible.any():
        return Estimate(math.nan, math.nan, math.nan)
    order = np.random.default_rng(_SEED).permutation(len(names))
    fold = {names[index]: place % min(_FOLDS, len(names)) for place, index in enumerate(order)}
    folds = np.array([fold[group] for group in groups])
    right = np.zeros(len(score))
    for number in sorted(set(folds)):
        rest = folds != number
        threshold = best_threshold(score[rest & possible], score[rest & ~possible])
        right[~rest] = (score[~rest] > threshold) != possible[~rest]
    return resampled(groups, lambda rows: 100 * float(right[rows].mean()), math.nan)


def auroc(score: Floats, possible: NDArray[np.bool_]) -> float:
    """Probability in per cent that an impossible video is more surprising than a possible one; a tie is half."""
    good, wrong = score[possible], score[~possible]
    if not len(good) or not len(wrong):
        return math.nan
    ordered = np.sort(good)
    below, upto = np.searchsorted(ordered, wrong, "left"), np.searchsorted(ordered, wrong, "right")
    return 100 * float((below + upto).sum() / 2 / (len(good) * len(wrong)))


def auprc(score: Floats, possible: NDArray[np.bool_]) -> float:
    """Average precision in per cent of finding the possible videos by little surprise, as published."""
    if not possible.any() or possible.all():
        return math.nan
    order = np.argsort(score, kind="stable")
    hits, values = possible[order], score[order]
    last = np.append(values[1:] != values[:-1], True)  # a threshold takes all equal surprises at once
    found = np.cumsum(hits)[last]
    taken = np.arange(1, len(score) + 1)[last]
    return 100 * float((np.diff(found, prepend=0) * found / taken).sum() / hits.sum())
