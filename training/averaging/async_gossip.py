"""Asynchronous pairwise gossip (AD-PSGD): training never waits for another worker.

A thread beside the training holds the weights x. Odd workers are active: once per step their thread picks an even
(passive) neighbour, sends its x and gets the neighbour's; both move to the middle. The training computes at a copy of x
and adds what its optimizer did to whatever x has become. An exchange moves equal and opposite amounts, so the mean of
all x changes by nothing but the optimizers' steps.

Source: arXiv:1710.06952. Unlike the paper's code, a gradient is taken at the copied x itself, not one step ahead.
"""

from __future__ import annotations

import threading
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from jepa_hub.masking.draws import keyed, keyed_pick
from training.averaging.base import AveragingSettings, WorkerLostError
from training.averaging.per_worker import PerWorker
from training.averaging.topology import TopologySettings
from training.averaging.wire import REPLY, REQUEST, next_request, open_wire, receive, send

SAY, STOP = 0.0, 1.0
PEERS = 107  # purpose of a key, so that no two draws of a run share one


class AsyncGossipSettings(AveragingSettings):
    """Settings of `AsyncGossip`.

    Attributes:
        topology: whose edges between odd and even workers are used.
        seed: of the choice of neighbours.
    """

    topology: TopologySettings = TopologySettings(name="bipartite_exponential")
    seed: int = 0


class AsyncGossip(PerWorker):
    """Each worker averages with one neighbour at a time, in a thread."""

    Settings: ClassVar[type[AveragingSettings]] = AsyncGossipSettings

    def start(self) -> None:
        """Everyone holds the same x; the thread starts."""
        topology = self.settings.topology.build(self.world)
        peers = {peer for step in range(len(topology.rounds)) for peer in topology.out_peers(self.rank, step)}
        self.neighbours = sorted(peer for peer in peers if (peer - self.rank) % 2)
        if self.world > 1 and self.rank % 2 and not self.neighbours:
            raise ValueError(f"worker {self.rank} has no even neighbour on the topology {topology.name}")
        self.x = self.flat.read()
        self.seen = self.x.clone()  # what the module held when it was last written
        self.steps = self.exchanges = 0
        self.lock = threading.Lock()
        self.wanted = threading.Condition()
        self.allowed = 0  # exchanges that the active thread may have made by now
        self.stopping = False
        self.failure: BaseException | None = None
        self.wire = self.thread = None
        if self.world > 1:
            self.wire = open_wire()
            target = self._active if self.rank % 2 else self._passive
            self.thread = threading.Thread(target=self._guarded, args=(target,), name="gossip", daemon=True)
            self.thread.start()

    # ------------------------------------------------------------------------------------------------- the training

    def step(self, method: nn.Module, optimizer: Any) -> None:
        """One optimizer step, added to the x of now; one exchange becomes due."""
        optimizer.step()
        self._check()
        with self.lock:
            self.x = self.x + (self.flat.read() - self.seen)
            self.flat.write(self.x)
            self.seen = self.flat.read()
        self.steps += 1
        if self.rank % 2:
            with self.wanted:
                # An exchange that takes longer than a step is not followed by a burst of late ones.
                self.allowed = self.exchanges + 1
                self.wanted.notify()

    def quiet(self) -> None:
        """Wait until no exchange is under way between any two workers."""
        if self.thread is None:
            return
        with self.wanted:
            done = self.wanted.wait_for(
                lambda: not self.rank % 2 or self.exchanges >= self.allowed or self.failure is not None,
                self.settings.timeout,
            )
        self._check()
        if not done:
            raise WorkerLostError(
                f"worker {self.rank}: a neighbour did not answer within averaging.timeout={self.settings.timeout:g} s"
            )
        # Passive workers answer until every active one is quiet; an answer has been added before it is sent.
        dist.all_reduce(torch.zeros(1, device=self.flat.device), group=self.group)

    def consensus(self) -> Tensor:
        """The mean of all x, with what happened to the modules since."""
        self.quiet()
        return self.mean(self.x + (self.flat.read() - self.seen))

    def consolidate(self, method: nn.Module) -> None:
        """Every worker takes the consensus."""
        agreed = self.consensus()
        with self.lock:
            self.flat.write(agreed)
            self.x, self.seen = agreed, self.flat.read()

    def own_state(self) -> dict[str, Any]:
        """The weights and what the module held; nothing is under way when it is saved."""
        self.quiet()
        numbers = {"steps": self.steps, "exchanges": self.exchanges, "allowed": self.allowed}
        return {"x": self.x.cpu(), "seen": self.seen.cpu(), **numbers}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Take back what `own_state` gave."""
        device = self.flat.device
        with self.lock, self.wanted:
            self.x, self.seen = state["x"].to(device), state["seen"].to(device)
            self.steps, self.exchanges, self.allowed = state["steps"], state["exchanges"], state["allowed"]

    def report(self) -> dict[str, float]:
        """The disagreement, and this worker's exchanges per step."""
        return {**super().report(), "exchanges_per_step": self.exchanges / max(self.steps, 1)}

    def close(self, *, failed: bool) -> None:
        """End the threads: active workers stop, worker 1 tells the passive ones. A failed run does not wait for it."""
        if self.thread is None or failed:
            return
        with self.wanted:
            self.stopping = True
            self.wanted.notify()
        self.thread.join(self.settings.timeout)
        self._check()

    # --------------------------------------------------------------------------------------------------- the thread

    def _guarded(self, target: Any) -> None:
        try:
            target()
        except BaseException as error:
            self.failure = error
            with self.wanted:
                self.wanted.notify_all()

    def _check(self) -> None:
        if self.failure is not None:
            raise WorkerLostError(
                f"the gossip of worker {self.rank} ended after {self.exchanges} exchanges: a neighbour died or fell "
                f"silent ({str(self.failure).splitlines()[0]}). Start all workers again: the run resumes from the "
                "newest whole checkpoint"
            ) from self.failure

    def _active(self) -> None:
        limit = self.settings.timeout
        while True:
            with self.wanted:
                self.wanted.wait_for(lambda: self.stopping or self.exchanges < self.allowed)
                if self.stopping:
                    break
            draw = keyed_pick(keyed(self.settings.seed, self.rank, self.exchanges, PEERS), len(self.neighbours))
            peer = self.neighbours[int(draw)]
            with self.lock:
                mine = self.x.clone()
            send(self.wire, self._message(mine, SAY), peer, REQUEST, limit)
            reply = receive(self.wire, mine, peer, REPLY, limit)
            with self.lock:
                self.x = self.x + (reply.to(mine.device) - mine) / 2
            with self.wanted:
                self.exchanges += 1
                self.wanted.notify_all()
        if self.rank == 1:
            for passive in range(0, self.world, 2):
                send(self.wire, self._message(self.x, STOP), passive, REQUEST, limit)

    def _passive(self) -> None:
        inbox = torch.empty(self.flat.count + 1, dtype=self.flat.dtype)
        while True:
            sender = next_request(self.wire, inbox)
            if inbox[-1] == STOP:
                return
            with self.lock:
                theirs = inbox[:-1].to(self.x.device)
                mine = self.x
                self.x = mine + (theirs - mine) / 2
            self.exchanges += 1
            send(self.wire, mine.cpu(), sender, REPLY, self.settings.timeout)

    def _message(self, vector: Tensor, kind: float) -> Tensor:
        return torch.cat([vector.cpu(), torch.full((1,), kind, dtype=vector.dtype)])
