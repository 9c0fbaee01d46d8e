"""Topologies: columns sum to 1, transport and matrix say the same, exact means on powers of two, refusals in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.averaging.topology import (
    Topology,
    TopologyError,
    TopologySettings,
    bipartite_exponential,
    complete,
    exponential,
    from_file,
    from_rounds,
    ring,
)

IRREGULAR = from_rounds("irregular", [[[1, 2, 3], [2], [0], [0, 2]]])
ones = torch.ones


def product(topology: Topology, steps: int) -> torch.Tensor:
    total = torch.eye(topology.size, dtype=torch.float64)
    for step in range(steps):
        total = topology.matrix(step) @ total
    return total


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    size = draw(st.integers(2, 12))
    kind = draw(st.sampled_from(["ring", "exponential", "bipartite", "complete", "random"]))
    if kind == "ring":
        return ring(size)
    if kind == "complete":
        return complete(size)
    if kind == "bipartite":
        return bipartite_exponential(size + size % 2)
    if kind == "exponential":
        return exponential(size, draw(st.integers(1, 4)))
    extra = [draw(st.sets(st.integers(0, size - 1), max_size=3)) for _ in range(size)]
    return from_rounds("random", [[sorted({(rank + 1) % size, *more} - {rank}) for rank, more in enumerate(extra)]])


@given(topologies(), st.integers(0, 50))
def test_a_round_keeps_all_mass_and_the_transport_sees_the_matrix(topology: Topology, step: int) -> None:
    matrix = topology.matrix(step)
    assert torch.allclose(matrix.sum(0), ones(topology.size, dtype=torch.float64), atol=1e-15)
    for rank in range(topology.size):
        senders = [each for each in range(topology.size) if each != rank and matrix[rank, each] > 0]
        receivers = [each for each in range(topology.size) if each != rank and matrix[each, rank] > 0]
        assert list(topology.in_peers(rank, step)) == senders
        assert sorted(topology.out_peers(rank, step)) == receivers
        assert matrix[rank, rank] == topology.share(rank, step) > 0


@pytest.mark.parametrize(
    ("size", "peers", "steps"), [(2, 1, 1), (4, 1, 2), (8, 1, 3), (16, 1, 4), (32, 1, 5), (9, 2, 2)]
)
def test_the_mean_is_exact_after_log_n_steps(size: int, peers: int, steps: int) -> None:
    mean = torch.full((size, size), 1 / size, dtype=torch.float64)
    topology = exponential(size, peers)
    assert torch.allclose(product(topology, steps), mean, atol=1e-15)
    if steps > 1:
        assert not torch.allclose(product(topology, steps - 1), mean, atol=1e-3)


def test_consensus_speeds_are_those_of_the_literature() -> None:
    def left(topology: Topology, steps: int) -> float:
        gap = product(topology, steps) - 1 / topology.size
        return float(torch.linalg.matrix_norm(gap, ord=2))

    assert left(exponential(6), 3) == pytest.approx(0.22, abs=0.01)
    assert left(exponential(6), 10) == pytest.approx(8.8e-3, abs=1e-4)
    assert left(ring(16), 10) == pytest.approx(0.59, abs=0.01)
    assert left(complete(7), 1) < 1e-15


@pytest.mark.parametrize("make", [ring, exponential, complete, bipartite_exponential])
def test_regular_graphs_are_doubly_stochastic(make: Callable[[int], Topology]) -> None:
    assert make(8).doubly_stochastic
    assert not IRREGULAR.doubly_stochastic


def test_bipartite_rounds_are_symmetric_pairs_of_odd_and_even() -> None:
    topology = bipartite_exponential(10)
    for step in range(len(topology.rounds)):
        matrix = topology.matrix(step)
        assert torch.equal(matrix, matrix.T)
        assert all((rank + peer) % 2 for rank in range(10) for peer in topology.out_peers(rank, step))
    with pytest.raises(TopologyError, match="an even number of them, not 7"):
        bipartite_exponential(7)


def test_a_file_gives_an_irregular_graph(tmp_path: Path) -> None:
    path = tmp_path / "graph.yaml"
    path.write_text("[[[1, 2, 3], [2], [0], [0, 2]]]")
    assert from_file(path, 4).rounds == IRREGULAR.rounds
    assert TopologySettings(name="file", path=str(path)).build(4).rounds == IRREGULAR.rounds


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[[1], [0], [0]]]", "nothing that worker 2 sends|worker 0 sends ever reaches worker 2"),
        ("[[[1], [2], [3]]]", r"worker 2 sends to \[3\]; peers are distinct workers out of 0 .. 2"),
        ("[[[1], [1], [0]]]", r"worker 1 sends to \[1\]"),
        ("[[[1], [0]]]", "is for 2 workers, there are 3"),
        ("[[[1], [2], [0]], [[1]]]", r"rounds of \[1, 3\]"),
        ("ring", "is not a list of rounds"),
        ("[1, 2", "cannot be read"),
    ],
)
def test_wrong_files_are_refused_in_words(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "graph.yaml"
    path.write_text(text)
    with pytest.raises(TopologyError, match=said):
        from_file(path, 3)
    with pytest.raises(TopologyError, match="cannot be read"):
        from_file(tmp_path / "missing.yaml", 3)


def test_one_worker_talks_to_nobody() -> None:
    for make in (ring, exponential, complete):
        assert make(1).out_peers(0, 3) == () and make(1).matrix(0).item() == 1.0
