"""Fixtures of the training tests: the source `patterns`, and runs of a tiny recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from training.config import Settings


def fresh_accelerate() -> None:
    """Forget the process-wide state of Accelerate, so that the next run may have another precision."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    PartialState._reset_state()


@pytest.fixture(autouse=True)
def _patterns(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The test source by name, no progress bars, and a fresh Accelerate state."""
    from training.data import registry

    monkeypatch.setitem(registry.SOURCES, "patterns", "tests.training.patterns:Patterns")
    monkeypatch.setenv("JEPA_HUB_NO_PROGRESS", "1")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    yield
    fresh_accelerate()


@pytest.fixture
def settings_of(tmp_path: Path) -> Callable[..., Settings]:
    """Checked settings of the tiny recipe, with changes such as optim__lr=1e-2."""
    from tests.training.patterns import recipe
    from training.recipe import check_settings

    def make(**changes: Any) -> Settings:
        return check_settings(recipe(changes.pop("out", tmp_path / "run"), **changes), "test")

    return make
