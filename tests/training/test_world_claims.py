"""The claims iwm and flexpredict: what they say and measure, and that the shipped model is the claim's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from jepa_hub import JEPAModel, photometry, ranking
from tests.official import tiny_model
from training.claims import flexpredict, iwm
from training.reproduce import RESULTS, load_results


def entry(**metrics: float) -> dict[str, Any]:
    return {"metrics": metrics}


def test_the_remark_names_the_changes_that_are_followed() -> None:
    chance = 100 * ranking.chance_level(iwm.BANK)
    assert f"{chance:.1f} %" in iwm.levels({}) and "follows" not in iwm.levels({})
    deaf = {"contrast": chance, "saturation": chance + 0.5}
    runs = {seed: entry(brightness=40 + seed, hue=8.0 + 9 * seed, **deaf) for seed in (0, 1)}
    text = iwm.levels({"feature": runs})  # hue: its mean is far above guessing, its interval reaches below
    assert "follows brightness (" in text and "not contrast, saturation, hue" in text
    many = {seed: entry(**dict.fromkeys(photometry.JITTER, 30.0 + seed / 10)) for seed in range(3)}
    assert "follows brightness and contrast and saturation and hue (" in iwm.levels({"feature": many})


def test_the_remark_says_when_fine_tuning_was_too_short() -> None:
    alone = {seed: entry(tuned=56.0 + seed) for seed in range(3)}
    through = {seed: entry(tuned=42.0) for seed in range(3)}
    text = iwm.remark({"tuned_encoder": alone, "tuned_all": through})
    assert "15.0 ± 2.5 points better" in text and iwm.levels({}) in text
    assert iwm.short({"tuned_encoder": through, "tuned_all": alone}) == iwm.short({}) == ""


def test_the_remark_says_whether_the_measures_could_tell_arms_apart() -> None:
    assert flexpredict.reach({}) == ""
    base = {seed: entry(probes=50.0 + seed) for seed in range(3)}
    dull = {seed: entry(probes=51.0 + 2 * seed) for seed in range(3)}  # differences 1, 2, 3: the interval holds 0
    keen = {seed: entry(probes=60.0 + seed) for seed in range(3)}
    certain = {seed: entry(identified=99.5) for seed in range(3)}
    text = flexpredict.reach({"exact": dull, "untrained": base, "tied": certain})
    assert "hardly tell" in text and "+2.0 ± 2.5" in text and "99.5 % of places" in text and "no longer" in text
    unsure = {seed: entry(identified=60.0) for seed in range(3)}
    text = flexpredict.reach({"exact": keen, "untrained": base, "tied": unsure})
    assert "can tell arms apart" in text and "stay uncertain" in text


def test_the_shipped_model_is_the_one_of_the_claim() -> None:
    model = JEPAModel.from_pretrained("iwm-tiny-scenes")
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(4, 3, 4, 4, generator=generator).repeat_interleave(8, 2).repeat_interleave(8, 3)
    changes = ranking.draw_changes(iwm.BANK, iwm.STRONG, seed=0)
    told = ranking.rank_changes(model, pixels, changes)
    lied = ranking.rank_changes(model, pixels, changes, told=changes.roll(iwm.SHIFT, 0))
    assert told.mrr["tokens"] > 2 * told.chance and lied.mrr["tokens"] < 1.5 * told.chance
    unaware: Any = JEPAModel.from_pretrained("iwm-tiny-scenes")
    unaware.predictor.mixer.fc1.weight.data[:, -unaware.predictor.numbers :] = 0
    deaf = ranking.rank_changes(unaware, pixels, changes)
    assert deaf.mrr["tokens"] == pytest.approx(told.chance, abs=1e-3)


def test_every_committed_result_belongs_to_the_grid() -> None:
    for claim in (iwm.CLAIM, flexpredict.CLAIM):
        known = set(claim.grid(full=True))
        found = load_results(RESULTS, claim.name)
        assert {(arm, seed) for arm, runs in found.items() for seed in runs} <= known
        for arm, runs in found.items():
            assert all(set(each["metrics"]) <= set(claim.metrics) for each in runs.values()), arm


def test_noise_is_measured_against_its_start() -> None:
    start = tiny_model("flexpredict", position_noise="untied", position_noise_std=1.0)
    trained = tiny_model("flexpredict", position_noise="untied", position_noise_std=1.0)
    with torch.no_grad():
        trained.predictor.spread.weight.copy_(start.predictor.spread.weight / 4)
    found = flexpredict.noise(trained, start)
    assert found["kept"] == 25.0 and found["identified"] >= found["identified_start"] > 0


def test_a_shared_run_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.claims import arms

    seen: list[Path] = []
    monkeypatch.setattr(arms, "train", lambda recipe, seed, work, overrides: seen.append(work))
    work = tmp_path / "claims" / "feature-seed0"
    arms.shared("iwm/tiny_scenes", 0, work)
    assert seen == [work] and (tmp_path / "claims" / "feature-seed0.lock").exists()
