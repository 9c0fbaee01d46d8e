"""The digits of scikit-learn: splits, labels, pixels. About 2 seconds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from tests.training.data.contract import check_source
from training.data.digits import Digits, pixel_order
from training.data.registry import source_class

SPLITS = ("train", "validation", "test")


def build(**settings: Any) -> Digits:
    return Digits(Digits.Settings(**settings))


def test_contract() -> None:
    assert source_class("digits") is Digits
    check_source(build(split="validation", size=16))


def test_splits_are_disjoint_complete_and_stratified() -> None:
    sources = [build(split=split) for split in SPLITS]
    rows = [[source.read(index, 0).details["row"] for index in range(len(source))] for source in sources]
    assert sorted(row for chosen in rows for row in chosen) == list(range(1797))
    target = load_digits().target
    for chosen, share in zip(rows, (0.7, 0.15, 0.15), strict=True):
        counts = np.bincount(target[chosen], minlength=10)
        assert (np.abs(counts - share * np.bincount(target)) <= 1).all()


@pytest.mark.parametrize("enlarge", ["nearest", "bilinear"])
def test_labels_and_pixels_are_those_of_scikit_learn(enlarge: str) -> None:
    found = load_digits()
    source = build(split="test", size=24, enlarge=enlarge)
    for index in range(0, len(source), 17):
        sample = source.read(index, 0)
        row = sample.details["row"]
        assert sample.labels == {"digit": int(found.target[row])}
        assert source.labels["digit"].names[int(sample.labels["digit"])] in sample.captions[0]
        assert sample.pixels.shape == (3, 24, 24)
        assert (sample.pixels == sample.pixels[:1]).all()
        middles = sample.pixels[0, 1::3, 1::3].double()  # of each original pixel, which both ways keep
        assert (middles - torch.from_numpy(found.images[row]) * 255 / 16).abs().max() <= 0.5


def test_a_sample_that_is_not_there() -> None:
    with pytest.raises(IndexError, match="sample -1 of"):
        build().read(-1, 0)


def test_folds_test_every_sample_once_and_leave_the_validation_samples_alone() -> None:
    def rows(**settings: Any) -> list[int]:
        source = build(**settings)
        return [source.read(index, 0).details["row"] for index in range(len(source))]

    validation = set(rows(split="validation"))
    tested: list[int] = []
    for fold in range(5):
        train, test = rows(split="train", fold=fold), rows(split="test", fold=fold)
        assert set(rows(split="validation", fold=fold)) == validation
        assert not set(train) & set(test) and not validation & {*train, *test}
        assert len(train) + len(test) + len(validation) == 1797 and len(test) == pytest.approx(305, abs=12)
        tested += test
    assert len(tested) == len(set(tested)) == 1797 - len(validation)


def test_a_permutation_shuffles_every_picture_alike() -> None:
    plain, shuffled, other = (build(size=8, permutation=number) for number in (None, 3, 4))
    order = pixel_order(3, 8)
    for index in (0, 7, 100):
        expected = plain.read(index, 0).pixels.flatten(1)[:, order].view(3, 8, 8)
        assert torch.equal(shuffled.read(index, 0).pixels, expected)
        assert not torch.equal(other.read(index, 0).pixels, expected)
    assert order.sort().values.tolist() == list(range(64)) and order.tolist() != list(range(64))


def test_small_pictures_are_averages() -> None:
    whole, small = build(size=8), build(size=2)
    mean = whole.read(5, 0).pixels.float().view(3, 2, 4, 2, 4).mean((2, 4))
    assert torch.allclose(small.read(5, 0).pixels.float(), mean, atol=1.0)
