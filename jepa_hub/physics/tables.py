"""Tables of a suite's scores: per property, fixed contexts beside the oracle, single videos, directions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jepa_hub.physics.scores import (
    FILTERED,
    ORACLE,
    REDUCTIONS,
    Estimate,
    Floats,
    Pair,
    Raw,
    accuracy_at,
    auprc,
    auroc,
    by_context,
    group_accuracy,
    held_out_accuracy,
    margin,
    pairs,
    quantile_threshold,
    relative_accuracy,
    resampled,
    wins,
)


@dataclass(frozen=True)
class Row:
    """Scores of one property, reduction and context.

    Attributes:
        property: or "all".
        reduction: one of REDUCTIONS.
        context: frames, "filtered", or "oracle": the context of greatest relative accuracy on these very videos.
        num_pairs, num_groups: that were scored.
        relative: share of pairs (alike until the event) whose impossible video is the more surprising, per cent.
        matched: the same of pairs that are alike after the event.
        group: share of groups whose impossible videos are together more surprising.
        margin: how much more surprising, per cent.
        absolute: accuracy of single videos at a held-out threshold.
        published_absolute: at the 90 % quantile of the possible videos, as published; chosen on the videos themselves.
        auroc, auprc: of single videos.
        directions: relative accuracy by what is wrong.
    """

    property: str
    reduction: str
    context: str
    num_pairs: int
    num_groups: int
    relative: Estimate
    matched: Estimate
    group: Estimate
    margin: Estimate
    absolute: Estimate
    published_absolute: float
    auroc: Estimate
    auprc: Estimate
    directions: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers; None for what could not be computed."""
        return {name: _plain(value) for name, value in vars(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate):
        return {name: _plain(each) for name, each in vars(value).items()}
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 4)
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return value


def score_table(raw: Raw, reductions: Sequence[str] = REDUCTIONS) -> list[Row]:
    """Every property (and "all", where there are several), reduction and context, and the oracle context of each."""
    kinds = sorted({video.property for video in raw.videos})
    parts = [(kind, raw.select(lambda video, kind=kind: video.property == kind)) for kind in kinds]  # type: ignore[misc]
    if len(kinds) > 1:
        parts.append(("all", raw))
    rows = []
    for kind, part in parts:
        for reduction in reductions:
            rows += _rows(kind, part, reduction)
    return rows


def _rows(kind: str, raw: Raw, reduction: str) -> list[Row]:
    begin, end = pairs(raw.videos, "pair"), pairs(raw.videos, "ending")
    rows = [_row(kind, raw, reduction, name, score, begin, end) for name, score in by_context(raw, reduction).items()]
    if len(raw.contexts) > 1 and begin:
        best = max(rows, key=lambda row: row.relative.value)
        rows.append(Row(**{**vars(best), "context": ORACLE}))
    return rows


def _row(kind: str, raw: Raw, reduction: str, context: str, score: Floats, begin: list[Pair], end: list[Pair]) -> Row:
    known = [row for row, video in enumerate(raw.videos) if video.possible is not None]
    possible = np.array([bool(raw.videos[row].possible) for row in known], dtype=bool)
    groups = [f"{raw.videos[row].property}/{raw.videos[row].group}" for row in known]
    single = score[known]
    both = len(known) > 0 and possible.any() and not possible.all()
    won = wins(score, begin)
    named = sorted({each.direction for each in begin if each.direction})
    return Row(
        kind,
        reduction,
        context,
        len(begin),
        len({each.group for each in begin}),
        relative_accuracy(score, begin),
        relative_accuracy(score, end),
        group_accuracy(score, begin),
        margin(score, begin),
        held_out_accuracy(single, possible, groups),
        accuracy_at(quantile_threshold(single[possible]), single[possible], single[~possible]) if both else math.nan,
        _ranked(auroc, single, possible, groups),
        _ranked(auprc, single, possible, groups),
        {
            name: 100 * float(np.mean([w for w, each in zip(won, begin, strict=True) if each.direction == name]))
            for name in named
        },
    )


def _ranked(statistic: Callable[[Any, Any], float], score: Floats, possible: Any, groups: Sequence[str]) -> Estimate:
    return resampled(groups, lambda rows: statistic(score[rows], possible[rows]), math.nan)


def markdown(rows: Sequence[Row], *, reduction: str = "mean", context: str | None = None) -> str:
    """A table for people: one line per property, at one context (by default the longest) and at the oracle.

    Args:
        rows: of `score_table`.
        reduction: which.
        context: which fixed one.

    Raises:
        ValueError: no such row.
    """
    fixed = [row.context for row in rows if row.context not in (FILTERED, ORACLE)]
    context = context or max(fixed, key=int, default="")
    chosen = {(row.property, row.context): row for row in rows if row.reduction == reduction}
    kinds = list(dict.fromkeys(row.property for row in rows))
    missing = [kind for kind in kinds if (kind, context) not in chosen]
    if missing:
        raise ValueError(f"no scores with context {context!r} and reduction {reduction!r}; contexts: {set(fixed)}")
    head = (
        f"| property | pairs | relative, {context} frames | relative, oracle context | same ending | groups | "
        "margin | held-out threshold | AUROC |"
    )
    lines = [head, "|---" * 9 + "|"]
    for kind in kinds:
        row, oracle = chosen[kind, context], chosen.get((kind, ORACLE))
        lines.append(
            f"| {kind} | {row.num_pairs} | {row.relative} | {oracle.relative.value if oracle else math.nan:.1f} | "
            f"{row.matched} | {row.group} | {row.margin.value:+.2f} % | {row.absolute} | {row.auroc} |"
        )
    return "\n".join(lines)
