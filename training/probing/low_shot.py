"""Low-shot probes: the linear or nearest-neighbour probe on 1 % and 10 % of the training samples, several draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from jepa_hub.masking.draws import keyed, keyed_order
from training.probing.linear import linear_probe
from training.probing.neighbours import knn_probe
from training.probing.results import ProbeResult, Summary, summarise
from training.probing.tables import FeatureTable, check_tables

SHOT_DRAW = 202  # purpose of a key
PROBES: dict[str, Callable[..., ProbeResult]] = {"linear": linear_probe, "knn": knn_probe}


@dataclass(frozen=True)
class LowShot:
    """Scores with a fraction of the training samples: every draw, and their mean with its interval."""

    fraction: float
    num_train: int
    summary: Summary
    draws: list[ProbeResult]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "fraction": self.fraction,
            "num_train": self.num_train,
            "mean": self.summary.mean,
            "half_width": self.summary.half_width,
            "draws": [each.to_dict() for each in self.draws],
        }


def low_shot_rows(values: Tensor, fraction: float, key: int) -> Tensor:
    """Rows of a fraction of samples, ascending; every class gives its share, rounded, and at least one.

    Args:
        values: [N]; int64 classes are drawn class by class; of floating numbers one from each of as many equal shares
            of the sorted values as are drawn, at least two.
        fraction: above 0, at most 1.
        key: decides the draw.

    Raises:
        ValueError: the fraction is out of range.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"a fraction of the training samples is above 0 and at most 1; got {fraction!r}")
    order = keyed_order(torch.tensor(key), len(values))  # [N], a random rank
    if values.is_floating_point():
        return _spread_rows(values, order, min(len(values), max(2, round(fraction * len(values)))))
    chosen = []
    for each in values.unique():
        members = (values == each).nonzero().flatten()
        count = max(1, int(fraction * len(members) + 0.5))
        chosen.append(members[order[members].argsort()[:count]])
    return torch.cat(chosen).sort().values


def _spread_rows(values: Tensor, order: Tensor, count: int) -> Tensor:
    """`count` rows, one from each of `count` equal shares of the sorted values; equal values in random order."""
    by_value = order.argsort()[values[order.argsort()].argsort(stable=True)]  # [N] rows
    shares = by_value.tensor_split(count)
    return torch.stack([share[order[share].argmin()] for share in shares]).sort().values


def low_shot(
    train: FeatureTable,
    validation: FeatureTable,
    test: FeatureTable,
    label: str,
    *,
    fractions: Sequence[float] = (0.01, 0.1),
    seed: int = 0,
    num_draws: int = 5,
    probe: Literal["linear", "knn"] = "linear",
) -> list[LowShot]:
    """Scores with few labelled samples, one `LowShot` per fraction.

    The penalty is still chosen on all validation samples, which favours every model alike.

    Args:
        train, validation, test: tables that share no sample; only rows of `train` are left out.
        label: what to read out.
        fractions: of the training samples.
        seed: of the draws.
        num_draws: draws per fraction; the interval is over them.
        probe: what is fitted.

    Raises:
        ValueError: see `check_tables`; an unknown probe, a fraction out of range or no draws.
    """
    if probe not in PROBES:
        raise ValueError(f"low-shot probes are {', '.join(PROBES)}; got {probe!r}")
    if num_draws < 1:
        raise ValueError(f"num_draws is 1 or more; got {num_draws}")
    check_tables(train, validation, test, label)
    values = train.label(label)
    results = []
    for fraction in fractions:
        rows = [low_shot_rows(values, fraction, int(keyed(seed, SHOT_DRAW, each))) for each in range(num_draws)]
        draws = [PROBES[probe](train.select(each), validation, test, label, seed=seed) for each in rows]
        results.append(LowShot(fraction, len(rows[0]), summarise([each.value for each in draws]), draws))
    return results
