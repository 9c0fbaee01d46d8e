"""A claim for tests: two arms whose difference is known."""

from __future__ import annotations

from pathlib import Path

from training.claims.base import Arm, Claim, Comparison


def good(seed: int, work: Path) -> dict[str, float]:
    return {"score": 60.0 + seed % 3}


def bad(seed: int, work: Path) -> dict[str, float]:
    return {"score": 50.0 + seed % 2}


def broken(seed: int, work: Path) -> dict[str, float]:
    raise RuntimeError("this arm is broken")


CLAIM = Claim(
    name="one",
    title="One: a claim for tests",
    paper="nobody, arXiv:0000.00000",
    statement="Good beats bad.",
    setting="Numbers.",
    metrics={"score": "points"},
    arms=(Arm("good", "sixty", good), Arm("bad", "fifty", bad), Arm("broken", "nothing", broken, core=False)),
    comparisons=(Comparison("score", "good", "bad"),),
    core_seeds=3,
    full_seeds=4,
)
