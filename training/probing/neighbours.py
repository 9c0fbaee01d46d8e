"""The nearest-neighbour probe: what the most similar training samples say, weighted by similarity."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from training.probing.results import ProbeResult, report, score
from training.probing.tables import FeatureTable, check_tables

COUNTS = (1, 5, 10, 20, 50, 100)
TEMPERATURES = (0.03, 0.07, 0.2, 1.0)
_CHUNK_VALUES = 1 << 24  # similarities held at a time


def nearest_rows(bank: Tensor, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Cosine similarities [Q, K] and rows [Q, K] of the `count` most similar rows of `bank`, most similar first.

    Args:
        bank: [N, D], not normalised.
        queries: [Q, D].
        count: K, at most N.
    """
    bank = F.normalize(bank, dim=1)
    parts = []
    for chunk in F.normalize(queries, dim=1).split(max(1, _CHUNK_VALUES // max(len(bank), 1))):
        parts.append((chunk @ bank.T).topk(count, dim=1))  # [q, K]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def vote(similarities: Tensor, labels: Tensor, temperature: float, num_classes: int | None) -> Tensor:
    """What the neighbours say: the class with the largest weight, or the weighted mean of their numbers.

    A neighbour weighs exp(similarity / temperature). Source: Wu et al., arXiv:1805.01978, sec. 3.4.

    Args:
        similarities: [Q, K].
        labels: [Q, K], of the neighbours.
        temperature: above 0.
        num_classes: of a class label; None for numbers.

    Returns:
        [Q]: int64 for classes.
    """
    weights = (similarities / temperature).softmax(dim=1)  # [Q, K]
    if num_classes is None:
        return (weights * labels).sum(dim=1)
    votes = weights.new_zeros(len(labels), num_classes)
    return votes.scatter_add_(1, labels, weights).argmax(dim=1)


def knn_probe(
    train: FeatureTable,
    validation: FeatureTable,
    test: FeatureTable,
    label: str,
    *,
    seed: int = 0,
    counts: Sequence[int] = COUNTS,
    temperatures: Sequence[float] = TEMPERATURES,
) -> ProbeResult:
    """What the nearest training samples score, by cosine similarity of the features less their training mean.

    The mean is taken off because an offset that all features share makes every cosine nearly 1.

    Args:
        train, validation, test: tables that share no sample; tokens are averaged.
        label: what to read out.
        seed: written to the result; nothing here is random.
        counts: numbers of neighbours to try; those above the number of training samples are left out.
        temperatures: to try; validation chooses both.

    Raises:
        ValueError: see `check_tables`.
    """
    check_tables(train, validation, test, label)
    mean = train.pooled().features.double().mean(dim=0)  # [D]
    x_train, x_validation, x_test = (each.pooled().features.double() - mean for each in (train, validation, test))
    y_train, y_validation, y_test = (each.label(label) for each in (train, validation, test))
    num_classes = None if y_train.is_floating_point() else train.num_classes(label)
    usable = sorted({min(count, len(train)) for count in counts})
    similarities, rows = nearest_rows(x_train, x_validation, usable[-1])  # [V, K]
    best: tuple[float, int, float] | None = None
    for count in usable:
        for temperature in temperatures:
            predicted = vote(similarities[:, :count], y_train[rows[:, :count]], temperature, num_classes)
            value = next(iter(score(predicted, y_validation).values()))
            if best is None or value > best[0]:
                best = value, count, temperature
    assert best is not None  # the grids are not empty
    similarities, rows = nearest_rows(x_train, x_test, best[1])  # [Q, K]
    return report(
        "knn",
        label,
        predicted=vote(similarities, y_train[rows], best[2], num_classes),
        truth=y_test,
        train=y_train,
        num_classes=num_classes,
        validation=best[0],
        chosen={"neighbours": best[1], "temperature": best[2]},
        num_validation=len(validation),
        seed=seed,
    )
