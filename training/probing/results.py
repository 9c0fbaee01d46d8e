"""ProbeResult: what one probe scored, against chance and the simplest guess; and means with their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom.
_T: tuple[float, ...] = (
    *(12.7062, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216, 2.22814),
    *(2.20099, 2.17881, 2.16037, 2.14479, 2.13145, 2.11991, 2.10982, 2.10092, 2.09302, 2.08596),
    *(2.07961, 2.07387, 2.06866, 2.06390, 2.05954, 2.05553, 2.05183, 2.04841, 2.04523, 2.04227),
)


@dataclass(frozen=True)
class ProbeResult:
    """The score of one probe on the test samples.

    Attributes:
        probe: "linear", "knn", "attentive".
        label: what was read out.
        kind: "class" or "number".
        metric: the name of `value`: "accuracy" (top 1) or "r2".
        value: on the test samples.
        standard_error: of `value` through the choice of test samples (accuracy only).
        chance: of guessing uniformly (accuracy), or 0 (r2).
        baseline: of always saying the most frequent training class, or the mean of the training values.
        metrics: every metric on the test samples.
        validation: `value` on the validation samples, which chose `chosen`.
        chosen: the settings that validation picked.
        num_train, num_validation, num_test: samples.
        seed: of the draw of training samples (and of the order of batches, where there are any).
    """

    probe: str
    label: str
    kind: str
    metric: str
    value: float
    standard_error: float | None
    chance: float
    baseline: float
    metrics: dict[str, float]
    validation: float
    chosen: dict[str, float]
    num_train: int
    num_validation: int
    num_test: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Summary:
    """The mean of several results and its 95 % t-interval; the interval is None for a single value."""

    mean: float
    half_width: float | None
    values: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if self.half_width is None else f"{self.mean:.3f} ± {self.half_width:.3f}"


def t_quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t, to 1e-4. Source: Abramowitz and Stegun, 26.7.5, beyond 30 degrees."""
    if degrees < 1:
        raise ValueError(f"an interval needs two values or more; got {degrees + 1}")
    if degrees <= len(_T):
        return _T[degrees - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def summarise(values: Sequence[float]) -> Summary:
    """Mean and 95 % t-interval.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("there is nothing to average")
    mean = sum(values) / len(values)
    if len(values) == 1:
        return Summary(mean, None, list(values))
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return Summary(mean, t_quantile(len(values) - 1) * math.sqrt(variance / len(values)), list(values))


def class_metrics(predicted: Tensor, truth: Tensor) -> dict[str, float]:
    """Top-1 accuracy, and its mean over the classes that occur (balanced).

    Args:
        predicted: int64 [N].
        truth: int64 [N].
    """
    right = (predicted == truth).double()  # [N]
    per_class = [float(right[truth == each].mean()) for each in truth.unique()]
    return {"accuracy": float(right.mean()), "balanced_accuracy": sum(per_class) / len(per_class)}


def number_metrics(predicted: Tensor, truth: Tensor) -> dict[str, float]:
    """Share of variance explained (r2) and mean absolute error (mae, in the label's unit).

    Args:
        predicted: [N].
        truth: [N], not all the same.
    """
    predicted, truth = predicted.double(), truth.double()
    spread = float(((truth - truth.mean()) ** 2).sum())
    left = float(((truth - predicted) ** 2).sum())
    # A constant truth has no variance to explain: only validation samples may be so few that it happens.
    return {"r2": 1 - left / spread if spread else -left, "mae": float((truth - predicted).abs().mean())}


def score(predicted: Tensor, truth: Tensor) -> dict[str, float]:
    """The metrics that fit the kind of label; the first is the one that counts."""
    return number_metrics(predicted, truth) if truth.is_floating_point() else class_metrics(predicted, truth)


def report(
    probe: str,
    label: str,
    *,
    predicted: Tensor,
    truth: Tensor,
    train: Tensor,
    num_classes: int | None,
    validation: float,
    chosen: dict[str, float],
    num_validation: int,
    seed: int,
) -> ProbeResult:
    """The result of predictions on the test samples.

    Args:
        predicted, truth: [N] of the test samples; int64 for classes.
        train: [M], the training labels, for the baseline.
        num_classes: of a class label.
        validation: the score there.
        chosen: the settings that validation picked.
    """
    metrics = score(predicted, truth)
    metric, value = next(iter(metrics.items()))
    if truth.is_floating_point():
        guess = number_metrics(train.double().mean().expand(len(truth)), truth)
        metrics["baseline_mae"] = guess["mae"]
        kind, chance, error = "number", 0.0, None
    else:
        guess = class_metrics(train.mode().values.expand(len(truth)), truth)
        assert num_classes is not None  # class labels have some
        kind, chance, error = "class", 1 / num_classes, math.sqrt(value * (1 - value) / len(truth))
    return ProbeResult(
        probe=probe,
        label=label,
        kind=kind,
        metric=metric,
        value=value,
        standard_error=error,
        chance=chance,
        baseline=guess[metric],
        metrics=metrics,
        validation=validation,
        chosen=chosen,
        num_train=len(train),
        num_validation=num_validation,
        num_test=len(truth),
        seed=seed,
    )
