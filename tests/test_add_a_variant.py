"""The walk-through of docs/add_a_variant.md, followed to the letter: write the files, train, load, test."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from jepa_hub.models import registry
from jepa_hub.models.base import JEPAModel
from tests.documents import Block, blocks

PAGE = "docs/add_a_variant.md"
NAME = "noisy"


def _block(language: str, number: int = 0) -> Block:
    return [block for block in blocks(PAGE) if block.language == language][number]


def _module(path: Path, name: str, text: str) -> ModuleType:
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def variant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The model's file and its line of the registry, for one test."""
    monkeypatch.setitem(sys.modules, f"jepa_hub.models.{NAME}", None)  # put back afterwards
    module = _module(tmp_path / f"{NAME}.py", f"jepa_hub.models.{NAME}", _block("python").text)
    line = re.search(r'"(\w+)": "([\w.]+:\w+)"', _block("python", 1).text)
    assert line is not None and line[1] == NAME
    monkeypatch.setitem(registry.MODELS, line[1], line[2])
    return module


def test_the_page_says_where_each_file_goes() -> None:
    text = (Path(__file__).parent.parent / PAGE).read_text(encoding="utf-8")
    for place in ("jepa_hub/models/", "training/recipes/", "tests/models/"):
        assert re.search(rf"^## \d\. .*`{place}[\w/]+\.\w+`", text, re.MULTILINE), place
    assert "`jepa_hub/models/registry.py`" in text


def test_it_trains_saves_and_comes_back(variant: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.training.conftest import fresh_accelerate
    from training.train import parse, run

    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("JEPA_HUB_NO_PROGRESS", "1")
    recipe = tmp_path / "tiny_scenes.yaml"
    recipe.write_text(_block("yaml").text, encoding="utf-8")
    short = [
        "run.steps=2",
        "data.batch_size=4",
        f"run.out={tmp_path / 'run'}",
        "data.source.num_samples=8",
        "optim.warmup_steps=1",
    ]
    try:
        final = run(parse([str(recipe), *short]))
    finally:
        fresh_accelerate()
    model = JEPAModel.from_pretrained(final)
    assert type(model) is variant.NoisyModel and model.config.context_noise_std == 0.2
    with pytest.raises(ValueError, match="0 or more"):
        variant.NoisyConfig(context_noise_std=-1.0)
    with pytest.raises(ValueError, match="context_noise"):
        variant.NoisyConfig(context_noise=0.1)


def test_the_contract_tests_try_it(variant: ModuleType, tmp_path: Path) -> None:
    from tests.models import test_leak, test_run
    from tests.official import predicting

    assert NAME in predicting()
    test_leak.test_targets_do_not_leak(NAME, "sdpa")
    test_run.test_shapes_and_gradients(NAME)
    test_run.test_many_targets_equal_one_at_a_time(NAME)


def test_its_own_test_runs_and_can_fail(variant: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own: Any = _module(tmp_path / "test_noisy.py", "test_noisy", _block("python", 2).text)
    own.test_noise_is_for_training_only()
    monkeypatch.setattr(variant.NoisyPredictor, "training", False, raising=False)
    monkeypatch.setattr(variant.NoisyPredictor, "train", lambda self, mode=True: self)
    with pytest.raises(AssertionError):
        own.test_noise_is_for_training_only()
