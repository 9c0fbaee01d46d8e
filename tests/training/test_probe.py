"""`python -m training.probe` as a user types it, in this process (10 s)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from jepa_hub.models.ijepa import IJepaConfig, IJepaModel
from jepa_hub.models.probe import Probe
from training.data.registry import SOURCES
from training.probe import main

SMALL = ["--set", "length=400", "--train", "60", "--validation", "30", "--test", "40"]


@pytest.fixture(autouse=True)
def _squares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "squares", "tests.training.probing.probe_sources:Squares")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = IJepaConfig(
        image_size=32,
        patch_size=8,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        predictor_hidden_size=16,
        predictor_num_hidden_layers=1,
        predictor_num_attention_heads=2,
    )
    path = tmp_path_factory.mktemp("models") / "tiny"
    IJepaModel(config).save_pretrained(path)
    return path


def test_a_run_scores_every_label_probe_and_baseline(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, cache = tmp_path / "results" / "probe.json", tmp_path / "cache"
    command = [str(folder), "--source", "squares", *SMALL, "--labels", "place,level", "--probes", "linear,knn"]
    command += ["--baselines", "untrained,raw_pixels", "--seeds", "0,1,2", "--device", "cpu", "--cache", str(cache)]
    main([*command, "--out", str(out)])
    said = capsys.readouterr().out
    results = json.loads(out.read_text())
    entries = {(each["features"], each["label"], each["probe"]): each for each in results["results"]}
    assert set(entries) == {
        (features, label, probe)
        for features in ("model", "untrained", "raw_pixels")
        for label in ("place", "level")
        for probe in ("linear", "knn")
    }
    place = entries["raw_pixels", "place", "linear"]
    assert place["mean"] > 0.9 and place["metric"] == "accuracy" and place["chance"] == 0.25
    assert len(place["values"]) == len(place["per_seed"]) == 3 and place["half_width"] is not None
    assert [each["seed"] for each in place["per_seed"]] == [0, 1, 2]
    assert place["text"] in said
    assert entries["model", "level", "linear"]["metric"] == "r2"
    assert results["samples"]["train"]["used"] == 60 and results["samples"]["train_draw"] == "subset"
    assert results["source"] == {"name": "squares", "settings": {"length": 400}}
    assert results["model"]["name"] == str(folder) and len(results["model"]["weights"]) == 32
    monkeypatch.setattr(IJepaModel, "encode", lambda *_, **__: pytest.fail("features were not taken from the cache"))
    main([*command, "--out", str(tmp_path / "again.json")])
    assert json.loads((tmp_path / "again.json").read_text()) == results


def test_an_attentive_probe_is_saved_and_low_shot_has_its_interval(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(folder), "--source", "squares", *SMALL, "--labels", "place", "--probes", "attentive,low_shot"]
    main([*command, "--epochs", "2", "--save-probes", str(tmp_path / "probes"), "--baselines", "raw_pixels"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [line[:3] for line in lines] == [
        ["model", "place", "attentive"],
        ["model", "place", "low_shot"],
        ["model", "place", "low_shot"],
        ["raw_pixels", "place", "low_shot"],
        ["raw_pixels", "place", "low_shot"],
    ]
    assert [line[3] for line in lines[1:3]] == ["1%", "10%"] and "±" in lines[1]  # over draws, with one seed
    model = IJepaModel.from_pretrained(folder)
    probe = Probe.from_pretrained(tmp_path / "probes" / "place", backbone=model)
    assert probe.classify(torch.zeros(1, 3, 32, 32), top=1).labels[0][0] in probe.config.id2label.values()


def test_digits_are_read_in_their_own_splits(folder: Path, tmp_path: Path) -> None:
    sizes = ["--train", "300", "--validation", "100", "--test", "150", "--seeds", "0,1"]
    out = tmp_path / "digits.json"
    main([str(folder), "--source", "digits", *sizes, "--probes", "knn", "--baselines", "raw_pixels", "--out", str(out)])
    results = json.loads(out.read_text())
    model, raw = results["results"]
    assert raw["mean"] > 0.9 > model["mean"] > 0.2 and raw["chance"] == 0.1  # random weights see something
    assert results["samples"]["test"]["used"] == 150 and results["samples"]["train_draw"] == "subset"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--labels", "plaec"], r"unknown label 'plaec' (did you mean 'place'?); squares has place, level, always"),
        (["--labels", "always"], "label 'always' has one class only (0) in train"),
        (["--probes", "lineer"], "unknown probe 'lineer' (did you mean 'linear'?)"),
        (["--baselines", "untrain"], "unknown baseline 'untrain' (did you mean 'untrained'?)"),
        (["--set", "length=1"], "split of squares holds no samples"),
        (["--set", "length"], "override 'length' is not key.path=value"),
        (["--test", "0"], "the test split needs at least 1 sample"),
        (["--size", "30"], "image_size=30 is no multiple of patch_size=8"),
        (["--save-probes", "x"], "add attentive to the probes"),
    ],
)
def test_bad_input_is_one_line(
    folder: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[Any]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(folder), "--source", "squares", *SMALL, *arguments])
    text = capsys.readouterr().err
    assert stopped.value.code == 1 and said in text and text.count("\n") == 1


def test_a_missing_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "nothing"), "--source", "squares", *SMALL])
    assert stopped.value.code == 1 and "nothing" in capsys.readouterr().err
