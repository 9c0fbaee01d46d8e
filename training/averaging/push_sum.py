"""Push-sum gossip (SGP), with overlap (OSGP); on a doubly stochastic topology it is D-PSGD.

Every worker i keeps a mass x_i and a weight w_i, and computes at z_i = x_i / w_i, which is what its module holds. A
step adds what the optimizer did to z_i to x_i; then x_i and w_i are split over the peers. With staleness k the shares
of step t are added at step t + k, so that they travel while k steps are computed; which share arrives when never
depends on the network, so a run is a function of its seed.
Source: arXiv:1811.10792, algorithm 1 (SGP) and sec. 3 (overlap). The code of the paper waits for at most k steps
instead of exactly k.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch import distributed as dist

from training.averaging.base import AveragingSettings, WorkerLostError
from training.averaging.per_worker import PerWorker, sum_in_order
from training.averaging.topology import Topology, TopologySettings

TAGS = 1 << 15


class PushSumSettings(AveragingSettings):
    """Settings of `PushSum`.

    Attributes:
        topology: who sends to whom.
        staleness: steps that a message may travel, 0 waits for it (SGP), 1 and more overlap it with computation.
    """

    topology: TopologySettings = TopologySettings()
    staleness: int = Field(default=0, ge=0)


@dataclass
class Arrivals:
    """Shares that are due at a step.

    Attributes:
        step: at which they are added.
        boxes: what comes from each sender, [count + 1] each.
        sent: the share that this worker sent; it must not be freed before it has left.
        requests: pairs of the other worker's rank and the transfer; empty once all are done.
    """

    step: int
    boxes: list[Tensor]
    sent: Tensor | None
    requests: list[tuple[int, Any]]


class PushSum(PerWorker):
    """Gossip with push-sum weights; the weight travels as one more number of the vector."""

    Settings: ClassVar[type[AveragingSettings]] = PushSumSettings

    def start(self) -> None:
        """All weights are 1 and nothing is under way."""
        self.topology: Topology = self.settings.topology.build(self.world)
        self.steps = 0
        self.mass = torch.cat([self.flat.read(), torch.ones(1, dtype=self.flat.dtype, device=self.flat.device)])
        self.pending: deque[Arrivals] = deque()

    @property
    def weight(self) -> float:
        """The push-sum weight of this worker; always positive."""
        return self.mass[-1].item()

    def debiased(self) -> Tensor:
        """The de-biased weights x / w, [count]."""
        return self.mass[:-1] / self.mass[-1]

    def current(self) -> Tensor:
        """The mass with what happened to the module since the last mix, and the weight, [count + 1]."""
        change = self.flat.read() - self.flat.rounded(self.debiased())
        return torch.cat([self.mass[:-1] + change, self.mass[-1:]])

    def step(self, method: nn.Module, optimizer: Any) -> None:
        """One optimizer step, then one mix."""
        optimizer.step()
        self.mix()

    def mix(self) -> None:
        """Send shares of the mass to this step's peers and add those that are due."""
        self.mass = self.current()
        share = self.mass * self.topology.share(self.rank, self.steps)
        self.pending.append(self._exchange(share))
        self.mass = share
        while self.pending and self.pending[0].step <= self.steps:
            due = self.pending.popleft()
            self._wait(due)
            if due.boxes:
                self.mass = self.mass + sum_in_order(due.boxes)
        self.flat.write(self.debiased())
        self.steps += 1

    def _exchange(self, share: Tensor) -> Arrivals:
        senders = self.topology.in_peers(self.rank, self.steps)
        receivers = self.topology.out_peers(self.rank, self.steps)
        sent = share.clone()
        boxes = [torch.empty_like(share) for _ in senders]
        tag = self.steps % TAGS
        sends = [dist.P2POp(dist.isend, sent, peer, self.group, tag) for peer in receivers]
        receives = [
            dist.P2POp(dist.irecv, box, peer, self.group, tag) for box, peer in zip(boxes, senders, strict=True)
        ]
        requests: list[tuple[int, Any]] = []
        if sends or receives:
            try:
                works = dist.batch_isend_irecv(sends + receives)
            except RuntimeError as error:
                raise self._lost([*receivers, *senders], error) from error
            peers = [*receivers, *senders]
            # NCCL gives one transfer for the whole batch.
            requests = list(zip(peers, works, strict=True)) if len(works) == len(peers) else [(-1, w) for w in works]
        return Arrivals(self.steps + self.settings.staleness, boxes, sent, requests)

    def _wait(self, due: Arrivals) -> None:
        for peer, request in due.requests:
            try:
                request.wait()
            except RuntimeError as error:
                raise self._lost([peer], error) from error
        due.requests, due.sent = [], None

    def _lost(self, peers: list[int], error: RuntimeError) -> WorkerLostError:
        who = " or ".join(f"worker {peer}" for peer in dict.fromkeys(peers) if peer >= 0) or "another worker"
        return WorkerLostError(
            f"worker {self.rank} lost {who} at step {self.steps} of the gossip: it died, or kept the others waiting "
            f"longer than averaging.timeout={self.settings.timeout:g} s ({str(error).splitlines()[0]}). Look at its "
            "error, then start all workers again: the run resumes from the newest whole checkpoint"
        )

    def settle(self) -> None:
        """Wait until nothing is on the network any more; nothing is added before it is due."""
        for each in self.pending:
            self._wait(each)

    def consensus(self) -> Tensor:
        """Sum of all x over sum of all w, counting what is under way."""
        self.settle()
        mean = self.mean(sum_in_order([self.current(), *(box for each in self.pending for box in each.boxes)]))
        return mean[:-1] / mean[-1]

    def consolidate(self, method: nn.Module) -> None:
        """Every worker takes the consensus, with weight 1 and nothing under way."""
        agreed = self.consensus()
        self.pending.clear()
        self.flat.write(agreed)
        self.mass = torch.cat([agreed, torch.ones_like(self.mass[-1:])])

    def report(self) -> dict[str, float]:
        """The disagreement and this worker's push-sum weight."""
        return {**super().report(), "push_sum_weight": self.weight}

    def own_state(self) -> dict[str, Any]:
        """Mass, weight, and the messages under way."""
        self.settle()
        return {
            "steps": self.steps,
            "mass": self.mass.cpu(),
            "pending": [{"step": each.step, "boxes": [box.cpu() for box in each.boxes]} for each in self.pending],
        }

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Take back what `own_state` gave."""
        device = self.flat.device
        self.steps, self.mass = state["steps"], state["mass"].to(device)
        self.pending = deque(
            Arrivals(each["step"], [box.to(device) for box in each["boxes"]], None, []) for each in state["pending"]
        )
