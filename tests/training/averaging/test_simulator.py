"""Push-sum and its relatives on stacked workers: mass, weights, exactness, overlap, losses, determinism."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.training.averaging.test_topology import IRREGULAR, topologies
from training.averaging.local_sgd import SlowMomentum
from training.averaging.simulator import StackedMean, StackedPairs, StackedPushSum
from training.averaging.topology import Topology, bipartite_exponential, complete, exponential


def start(size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run(workers: Any, steps: int, targets: Tensor, lr: float = 0.1) -> Tensor:
    """Gradient steps on |z - target|^2 / 2 of each worker."""
    for _ in range(steps):
        workers.add(-lr * (workers.debiased() - targets))
        workers.mix()
    return workers.debiased()


@given(topologies(), st.integers(0, 4), st.sampled_from([0.0, 0.3]), st.integers(0, 5))
def test_every_mix_keeps_the_mass_and_positive_weights(
    topology: Topology, staleness: int, loss: float, seed: int
) -> None:
    workers = StackedPushSum(start(topology.size, seed), topology, staleness=staleness, loss=loss, seed=seed)
    before = workers.total()
    for _ in range(12):
        workers.mix()
        assert torch.allclose(workers.total(), before, atol=1e-12)
        assert workers.total()[-1].item() == pytest.approx(topology.size)
        assert bool((workers.weights > 0).all())


@settings(max_examples=15)
@given(topologies(), st.integers(0, 3))
def test_all_workers_end_at_the_mean_of_the_start(topology: Topology, staleness: int) -> None:
    begin = start(topology.size)
    workers = StackedPushSum(begin, topology, staleness=staleness)
    for _ in range(300 * (staleness + 1)):
        workers.mix()
    assert torch.allclose(workers.debiased(), begin.mean(0).expand_as(begin), atol=1e-3)


def test_an_irregular_graph_fails_without_the_weights() -> None:
    begin = start(4)
    with_weights, without = StackedPushSum(begin, IRREGULAR), StackedPushSum(begin, IRREGULAR, push_sum=False)
    for _ in range(200):
        with_weights.mix()
        without.mix()
    assert torch.allclose(with_weights.debiased(), begin.mean(0).expand(4, -1), atol=1e-12)
    assert (without.debiased() - begin.mean(0)).abs().max() > 0.3
    assert (with_weights.weights - 1).abs().max() > 0.3  # there is something to divide by


@pytest.mark.parametrize("size", [2, 4, 8, 16])
def test_exact_average_after_log2_n_steps(size: int) -> None:
    begin = start(size)
    workers = StackedPushSum(begin, exponential(size))
    for _ in range(size.bit_length() - 1):
        assert not torch.allclose(workers.debiased(), begin.mean(0).expand_as(begin), atol=1e-3)
        workers.mix()
    assert torch.allclose(workers.debiased(), begin.mean(0).expand_as(begin), atol=1e-14)


def test_the_complete_graph_equals_all_reduce() -> None:
    targets, begin = start(6, 1), start(1, 2)[0]
    gossip = run(StackedPushSum(begin, complete(6)), 20, targets)
    weights = run(StackedMean(begin, 6, every=1), 20, targets)
    single = begin.clone()
    for _ in range(20):
        single = single - 0.1 * (single - targets).mean(0)  # one model, the mean gradient
    assert torch.allclose(gossip, weights, atol=1e-14) and torch.allclose(gossip[3], single, atol=1e-14)


@given(topologies(), st.integers(1, 4))
def test_staleness_0_is_synchronous_and_more_is_not(topology: Topology, staleness: int) -> None:
    targets = start(topology.size, 1)
    synchronous = torch.zeros(topology.size, 5, dtype=torch.float64)
    weights = torch.ones(topology.size, 1, dtype=torch.float64)
    for step in range(8):  # the algorithm as it is written in the paper
        synchronous = synchronous - 0.1 * (synchronous / weights - targets)
        synchronous, weights = topology.matrix(step) @ synchronous, topology.matrix(step) @ weights
    begin = torch.zeros(5, dtype=torch.float64)
    none = run(StackedPushSum(begin, topology), 8, targets)
    late = run(StackedPushSum(begin, topology, staleness=staleness), 8, targets)
    assert torch.allclose(none, synchronous / weights, atol=1e-13)
    assert (none - late).abs().max() > 1e-4


def test_lost_messages_bias_the_mean_unless_their_weight_is_lost_too_or_the_sender_keeps_them() -> None:
    begin = start(8, 3) + 2

    def off(lost: Any) -> tuple[float, float]:
        gaps, weight = [], 0.0
        for seed in range(20):
            workers = StackedPushSum(begin, exponential(8), loss=0.1, lost=lost, seed=seed)
            for _ in range(12):
                workers.mix()
            gaps.append(workers.debiased().mean(0) - begin.mean(0))
            weight = float(workers.weights.sum())
        return float(torch.stack(gaps).mean(0).norm()), weight

    (kept, full), (dropped, less), (weightless, assumed) = off("kept"), off("dropped"), off("weightless")
    assert kept < 1e-3 and dropped < 0.1 and weightless > 1
    assert full == pytest.approx(8) and assumed == pytest.approx(8) and less < 6


def test_training_with_mass_that_vanishes_diverges_and_with_kept_mass_does_not() -> None:
    targets = start(8, 3)

    def gap(lost: Any) -> float:
        workers = StackedPushSum(torch.zeros(5, dtype=torch.float64), exponential(8), loss=0.1, lost=lost, seed=1)
        return float((run(workers, 300, targets, lr=0.05).mean(0) - targets.mean(0)).norm())

    # With all weights near 0 a gradient of full size moves x / w without bound.
    assert gap("kept") < 0.05 and 0.2 < gap("weightless") < 10
    assert not gap("dropped") < 1e3


def test_a_run_is_a_function_of_its_seed() -> None:
    targets = start(8, 3)

    def lossy(seed: int) -> Tensor:
        return run(StackedPushSum(start(8), exponential(8), staleness=1, loss=0.2, seed=seed), 15, targets)

    def pairs(seed: int) -> Tensor:
        return run(StackedPairs(start(8), bipartite_exponential(8), seed), 15, targets)

    for make in (lossy, pairs):
        assert torch.equal(make(1), make(1)) and not torch.allclose(make(1), make(2), atol=1e-6)


@settings(max_examples=10)
@given(st.integers(1, 6), st.integers(0, 9))
def test_pairwise_exchanges_keep_the_mean(half: int, seed: int) -> None:
    begin = start(2 * half, seed)
    workers = StackedPairs(begin, bipartite_exponential(2 * half), seed)
    for _ in range(60):
        workers.mix()
    assert torch.allclose(workers.consensus(), begin.mean(0), atol=1e-13)
    assert (workers.x - begin.mean(0)).abs().max() < 0.2 * (begin - begin.mean(0)).abs().max()


def test_local_sgd_agrees_when_it_is_due() -> None:
    workers = StackedMean(start(4), 4, every=3)
    spread = []
    for _ in range(6):
        workers.add(-0.1 * (workers.debiased() - start(4, 1)))
        workers.mix()
        spread.append(float(workers.x.var(0).sum()))
    assert [value < 1e-20 for value in spread] == [False, False, True, False, False, True]


def test_slow_momentum_is_the_papers_update() -> None:
    begin = start(1)[0]
    slow = SlowMomentum(begin, 0.5, 0.8)
    x, u = begin.clone(), torch.zeros(5, dtype=torch.float64)
    for round_number, lr in enumerate((0.1, 0.2, 0.05)):
        mean = x - 0.3 * start(1, round_number + 5)[0]
        u = 0.5 * u + (x - mean) / lr
        x = x - 0.8 * lr * u
        assert torch.allclose(slow(mean, lr), x, atol=1e-14)
    plain = SlowMomentum(begin, 0.0)
    assert torch.allclose(plain(start(1, 9)[0], 0.3), start(1, 9)[0], atol=1e-14)  # beta 0, alpha 1: the mean itself


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="probability below 1"):
        StackedPushSum(start(4), complete(4), loss=1.0)
    with pytest.raises(ValueError, match="start has 3 rows, the topology 4 workers"):
        StackedPushSum(start(3), complete(4))
