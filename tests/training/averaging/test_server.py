"""Delayed gradients: the stability edge of the closed form, budgets that are never exceeded, PIAG, resuming."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from training.averaging.server import DelayedServer, StepSize, StepSizes
from training.averaging.simulator import heavy_tailed_delays, replay


def server_of(
    start: Tensor,
    lr: float,
    rule: StepSize = "fixed",
    *,
    workers: int = 1,
    aggregate: bool = False,
    momentum: float = 0.0,
) -> DelayedServer:
    optimizer = torch.optim.SGD([torch.nn.Parameter(start.clone())], lr=lr, momentum=momentum)
    return DelayedServer(optimizer, StepSizes(rule), workers, aggregate=aggregate)


def measured_edge(delay: int, steps: int = 3000) -> float:
    """The largest stable step size on a quadratic with L = 1: one run tries many curvatures with step size 1."""
    low, high = 0.0, 2.5
    for _ in range(3):
        curvature = torch.linspace(low, high, 61, dtype=torch.float64)
        server = server_of(torch.ones_like(curvature), 1.0)
        size = []

        def gradient(z: Tensor, _: int, slope: Tensor = curvature) -> Tensor:
            return slope * z

        for _, x in replay(server, gradient, [delay] * steps):
            size.append(x.abs().clamp(max=1e100))
            # A run far beyond the edge must not overflow and leave NaN behind.
            server.write(x.clamp(-1e100, 1e100))
        window = 4 * (2 * delay + 1)
        early, late = torch.stack(size[steps // 2 : steps // 2 + window]), torch.stack(size[-window:])
        grows = late.amax(0) > early.amax(0)
        first = int(grows.nonzero()[0])
        low, high = float(curvature[first - 1]), float(curvature[first])
    return (low + high) / 2


@pytest.mark.parametrize("delay", [1, 4])
def test_the_stability_edge_is_the_closed_form_to_three_digits(delay: int) -> None:
    exact = 2 * math.sin(math.pi / (2 * (2 * delay + 1)))
    assert measured_edge(delay) == pytest.approx(exact, rel=5e-4)


@given(
    st.sampled_from(["adaptive_a", "adaptive_b"]),
    st.floats(0.01, 10),
    st.lists(st.integers(0, 40), min_size=1, max_size=80),
)
def test_a_step_that_would_exceed_the_budget_is_not_taken(rule: StepSize, budget: float, wished: list[int]) -> None:
    sizes = StepSizes(rule)
    for number, each in enumerate(wished):
        delay = min(each, number)
        size = sizes(budget, delay)
        assert size >= 0
        assert size == 0 or sum(sizes.past[number - delay : number + 1]) <= budget * (1 + 1e-9)


def test_the_rules_are_the_papers() -> None:
    a, b, fixed = StepSizes("adaptive_a", share=0.5), StepSizes("adaptive_b"), StepSizes("fixed", divisor=4)
    assert [a(1.0, delay) for delay in (0, 1, 0, 3)] == pytest.approx([0.5, 0.25, 0.5, 0.0])
    assert [b(1.0, delay) for delay in (0, 1, 0, 1, 2)] == pytest.approx([1.0, 0.0, 1.0, 0.0, 0.0])
    assert b(1.0, 1) == 0.5
    assert [fixed(2.0, delay) for delay in (0, 1, 2)] == [0.5, 0.5, 0.5]
    with pytest.raises(ValueError, match="a delay lies between 0 and the 3 updates so far, got 4"):
        fixed(2.0, 4)
    with pytest.raises(ValueError, match="fixed, adaptive_a or adaptive_b"):
        StepSizes("fixd")  # type: ignore[arg-type]


def test_adaptive_steps_survive_delays_that_the_same_fixed_step_does_not() -> None:
    delays = heavy_tailed_delays(600, mean=8, longest=60, seed=0)
    assert max(delays) == 60 and sorted(delays)[300] <= 3

    def end(rule: StepSize) -> float:
        server = server_of(torch.ones(3, dtype=torch.float64), 0.9, rule)
        return float(list(replay(server, lambda z, _: z, delays))[-1][1].norm())

    assert end("fixed") > 1e6
    assert end("adaptive_a") < 1e-6 and end("adaptive_b") < 1e-6


def test_without_delay_the_server_is_the_optimizer() -> None:
    begin = torch.tensor([1.0, -2.0], dtype=torch.float64)
    server = server_of(begin, 0.1, momentum=0.9)
    own = torch.nn.Parameter(begin.clone())
    optimizer = torch.optim.SGD([own], lr=0.1, momentum=0.9)
    for _, x in replay(server, lambda z, _: 2 * z, [0] * 10):
        own.grad = 2 * own.detach()
        optimizer.step()
        assert torch.equal(x, own.detach())


def test_piag_steps_along_the_mean_of_the_last_gradients() -> None:
    server = server_of(torch.zeros(2), 1.0, workers=3, aggregate=True)
    gradients = [torch.tensor([3.0, 0.0]), torch.tensor([0.0, 6.0]), torch.tensor([3.0, 3.0])]
    expected = torch.zeros(2)
    for worker, known in ((0, [0]), (1, [0, 1]), (2, [0, 1, 2]), (1, [0, 1, 2])):
        delay = server.update(worker, server.version, gradients[worker])
        expected -= torch.stack([gradients[each] for each in known]).mean(0)
        assert torch.allclose(server.read(), expected)
    assert delay == 3  # the oldest gradient of the table, worker 0's, was taken three updates ago


def test_a_restored_server_goes_on_to_the_bit() -> None:
    delays = heavy_tailed_delays(60, mean=3, longest=20, seed=1)

    def fresh() -> DelayedServer:
        return server_of(torch.ones(4), 0.3, "adaptive_a", momentum=0.5, workers=2, aggregate=True)

    whole, first = fresh(), fresh()
    history = [whole.read()]

    def feed(server: DelayedServer, numbers: range) -> None:
        for number in numbers:
            delay = min(delays[number], number)
            server.update(number % 2, number - delay, history[number - delay] * torch.arange(1.0, 5))
            if len(history) == number + 1:
                history.append(server.read())

    feed(whole, range(60))
    feed(first, range(30))
    second = fresh()
    second.load_state_dict(first.state_dict())
    feed(second, range(30, 60))
    assert torch.equal(second.read(), whole.read()) and second.sizes.past == whole.sizes.past


def test_a_trace_is_a_function_of_its_seed_and_wrong_ones_are_refused() -> None:
    assert heavy_tailed_delays(50, mean=4, longest=40, seed=3) == heavy_tailed_delays(50, mean=4, longest=40, seed=3)
    assert heavy_tailed_delays(50, mean=4, longest=40, seed=3) != heavy_tailed_delays(50, mean=4, longest=40, seed=4)
    with pytest.raises(ValueError, match="delay -1 of update 1 is negative"):
        list(replay(server_of(torch.ones(1), 0.1), lambda z, _: z, [0, -1]))
