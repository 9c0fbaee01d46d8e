"""The page docs/image_world_models.md: its Python runs, its recipe lines are real settings, its names are all names."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from jepa_hub import photometry
from training.config import Settings
from training.recipe import recipe_names

TEXT = (Path(__file__).parents[2] / "docs" / "image_world_models.md").read_text(encoding="utf-8")


def test_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/image_world_models.md", "exec"), names)
    assert names["brighter"].shape == (1, 1, 16, 64) and (tmp_path / "neighbours.png").is_file()
    assert "'tokens'" in capsys.readouterr().out
    assert names["only"].mrr["tokens"] > 0 and names["lied"].candidates == 64


def test_settings_recipes_and_names_are_real(settings_of: Callable[..., Settings]) -> None:
    written = yaml.safe_load(re.findall(r"^```yaml\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)[0])
    settings = settings_of(
        data__photometry=written["data"]["photometry"],
        masks=written["masks"],
        model__name=written["model"]["name"],
        model__conditioning=written["model"]["conditioning"],
        model__image_size=112,
    )
    assert settings.data.photometry is not None and settings.data.photometry.solarize == 0.2
    assert set(re.findall(r"train\.py (\S+)", TEXT)) <= set(recipe_names())
    assert all(f"`{name}`" in TEXT for name in photometry.NAMES)
