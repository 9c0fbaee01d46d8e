"""The tab Physics, without gradio."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch

from demos import violations
from demos.examples import worlds, write_film
from demos.library import Library
from demos.tabs import physics as tab
from demos.violations import Violation, draw_scene, scene_names
from jepa_hub.media.video import VideoInfo
from jepa_hub.physics.evaluation import Protocol, evaluate
from jepa_hub.physics.surprise import surprise
from jepa_hub.physics.tables import score_table
from jepa_hub.physics.worlds import Quadruplet, worlds_suite


@pytest.fixture(scope="module")
def shelf() -> Library:
    return Library()


@pytest.fixture(scope="module")
def scene() -> Quadruplet:
    return next(each for each in worlds() if each.name == "continuity/passing/0000")


@pytest.fixture(scope="module")
def watched(shelf: Library, scene: Quadruplet) -> list[tab.Watched]:
    return tab.watch_scene(shelf.get("vjepa-tiny-worlds"), scene)


def test_a_scene_is_measured_as_the_suite_measures_it(
    shelf: Library, scene: Quadruplet, watched: list[tab.Watched]
) -> None:
    loaded = shelf.get("vjepa-tiny-worlds")
    clips = [torch.from_numpy(each.copy()).permute(0, 3, 1, 2) for each in scene.clips]
    pixels = loaded.processor(clips, layout="FCHW")
    wanted = surprise(loaded.model, pixels, context_frames=8)[:, 0]  # [4]
    assert [each.mean for each in watched] == pytest.approx(wanted.tolist(), rel=1e-5)
    assert watched[0].timeline.isnan().tolist() == [True] * 4 + [False] * 4
    assert watched[0].seconds[:2] == (0.0, 0.125) and watched[0].step_seconds[0] == 0.0625
    assert watched[0].frames.shape == (16, 168, 168, 3)  # whole patches of 12, at least 160


def test_the_verdict_is_about_the_chosen_pair(watched: list[tab.Watched]) -> None:
    means = [each.mean for each in watched]
    for side in (0, 1):
        wanted = 100 * (means[side + 2] / means[side] - 1)
        text = tab.verdict(watched, side)
        assert f"{wanted:+.2f} %**" in text
        assert ("The impossible clip surprised it more" in text) == (wanted > 0)
    both = 100 * ((means[2] + means[3]) / (means[0] + means[1]) - 1)
    assert f"together: {both:+.2f} %" in tab.verdict(watched, 0)


def test_the_player_shows_the_pair_the_moment_and_what_was_seen(scene: Quadruplet, watched: list[tab.Watched]) -> None:
    seen = tab.Seen(watched, scene)
    _, film = seen.drawn(1)
    content = json.loads(unescape(film.to_html().split('data-show="')[1].split('"')[0]))
    assert [each["title"] for each in content["films"]] == [
        "as it should be", "where it surprised", scene.directions[1], "where it surprised",
    ]  # fmt: skip
    assert content["marks"] == [[scene.event[1] / 8, scene.directions[1]]]
    assert content["seen"] == 7 / 8
    assert [each["tone"] for each in content["curves"]] == ["possible", "impossible"]
    points = content["curves"][1]["points"]
    assert [value for _, value in points[:4]] == [None] * 4
    assert [value for _, value in points[4:]] == pytest.approx(watched[3].timeline[4:].tolist(), abs=1e-5)
    assert tab.Seen(watched, scene).drawn(0)[0] != seen.drawn(1)[0]


def test_red_is_where_it_surprised(watched: list[tab.Watched]) -> None:
    film = tab.show([watched[0], watched[2]], ("possible", "impossible"))
    heat = watched[2].curve.map_timeline[0]  # [8, 4, 4]
    step, row, column = (int(each) for each in np.unravel_index(int(heat.nan_to_num(-1).argmax()), heat.shape))
    plain, red = (np.asarray(film.films[number].frames[2 * step]).astype(int) for number in (2, 3))
    side = plain.shape[0] // 4
    part = np.s_[row * side : (row + 1) * side, column * side : (column + 1) * side]
    change = (red - plain)[part].mean((0, 1))
    assert change[0] - change[2] > 40
    first, laid = (np.asarray(film.films[index].frames[0]) for index in (2, 3))
    assert np.array_equal(first, laid)  # what was only seen stays as it is


def test_a_scene_that_goes_wrong_early_is_seen_for_less_long(shelf: Library) -> None:
    falls = next(each for each in worlds() if each.name == "gravity/open_seen/0001")
    assert min(falls.event) == 5
    loaded = shelf.get("vjepa-tiny-worlds")
    assert tab.watch_scene(loaded, falls)[0].curve.windows.context_frames == (4,)
    assert tab.watch_scene(loaded, falls, 10)[0].curve.windows.context_frames == (10,)
    assert tab.usual_context(loaded, 99) == 14 and tab.usual_context(loaded, 1) == 2


def test_uploaded_videos(shelf: Library, scene: Quadruplet, tmp_path: Path, film: str, picture: str) -> None:
    loaded = shelf.get("vjepa-tiny-worlds")
    other = str(write_film(tmp_path / "other.mp4", np.concatenate([scene.clips[0], scene.clips[2]])))
    (only,) = tab.watch_files(loaded, [other])
    assert len(only.timeline) == 16 and len(only.curve.windows.starts) == 9
    assert "**other.mp4**" in tab.comparison([only]) and tab.show([only], ("plain",)).marks == []
    both = tab.watch_files(loaded, [film, other])
    text = tab.comparison(both)
    high = max(both, key=lambda each: each.mean)
    assert text.startswith(f"**{high.title} surprised it more: +")
    assert tab.comparison(both[::-1]) == text
    for paths, said in (
        ([picture], "still picture"),
        ([film] * 3, "one video, or two"),
        (None, "choose an image or a video"),
        ([str(write_film(tmp_path / "short.mp4", scene.clips[0][:6]))], "shorter than one window"),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            tab.watch_files(loaded, paths)
        assert str(tmp_path) not in str(caught.value)


def test_a_long_video_is_thinned(shelf: Library, scene: Quadruplet, tmp_path: Path) -> None:
    path = str(write_film(tmp_path / "long.mp4", np.concatenate([each[:, ::2, ::2] for each in scene.clips] * 5)))
    (only,) = tab.watch_files(shelf.get("vjepa-tiny-worlds"), [path])
    assert len(only.seconds) == 106 and only.seconds[1] == pytest.approx(3 / 8)


def test_large_frames_are_thinned_so_that_memory_is_bounded() -> None:
    for width, height, count in ((3840, 2160, 18_000), (1920, 1080, 128), (640, 360, 128), (64, 64, 3)):
        step = tab.thinning(VideoInfo(count, 30.0, count / 30, width=width, height=height), 16)
        taken = -(-count // step)
        assert taken <= tab.MOST_FRAMES and taken * width * height <= tab.MOST_PIXELS
        assert taken >= min(count, 16) and (step == 1) == (count * width * height < tab.MOST_PIXELS and count <= 128)


def test_scores_are_those_of_the_suite(shelf: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, told = shelf.get("vjepa-tiny-worlds"), []
    suite = worlds_suite(seen=False, properties=["permanence", "support"])
    monkeypatch.setattr(tab, "worlds_suite", lambda seen: suite)
    rows = tab.scores(loaded, tmp_path, lambda share, words: told.append((share, words)), every=20)
    part = [each for each in suite.items if int(each.video.group.rsplit("/", 1)[1]) % 20 == 0]
    protocol = Protocol(context_frames=(8,))
    raw = evaluate(
        loaded.model, loaded.processor, replace(suite, items=part), tmp_path / "x.jsonl", protocol, progress=False
    )
    assert rows == score_table(raw, ["mean"]) and [each.property for each in rows] == ["permanence", "support", "all"]
    assert [share for share, _ in told] == sorted(share for share, _ in told) and len(told) == 3
    text = tab.table(rows, loaded.name, 8)
    assert f"| object permanence | {rows[0].num_pairs} | {rows[0].relative} |" in text
    assert f"on {rows[2].num_pairs} pairs, 8 frames seen" in text and len(text.splitlines()) == 7
    monkeypatch.setattr(loaded.model, "forward", lambda *_: pytest.fail("computed again"))
    assert tab.scores(loaded, tmp_path, lambda *_: None, every=20) == rows


def test_what_there_is_to_click_exists() -> None:
    for each in tab.things():
        title, side = each.given
        violation = Violation(scene_names()[title], int(side))
        assert each.title.endswith(violation.words)
    inertia = next(each for each in worlds() if each.name.startswith("inertia"))
    assert Violation(inertia, 0).words != Violation(inertia, 1).words  # both turn round: they can be told apart


@pytest.mark.slow
def test_new_scenes_are_simulated_beside_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    if not violations.can_draw():  # importing MuJoCo here would choose its GL library for the whole process
        pytest.skip("needs mujoco: pip install 'jepa-hub[physics]'")

    def draw(number: int) -> Quadruplet:
        return draw_scene("gravity", "open_seen", number)

    with ThreadPoolExecutor(2) as threads:
        first, second, again = threads.map(draw, (0, 1, 0))
    assert np.array_equal(first.clips, again.clips) and not np.array_equal(first.clips, second.clips)
    assert first.clips.shape == (4, 16, 144, 144, 3)
    with pytest.raises(ValueError, match="no property"):
        draw_scene("sideways", "passing", 0)
    with monkeypatch.context() as patch:
        patch.setattr(violations, "_draw", os._exit)  # as when a GL library ends its process
        with pytest.raises(ValueError, match="try again"):
            violations._studio.draw(3)
        patch.setattr(violations, "_draw", time.sleep)  # one that hangs is ended, and not waited for at exit
        patch.setattr(violations, "MOST_SECONDS", 2.0)
        with pytest.raises(ValueError, match="took too long"):
            violations._studio.draw(600)
        for each in multiprocessing.active_children():
            each.join(5)
            assert not each.is_alive()
    assert np.array_equal(draw(0).clips, first.clips)
