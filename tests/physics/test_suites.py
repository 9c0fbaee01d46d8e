"""Suites in their true layouts, on tiny trees; evaluation that goes on, reports the bad, and can be scored again."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from jepa_hub.cli import app
from jepa_hub.media.clips import MediaError
from jepa_hub.models.base import JEPAModel
from jepa_hub.physics import evaluation
from jepa_hub.physics.evaluation import Protocol, evaluate, load_raw, untrained_like, write_answers
from jepa_hub.physics.scores import Video, pairs
from jepa_hub.physics.suites import Item, Suite, first_difference, open_suite, pair_by_looks
from jepa_hub.physics.surprise import surprise
from jepa_hub.physics.tables import score_table
from jepa_hub.processing import JEPAProcessor
from tests.official import tiny_model

PROCESSOR = JEPAProcessor(image_size=32, resize=32, patch_size=16, tubelet_size=2, num_frames=16)
SIZE = {"patch_size": 16, "image_size": 32, "num_frames": 16, "tubelet_size": 2}


def scene(folder: Path, seed: int, frames: int = 100) -> None:
    """A scene of IntPhys: 1 and 3 are alike until frame 60, 2 and 4 until 40, all until 10; 1 and 2 are possible."""
    rng = np.random.default_rng(seed)
    film = rng.integers(0, 255, (5, 8, 8, 3), dtype=np.uint8)  # start, and four endings
    for number, (splits, truth) in {
        "1": (((10, 1), (60, 2)), True),
        "2": (((10, 3), (40, 4)), True),
        "3": (((10, 1), (60, 0)), False),
        "4": (((10, 3), (40, 1)), False),
    }.items():
        (folder / number / "scene").mkdir(parents=True)
        for frame in range(frames):
            shown = film[max((place for place in splits if frame >= place[0]), default=(0, 0))[1]]
            Image.fromarray(shown).save(folder / number / "scene" / f"scene_{frame + 1:03d}.png")
        (folder / number / "status.json").write_text(json.dumps({"header": {"is_possible": truth}}))


@pytest.fixture(scope="module")
def intphys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("intphys")
    for number in (1, 2):
        scene(root / "O1" / f"{number:02d}", number)
    return root


def test_intphys_dev(intphys: Path) -> None:
    suite = open_suite("intphys-dev", intphys)
    assert [item.video.name for item in suite.items[:5]] == ["O1/01/1", "O1/01/2", "O1/01/3", "O1/01/4", "O1/02/1"]
    assert suite.context_frames == (2, 4, 6, 8, 10) and (suite.window_frames, suite.stride) == (16, 2)
    frames = [item.read() for item in suite.items[:4]]
    assert frames[0].shape == (49, 3, 8, 8)  # frames 0 to 96 in steps of 2: 17 windows of 16, 2 apart
    with Image.open(intphys / "O1/01/1/scene/scene_003.png") as second:
        assert torch.equal(frames[0][1], torch.from_numpy(np.asarray(second).copy()).permute(2, 0, 1))
    found = pair_by_looks([item.video for item in suite.items[:4]], frames)
    assert [video.pair for video in found] == ["01/a", "01/b", "01/a", "01/b"]
    assert [video.event for video in found] == [30, 20, 30, 20]  # 60 and 40, every second frame taken
    assert {(each.possible, each.impossible) for each in pairs(found)} == {(0, 2), (1, 3)}
    # The order of the four is no help: the partner is found by looking.
    mixed = [3, 0, 1, 2]
    again = pair_by_looks([suite.items[index].video for index in mixed], [frames[index] for index in mixed])
    assert [video.pair for video in again] == ["01/a", "01/b", "01/a", "01/b"]


def test_intphys_without_truth_or_pairs_says_so(intphys: Path) -> None:
    suite = open_suite("intphys-dev", intphys)
    videos, frames = [item.video for item in suite.items[:4]], [item.read() for item in suite.items[:4]]
    with pytest.raises(ValueError, match=r"a status\.json is missing"):
        pair_by_looks([replace(videos[0], possible=None), *videos[1:]], frames)
    with pytest.raises(ValueError, match="a scene has 4 videos, 01 has 3"):
        pair_by_looks(videos[:3], frames[:3])
    with pytest.raises(ValueError, match="not the IntPhys dev set"):
        open_suite("intphys-dev", intphys / "O1")
    assert first_difference(frames[0], frames[0]) == 49


def test_intphys_test_writes_answers(tmp_path: Path) -> None:
    (tmp_path / "task.txt").write_text("O1/0001/1\nO1/0001/2\n\nO3/0002/4\n")
    for task in ("O1/0001/1", "O1/0001/2", "O3/0002/4"):
        folder = tmp_path / "test" / task / "scene"
        folder.mkdir(parents=True)
        for frame in range(100):
            shade = np.full((8, 8, 3), 2 * frame + len(task), np.uint8)
            Image.fromarray(shade).save(folder / f"scene_{frame + 1:03d}.png")
    suite = open_suite("intphys-test", tmp_path)
    model = tiny_model("vjepa", **SIZE)
    raw = evaluate(model, PROCESSOR, suite, tmp_path / "raw.jsonl", Protocol(context_frames=(2, 4)), progress=False)
    assert raw.surprises.shape == (3, 2, 17, 8) and {video.possible for video in raw.videos} == {None}
    paths = write_answers(raw, tmp_path / "answers")
    assert [path.name for path in paths] == ["maximum_surprise_answer.txt", "average_surprise_answer.txt"]
    lines = [line.split() for line in paths[0].read_text().splitlines()]
    assert [task for task, _ in lines] == ["O1/0001/1", "O1/0001/2", "O3/0002/4"]  # each once
    least = np.nanmean(raw.surprises, -1).min(1)
    assert [float(value) for _, value in lines] == pytest.approx(1 - least.max(1), abs=1e-6)
    average = [float(line.split()[1]) for line in paths[1].read_text().splitlines()]
    assert average == pytest.approx(1 - least.mean(1), abs=1e-6)
    assert all(math_row.relative.value != math_row.relative.value for math_row in score_table(raw))  # nothing to score
    (tmp_path / "task.txt").write_text("O1/0001/1\nnonsense\n")
    with pytest.raises(ValueError, match="line 2: expected a task such as"):
        open_suite("intphys-test", tmp_path)


def film(path: Path, frames: int, shade: int = 40) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for index in range(frames):
            picture = np.full((32, 48, 3), shade, np.uint8)
            picture[:, index % 48 :] = 200
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode(None))


def test_grasp(tmp_path: Path) -> None:
    for kind in ("P_Gravity", "IP_Gravity", "P_Inertia2", "IP_Inertia2"):
        for name in ("0.mp4", "1.mp4"):
            film(tmp_path / "level2" / kind / name, 45)
    suite = open_suite("grasp", tmp_path)
    assert len(suite.items) == 8 and {item.video.property for item in suite.items} == {"Gravity", "Inertia2"}
    assert suite.items[0].read().shape == (5, 3, 32, 48)  # frames 0, 10, ..., 40
    joined = pairs([item.video for item in suite.items])
    assert len(joined) == 4
    for each in joined:
        good, wrong = suite.items[each.possible].video, suite.items[each.impossible].video
        assert good.name.removeprefix("P_") == wrong.name.removeprefix("IP_")
    (tmp_path / "level2" / "IP_Inertia2").rename(tmp_path / "level2" / "IP_Other")
    with pytest.raises(ValueError, match="alone: Inertia2, Other"):
        open_suite("grasp", tmp_path)


COLUMNS = ("path", "start_priming_1", "end_priming_1", "start_priming_2", "end_priming_2", "label")


def inflevel(root: Path) -> None:
    film(root / "gravity" / "a.mp4", 200)
    film(root / "gravity" / "b.mp4", 190)
    row = {f"vid{side}_{name}": "0" for side in (1, 2) for name in COLUMNS}
    row |= {"vid1_path": "some/where/a.mp4", "vid1_end_priming_2": "9", "vid1_label": "possible"}
    row |= {"vid2_path": "some/where/b.mp4", "vid2_end_priming_2": "4", "vid2_label": "impossible"}
    with (root / "gravity_pairs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)


def test_inflevel_lab(tmp_path: Path) -> None:
    inflevel(tmp_path)
    suite = open_suite("inflevel-lab", tmp_path)
    assert suite.window_frames == 32 and suite.context_frames == (4, 8, 12, 16, 20) and suite.aspect == "squash"
    one, two = (item.read() for item in suite.items)
    # 190 frames after the first priming ends at 9, 185 after the second at 4: the longer loses its first five.
    assert len(one) == len(two) == 37
    assert [item.video.possible for item in suite.items] == [True, False]
    whole = open_suite("inflevel-lab-priming", tmp_path)
    assert [len(item.read()) for item in whole.items] == [40, 38]
    (tmp_path / "gravity_pairs.csv").write_text("vid1_path,vid2_path\na.mp4,b.mp4\n")
    with pytest.raises(ValueError, match="no vid1_end_priming_2"):
        open_suite("inflevel-lab", tmp_path)
    with pytest.raises(ValueError, match="expected one CSV file"):
        open_suite("inflevel-lab", tmp_path, lists=tmp_path / "gravity")


@pytest.mark.parametrize("name", ["intphys-dev", "intphys-test", "grasp", "inflevel-lab"])
def test_data_that_are_not_there_are_asked_for(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--root"):
        open_suite(name)
    with pytest.raises(ValueError):
        open_suite(name, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="unknown suite"):
        open_suite("intphys3")


# Evaluation -----------------------------------------------------------------------------------------------------------
def clips_suite(count: int = 4, bad: Sequence[int] = ()) -> Suite:
    items = []
    for number in range(count):
        for place in range(2):
            pixels = torch.randint(
                0, 255, (16, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(number)
            )
            pixels[10:] = pixels[10:] // (1 + place)
            name = f"{number}/{place}"
            video = Video(name, "a", str(number), pair=str(number), possible=place == 0)

            def read(pixels: torch.Tensor = pixels, name: str = name, number: int = number) -> torch.Tensor:
                if number in bad:
                    raise MediaError(f"{name}: broken")
                return pixels

            items.append(Item(video, read))
    return Suite("clips", items, batch=4)


def test_a_cut_off_evaluation_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, suite, path = tiny_model("vjepa", **SIZE), clips_suite(), tmp_path / "raw.jsonl"
    whole = evaluate(model, PROCESSOR, suite, path, progress=False)
    content = path.read_text()
    lines = content.splitlines(keepends=True)
    path.write_text("".join(lines[:6]) + lines[6][:30])  # killed while it wrote
    calls = []

    def count(model: Any, pixels: Any, **more: Any) -> torch.Tensor:
        calls.append(len(pixels["pixel_values"]))
        return surprise(model, pixels, **more)

    monkeypatch.setattr(evaluation, "surprise", count)
    again = evaluate(model, PROCESSOR, suite, path, progress=False)
    assert calls == [4]  # only the second chunk
    assert np.array_equal(again.surprises, whole.surprises, equal_nan=True) and path.read_text() == content
    with pytest.raises(ValueError, match=r"other settings \(context_frames\)"):
        evaluate(model, PROCESSOR, suite, path, Protocol(context_frames=(4,)), progress=False)
    evaluate(model, PROCESSOR, suite, path, Protocol(context_frames=(4,)), overwrite=True, progress=False)
    assert load_raw(path).surprises.shape == (8, 1, 1, 8)


def test_bad_videos_are_reported_and_tried_again(tmp_path: Path) -> None:
    model, path = tiny_model("vjepa", **SIZE), tmp_path / "raw.jsonl"
    raw = evaluate(model, PROCESSOR, clips_suite(bad=[1]), path, progress=False)
    assert raw.bad == {"1/0": "1/0: broken", "1/1": "1/1: broken"} and len(raw.videos) == 6
    assert score_table(raw)[0].num_pairs == 3
    mended = evaluate(model, PROCESSOR, clips_suite(), path, progress=False)
    assert mended.bad == {} and len(mended.videos) == 8
    with pytest.raises(ValueError, match="no video could be read"):
        evaluate(model, PROCESSOR, clips_suite(1, bad=[0]), tmp_path / "none.jsonl", progress=False)
    (tmp_path / "other.jsonl").write_text("{}\n")
    with pytest.raises(ValueError, match="no file of raw surprises"):
        load_raw(tmp_path / "other.jsonl")


def test_untrained_controls_differ_by_seed_only() -> None:
    model = tiny_model("vjepa", **SIZE)
    one, same, other = (untrained_like(model, seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.encoder.blocks[0].attn.qkv.weight, other.encoder.blocks[0].attn.qkv.weight)
    assert one.config.hidden_size == model.config.hidden_size and type(one) is type(model)


def test_the_shipped_model_knows_that_things_persist(tmp_path: Path) -> None:
    """All pairs, those that end alike, whole quadruplets and the mean margin, far from chance."""
    model, processor = (kind.from_pretrained("vjepa-tiny-worlds") for kind in (JEPAModel, JEPAProcessor))
    suite = open_suite("worlds", properties=["permanence"], seen=False)
    protocol = Protocol(context_frames=(8,), batch_size=32)
    (row,) = score_table(evaluate(model, processor, suite, tmp_path / "a.jsonl", protocol, progress=False), ["mean"])
    assert row.relative.low > 85 and row.matched.low > 90 and row.group.low > 90 and row.margin.low > 0


def test_the_commands(intphys: Path, tmp_path: Path) -> None:
    tiny_model("vjepa", **SIZE).save_pretrained(tmp_path / "model")
    PROCESSOR.save_pretrained(tmp_path / "model")
    broken = tmp_path / "data" / "O1" / "03"
    scene(broken, 3)
    (broken / "2" / "scene" / "scene_005.png").write_bytes(b"no picture")
    scene(tmp_path / "data" / "O1" / "01", 1)
    arguments = ["physics", "eval", "--suite", "intphys-dev", "--root", str(tmp_path / "data"), "-q"]
    arguments += ["-m", str(tmp_path / "model"), "-o", str(tmp_path / "out"), "--context", "2,10", "--untrained", "1"]
    run = CliRunner().invoke(app, arguments)
    assert run.exit_code == 0, run.output
    assert "not scored: O1/03/2" in run.output and "| object permanence | 2 |" in run.output
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert set(scores["bad"]) == {f"O1/03/{number}" for number in "1234"}  # a pair is whole or not scored
    assert (tmp_path / "out" / "untrained-0.json").is_file()
    assert {row["context"] for row in scores["rows"]} == {"2", "10", "filtered", "oracle"}
    again = CliRunner().invoke(
        app, ["physics", "score", str(tmp_path / "out" / "raw.jsonl"), "-o", str(tmp_path / "b")]
    )
    assert again.exit_code == 0, again.output
    assert json.loads((tmp_path / "b" / "scores.json").read_text()) == scores
    strict = CliRunner().invoke(app, [*arguments, "--strict"])
    assert strict.exit_code == 1
    wrong = CliRunner().invoke(app, ["physics", "eval", "--suite", "grasp", "-m", str(tmp_path / "model")])
    assert wrong.exit_code == 1 and "--root" in wrong.output
