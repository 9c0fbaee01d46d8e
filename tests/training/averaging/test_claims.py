"""The claims of averaging: their numbers come from where they say, their runs are paired and repeatable."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training.claims import async_steps, averaging, delayed_runs, gossip_runs
from training.claims.base import Claim


@pytest.mark.parametrize("claim", [averaging.CLAIM, async_steps.CLAIM])
def test_claims_are_complete(claim: Claim) -> None:
    arms = {arm.name for arm in claim.arms}
    assert claim.core_seeds >= 10 and len(arms) == len(claim.arms)
    for comparison in claim.comparisons:
        assert {comparison.better, comparison.worse} <= arms and comparison.metric in claim.metrics
    assert claim.statement and "pilot of seeds 100 and 101" in claim.setting


def test_workers_have_their_own_digits_and_nobody_sees_the_test() -> None:
    data = gossip_runs.digits(0)
    pixels = [tuple(row.tolist()) for part in (data.train, data.validation, data.test) for row in part[0]]
    assert len(pixels) == len(set(pixels)) == 1797
    for shards in (data.even, data.sorted):
        rows = torch.cat(shards)
        assert len(rows) == len(rows.unique()) and len(shards) == gossip_runs.WORKERS
    assert max(len(data.train[1][shard].unique()) for shard in data.sorted) <= 3
    assert min(len(data.train[1][shard].unique()) for shard in data.even) == 10


def test_stacked_networks_are_separate_networks() -> None:
    weights = torch.stack([gossip_runs.initial(seed) for seed in (1, 2)])
    pixels = torch.randn(2, 5, 64)
    first = weights[:, : 64 * 64].view(2, 64, 64)
    second = weights[:, 64 * 64 + 64 : -10].view(2, 64, 10)
    for index in range(2):
        expected = (pixels[index] @ first[index]).relu() @ second[index]
        assert torch.allclose(gossip_runs.logits(weights, pixels)[index], expected, atol=1e-5)


def test_runs_repeat_and_gossip_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gossip_runs, "STEPS", 60)
    outcomes = [gossip_runs.train(averaging.push_sum(), 3, 0.05, skewed=False) for _ in range(2)]
    assert outcomes[0] == outcomes[1] and outcomes[0].mean > 80 and outcomes[0].worst <= outcomes[0].mean
    alone = gossip_runs.train(averaging.mean_every(0), 3, 0.05, skewed=True)
    assert alone.mean < 30 and outcomes[0].mean > alone.mean


def test_the_modelled_cluster_is_the_plans() -> None:
    from training.build import build_masks, model_config
    from training.claims.arms import recipe_settings
    from training.flops import training_flops_per_sample

    settings = recipe_settings("ijepa/vith14_in1k", 0, Path("unused"))
    config = model_config(settings)
    assert settings.masks is not None
    flops = training_flops_per_sample(settings, config, build_masks(settings.masks, config))
    assert flops == pytest.approx(gossip_runs.FORWARD_FLOPS + gossip_runs.BACKWARD_FLOPS, rel=0.005)
    assert gossip_runs.workload().seconds == pytest.approx(0.199, rel=0.01)


@pytest.mark.parametrize("delay", [2])
def test_an_edge_found_on_digits_is_the_closed_forms(delay: int) -> None:
    found = delayed_runs.stability_edge(delay, seed=3, updates=3000)
    assert found == pytest.approx(delayed_runs.closed_form(delay), rel=2e-3)


def test_the_logistic_problem_is_what_it_says() -> None:
    task, least = delayed_runs.problem(3)
    x = torch.randn(len(task.start), dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 10
    step = 1e-6 * torch.randn(len(x), dtype=torch.float64)
    slope = (task.value(x + step) - task.value(x - step)) / 2
    assert slope == pytest.approx(float(task.gradient(x) @ step), rel=1e-5)
    assert least < task.value(task.start) and least <= task.value(x)
    # A step of 1 / L never raises the objective; L is a bound on the curvature.
    y = task.start
    for _ in range(20):
        before = task.value(y)
        y = y - task.gradient(y) / task.smoothness
        assert task.value(y) < before


def test_a_pair_of_gains_differs_by_the_rule_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delayed_runs, "UPDATES", 200)
    fixed, adaptive = (delayed_runs.digits_gained(3, 3, rule, 1.0) for rule in ("fixed", "adaptive_b"))
    assert 0 < fixed < adaptive
    assert delayed_runs.digits_gained(3, 3, "fixed", 4000.0) < 0  # diverges, and is counted so
