"""The network model: its limits are those that can be worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from training.averaging.network import (
    GIGABIT,
    Network,
    Workload,
    all_reduce_ends,
    async_gossip_ends,
    gossip_ends,
    local_sgd_ends,
    server_ends,
    slowdowns,
)
from training.averaging.topology import complete, exponential, ring

EVEN = torch.ones(6, 4, dtype=torch.float64)
LOAD = Workload(forward=1.0, backward=2.0, size=400e6, bucket=100e6)
FAST, SLOW = Network(1e15, latency=0.0), Network(100e6, latency=0.0)


def test_a_free_network_leaves_computing() -> None:
    expected = 3.0 * torch.arange(1, 7, dtype=torch.float64)
    for ends in (
        all_reduce_ends(LOAD, FAST, EVEN),
        gossip_ends(LOAD, FAST, EVEN, exponential(4)),
        gossip_ends(LOAD, FAST, EVEN, ring(4), staleness=1),
        local_sgd_ends(LOAD, FAST, EVEN, 2),
        async_gossip_ends(LOAD, EVEN),
        server_ends(LOAD, FAST, EVEN),
    ):
        assert torch.allclose(ends, expected[:, None].expand(6, 4), atol=1e-4)


def test_an_all_reduce_overlaps_with_the_backward_pass() -> None:
    # Four buckets of 100 MB; a ring of four moves 1.5 x 100 MB per bucket: 1.5 s. The first is ready at 1.5 s.
    assert SLOW.all_reduce(100e6, 4) == pytest.approx(1.5)
    assert all_reduce_ends(LOAD, SLOW, EVEN)[0, 0].item() == pytest.approx(1.5 + 4 * 1.5)
    # Twice as fast, 0.75 s per bucket: each waits for the one before, the first begins at 1.5 s.
    assert all_reduce_ends(LOAD, Network(200e6, 0.0), EVEN)[0, 0].item() == pytest.approx(1.5 + 4 * 0.75)
    # Ten times: every bucket is gone before the next is ready, only the last shows.
    assert all_reduce_ends(LOAD, Network(1e9, 0.0), EVEN)[0, 0].item() == pytest.approx(3 + 0.15)
    assert Network(1e9, 1e-3).all_reduce(0.0, 4) == pytest.approx(6e-3)


def test_gossip_waits_for_its_peers_only_and_overlap_hides_the_message() -> None:
    blocking = gossip_ends(LOAD, SLOW, EVEN, exponential(4))
    assert blocking[:, 0].tolist() == pytest.approx([7.0 * step for step in range(1, 7)])  # 3 s, then 4 s on the way
    late = gossip_ends(LOAD, SLOW, EVEN, exponential(4), staleness=1)
    assert late[-1, 0].item() < blocking[-1, 0].item()
    assert (late[-1] - late[-2])[0].item() == pytest.approx(4.0)  # the link, not the sum, sets the pace
    quick = gossip_ends(LOAD, Network(400e6, 0.0), EVEN, exponential(4), staleness=1)
    assert quick[-1, 0].item() == pytest.approx(18.0)  # 1 s on the way hides behind 3 s of computing
    assert gossip_ends(LOAD, SLOW, EVEN, complete(4))[0].max().item() == pytest.approx(3 + 3 * 4.0)


def test_a_straggler_holds_up_everyone_in_an_all_reduce_and_only_its_peers_in_gossip() -> None:
    slow = EVEN.clone()
    slow[0, 3] = 5.0
    waits = all_reduce_ends(LOAD, FAST, slow)[0]
    assert torch.allclose(waits, torch.full_like(waits, 15.0), atol=1e-4)
    gossip = gossip_ends(LOAD, FAST, slow, exponential(4))[0]
    assert gossip.tolist() == pytest.approx([15.0, 3.0, 3.0, 15.0], abs=1e-3)  # worker 3 sends to worker 0
    assert async_gossip_ends(LOAD, slow)[0].tolist() == [3.0, 3.0, 3.0, 15.0]


def test_a_servers_link_is_shared() -> None:
    ends = server_ends(Workload(0.5, 0.5, 100e6), SLOW, EVEN)
    assert sorted(ends[0].tolist()) == pytest.approx([3.0, 4.0, 5.0, 6.0])  # 1 s of computing, 1 s in, 1 s out, in turn
    assert (ends[-1].max() - ends[-2].max()).item() == pytest.approx(4.0)  # four gradients of 1 s per round


def test_a_step_can_be_measured_from_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps({"step": 1, "samples_per_second": speed}) + "\n" for speed in (1, 32, 64, 32)))
    load = Workload.of_log(log, 64, 1e6)
    assert load.seconds == pytest.approx(2.0) and load.backward == pytest.approx(2 * load.forward)
    log.write_text(json.dumps({"step": 1, "probe_shape": 0.5}))
    with pytest.raises(ValueError, match="holds 0 entries with samples_per_second"):
        Workload.of_log(log, 64, 1e6)


def test_slowdowns_are_drawn_by_seed() -> None:
    drawn = slowdowns(2000, 4, spread=0.1, straggling=0.05, factor=3.0, seed=1)
    assert torch.equal(drawn, slowdowns(2000, 4, spread=0.1, straggling=0.05, factor=3.0, seed=1))
    assert (drawn > 2).double().mean().item() == pytest.approx(0.05, abs=0.01)
    assert torch.equal(slowdowns(3, 2), torch.ones(3, 2, dtype=torch.float64))
    assert GIGABIT * 8 == 1e9
