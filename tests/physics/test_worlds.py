"""The simulated worlds: what ships is as described, what is drawn is the same each time, and chance is at chance."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from typer.testing import CliRunner

from jepa_hub.cli import app
from jepa_hub.physics import worlds
from jepa_hub.physics.scores import pairs, relative_accuracy
from jepa_hub.physics.stage import Stage
from jepa_hub.physics.suites import Suite, open_suite
from jepa_hub.physics.templates import PROPERTIES, possible_scene, scene_rng
from jepa_hub.physics.worlds import (
    FORMAT,
    MOST_INDEX,
    MOST_QUADRUPLET,
    Quadruplet,
    draw_quadruplet,
    make_suite,
    read_suite,
    stage_of,
    worlds_suite,
)


@pytest.fixture(scope="module")
def shipped() -> list[Quadruplet]:
    return read_suite()


def test_what_ships(shipped: list[Quadruplet]) -> None:
    suite = open_suite("worlds")
    assert len(suite.items) == 4 * len(shipped)
    kinds = {item.video.property for item in suite.items}
    assert kinds == {*PROPERTIES, *(f"{kind}, seen" for kind in PROPERTIES)}
    for kind in PROPERTIES:
        found = pairs([item.video for item in suite.items if item.video.property == kind])
        assert len(found) >= 60, kind
    clip = suite.items[0].read()
    assert clip.shape == (16, 3, 48, 48) and clip.float().std() > 10


def test_pairs_are_alike_until_the_violation(shipped: list[Quadruplet]) -> None:
    for each in shipped:
        for side in (0, 1):
            possible, impossible, event = each.clips[side], each.clips[side + 2], each.event[side]
            assert (possible[:event] == impossible[:event]).all(), each.name
            assert (possible[event] != impossible[event]).any() and 4 <= event < 15, each.name


def test_spliced_clips_hold_no_frame_of_their_own(shipped: list[Quadruplet]) -> None:
    """Every frame of the impossible clips is one of the possible clips at the same time, and so is every change."""
    for each in (one for one in shipped if not one.crossed):
        first, second, like_first, like_second = each.clips
        for frame in range(16):
            kept = (like_first[frame] == first[frame]).all() and (like_second[frame] == second[frame]).all()
            swapped = (like_first[frame] == second[frame]).all() and (like_second[frame] == first[frame]).all()
            assert kept or swapped, (each.name, frame)
        assert (like_first[-1] == second[-1]).all() and (like_second[-1] == first[-1]).all()
        if not each.name.split("/")[1].endswith("_seen"):
            moved = np.abs(np.diff(each.clips.astype(np.int16), axis=1)).sum((1, 2, 3, 4))
            assert moved[0] + moved[1] == moved[2] + moved[3], each.name  # exactly as much motion


def statistic(suite: Suite, function: Callable[[np.ndarray], float]) -> dict[str, float]:
    """Relative accuracy of a number per clip, by property."""

    found = {}
    for kind in PROPERTIES:
        items = [item for item in suite.items if item.video.property == kind]
        score = np.array([function(item.read().numpy().astype(np.float32)) for item in items])
        found[kind] = relative_accuracy(score, pairs([item.video for item in items])).value
    return found


def test_motion_is_at_chance() -> None:
    """The amount of motion tells nothing: exactly. Its largest step tells a little: it is a maximum."""
    suite = worlds_suite(seen=False)
    mean = statistic(suite, lambda clip: np.abs(np.diff(clip, axis=0)).mean())
    assert mean == dict.fromkeys(PROPERTIES, 50.0)
    most = statistic(suite, lambda clip: np.abs(np.diff(clip, axis=0)).mean((1, 2, 3)).max())
    assert all(abs(value - 50) < 15 for value in most.values()), most


def test_a_jump_in_plain_sight_is_not_at_chance() -> None:
    """Variants without a screen are the easy rung: they are scored apart, since a frame difference sees them."""
    suite = worlds_suite()
    items = [item for item in suite.items if item.video.property == "colour, seen"]
    change = np.array(
        [np.abs(np.diff(item.read().numpy().astype(np.float32), axis=0)).mean((1, 2, 3)).max() for item in items]
    )
    assert relative_accuracy(change, pairs([item.video for item in items])).value > 90


def test_single_frames_are_at_chance() -> None:
    """A linear classifier of frames, trained on other quadruplets, does not tell possible from impossible."""
    suite = worlds_suite(seen=False)
    for kind in PROPERTIES:
        items = [item for item in suite.items if item.video.property == kind]
        frames, truths, groups = [], [], []
        for item in items:
            small = item.read()[9::3].float().unflatten(-1, (12, 4)).unflatten(-3, (12, 4)).mean((-1, -3))
            frames += list((small / 255).flatten(1).numpy())  # 12 x 12 colours of three late frames
            truths += [bool(item.video.possible)] * len(small)
            groups += [item.video.group] * len(small)
        guess = cross_val_predict(
            LogisticRegression(C=0.1, max_iter=200), np.array(frames), truths, groups=groups, cv=GroupKFold(5)
        )
        accuracy = 100 * float(np.mean(guess == np.array(truths)))
        assert abs(accuracy - 50) < 6, (kind, accuracy)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "worlds.zip").write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match="is no suite of simulated worlds"):
        read_suite(tmp_path / "worlds.zip")
    for member, size in (("index.json", MOST_INDEX), ("support-passing.npy", MOST_QUADRUPLET)):  # a few KB of zip each
        with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as file:
            if member != "index.json":
                told = {"name": "support/passing/0", "events": [1, 1], "directions": ["", ""], "crossed": True}
                file.writestr("index.json", json.dumps({"format": FORMAT, "quadruplets": [told]}))
            file.writestr(member, bytes(size + (1 << 20)))
        with pytest.raises(ValueError, match=rf"{member} in .*bomb\.zip unpacks to 65 MB"):
            read_suite(tmp_path / "bomb.zip")
    with pytest.raises(ValueError, match="unknown properties"):
        worlds_suite(properties=["colours"])


def test_pairs_are_shown(tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["physics", "show", str(tmp_path / "a.png"), "--property", "support,shape"])
    assert run.exit_code == 0, run.output
    with Image.open(tmp_path / "a.png") as picture:
        frames = np.asarray(picture.convert("RGB"))
    assert frames.shape[0] > 400 and len(np.unique(frames.reshape(-1, 3), axis=0)) > 500
    none = CliRunner().invoke(app, ["physics", "show", str(tmp_path / "b.png"), "--variant", "nowhere"])
    assert none.exit_code == 1 and "nothing to show" in none.output


# Drawing needs MuJoCo and a GL library --------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def stage() -> Stage:
    wanted = bool(os.environ.get("JEPA_HUB_REQUIRE_ALL"))
    if importlib.util.find_spec("mujoco") is None and not wanted:
        pytest.skip("pip install 'jepa-hub[physics]'")
    try:
        return stage_of(48)
    except ImportError as error:
        if wanted:
            raise
        pytest.skip(f"apt-get install --no-install-recommends libegl1 ({error})")


def test_mujoco_that_wants_a_window_is_told_from_a_missing_library(stage: Stage) -> None:
    """MuJoCo chooses how it draws when it is first imported, whoever imports it."""
    code = "import mujoco; from jepa_hub.physics.worlds import stage_of; stage_of(48)"
    hidden = ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY")
    environ = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    assert done.returncode and "MuJoCo was imported before" in done.stderr and "MUJOCO_GL=egl" in done.stderr


@pytest.mark.parametrize("kind", ["permanence", "gravity"])
def test_drawing_is_a_function_of_its_arguments(stage: Stage, kind: str, shipped: list[Quadruplet]) -> None:
    """The same clips whatever was drawn before, and those that ship."""
    variant = PROPERTIES[kind].variants[0]
    stage.draw(possible_scene(scene_rng(5, "train", 1)))
    one = draw_quadruplet(stage, kind, variant, 3)
    stage.draw(possible_scene(scene_rng(5, "train", 2)))
    two = draw_quadruplet(stage, kind, variant, 3)
    assert (one.clips == two.clips).all() and one.event == two.event
    other = draw_quadruplet(stage, kind, variant, 3, split="validation")
    assert (one.clips != other.clips).any()
    kept = next(each for each in shipped if each.name == one.name)
    # Another GL library rounds differently: nearly the same there, the same where the suite was made.
    assert np.abs(one.clips.astype(np.int16) - kept.clips).mean() < 2


def test_physics_acts(stage: Stage) -> None:
    """What has nothing under it falls; what has, stays: by the height of the red pixels."""
    plan = PROPERTIES["support"].plan(scene_rng(0, "test", 0), "resting_seen")
    assert plan.first.thing is not None
    heights = {}
    for name, scene in (("stays", plan.first), ("leaves", plan.second)):
        assert scene.thing is not None
        clip = stage.draw(replace(scene, thing=replace(scene.thing, colour="red"))).astype(int)
        red = (clip[..., 0] - clip[..., 1] > 60) & (clip[..., 0] - clip[..., 2] > 60)
        rows = [np.nonzero(frame)[0].mean() for frame in red]
        heights[name] = rows[-1] - rows[0]
    assert abs(heights["stays"]) < 1 and heights["leaves"] > 5


def test_nothing_is_thrown_up(stage: Stage) -> None:
    """A cylinder that meets a wall stays on the floor: no red above where it came in."""
    for number in range(3):
        scene = PROPERTIES["solidity"].plan(scene_rng(0, "test", 9, number), "passing_seen").first
        assert scene.thing is not None
        clip = stage.draw(replace(scene, thing=replace(scene.thing, shape="cylinder", colour="red"))).astype(int)
        red = (clip[..., 0] - clip[..., 1] > 60) & (clip[..., 0] - clip[..., 2] > 60)
        highest = [int(np.nonzero(frame)[0].min()) for frame in red if frame.any()]
        assert min(highest) >= highest[2] - 1


def test_a_suite_is_made_and_read(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del stage
    jobs = [("permanence", "passing", 0), ("support", "resting_seen", 1), ("support", "resting_seen", 2)]
    monkeypatch.setattr(worlds, "wanted", lambda hidden, seen: jobs)
    path = make_suite(tmp_path / "few.zip", processes=1, progress=False, split="validation")
    found = read_suite(path)
    assert [each.name for each in found] == [f"{kind}/{variant}/{number:04d}" for kind, variant, number in jobs]
    again = draw_quadruplet(stage_of(48), "support", "resting_seen", 2, split="validation")
    assert (again.clips == found[2].clips).all() and again.directions == found[2].directions
    content = path.read_bytes()
    make_suite(path, processes=1, progress=False, split="validation")
    assert path.read_bytes() == content  # the same bytes


@pytest.mark.slow
def test_processes_change_nothing(stage: Stage, tmp_path: Path) -> None:
    del stage
    path = make_suite(tmp_path / "few.zip", hidden=1, seen=1, processes=2, progress=False, split="validation")
    once = path.read_bytes()
    assert make_suite(path, hidden=1, seen=1, processes=1, progress=False, split="validation").read_bytes() == once
    found = read_suite(path)
    assert len(found) == sum(len(one.variants) for one in PROPERTIES.values())


def test_no_training_scene_is_a_test_scene() -> None:
    draws = {split: scene_rng(0, split, 0, 0, 0, 0).random(4).tolist() for split in ("train", "validation", "test")}
    assert len({tuple(each) for each in draws.values()}) == 3
