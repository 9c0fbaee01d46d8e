"""docs/pit.md: its Python runs from top to bottom, what it names exists, and shipped digits are digits. 10 seconds."""

from __future__ import annotations

import re
from typing import Any

import torch

from jepa_hub import catalog
from jepa_hub.models.base import JEPAModel
from jepa_hub.models.dit import DiTModel
from jepa_hub.models.pit import PiTModel
from tests.documents import blocks
from tests.hub_server import ROOT
from training import generation
from training.recipe import RECIPES, load_recipe

PAGE = (ROOT / "docs" / "pit.md").read_text(encoding="utf-8")
BLOCKS = blocks("docs/pit.md")
COMMANDS = [words for block in BLOCKS if block.language == "bash" for words in block.lines]


def test_python_runs_from_top_to_bottom() -> None:
    names: dict[str, Any] = {}
    for block in [block.text for block in BLOCKS if block.language == "python"]:
        exec(compile(block, "docs/pit.md", "exec"), names)
    assert names["pictures"].shape == (3, 3, 8, 8) and names["logits"].shape == (1, 1000)
    assert [labels[0] for labels in names["found"].labels] == ["three", "eight", "eight"]


def test_shipped_digits_are_read_as_the_digits_asked_for() -> None:
    made, judge = (JEPAModel.from_pretrained(f"{family}-tiny-digits") for family in ("dit", "pit"))
    assert isinstance(made, DiTModel) and isinstance(judge, PiTModel)
    labels = generation.asked_labels(10, 4)
    pictures = made.sample(labels, steps=12, guidance=2.0, progress=False)
    assert (generation.judged(judge, pictures)[1] == labels).float().mean() >= 0.85
    twins = made.sample([5, 5], steps=12, progress=False)
    assert not torch.allclose(twins[0], twins[1], atol=0.1)  # no one picture of a class


def test_what_the_page_names_is_there() -> None:
    for name in re.findall(r'from_pretrained\("([\w-]+)"\)', PAGE):
        assert name in catalog.CHECKPOINTS
    for command in COMMANDS:
        assert command[:2] == ["python", "-m"]
        assert (ROOT / f"{command[2].replace('.', '/')}.py").is_file()
        if command[2] in ("training.train", "training.plan"):
            load_recipe(command[3])
    for path in re.findall(r"python (benchmarks/\S+?\.py)", PAGE) + re.findall(r"!\[.*?\]\((.*?)\)", PAGE):
        assert (ROOT / path).is_file() or (ROOT / "docs" / path).is_file()
    listed = PAGE[PAGE.index("Recipes: ") : PAGE.index("None was run here")]
    named = [name.removeprefix("pit/") for name in re.findall(r"`([\w/]+)`", listed) if name.count("_") >= 1]
    for name in named:
        if not name.startswith("_"):
            folder = name if name.startswith("dit/") else f"pit/{name}"
            assert (RECIPES / f"{folder}.yaml").is_file(), folder
