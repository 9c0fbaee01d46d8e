"""Linear, nearest-neighbour and low-shot probes against scikit-learn and plain loops (5 s)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor

from training.data.source import Label
from training.probing.linear import fit_logistic, fit_ridge, linear_probe, standardise
from training.probing.low_shot import low_shot, low_shot_rows
from training.probing.neighbours import knn_probe, nearest_rows, vote
from training.probing.results import class_metrics, number_metrics, summarise, t_quantile
from training.probing.tables import FeatureTable, check_tables, draw, separate


def digits() -> tuple[FeatureTable, FeatureTable, FeatureTable]:
    pixels, classes = load_digits(return_X_y=True)
    features, labels = torch.from_numpy(pixels).float(), torch.from_numpy(classes).long()
    table = FeatureTable(
        features,
        {"digit": labels, "ink": features.sum(dim=1).double()},
        torch.arange(len(labels)),
        {"digit": Label("class", 10), "ink": Label("number")},
    )
    rows = torch.arange(len(labels))
    return table.select(rows % 5 < 3), table.select(rows % 5 == 3), table.select(rows % 5 == 4)


def noise(rows: int, width: int, seed: int) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_logistic_regression_is_scikit_learns() -> None:
    train, _, test = digits()
    scaling = standardise(train.features)
    x, y, unseen = scaling(train.features), train.label("digit"), scaling(test.features)
    for penalty in (1e-3, 1e-1):
        (fit,) = fit_logistic(x, y, 10, [penalty])
        theirs = LogisticRegression(C=1 / (penalty * len(y)), tol=1e-8, max_iter=5000).fit(x.numpy(), y.numpy())
        shares = fit(unseen).softmax(dim=1)
        assert np.abs(shares.numpy() - theirs.predict_proba(unseen.numpy())).max() < 1e-4
        assert torch.equal(shares.argmax(dim=1), torch.from_numpy(theirs.predict(unseen.numpy())))


def test_logistic_regression_with_more_channels_than_samples_is_exact() -> None:
    x, y = noise(20, 50, 0), torch.arange(20) % 3
    (fit,) = fit_logistic(x, y, 3, [1e-2])
    theirs = LogisticRegression(C=1 / (1e-2 * 20), tol=1e-10, max_iter=5000).fit(x.numpy(), y.numpy())
    assert np.abs(fit.weight.T.numpy() - theirs.coef_).max() < 1e-4


@pytest.mark.parametrize(("rows", "width"), [(60, 8), (20, 50)])
def test_ridge_is_scikit_learns(rows: int, width: int) -> None:
    x = noise(rows, width, 1) + 3
    y = x @ noise(width, 1, 2)[:, 0] + 0.1 * noise(rows, 1, 3)[:, 0]
    for penalty, fit in zip((0.1, 10.0), fit_ridge(x, y, (0.1, 10.0)), strict=True):
        theirs = Ridge(alpha=penalty).fit(x.numpy(), y.numpy())
        assert np.abs(fit.weight[:, 0].numpy() - theirs.coef_).max() < 1e-9
        assert float(fit.bias) == pytest.approx(theirs.intercept_, abs=1e-9)


def test_linear_probe_scores_digits_as_scikit_learn_does() -> None:
    train, validation, test = digits()
    result = linear_probe(train, validation, test, "digit", seed=3)
    scaling = standardise(train.features)
    theirs = LogisticRegression(C=1 / (result.chosen["penalty"] * len(train)), tol=1e-8, max_iter=5000)
    theirs.fit(scaling(train.features).numpy(), train.label("digit").numpy())
    expected = theirs.score(scaling(test.features).numpy(), test.label("digit").numpy())
    assert result.value == result.metrics["accuracy"] == pytest.approx(expected, abs=1e-9)
    assert result.value > 0.94 and result.chance == 0.1 and result.baseline < 0.15 and result.seed == 3
    number = linear_probe(train, validation, test, "ink")
    assert number.metric == "r2" and number.value > 0.999 and number.metrics["mae"] < 0.1 and number.baseline <= 0


def test_the_penalty_comes_from_validation_and_never_from_test() -> None:
    train, validation, test = digits()
    swapped = test.labels["digit"].flip(0)
    spoilt = FeatureTable(test.features, {"digit": swapped}, test.samples, test.label_info)
    assert (
        linear_probe(train, validation, test, "digit").chosen == linear_probe(train, validation, spoilt, "digit").chosen
    )
    assert knn_probe(train, validation, test, "digit").chosen == knn_probe(train, validation, spoilt, "digit").chosen


def test_features_that_do_not_vary_give_the_most_frequent_class() -> None:
    def table(first: int, classes: list[int]) -> FeatureTable:
        samples = torch.arange(first, first + len(classes))
        return FeatureTable(torch.full((len(classes), 6), 0.7), {"c": torch.tensor(classes)}, samples)

    result = linear_probe(table(0, [0, 1, 1, 2]), table(10, [1, 0]), table(20, [1, 1, 0, 3]), "c")
    assert result.value == result.baseline == 0.5  # and class 3, which training never saw, is an error


def test_neighbours_are_those_of_a_plain_loop() -> None:
    train, validation, test = digits()
    train, test = draw(train, 150, 0), draw(test, 40, 0)
    result = knn_probe(train, validation, test, "digit", counts=(7,), temperatures=(0.1,))
    mean = train.features.double().mean(dim=0)
    right = []
    for row, truth in zip(test.features.double() - mean, test.label("digit"), strict=True):
        similar = [float(row @ each / (row.norm() * each.norm())) for each in train.features.double() - mean]
        order = sorted(range(len(similar)), key=lambda index: -similar[index])[:7]
        votes = [0.0] * 10
        for index in order:
            votes[int(train.label("digit")[index])] += math.exp(similar[index] / 0.1)
        right.append(votes.index(max(votes)) == int(truth))
    assert result.value == pytest.approx(sum(right) / len(right), abs=1e-12)
    assert result.chosen == {"neighbours": 7, "temperature": 0.1}


def test_neighbours_of_numbers_are_averaged_by_weight() -> None:
    similarities, rows = nearest_rows(torch.eye(3), torch.tensor([[2.0, 1.0, 0.0]]), 2)
    assert rows.tolist() == [[0, 1]]
    weights = torch.softmax(similarities / 0.5, dim=1)
    values = torch.tensor([10.0, 20.0, 30.0])
    expected = float((weights[0] * values[:2]).sum())
    assert float(vote(similarities, values[rows], 0.5, None)) == pytest.approx(expected)


def test_low_shot_draws_class_by_class() -> None:
    classes = torch.tensor([0] * 300 + [1] * 50 + [2] * 3)
    rows = low_shot_rows(classes, 0.1, 5)
    assert torch.bincount(classes[rows]).tolist() == [30, 5, 1]
    assert torch.equal(rows, low_shot_rows(classes, 0.1, 5)) and not torch.equal(rows, low_shot_rows(classes, 0.1, 6))
    assert torch.bincount(classes[low_shot_rows(classes, 0.01, 5)]).tolist() == [3, 1, 1]
    assert low_shot_rows(classes, 1.0, 0).tolist() == list(range(353))
    numbers = torch.arange(100, dtype=torch.float64)
    drawn = numbers[low_shot_rows(numbers, 0.1, 0)]
    assert (drawn // 10).tolist() == list(range(10))  # one from each tenth of the values
    with pytest.raises(ValueError, match=r"above 0 and at most 1; got 0"):
        low_shot_rows(classes, 0.0, 0)


def test_low_shot_reports_every_draw() -> None:
    one, ten = low_shot(*digits(), "digit", num_draws=3, probe="knn")
    assert (one.fraction, ten.fraction) == (0.01, 0.1) and one.num_train < ten.num_train == 108
    assert one.summary.values == [each.value for each in one.draws] and len(set(one.summary.values)) > 1
    assert ten.summary.mean > one.summary.mean > 0.4 and one.summary.half_width is not None
    assert all(each.num_train == 10 for each in one.draws)


def test_tables_that_share_a_sample_are_refused_and_can_be_separated() -> None:
    train, validation, test = digits()
    mixed = FeatureTable(
        torch.cat([train.features, test.features[:5]]),
        {"digit": torch.cat([train.labels["digit"], test.labels["digit"][:5]])},
        torch.cat([train.samples, test.samples[:5]]),
        train.label_info,
    )
    for probe in (linear_probe, knn_probe, low_shot):
        with pytest.raises(ValueError, match="5 samples of train are also in test"):
            probe(mixed, validation, test, "digit")  # type: ignore[operator]
    kept, chosen, whole, lost = separate(mixed, validation, test)
    assert lost == {"train": 5, "validation": 0, "test": 0} and len(kept) == len(train)
    check_tables(kept, chosen, whole, "digit")


def test_bad_tables_are_named() -> None:
    train, validation, test = digits()
    with pytest.raises(ValueError, match=r"unknown label 'digits' \(did you mean 'digit'\?\); these samples have: dig"):
        linear_probe(train, validation, test, "digits")
    with pytest.raises(ValueError, match="the validation split holds no samples"):
        linear_probe(train, validation.select(torch.arange(0)), test, "digit")
    only = train.select(train.labels["digit"] == 4)
    with pytest.raises(ValueError, match=r"label 'digit' has one class only \(4\) in train"):
        knn_probe(only, validation, test, "digit")
    broken = FeatureTable(train.features * math.nan, train.labels, train.samples)
    with pytest.raises(ValueError, match="train features hold NaN"):
        linear_probe(broken, validation, test, "digit")
    with pytest.raises(ValueError, match="label 'digit' has shape"):
        FeatureTable(train.features, {"digit": torch.zeros(3)}, train.samples)


def test_metrics_and_intervals() -> None:
    metrics = class_metrics(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 0, 2]))
    assert metrics == {"accuracy": 0.75, "balanced_accuracy": 0.5}
    assert number_metrics(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 4.0])) == {"r2": 0.75, "mae": 1.0}
    for degrees in (1, 2, 9, 30, 31, 100):
        assert t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=1e-4)
    summary = summarise([0.5, 0.6, 0.7])
    assert summary.mean == pytest.approx(0.6) and summary.half_width == pytest.approx(4.30265 * 0.1 / math.sqrt(3))
    assert summarise([0.5]).half_width is None and str(summarise([0.5])) == "0.500"
