"""`jepa-hub classify`: by a folder of labelled pictures, by a classifier, by a probe; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from jepa_hub.cli import app
from jepa_hub.models.paws import PAWSModel
from jepa_hub.models.probe import Probe, ProbeConfig
from jepa_hub.processing import JEPAProcessor
from tests.official import tiny_model

COLOURS = {"blue": (20, 30, 220), "red": (220, 30, 20)}


def picture(path: Path, colour: tuple[int, int, int], seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-20, 20, (40, 48, 3))
    Image.fromarray(np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A PAWS model on disk, a support of two colours and two pictures to classify."""
    model = tiny_model("paws")
    with torch.no_grad():  # statistics of real pixels, so that colours come apart
        for _ in range(60):
            model.train().embed(torch.randn(16, 3, 1, 1).expand(-1, -1, 32, 32) + 0.1 * torch.randn(16, 3, 32, 32))
    model.eval().save_pretrained(tmp_path / "model")
    JEPAProcessor(image_size=(32, 32), patch_size=4).save_pretrained(tmp_path / "model")
    for name, colour in COLOURS.items():
        for number in range(3):
            picture(tmp_path / "support" / name / f"{number}.png", colour, number)
        picture(tmp_path / "new" / f"{name}_one.png", colour, 9)
    return tmp_path


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["classify", *map(str, arguments)])
    return result.exit_code, result.output


def test_by_a_folder_of_labelled_pictures(folder: Path) -> None:
    code, said = run(folder / "new", "--model", folder / "model", "--support", folder / "support", "--json")
    assert code == 0, said
    found = json.loads(said[said.index("[\n") :])
    assert [Path(each["path"]).name for each in found] == ["blue_one.png", "red_one.png"]
    assert [each["labels"][0] for each in found] == ["blue", "red"]
    assert all(sum(each["probabilities"]) == pytest.approx(1, abs=1e-5) for each in found)
    model, processor = PAWSModel.from_pretrained(folder / "model"), JEPAProcessor.from_pretrained(folder / "model")
    files = [str(folder / "support" / name / f"{number}.png") for name in COLOURS for number in range(3)]
    same = model.classify(processor(found[1]["path"]), processor(files), ["blue"] * 3 + ["red"] * 3)
    assert same.probabilities[0].tolist() == pytest.approx(found[1]["probabilities"], abs=1e-5)
    code, said = run(
        folder / "new" / "red_one.png", "-m", folder / "model", "--support", folder / "support", "--top", "1"
    )
    assert code == 0 and "red_one.png: red " in said and "%" in said and "blue " not in said


def test_a_bad_file_is_said_and_the_rest_goes_on(folder: Path) -> None:
    (folder / "new" / "torn.png").write_bytes(b"no picture")
    arguments = (folder / "new", "--model", folder / "model", "--support", folder / "support")
    code, said = run(*arguments)
    assert code == 0 and "torn.png: could not be read" in said and "red_one.png: red" in said
    assert run(*arguments, "--strict")[0] == 1


def test_wrong_supports_are_refused_with_the_counts(folder: Path) -> None:
    arguments = (folder / "new", "--model", folder / "model", "--support", folder / "support")
    code, said = run(*arguments, "--per-class", "4")
    assert code == 1 and "needs 4 pictures of each class" in said and "blue: 3, red: 3" in said
    (folder / "support" / "empty").mkdir()
    code, said = run(*arguments)
    assert code == 1 and "needs 1 pictures of each class" in said and "empty: 0" in said
    code, said = run(folder / "new", "--model", folder / "model", "--support", folder / "new")
    assert code == 1 and "has 0 folders of classes" in said
    code, said = run(folder / "new", "--model", folder / "model")
    assert code == 1 and "has no classifier of its own: give --support" in said
    code, said = run(folder / "new", "--model", folder / "model", "--per-class", "2")
    assert code == 1 and "goes with --support" in said


def test_by_a_probe_and_by_a_classifier(folder: Path) -> None:
    backbone = tiny_model("ijepa")
    probe = Probe(ProbeConfig(kind="linear", hidden_size=48, id2label={0: "left", 1: "right"})).attach(backbone)
    probe.save_pretrained(folder / "probe")
    JEPAProcessor(image_size=(32, 32), patch_size=8).save_pretrained(folder / "probe")
    code, said = run(folder / "new" / "red_one.png", "--model", folder / "probe")
    assert code == 0 and ("left" in said and "right" in said), said
    code, said = run(folder / "new", "--model", folder / "probe", "--support", folder / "support")
    assert code == 1 and "classes of its own: leave --support out" in said
    backbone.save_pretrained(folder / "ijepa")
    code, said = run(folder / "new", "--model", folder / "ijepa")
    assert code == 1 and "IJepaModel, which has no classes" in said
    model = PAWSModel.from_pretrained(folder / "model")
    model.start_classifier(2)
    model.save_pretrained(folder / "tuned")
    JEPAProcessor(image_size=(32, 32), patch_size=4).save_pretrained(folder / "tuned")
    code, said = run(folder / "new" / "red_one.png", "--model", folder / "tuned")
    assert code == 0 and "0 50.0%" in said  # its last layer is zero still
