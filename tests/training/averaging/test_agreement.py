"""Averagers over gloo, four workers in float64: they do to 1e-6 what the simulator says."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.averaging import gossip_worker
from tests.training.averaging.gossip_worker import CASES, LR, SIZE, Toy, batch_of, local_step, simulate
from tests.training.averaging.test_topology import IRREGULAR
from tests.training.worker import CONTEXT, finish, shared_environ
from training.averaging.flat import Flat
from training.averaging.simulator import StackedMean, StackedPushSum
from training.averaging.topology import bipartite_exponential, complete, exponential, ring

WORLD, STEPS = 4, 20


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("gloo")
    (folder / "irregular.yaml").write_text(json.dumps([[list(peers) for peers in each] for each in IRREGULAR.rounds]))
    processes = []
    for environ in shared_environ(WORLD):
        process = CONTEXT.Process(target=gossip_worker.work, args=(str(folder), environ))
        process.start()
        processes.append(process)
    finish(processes)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]


def seen(results: list[dict[str, Any]], name: str) -> Tensor:
    """[steps, workers, count]."""
    return torch.stack([each[name]["seen"] for each in results], dim=1)


def begin() -> Tensor:
    return Flat(Toy()).read()


SIMULATED: dict[str, Any] = {
    "exponential": lambda: StackedPushSum(begin(), exponential(WORLD)),
    "two_peers": lambda: StackedPushSum(begin(), exponential(WORLD, 2)),
    "late_1": lambda: StackedPushSum(begin(), exponential(WORLD), staleness=1),
    "late_3": lambda: StackedPushSum(begin(), ring(WORLD), staleness=3),
    "bipartite": lambda: StackedPushSum(begin(), bipartite_exponential(WORLD)),
    "complete": lambda: StackedPushSum(begin(), complete(WORLD)),
    "irregular": lambda: StackedPushSum(begin(), IRREGULAR, staleness=1),
    "local": lambda: StackedMean(begin(), WORLD, every=3),
}


@pytest.mark.parametrize("name", SIMULATED)
def test_gloo_and_the_simulator_agree(name: str, results: list[dict[str, Any]]) -> None:
    stacked = SIMULATED[name]()
    expected = simulate(stacked, Toy, STEPS)
    found = seen(results, name)
    assert found.dtype == torch.float64 and found.shape == expected.shape == (STEPS, WORLD, begin().numel())
    assert (found - expected).abs().max() < 1e-6
    assert (found[-1] - begin()).abs().max() > 0.1  # something happened
    # Modules moved once more after the last mix (their moving averages), which the consensus counts.
    assert (results[0][name]["consensus"] - stacked.consensus()).abs().max() < 1e-9
    assert all(torch.equal(each[name]["consensus"], results[0][name]["consensus"]) for each in results)
    assert all(each[name]["untouched"] for each in results)  # looking at the consensus changes no worker


def test_the_cases_differ(results: list[dict[str, Any]]) -> None:
    ends = [seen(results, name)[-1] for name in SIMULATED]
    for number, one in enumerate(ends):
        for other in ends[:number]:
            assert (one - other).abs().max() > 1e-5


def test_shared_gradients_of_post_local_sgd_are_one_large_batch(results: list[dict[str, Any]]) -> None:
    found = seen(results, "post_local")[:, :, :SIZE]
    assert (found - found[:, :1]).abs().max() == 0  # every worker holds the same parameters
    modules = [Toy() for _ in range(WORLD)]
    for step in range(STEPS):
        for rank, module in enumerate(modules):
            local_step(module, torch.optim.SGD([module.x], lr=LR), rank, step)
        gradient = torch.stack([each.x.grad for each in modules if each.x.grad is not None]).mean(0)
        for module in modules:
            with torch.no_grad():
                module.x.sub_(LR * gradient)
        assert (found[step, 0] - modules[0].x.detach()).abs().max() < 1e-12


def test_no_mass_is_lost_in_half_precision(results: list[dict[str, Any]]) -> None:
    found = seen(results, "bfloat16")
    weights = found[:, :, -1].sum(1)
    assert torch.allclose(weights, torch.full_like(weights, WORLD), atol=1e-6)
    report = results[0]["bfloat16"]["report"]
    assert 0.5 < report["push_sum_weight"] < 1 and report["disagreement"] > 0


def slopes() -> Tensor:
    """Mean gradient of the linear loss over workers and steps, summed over steps."""
    each = [[batch_of(rank, step).mean(0) for rank in range(WORLD)] for step in range(STEPS)]
    return torch.stack([torch.stack(row) for row in each]).sum((0, 1))


def test_pairwise_exchanges_over_threads_keep_the_mean(results: list[dict[str, Any]]) -> None:
    for each in results:
        assert torch.allclose(each["pairs"]["consensus"], -LR * slopes() / WORLD, atol=1e-12)
        assert each["pairs"]["untouched"]
    assert all(results[rank]["pairs"]["report"]["exchanges_per_step"] > 0 for rank in (1, 3))
    assert (seen(results, "pairs")[-1] - seen(results, "pairs")[-1, 0]).abs().max() > 1e-6


def test_the_server_applies_every_gradient_once(results: list[dict[str, Any]]) -> None:
    for each in results:
        assert torch.allclose(each["server"]["consensus"], -LR * slopes(), atol=1e-12)
    assert all(0 <= each["server"]["report"]["delay"] < WORLD * STEPS for each in results)


def test_slow_momentum_over_gloo_follows_the_paper(results: list[dict[str, Any]]) -> None:
    x, buffer = torch.zeros(SIZE, dtype=torch.float64), torch.zeros(SIZE, dtype=torch.float64)
    for first in range(0, STEPS, 4):
        moved = torch.stack(
            [LR * batch_of(rank, step).mean(0) for rank in range(WORLD) for step in range(first, first + 4)]
        )
        buffer = 0.5 * buffer + moved.sum(0) / WORLD / LR
        x = x - LR * buffer
    assert torch.allclose(results[2]["slow"]["consensus"], x, atol=1e-12)


def test_every_case_is_checked() -> None:
    assert set(CASES) == {*SIMULATED, "post_local", "bfloat16", "pairs", "server", "slow"}
