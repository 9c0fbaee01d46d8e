"""Claims: effects and verdicts from result files, cells that are run once, and a rendering that invents nothing."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.training import one_claim
from training import rendering, reproduce
from training.claims import registry
from training.claims.base import FAILS, HOLDS, NOT_RUN, Comparison, Results, effect, pairs_needed, verdict

SHIPPED = {name: registry.claim(name) for name in registry.CLAIMS}  # before they are hidden from the tests


@pytest.fixture(autouse=True)
def _one(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(registry.CLAIMS):
        monkeypatch.delitem(registry.CLAIMS, name)
    monkeypatch.setitem(registry.CLAIMS, "one", "tests.training.one_claim:CLAIM")
    yield


def results_of(better: list[float], worse: list[float]) -> Results:
    return {
        arm: {seed: {"metrics": {"score": value}, "seconds": 1.0, "hardware": "x"} for seed, value in enumerate(values)}
        for arm, values in (("good", better), ("bad", worse))
    }


def test_an_effect_is_the_paired_difference_with_its_t_interval() -> None:
    found = effect(results_of([60, 62, 61], [50, 50, 53]), Comparison("score", "good", "bad"))
    gaps = [10, 12, 8]
    assert found.pairs == 3 and found.mean == pytest.approx(10)
    assert found.half_width == pytest.approx(4.30265 * statistics.stdev(gaps) / math.sqrt(3), rel=1e-4)


@pytest.mark.parametrize(
    ("better", "worse", "said"),
    [
        ([60, 61, 62], [50, 51, 52], HOLDS),
        ([60, 61, 62], [59, 63, 60], FAILS),
        ([50, 51, 52], [60, 61, 62], FAILS),
        ([60], [50], NOT_RUN),
        ([], [], NOT_RUN),
    ],
)
def test_verdicts(better: list[float], worse: list[float], said: str) -> None:
    assert verdict(one_claim.CLAIM, results_of(better, worse)) == said


def test_seeds_that_only_one_arm_has_are_left_out() -> None:
    results = results_of([60, 61, 62], [50, 51, 52])
    del results["bad"][1]
    assert effect(results, Comparison("score", "good", "bad")).pairs == 2


def test_pairs_needed_grow_with_the_spread() -> None:
    assert pairs_needed(1.0, 2.0) == 5 and pairs_needed(0.1, 2.0) == 2
    assert pairs_needed(4.0, 2.0) > pairs_needed(2.0, 2.0) > pairs_needed(1.0, 2.0)
    assert pairs_needed(2.0, 2.0, power=0.9) > pairs_needed(2.0, 2.0)
    with pytest.raises(ValueError, match=r"power 0\.8 or 0\.9"):
        pairs_needed(1.0, 2.0, power=0.5)


def test_a_grid_runs_whole_pairs_first() -> None:
    assert one_claim.CLAIM.grid(full=False) == [(arm, seed) for seed in range(3) for arm in ("good", "bad")]
    assert len(one_claim.CLAIM.grid(full=True)) == 12


def test_a_cell_is_written_whole_and_read_back(tmp_path: Path) -> None:
    path = reproduce.run_cell(tmp_path, tmp_path / "work", "one", "good", 2)
    entry = json.loads(path.read_text())
    assert entry["metrics"] == {"score": 62.0} and entry["claim"] == "one" and entry["seed"] == 2
    assert reproduce.load_results(tmp_path, "one") == {"good": {2: entry}}
    with pytest.raises(RuntimeError, match="this arm is broken"):
        reproduce.run_cell(tmp_path, tmp_path / "work", "one", "broken", 0)
    assert [each.name for each in (tmp_path / "one").iterdir()] == ["good-seed2.json"]
    path.rename(path.with_name("bad-seed2.json"))
    with pytest.raises(ValueError, match="is not a result of the claim one"):
        reproduce.load_results(tmp_path, "one")


def test_a_rerun_computes_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[str, str, int]] = []

    def run(self: reproduce.Pool, cells: list[tuple[str, str, int]]) -> int:
        started.extend(cells)
        for name, arm, seed in cells:
            reproduce.run_cell(self.results, self.work, name, arm, seed)
        return 0

    monkeypatch.setattr(reproduce.Pool, "run", run)
    reproduce.run_cell(tmp_path, tmp_path, "one", "bad", 0)
    reproduce.reproduce(["one"], tmp_path, tmp_path, full=False, jobs=1, budget=None)
    assert len(started) == 5 and ("one", "bad", 0) not in started
    reproduce.reproduce(["one"], tmp_path, tmp_path, full=False, jobs=1, budget=None)
    assert len(started) == 5


def test_no_cell_starts_that_cannot_end_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = reproduce.Pool(tmp_path, tmp_path, 1, deadline=math.inf)
    started: list[int] = []
    monkeypatch.setattr(pool, "_start", lambda name, arm, seed: started.append(seed))
    pool.longest["one/good"] = 100.0
    assert pool.run([("one", "good", 0)]) == 0
    pool.deadline = -math.inf
    assert pool.run([("one", "good", 1), ("one", "good", 2)]) == 2 and started == [0]


def test_rendering_shows_what_is_there_and_what_is_not(tmp_path: Path) -> None:
    out = tmp_path / "REPRODUCTION.md"
    rendering.render(tmp_path / "results", out)
    empty = out.read_text()
    assert "| not run |" in empty and "Run it: `python -m training.reproduce one`." in empty
    for seed in range(3):
        for arm in ("good", "bad"):
            reproduce.run_cell(tmp_path / "results", tmp_path, "one", arm, seed)
    rendering.render(tmp_path / "results", out)
    text = out.read_text()
    assert "[one](#one-a-claim-for-tests) | nobody, arXiv:0000.00000 | holds |" in text
    assert "| good: sixty | 61.0 ± 2.5 | 3 |" in text and "broken: nothing | not run | not run |" in text
    assert "![One: a claim for tests](docs/reproduction/one.png)" in text
    assert (tmp_path / "docs" / "reproduction" / "one.png").stat().st_size > 3000


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reproduce.main(["--render", "--results", str(tmp_path), "--out", str(tmp_path / "R.md")])
    assert "rendered" in capsys.readouterr().out and (tmp_path / "R.md").is_file()
    with pytest.raises(SystemExit):
        reproduce.main(["onn"])
    assert "did you mean 'one'" in capsys.readouterr().err


def test_the_shipped_claims_are_complete() -> None:
    for name, claim in SHIPPED.items():
        assert claim.name == name and claim.core_seeds >= 5 and claim.full_seeds >= claim.core_seeds


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"comparisons": [Comparison("score", "good", "better")]}, "the arm 'better'"),
        ({"comparisons": [Comparison("scroe", "good", "bad")]}, "the metric 'scroe'"),
        ({"comparisons": [Comparison("score", "good", "bad", decisive=False)]}, "no comparison is decisive"),
        ({"arms": [*one_claim.CLAIM.arms, one_claim.CLAIM.arms[0]]}, "two arms have one name"),
    ],
)
def test_a_claim_compares_what_there_is(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(one_claim.CLAIM, **changed)


def test_metrics_that_are_no_per_cent_have_their_decimals_and_no_power_for_two_points() -> None:
    each = dataclasses.replace(one_claim.CLAIM, decimals={"score": 3})
    results = results_of([0.50, 0.51], [0.25, 0.26])
    text = rendering.section(each, results, None)
    assert "| good: sixty | 0.505 ± 0.064 | 2 |" in text  # t(1) = 12.706 times 0.01 / 2
    assert "| good - bad | score | +0.250 ± 0.000 | 2 | - | holds |" in text
