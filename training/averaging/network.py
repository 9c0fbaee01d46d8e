"""How long steps would take over a network: a model, not a measurement.

From step times (measured or computed), message sizes, bandwidth, latency and stragglers it predicts when every step of
every worker ends. Assumed: every worker has one full-duplex link of its own and the switch is never congested; an
all-reduce is a ring; messages of one sender leave one after the other; receiving costs nothing else. A prediction is
therefore optimistic for all methods, and most so for many peers at once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from training.averaging.topology import Topology

GIGABIT = 1e9 / 8


@dataclass(frozen=True)
class Network:
    """Links between workers.

    Attributes:
        bandwidth: bytes per second of a link, each way.
        latency: seconds before a message's first byte arrives.
    """

    bandwidth: float
    latency: float = 50e-6

    def message(self, size: float) -> float:
        """Seconds that a message of `size` bytes takes."""
        return self.latency + size / self.bandwidth

    def all_reduce(self, size: float, workers: int) -> float:
        """Seconds of a ring all-reduce of `size` bytes: 2 (n - 1) messages of size / n."""
        return 2 * (workers - 1) * self.message(size / workers) if workers > 1 else 0.0


@dataclass(frozen=True)
class Workload:
    """One training step of one worker.

    Attributes:
        forward, backward: seconds.
        size: bytes of gradients or weights.
        bucket: bytes after which a bucket of gradients is sent during the backward pass (25 MiB in DDP).
    """

    forward: float
    backward: float
    size: float
    bucket: float = 25 * 2**20

    @property
    def seconds(self) -> float:
        """Of a step without communication."""
        return self.forward + self.backward

    @classmethod
    def of_log(cls, log: Path, step_size: int, size: float, *, forward_share: float = 1 / 3) -> Workload:
        """The step of a run of one worker, measured: the median of its log.jsonl after the first entry.

        Args:
            log: of a run on one worker, so that nothing in it is communication.
            step_size: samples per step of that run.
            size: bytes of the weights that are trained.
            forward_share: of the step that is the forward pass.

        Raises:
            ValueError: the log holds fewer than two entries with a speed.
        """
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        speeds = [each["samples_per_second"] for each in lines if "samples_per_second" in each]
        if len(speeds) < 2:
            raise ValueError(f"{log} holds {len(speeds)} entries with samples_per_second; a measurement needs two")
        seconds = step_size / median(speeds[1:])  # the first entry holds the start
        return cls(seconds * forward_share, seconds * (1 - forward_share), size)


def slowdowns(
    steps: int, workers: int, *, spread: float = 0.0, straggling: float = 0.0, factor: float = 2.0, seed: int = 0
) -> Tensor:
    """Factors [steps, workers] that step times are multiplied with.

    Args:
        steps, workers: how many.
        spread: of the logarithm of a log-normal factor around 1 that every step draws.
        straggling: probability that a step of a worker takes `factor` times as long on top.
        factor: see above.
        seed: of the draws.
    """
    draw = torch.Generator().manual_seed(seed)
    jitter = torch.exp(spread * torch.randn(steps, workers, generator=draw, dtype=torch.float64))
    late = torch.rand(steps, workers, generator=draw, dtype=torch.float64) < straggling
    return jitter * torch.where(late, factor, 1.0)


def all_reduce_ends(load: Workload, network: Network, slow: Tensor) -> Tensor:
    """When every step ends, [steps, workers], with gradients sent in buckets while the backward pass goes on."""
    count = max(1, round(load.size / load.bucket))
    each = network.all_reduce(load.size / count, slow.shape[1])
    ends, now = [], 0.0
    for factors in slow:
        slowest = factors.max().item()
        sent = 0.0
        for number in range(1, count + 1):
            ready = slowest * (load.forward + load.backward * number / count)
            sent = max(sent, ready) + each
        now += sent
        ends.append([now] * slow.shape[1])
    return torch.tensor(ends, dtype=torch.float64)


def local_sgd_ends(load: Workload, network: Network, slow: Tensor, every: int) -> Tensor:
    """When every step ends with a mean of the weights every `every` steps, which nothing overlaps."""
    now = torch.zeros(slow.shape[1], dtype=torch.float64)
    ends = []
    for number, factors in enumerate(slow, 1):
        now = now + factors * load.seconds
        if every and number % every == 0:
            now = torch.full_like(now, now.max().item() + network.all_reduce(load.size, len(now)))
        ends.append(now)
    return torch.stack(ends)


def gossip_ends(load: Workload, network: Network, slow: Tensor, topology: Topology, staleness: int = 0) -> Tensor:
    """When every step ends under push-sum; a step waits for the messages that were sent `staleness` steps before."""
    steps, workers = slow.shape
    now = torch.zeros(workers, dtype=torch.float64)
    free = [0.0] * workers  # when each worker's link can send again
    arrivals: list[list[float]] = []  # per step, when all that a worker is to get has come
    ends = []
    for step in range(steps):
        computed = now + slow[step] * load.seconds
        due = [0.0] * workers
        for sender in range(workers):
            for receiver in topology.out_peers(sender, step):
                begin = max(computed[sender].item(), free[sender])
                free[sender] = begin + load.size / network.bandwidth
                due[receiver] = max(due[receiver], free[sender] + network.latency)
        arrivals.append(due)
        now = computed
        if step >= staleness:
            now = torch.maximum(computed, torch.tensor(arrivals[step - staleness], dtype=torch.float64))
        ends.append(now)
    return torch.stack(ends)


def async_gossip_ends(load: Workload, slow: Tensor) -> Tensor:
    """When every step ends where training never waits; a slow exchange only makes the next one later."""
    return (slow * load.seconds).cumsum(0)


def server_ends(load: Workload, network: Network, slow: Tensor) -> Tensor:
    """When every step ends with a server, whose link takes one gradient and gives one model at a time."""
    steps, workers = slow.shape
    travel = load.size / network.bandwidth
    done = [0] * workers
    ready = [(slow[0, worker].item() * load.seconds, worker) for worker in range(workers)]
    ends = torch.zeros(steps, workers, dtype=torch.float64)
    inbound = outbound = 0.0
    while ready:
        ready.sort()
        asked, worker = ready.pop(0)
        inbound = max(inbound, asked + network.latency) + travel
        outbound = max(outbound, inbound + network.latency) + travel
        ends[done[worker], worker] = outbound
        done[worker] += 1
        if done[worker] < steps:
            ready.append((outbound + slow[done[worker], worker].item() * load.seconds, worker))
    return ends
