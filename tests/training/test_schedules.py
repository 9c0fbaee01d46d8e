"""Schedules against the values that the published configurations reach."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from training.schedules import cosine_between, linear_between, warmup_cosine, warmup_linear

IJEPA: dict[str, Any] = {"start": 2e-4, "peak": 1e-3, "final": 1e-6, "warmup_steps": 25_000, "total_steps": 187_500}
VJEPA_STEPS = 90_000
VJEPA: dict[str, Any] = {
    "start": 2e-4,
    "peak": 6.25e-4,
    "final": 1e-6,
    "warmup_steps": 12_000,
    "total_steps": int(1.25 * VJEPA_STEPS),
}


def test_ijepa_reaches_its_published_values() -> None:
    assert warmup_cosine(24_999, **IJEPA) == pytest.approx(1e-3, rel=1e-12)
    assert warmup_cosine(0, **IJEPA) == pytest.approx(2e-4 + 8e-4 / 25_000, rel=1e-12)
    assert warmup_cosine(187_499, **IJEPA) == pytest.approx(1e-6, rel=1e-9)
    assert cosine_between(187_500 // 2 - 1, start=0.04, final=0.4, total_steps=187_500) == pytest.approx(0.22, rel=1e-9)
    assert linear_between(0.5, start=0.996, final=1.0) == pytest.approx(0.998, rel=1e-12)
    last = linear_between((187_500 - 1) / 187_500, start=0.996, final=1.0)
    assert 1 - last == pytest.approx(2.13e-8, rel=1e-2)


def test_vjepa_stops_at_four_fifths_of_every_schedule() -> None:
    assert warmup_cosine(VJEPA_STEPS - 1, **VJEPA) == pytest.approx(7.5e-5, rel=1e-2)
    decay = cosine_between(VJEPA_STEPS - 1, start=0.04, final=0.4, total_steps=VJEPA["total_steps"])
    assert decay == pytest.approx(0.366, abs=5e-4)
    assert linear_between(VJEPA_STEPS / VJEPA["total_steps"], start=0.998, final=1.0) == pytest.approx(0.9996, abs=1e-9)


def test_vjepa2_is_constant_then_cools_down_in_a_straight_line() -> None:
    constant: dict[str, Any] = {
        "start": 1e-4,
        "peak": 5.25e-4,
        "final": 5.25e-4,
        "warmup_steps": 12_000,
        "total_steps": 300_000,
    }
    assert warmup_linear(11_999, **constant) == warmup_linear(200_000, **constant) == 5.25e-4
    cooldown: dict[str, Any] = {
        "start": 5.25e-4,
        "peak": 5.25e-4,
        "final": 1e-6,
        "warmup_steps": 0,
        "total_steps": 15_000,
    }
    assert warmup_linear(11_999, **cooldown) == pytest.approx(1.06e-4, rel=1e-2)


def test_the_learning_rate_never_jumps() -> None:
    values = [warmup_cosine(step, **{**IJEPA, "warmup_steps": 50, "total_steps": 500}) for step in range(500)]
    assert max(abs(b - a) for a, b in itertools.pairwise(values)) < 2e-5
    assert max(values) == pytest.approx(1e-3) and values.index(max(values)) == 49
