"""Sliding plains: the motion is as labelled, no single frame tells it, and nobody sees where the plain repeats."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from tests.training.data.contract import check_source, same
from training.data.drawing import bounds
from training.data.registry import source_class
from training.data.sliding_scenes import CELL, CELLS, DIRECTIONS, SlidingScenes
from training.data.source import Sample

FRAMES = 8


def build(**settings: Any) -> SlidingScenes:
    return SlidingScenes(SlidingScenes.Settings(**{"cache": None, "size": 32, "frames": FRAMES, **settings}))


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return build().render_samples(range(240))


def frames(samples: list[Sample], time: int) -> Tensor:
    """Grey pictures of one moment, [N, 32, 32], each less its mean."""
    grey = torch.stack([each.pixels[:, time].float().mean(0) for each in samples])
    return grey - grey.mean((1, 2), keepdim=True)


def test_the_source_keeps_the_contract(tmp_path: Any, samples: list[Sample]) -> None:
    assert source_class("sliding_scenes") is SlidingScenes
    check_source(build(num_samples=6))
    source = build()
    assert samples[5].pixels.shape == (3, FRAMES, 32, 32)
    assert same(source.render_sample(5), samples[5]) and same(source.render_samples([30, 5])[0], samples[30])
    assert not same(build(split="test").render_sample(5), samples[5])
    assert samples[5].captions[0].endswith(".")


def test_the_picture_moves_as_labelled(samples: list[Sample]) -> None:
    """The shift at which two neighbouring frames agree best, in the picture's lower middle."""
    first, second = frames(samples, FRAMES // 2 - 1), frames(samples, FRAMES // 2 + 1)
    steps = range(-5, 6)
    seen = {}
    for down in steps:
        for right in steps:
            moved = torch.roll(first, (down, right), (1, 2))
            seen[down, right] = (moved - second)[:, 6:26, 6:26].square().sum((1, 2))
    shifts = list(seen)
    best = torch.stack(list(seen.values())).argmin(0).tolist()
    votes = np.array([shifts[each] for each in best])  # (down, right)
    for name, sign, axis in (("right", 1, 1), ("left", -1, 1), ("towards", 1, 0), ("away", -1, 0)):
        for speed, least in ((1, 1), (2, 2)):
            chosen = [
                row
                for row, each in enumerate(samples)
                if each.labels["direction"] == DIRECTIONS.index(name) and each.labels["speed"] == speed
            ]
            assert np.median(sign * votes[chosen, axis]) >= least, (name, speed)
            assert abs(np.median(votes[chosen, 1 - axis])) == 0, (name, speed)


@pytest.mark.parametrize("time", [0, FRAMES - 1])
def test_no_frame_tells_direction_or_speed(samples: list[Sample], time: int) -> None:
    pictures = frames(samples, time)
    small = torch.nn.functional.avg_pool2d(pictures[:, None], 8).flatten(1).numpy()  # 16 numbers
    for label, chance in (("direction", 1 / 4), ("speed", 1 / 3)):
        truth = np.array([each.labels[label] for each in samples])
        model = LogisticRegression(C=0.1, max_iter=500).fit(small[:120], truth[:120])
        assert model.score(small[120:], truth[120:]) < chance + 0.13, label  # three standard errors of 120 guesses


def test_where_the_plain_repeats_is_out_of_sight() -> None:
    plain = build()._compose(np.arange(200))
    shots = plain.at(np.linspace(-40, 40, 9))
    where = bounds(shots)
    seen = (where[..., 2] > 0) & (where[..., 0] < 1) & (where[..., 3] > 0) & (where[..., 1] < 1) & (shots.shape >= 0)
    # One period further on nothing is in the picture; half a unit is left for shadows.
    sin, cos = np.sin(shots.azimuth), np.cos(shots.azimuth)
    right = cos[:, None] * shots.position[..., 0] + sin[:, None] * shots.position[..., 1]
    away = -sin[:, None] * shots.position[..., 0] + cos[:, None] * shots.position[..., 1] - 1.1
    assert np.abs(right[seen]).max() < CELLS * CELL / 2 - 0.5
    assert np.abs(away[seen]).max() < CELLS * CELL / 2 - 0.5


def test_what_is_on_the_plain_does_not_depend_on_how_it_moves() -> None:
    plain = build()._compose(np.arange(2000))
    there = (plain.shots.shape >= 0).mean(1)
    for label in (plain.direction, plain.speed):
        shares = [there[label == each].mean() for each in np.unique(label)]
        assert np.ptp(shares) < 0.02
    assert np.abs(np.bincount(plain.direction) / 2000 - 0.25).max() < 0.04


def test_speeds_rise() -> None:
    with pytest.raises(ValidationError, match="three rising"):
        build(speeds=(0.3, 0.2, 0.4))
