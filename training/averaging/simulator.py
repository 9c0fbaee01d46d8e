"""Many workers in one process: stacked weights [n, d] and the matrices W(t), or a trace of delays. No network.

The topologies and the server's update are the objects that the averagers use over a network, so what is simulated is
what runs; a test holds the two together to 1e-6. How long it would take is another model's business: network.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from jepa_hub.masking.draws import keyed, keyed_bits, keyed_pick
from training.averaging.server import DelayedServer
from training.averaging.topology import Topology

Lost = Literal["kept", "dropped", "weightless"]
LOSS, PICK = 108, 109  # purposes of keys, so that no two draws of a run share one


class StackedPushSum:
    """Push-sum over stacked workers, with messages that may be late or lost.

    Args:
        start: the weights [d] that all begin with, or each worker's own, [n, d].
        topology: who sends to whom.
        staleness: steps that a message travels.
        push_sum: False drops the weights: every worker takes its mass for the parameters.
        loss: probability that a message is lost.
        lost: what becomes of a lost share. "kept": the sender keeps it, as over a transport that tells; "dropped": it
            is gone, numbers and weight; "weightless": the numbers are gone but the weight arrives, as where the weight
            is not sent but assumed.
        seed: of the losses.

    Attributes:
        mass: [n, d + 1]; the last column holds the push-sum weights.
        steps: mixes so far.
    """

    def __init__(
        self,
        start: Tensor,
        topology: Topology,
        *,
        staleness: int = 0,
        push_sum: bool = True,
        loss: float = 0.0,
        lost: Lost = "kept",
        seed: int = 0,
    ) -> None:
        if not 0 <= loss < 1 or staleness < 0:
            raise ValueError(f"loss is a probability below 1 and staleness at least 0, got {loss} and {staleness}")
        stacked = start.expand(topology.size, -1) if start.ndim == 1 else start
        if stacked.shape[0] != topology.size:
            raise ValueError(f"start has {stacked.shape[0]} rows, the topology {topology.size} workers")
        self.mass = torch.cat([stacked, torch.ones_like(stacked[:, :1])], dim=1)  # [n, d + 1]
        self.topology, self.staleness, self.push_sum = topology, staleness, push_sum
        self.loss, self.lost, self.seed = loss, lost, seed
        self.steps = 0
        self.pending: deque[Tensor] = deque()  # arrivals of the last `staleness` steps, [n, d + 1] each
        period = range(len(topology.rounds))
        self.matrices = [topology.matrix(step).to(start) for step in period]

    @property
    def weights(self) -> Tensor:
        """The push-sum weights, [n]."""
        return self.mass[:, -1]

    def debiased(self) -> Tensor:
        """What each worker computes at, [n, d]."""
        return self.mass[:, :-1] / self.mass[:, -1:] if self.push_sum else self.mass[:, :-1]

    def add(self, change: Tensor) -> None:
        """Add what the optimizers did, [n, d]."""
        self.mass = torch.cat([self.mass[:, :-1] + change, self.mass[:, -1:]], dim=1)

    def total(self) -> Tensor:
        """All mass and weight, with what is under way, [d + 1]."""
        return self.mass.sum(0) + sum((each.sum(0) for each in self.pending), torch.zeros_like(self.mass[0]))

    def consensus(self) -> Tensor:
        """What the workers agree on, [d]."""
        total = self.total()
        return total[:-1] / total[-1] if self.push_sum else total[:-1] / self.topology.size

    def mix(self) -> None:
        """One step of the topology."""
        matrix = self.matrices[self.steps % len(self.matrices)]
        own = matrix.diagonal().clone()
        sent = matrix - own.diag()
        arrives = self._arrives().to(matrix)
        delivered = torch.einsum("ij,jd->id", sent * arrives, self.mass)
        if self.lost == "weightless":
            delivered[:, -1] = sent @ self.mass[:, -1]
        elif self.lost == "kept":
            own = own + (sent * (1 - arrives)).sum(0)
        self.mass = own[:, None] * self.mass
        self.pending.append(delivered)
        if len(self.pending) > self.staleness:
            self.mass = self.mass + self.pending.popleft()
        self.steps += 1

    def _arrives(self) -> Tensor:
        """Which messages of this step arrive: [receiver, sender], 0 or 1."""
        count = self.topology.size
        if not self.loss:
            return torch.ones(count, count)
        bits = keyed_bits(keyed(self.seed, self.steps, LOSS), count * count)
        uniform = (bits & ((1 << 53) - 1)).double() / (1 << 53)
        return (uniform >= self.loss).double().view(count, count)


class StackedPairs:
    """Asynchronous pairwise gossip over stacked workers: gradients are taken before the last exchange.

    Each step every odd worker averages with a random even neighbour, one after another in a drawn order; what workers
    compute at is the copy from before these exchanges, as when an exchange happens during every step.

    Args:
        start: [d] or [n, d].
        topology: whose edges between odd and even workers are used.
        seed: of neighbours and order.
    """

    def __init__(self, start: Tensor, topology: Topology, seed: int = 0) -> None:
        stacked = start.expand(topology.size, -1) if start.ndim == 1 else start
        self.x = stacked.clone()
        self.copy = self.x.clone()
        self.seed, self.steps = seed, 0
        rounds = range(len(topology.rounds))
        self.edges = {
            rank: sorted({peer for step in rounds for peer in topology.out_peers(rank, step) if (peer - rank) % 2})
            for rank in range(1, topology.size, 2)
        }

    def debiased(self) -> Tensor:
        """What each worker computes at, [n, d]."""
        return self.copy

    def add(self, change: Tensor) -> None:
        """Add what the optimizers did, [n, d]."""
        self.x = self.x + change

    def consensus(self) -> Tensor:
        """What the workers agree on, [d]."""
        return self.x.mean(0)

    def mix(self) -> None:
        """The copies for the next step are made, then every active worker exchanges once."""
        self.copy = self.x.clone()
        draws = keyed_bits(keyed(self.seed, self.steps, PICK), len(self.edges)).tolist()
        for rank in (rank for _, rank in sorted(zip(draws, self.edges, strict=True))):
            peers = self.edges[rank]
            peer = peers[int(keyed_pick(keyed(self.seed, self.steps, rank, PICK), len(peers)))]
            self.x[[rank, peer]] = self.x[[rank, peer]].mean(0)
        self.steps += 1


class StackedMean:
    """The mean of all workers every few steps: all-reduce of weights (every=1), local SGD, or none (every=0)."""

    def __init__(self, start: Tensor, size: int, every: int) -> None:
        self.x = (start.expand(size, -1) if start.ndim == 1 else start).clone()
        self.every, self.steps = every, 0

    def debiased(self) -> Tensor:
        """What each worker computes at, [n, d]."""
        return self.x

    def add(self, change: Tensor) -> None:
        """Add what the optimizers did, [n, d]."""
        self.x = self.x + change

    def consensus(self) -> Tensor:
        """What the workers agree on, [d]."""
        return self.x.mean(0)

    def mix(self) -> None:
        """One step; the mean where one is due."""
        self.steps += 1
        if self.every and self.steps % self.every == 0:
            self.x = self.x.mean(0, keepdim=True).expand_as(self.x).clone()


Stacked = StackedPushSum | StackedPairs | StackedMean


def replay(
    server: DelayedServer, gradient: Callable[[Tensor, int], Tensor], delays: Sequence[int]
) -> Iterator[tuple[int, Tensor]]:
    """Asynchronous SGD along a trace: update k gets the gradient taken `delays[k]` updates earlier.

    Args:
        server: that a run over a network would use.
        gradient: (parameters [count], update number) -> gradient [count].
        delays: wished for; where there were fewer updates so far, the first parameters are used.

    Yields:
        (delay, parameters [count] after the update), one for each of the trace.
    """
    longest = max(delays, default=0)
    history: deque[Tensor] = deque([server.read()], maxlen=longest + 1)
    for number, wished in enumerate(delays):
        delay = min(wished, number)
        if delay < 0:
            raise ValueError(f"delay {wished} of update {number} is negative")
        server.update(0, server.version - delay, gradient(history[-1 - delay], number))
        history.append(server.read())
        yield delay, history[-1]


def heavy_tailed_delays(count: int, *, mean: float, longest: int, seed: int, tail: float = 1.2) -> list[int]:
    """A trace of delays: most are short, a few very long (Pareto with exponent `tail`, cut at `longest`).

    Args:
        count: of updates.
        mean: aimed at before the cut.
        longest: delay.
        seed: of the draws.
    """
    scale = mean * (tail - 1) / tail
    bits = keyed_bits(keyed(seed, PICK, LOSS), count)
    uniform = ((bits & ((1 << 53) - 1)).double() + 1) / (1 << 53)
    drawn = (scale * uniform ** (-1 / tail)).floor().clamp(max=longest)
    return [int(each) for each in drawn.tolist()]
