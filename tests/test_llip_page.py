"""docs/llip.md: its Python runs from top to bottom, its commands run, its recipes and settings exist. 15 seconds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from jepa_hub import catalog, cli
from jepa_hub.models.llip_config import LlipConfig
from tests.documents import blocks
from tests.hub_server import ROOT
from training import train
from training.recipe import RECIPES, apply_overrides, check_settings, load_recipe

PAGE = (ROOT / "docs" / "llip.md").read_text(encoding="utf-8")
BLOCKS = blocks("docs/llip.md")
COMMANDS = [words for block in BLOCKS if block.language == "bash" for words in block.lines]
TRAINED = [command[3:] for command in COMMANDS if command[:3] == ["accelerate", "launch", "training/train.py"]]
SHORT = ["run.steps=4", "run.save_every=4", "run.log_every=2", "data.batch_size=8", "optim.warmup_steps=1"]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, colour in (("photo", "red"), ("other", "blue")):
        Image.new("RGB", (80, 64), colour).save(tmp_path / f"{name}.png")
    return tmp_path


def test_python_runs_from_top_to_bottom(photos: Path) -> None:
    names: dict[str, Any] = {}
    texts = [block.text for block in BLOCKS if block.language == "python"]
    assert len(texts) == 2
    for block in texts:
        exec(compile(block, "docs/llip.md", "exec"), names)
    assert names["image"].keys.shape == (1, 8, 64) and names["image"].pooled.shape == (1, 64)
    assert names["text"].queries.shape == names["text"].targets.shape == (2, 64)
    assert sorted(names["found"].labels[0]) == ["blue", "red"]
    assert len(names["gallery"]) == 2 and names["best"].indices.shape == (1, 2)
    model, image, text = names["model"], names["image"], names["text"]
    assert model.mix(image, text).weights.shape == (1, 2, 4, 8)
    assert torch.isfinite(model.logits(image, text)).all()


@pytest.mark.parametrize("command", [each for each in COMMANDS if each[0] == "jepa-hub"], ids=" ".join)
def test_commands(command: list[str], photos: Path) -> None:
    told = CliRunner().invoke(cli.app, command[1:])
    assert told.exit_code == 0, told.output
    assert told.stdout.startswith("photo.png: ") and told.stdout.count("%") == 3


def test_training_then_zero_shot(photos: Path) -> None:
    """The small recipe, shortened, leaves a folder that the command takes."""
    assert [command[0] for command in TRAINED] == ["llip/tiny_scenes", "llip/vitb32_metaclip"]
    train.main([*TRAINED[0], *SHORT, "data.source.num_samples=16", f"run.out={photos / 'run'}"])
    [folder] = {path.parent for path in (photos / "run").rglob("tokenizer.json")}
    told = CliRunner().invoke(cli.app, ["zero-shot", "photo.png", "--labels", "red,blue", "-m", str(folder)])
    assert told.exit_code == 0 and "red" in told.stdout and "blue" in told.stdout, told.output


def test_recipes_and_settings_exist() -> None:
    for command in TRAINED:
        assert load_recipe(command[0], command[1:]).method.name == "llip"
    [block] = [block.text for block in BLOCKS if block.language == "yaml"]
    own = yaml.safe_load(block)
    tree = yaml.safe_load((RECIPES / "llip" / "tiny_scenes.yaml").read_text())
    settings = check_settings(tree | {"method": own["method"], "data": tree["data"] | own["data"]}, "docs/llip.md")
    assert settings.data.captions is not None and settings.data.captions.per_sample == 2
    [single] = re.findall(r"`model: (\{mixing: first, .*?\})`", PAGE)
    overrides = [f"model.{name}={value}" for name, value in yaml.safe_load(single).items()]
    check_settings(apply_overrides(tree, overrides), "docs/llip.md")
    assert LlipConfig(**yaml.safe_load(single)).num_mixture_tokens == 1


def test_what_the_page_names_is_there() -> None:
    for name in re.findall(r"`(llip-[\w-]+)`", PAGE) + re.findall(r'from_pretrained\("(.*?)"\)', PAGE):
        assert name in catalog.CHECKPOINTS
    for path in re.findall(r"python (benchmarks/\S+?\.py)", PAGE):
        assert (ROOT / path).is_file()
    assert "@" not in re.sub(r"mAP@R", "", PAGE), "a placeholder was left"
