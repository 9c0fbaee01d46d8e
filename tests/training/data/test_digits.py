"""The digits of scikit-learn: splits, labels, pixels. About 2 seconds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from tests.training.data.contract import check_source
from training.data.digits import Digits
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
