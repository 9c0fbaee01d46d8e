"""Schedules: pure functions of the step, so that resuming needs no replay.

`step` counts from 0. The published schedules of I-JEPA and V-JEPA are reproduced value for value: their learning rate
and weight decay are advanced before they are used (the first step uses position 1), the momentum after (position 0).
"""

from __future__ import annotations

import math


def warmup_cosine(step: int, *, start: float, peak: float, final: float, warmup_steps: int, total_steps: int) -> float:
    """Learning rate of a step: linear from `start` to `peak`, then a half cosine to `final` at `total_steps`.

    Source: the official I-JEPA and V-JEPA code (WarmupCosine).
    """
    position = step + 1
    if position < warmup_steps:
        return start + position / max(1, warmup_steps) * (peak - start)
    progress = (position - warmup_steps) / max(1, total_steps - warmup_steps)
    return max(final, final + (peak - final) * 0.5 * (1 + math.cos(math.pi * progress)))


def warmup_linear(step: int, *, start: float, peak: float, final: float, warmup_steps: int, total_steps: int) -> float:
    """Learning rate of a step: linear from `start` to `peak`, then linear to `final` at `total_steps`.

    With `final = peak` it stays constant (V-JEPA 2's pretraining); with no warm-up it is V-JEPA 2's cooldown.
    """
    position = step + 1
    if position < warmup_steps:
        return start + position / max(1, warmup_steps) * (peak - start)
    progress = min(1.0, (position - warmup_steps) / max(1, total_steps - warmup_steps))
    return peak + (final - peak) * progress


def cosine_between(step: int, *, start: float, final: float, total_steps: int) -> float:
    """Weight decay of a step: a half cosine from `start` to `final` at `total_steps`, no warm-up."""
    value = final + (start - final) * 0.5 * (1 + math.cos(math.pi * (step + 1) / max(1, total_steps)))
    return max(final, value) if final <= start else min(final, value)


def linear_between(progress: float, *, start: float, final: float) -> float:
    """Momentum at `progress` in [0, 1] of the schedule, straight from `start` to `final`."""
    return start + (final - start) * progress


LEARNING_RATES = {"cosine": warmup_cosine, "linear": warmup_linear}
