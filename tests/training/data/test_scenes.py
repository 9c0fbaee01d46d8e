"""Drawn stills: deterministic, labels true of the pixels, factors independent, kept in a cache. About 9 seconds."""

from __future__ import annotations

import multiprocessing
import re
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests.training.data.contract import check_source, same
from training.data.registry import source_class
from training.data.scene_graph import COLOURS
from training.data.scenes import GAP, LEAST_VISIBLE, NEAREST_BY, SIZES, Scenes
from training.data.solids import FOOTPRINT, HALF_HEIGHT, SHAPES
from training.data.source import Sample


def build(**settings: Any) -> Scenes:
    return Scenes(Scenes.Settings(**{"cache": None, "size": 64, **settings}))


@pytest.fixture(scope="module")
def drawn() -> list[Sample]:
    return build().render_samples(range(256))


@pytest.fixture(scope="module")
def many() -> list[Sample]:
    """Small, because only their labels matter."""
    return build(size=16, seed=3).render_samples(range(1600))


def test_same_sample_in_any_company(drawn: list[Sample]) -> None:
    source = build()
    assert source_class("scenes") is Scenes
    assert len(source) == 20000
    assert same(source.render_sample(200), drawn[200])
    mixed = source.render_samples([7, 19999, 3])
    assert [sample.index for sample in mixed] == [7, 19999, 3]
    assert same(mixed[0], drawn[7])
    assert same(mixed[2], drawn[3])
    assert same(source.read(7, 5), drawn[7])
    with pytest.raises(IndexError, match="20000 of 20000"):
        source.read(20000, 0)


def test_size_changes_pixels_only(drawn: list[Sample]) -> None:
    small = build(size=32).render_sample(11)
    assert small.pixels.shape == (3, 32, 32)
    assert (small.labels, small.captions, small.details) == (drawn[11].labels, drawn[11].captions, drawn[11].details)
    shrunk = torch.nn.functional.avg_pool2d(drawn[11].pixels.float(), 2)
    assert (shrunk - small.pixels.float()).abs().mean() < 3


def test_splits_and_seeds_share_no_scene() -> None:
    seen = set()
    for split in ("train", "validation", "test"):
        for seed in (0, 1):
            samples = build(split=split, seed=seed, size=16).render_samples(range(50))
            seen |= {sample.pixels.numpy().tobytes() for sample in samples}
    assert len(seen) == 300


def test_labels_are_those_of_the_scene_graph(drawn: list[Sample]) -> None:
    source = build()
    for sample in drawn:
        scene, labels = sample.details["scene"], sample.labels
        nearest = min(scene, key=lambda each: each["depth"])
        assert set(labels) == set(source.labels)
        assert labels["count"] == len(scene) - 1
        assert source.labels["shape"].names[int(labels["shape"])] == nearest["shape"]
        assert source.labels["colour"].names[int(labels["colour"])] == nearest["colour"]
        assert (labels["depth"], labels["x"], labels["y"]) == (nearest["depth"], *nearest["image_position"])
        assert all(each["depth"] > nearest["depth"] + NEAREST_BY - 1e-3 for each in scene if each is not nearest)
        assert all(0 < value < 1 for each in scene for value in each["image_position"])


def looks_like(pixel: torch.Tensor) -> str:
    """The colour whose hue a pixel has, whatever its brightness."""

    def hue(levels: np.ndarray) -> np.ndarray:
        linear = (np.asarray(levels, np.float64) / 255) ** 2.2
        return np.asarray(linear / np.linalg.norm(linear))

    distance = {name: np.linalg.norm(hue(np.array(rgb)) - hue(pixel.numpy())) for name, rgb in COLOURS.items()}
    return min(distance, key=lambda name: distance[name])


def test_colour_is_in_the_pixels_where_the_object_is(drawn: list[Sample]) -> None:
    right = []
    for sample in drawn:
        for thing in sample.details["scene"]:
            if thing["visible_fraction"] > 0.95 and thing["material"] == "matte":
                column, row = (int(value * 64) for value in thing["image_position"])
                right.append(looks_like(sample.pixels[:, row, column]) == thing["colour"])
    assert len(right) > 150
    assert np.mean(right) > 0.97


def test_objects_are_apart_visible_and_on_the_ground(drawn: list[Sample]) -> None:
    shares = []
    for sample in drawn:
        scene = sample.details["scene"]
        radius = [FOOTPRINT[SHAPES.index(each["shape"])] * each["size"] for each in scene]
        for one, other in combinations(range(len(scene)), 2):
            between = np.hypot(*(np.subtract(scene[one]["position"], scene[other]["position"])[:2]))
            assert between > radius[one] + radius[other] + GAP - 1e-3
        for thing in scene:
            assert thing["position"][2] == pytest.approx(
                HALF_HEIGHT[SHAPES.index(thing["shape"])] * thing["size"], abs=1e-3
            )
            shares.append(thing["visible_fraction"])
    assert min(shares) >= LEAST_VISIBLE - 1e-4
    assert np.mean(np.array(shares) < 0.95) > 0.05  # objects do hide each other


def test_factors_are_uniform_and_independent(many: list[Sample]) -> None:
    count = len(many)
    factors = {name: np.array([sample.labels[name] for sample in many]) for name in ("count", "shape", "colour")}
    nearest = [sample.details["scene"][0] for sample in many]
    factors["material"] = np.array([each["material"] == "shiny" for each in nearest]).astype(int)
    sizes = np.array([each["size"] for each in nearest])
    classes = {"count": 4, "shape": 4, "colour": 8, "material": 2}
    for name, number in classes.items():
        expected = count / number
        assert (np.abs(np.bincount(factors[name], minlength=number) - expected) < 4.5 * expected**0.5).all(), name
        means = [sizes[factors[name] == value].mean() for value in range(number)]
        error = (SIZES[1] - SIZES[0]) / 12**0.5 / expected**0.5
        assert np.ptp(means) < 6.5 * error, name
    for one, other in combinations(classes, 2):
        cells = classes[one] * classes[other]
        table = np.bincount(factors[one] * classes[other] + factors[other], minlength=cells)
        square = ((table - count / cells) ** 2 / (count / cells)).sum()
        assert square < cells + 5 * (2 * cells) ** 0.5, (one, other)


def test_captions_are_true(drawn: list[Sample]) -> None:
    told = 0
    for sample in drawn:
        scene = sample.details["scene"]
        number = ("one", "two", "three", "four")[len(scene) - 1]
        assert f"{number} object" in sample.captions[0]
        assert all(f"{each['colour']} {each['shape']}" in sample.captions[1] for each in scene)
        assert all(caption[0].isupper() and caption.endswith(".") for caption in sample.captions)
        for caption in sample.captions:
            found = re.fullmatch(r"A (\w+ \w+) is (left of|right of|behind|in front of) a (\w+ \w+)\.", caption)
            if found:
                told += 1
                one, relation, other = found.groups()
                pairs = [(a, b) for a in scene for b in scene if (name(a), name(b)) == (one, other)]
                assert any(holds(relation, a, b) for a, b in pairs), caption
    assert told > 200


def name(thing: dict[str, Any]) -> str:
    return f"{thing['colour']} {thing['shape']}"


def holds(relation: str, one: dict[str, Any], other: dict[str, Any]) -> bool:
    across, deeper = one["image_position"][0] - other["image_position"][0], one["depth"] - other["depth"]
    return {"left of": across < 0, "right of": across > 0, "behind": deeper > 0, "in front of": deeper < 0}[relation]


def test_crowded_scenes_shrink_instead_of_failing() -> None:
    samples = build(size=16, min_objects=8, max_objects=8).render_samples(range(6))
    assert all(len(sample.details["scene"]) == 8 for sample in samples)
    assert all(len({name(each) for each in sample.details["scene"]}) > 1 for sample in samples)


def test_settings_are_checked() -> None:
    with pytest.raises(ValidationError, match=r"min_objects \(3\) must not be above max_objects \(2\)"):
        build(min_objects=3, max_objects=2)
    with pytest.raises(ValidationError, match="split"):
        build(split="all")
    with pytest.raises(ValidationError, match="colour"):
        build(colour="red")


# --- The cache ---


def cached(folder: Path, processes: int) -> Scenes:
    settings = Scenes.Settings(size=16, num_samples=40, cache=folder, num_processes=processes)
    return Scenes(settings)


def test_cache_holds_what_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scenes, "batch_size", 7)
    source = cached(tmp_path / "two", 2)
    assert source.folder is not None
    check_source(source)
    assert source.labels == source.drawn_labels
    drawn = source.render_samples(range(40))
    assert all(same(source.read(index, 0), drawn[index]) for index in range(40))

    written = {path: path.stat().st_mtime_ns for path in source.folder.iterdir()}
    again = cached(tmp_path / "two", 1)
    assert {path: path.stat().st_mtime_ns for path in source.folder.iterdir()} == written
    assert same(again.read(5, 0), drawn[5])

    one = cached(tmp_path / "one", 1)
    assert one.folder is not None
    assert one.folder.name == source.folder.name
    for path in source.folder.glob("*.tar"):
        assert path.read_bytes() == (one.folder / path.name).read_bytes()


def test_cache_is_named_by_all_that_matters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def folder(**settings: Any) -> Path | None:
        bare = build(**settings)
        bare.settings = bare.settings.model_copy(update={"cache": tmp_path})
        return bare.folder

    usual = folder()
    assert usual == folder(num_processes=3)
    assert usual is not None
    assert usual.name.startswith("scenes-")
    others = [folder(seed=1), folder(split="test"), folder(size=32), folder(max_objects=3), folder(num_samples=5)]
    monkeypatch.setattr(Scenes, "version", Scenes.version + 1)
    assert len({usual, *others, folder()}) == 7


@pytest.mark.skipif(sys.platform != "linux", reason="starts processes by fork")
def test_two_processes_build_the_same_cache_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    builders = [context.Process(target=cached, args=(tmp_path, 1)) for _ in range(2)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(60)
    assert [builder.exitcode for builder in builders] == [0, 0]
    source = cached(tmp_path, 1)
    assert list(tmp_path.iterdir()) == [source.folder]
    assert same(source.read(39, 0), source.render_sample(39))


def test_a_damaged_cache_is_refused_with_the_way_out(tmp_path: Path) -> None:
    settings = Scenes.Settings(size=32, num_samples=4, cache=tmp_path, num_processes=1)
    folder = Scenes(settings).folder
    assert folder is not None
    shard = next(folder.glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"it is damaged\. Delete it, and it is drawn again"):
        Scenes(settings)
