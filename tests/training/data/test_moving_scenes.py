"""Drawn clips: motion is as labelled, and no frame that should not tell direction or speed does. About 14 seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression

from tests.training.data.contract import check_source, same
from tests.training.data.test_scenes import looks_like
from training.data.drawing import in_view, render, visibility
from training.data.moving_layout import PATHS, Layout
from training.data.moving_scenes import SPEEDS, MovingScenes
from training.data.registry import source_class
from training.data.solids import FOOTPRINT, Array
from training.data.source import Sample

FRAMES = 16
LAST = (FRAMES - 1) / 2  # time of the last frame, counted from the middle of the clip


def build(**settings: Any) -> MovingScenes:
    return MovingScenes(MovingScenes.Settings(**{"cache": None, "size": 64, **settings}))


def layout(path: str, rows: Array, objects: tuple[int, int] = (1, 3)) -> Layout:
    speeds = build(path=path).settings.units
    return Layout(0, "train", rows, path=path, frames=FRAMES, speeds=speeds, objects=objects)


@pytest.fixture(scope="module", params=list(PATHS))
def drawn(request: pytest.FixtureRequest) -> tuple[MovingScenes, list[Sample]]:
    source = build(path=request.param)
    return source, source.render_samples(range(48))


@pytest.fixture(scope="module", params=list(PATHS))
def planned(request: pytest.FixtureRequest) -> Layout:
    """What happens in many clips, of which the tests draw the frames they look at."""
    return layout(request.param, np.arange(1800))


def test_same_sample_in_any_company(drawn: tuple[MovingScenes, list[Sample]]) -> None:
    source, samples = drawn
    assert source_class("moving_scenes") is MovingScenes
    assert len(source) == 4000
    assert samples[5].pixels.shape == (3, FRAMES, 64, 64)
    assert same(source.render_sample(5), samples[5])
    assert same(source.render_samples([30, 5])[0], samples[30])


def test_splits_share_no_scene() -> None:
    seen = set()
    for split in ("train", "validation", "test"):
        for path in PATHS:
            samples = build(split=split, path=path, size=16, frames=4).render_samples(range(30))
            seen |= {sample.pixels.numpy().tobytes() for sample in samples}
    assert len(seen) == 180


def test_motion_is_as_labelled(drawn: tuple[MovingScenes, list[Sample]]) -> None:
    source, samples = drawn
    labels = source.labels
    for sample in samples:
        scene = sample.details["scene"]
        target = scene[0]
        assert sample.labels["count"] == len(scene) - 1
        assert labels["colour"].names[int(sample.labels["colour"])] == target["colour"]
        assert labels["shape"].names[int(sample.labels["shape"])] == target["shape"]
        assert all(target["size"] > each["size"] for each in scene[1:])
        path = np.array(target["path"])
        step = np.diff(path, axis=0)
        direction = labels["direction"].names[int(sample.labels["direction"])]
        turn = step[:-1, 0] * step[1:, 1] - step[:-1, 1] * step[1:, 0]  # rows count downwards
        moved = {
            "right": (step[:, 0] > 0.01).all() and (np.abs(step[:, 1]) < 1e-3).all(),
            "left": (step[:, 0] < -0.01).all() and (np.abs(step[:, 1]) < 1e-3).all(),
            "away": (step[:, 1] < -0.005).all(),
            "towards": (step[:, 1] > 0.005).all(),
            "clockwise": (turn > 0).all(),
            "anticlockwise": (turn < 0).all(),
        }
        assert moved[direction]
        pace = np.hypot(*target["velocity"])
        assert pace == pytest.approx(source.settings.units[int(sample.labels["speed"])], rel=0.02)
        words = {
            "right": "to the right",
            "left": "to the left",
            "away": "away",
            "towards": "towards",
            "clockwise": " clockwise",
            "anticlockwise": "anticlockwise",
        }
        assert words[direction] in sample.captions[0]
        assert f"{target['colour']} {target['shape']}" in sample.captions[0]


def test_target_is_in_the_pixels_where_the_path_is(drawn: tuple[MovingScenes, list[Sample]]) -> None:
    right = []
    for sample in drawn[1]:
        target = sample.details["scene"][0]
        if target["visible_fraction"] > 0.95 and target["material"] == "matte":
            for frame, (x, y) in enumerate(target["path"]):
                pixel = sample.pixels[:, frame, int(y * 64), int(x * 64)]
                right.append(looks_like(pixel) == target["colour"])
    assert len(right) > 100
    assert np.mean(right) > 0.97


@pytest.mark.parametrize("path", PATHS)
def test_nothing_touches_leaves_or_hides(path: str) -> None:
    some = layout(path, np.arange(150), objects=(2, 4))
    shots = some.at(np.arange(FRAMES) - LAST)
    assert in_view(shots).all()
    radius, absent = FOOTPRINT[shots.shape] * shots.size, shots.shape < 0
    between = np.linalg.norm(shots.position[:, :, None] - shots.position[:, None], axis=-1)
    free = between > radius[:, :, None] + radius[:, None]
    assert (free | absent[:, :, None] | absent[:, None] | np.eye(4, dtype=bool)).all()
    share = visibility(shots, 64)[~absent]
    assert share.min() > 0.3
    assert (share < 0.9).any()


def test_a_clip_played_backwards_goes_the_other_way(planned: Layout) -> None:
    path, time = planned.path, np.full(1800, 2.5)
    pairs = {"right": "left", "away": "towards", "clockwise": "anticlockwise"}
    for one, other in pairs.items():
        if one in path.directions:
            ways = [np.full(1800, path.directions.index(name)) for name in (one, other)]
            assert np.allclose(path.offset(ways[0], time), path.offset(ways[1], -time))


def pixels_at(plan: Layout, time: float, size: int = 16) -> Array:
    """One frame of every clip, as a row of numbers around 0."""
    pictures = render(plan.at(np.array([time])), size)[0]
    return np.asarray(pictures.reshape(len(pictures), -1) / 128.0 - 1)


def score(features: Array, target: Array) -> float:
    """Accuracy of a linear classifier on the clips that it has not seen."""
    split = 1200
    model = LogisticRegression(C=0.02, max_iter=300).fit(features[:split], target[:split])
    return float(model.score(features[split:], target[split:]))


def test_one_frame_does_not_tell_direction_or_speed(planned: Layout) -> None:
    """600 clips to score on: chance is 1/2, 1/3 or 1/4 with a deviation of at most 0.0205."""
    ways, tolerance = len(planned.path.directions), 4 * 0.0205
    middle = pixels_at(planned, 0)
    assert score(middle, planned.direction) < 1 / ways + tolerance
    assert score(middle, planned.speed) < 1 / len(SPEEDS) + tolerance
    # half a frame from the middle, which is where the two middle frames are
    assert score(pixels_at(planned, 0.5), planned.direction) < 1 / ways + tolerance + 0.05
    first, last = pixels_at(planned, -LAST), pixels_at(planned, LAST)
    if ways == 2:  # orbit: no frame tells
        assert score(first, planned.direction) < 1 / 2 + tolerance
        assert score(first, planned.speed) < 1 / len(SPEEDS) + tolerance
    else:  # the same classifier finds what is there
        assert score(last - first, planned.direction) > 0.6


def test_where_the_middle_is_does_not_depend_on_the_motion(planned: Layout) -> None:
    """Means of everything drawn agree between directions and between speeds, within 4.5 standard errors."""
    placed = planned.at(np.zeros(1)).position  # [B, K, 2]
    for target in (planned.direction, planned.speed):
        for slot in range(3):
            present = planned.shots.shape[:, slot] >= 0
            for values in (placed[:, slot, 0], placed[:, slot, 1], np.abs(placed[:, slot] - placed[:, 0]).min(1)):
                groups = [values[present & (target == each)] for each in range(target.max() + 1)]
                spread = values[present].std() * (2 / min(len(group) for group in groups)) ** 0.5
                means = [group.mean() for group in groups]
                assert max(means) - min(means) <= 4.5 * spread


def test_factors_are_uniform_and_independent(planned: Layout) -> None:
    looks = planned.looks
    factors = {"direction": planned.direction, "speed": planned.speed, "colour": looks.colour[:, 0]}
    factors["shape"] = looks.shape[:, 0]
    classes = {"direction": len(planned.path.directions), "speed": 3, "colour": 8, "shape": 4}
    for one, first in classes.items():
        for other, second in classes.items():
            if one < other:
                cells = first * second
                table = np.bincount(factors[one] * second + factors[other], minlength=cells)
                square = ((table - 1800 / cells) ** 2 / (1800 / cells)).sum()
                assert square < cells + 5 * (2 * cells) ** 0.5, (one, other)


def test_settings_are_checked() -> None:
    with pytest.raises(ValidationError, match=r"make a path of 7\.50 units, and 3\.95 fit into the picture"):
        build(speeds=(0.1, 0.2, 0.5))
    with pytest.raises(ValidationError, match="three rising positive numbers"):
        build(speeds=(0.2, 0.1, 0.05))
    long = build(frames=64, size=16, path="straight").render_sample(0)
    assert long.pixels.shape == (3, 64, 16, 16)
    assert build(frames=8).settings.units == build(frames=16).settings.units


def test_cache_holds_what_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MovingScenes, "batch_size", 4)
    source = build(size=16, frames=4, num_samples=13, cache=tmp_path, num_processes=2)
    check_source(source)
    assert source.labels == source.drawn_labels
    for index, sample in enumerate(source.render_samples(range(13))):
        assert same(source.read(index, 0), sample)
    assert isinstance(source.read(0, 0).pixels, torch.Tensor)
