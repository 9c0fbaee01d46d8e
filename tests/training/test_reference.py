"""The generated pages are current and leave nothing out."""

from __future__ import annotations

from pathlib import Path

import pytest

from jepa_hub.catalog import CHECKPOINTS
from tests.hub_server import ROOT
from training import reference
from training.recipe import recipe_names


@pytest.mark.parametrize("name", reference.PAGES)
def test_pages_are_current(name: str) -> None:
    written = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert written == reference.PAGES[name](), f"docs/{name} is not current: python -m training.reference"


def test_every_weight_and_recipe_has_a_row() -> None:
    models, recipes = reference.models_page(), reference.recipes_page()
    assert all(f"\n{models}".count(f"\n| `{name}` |") == 1 for name in CHECKPOINTS)
    assert all(recipes.count(f"[`{name}`]") == 1 for name in recipe_names())
    rows = [line for line in (models + recipes).splitlines() if line.startswith("|")]
    assert not [row for row in rows if "None" in row or "|  |" in row]


def test_headers_are_read_whole() -> None:
    words = reference.header("ijepa/vith14_in1k")
    assert words[""].startswith("I-JEPA, ViT-H/14") and "41.5 h" in words["Cost"] and "check." in words["Expect"]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference.main(["--out", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == set(reference.PAGES)
    assert "models.md" in capsys.readouterr().out
