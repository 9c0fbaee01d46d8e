"""The page docs/averaging.md: its recipe lines are real settings, its table names every averager."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from training.averaging.registry import AVERAGERS
from training.config import Settings

TEXT = (Path(__file__).parents[3] / "docs" / "averaging.md").read_text(encoding="utf-8")


def test_settings_are_real(settings_of: Callable[..., Settings]) -> None:
    written: dict[str, Any] = yaml.safe_load(re.findall(r"^```yaml\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)[0])
    assert settings_of(averaging=written["averaging"]).averaging.name == "push_sum"
    for name, own in (
        ("all_reduce", {"compression": "power_sgd"}),
        ("local_sgd", {"every": 8, "after": 100, "slow_momentum": 0.5, "optimizer_state": True}),
        ("push_sum", {"topology": {"name": "exponential", "num_peers": 2}}),
        ("delayed", {"step_size": "adaptive_a", "aggregate": True}),
    ):
        settings_of(averaging={"name": name, **own})


def test_the_table_names_every_averager() -> None:
    assert all(f"| `{name}`" in TEXT for name in AVERAGERS)
