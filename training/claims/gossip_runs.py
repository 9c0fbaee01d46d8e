"""Training runs of the claim `averaging`: a small network on digits, workers on the simulator.

Every worker has its own batches; all arms of a seed share the split, the start and the batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from training.averaging.network import (
    GIGABIT,
    Network,
    Workload,
    all_reduce_ends,
    async_gossip_ends,
    gossip_ends,
    local_sgd_ends,
    slowdowns,
)
from training.averaging.simulator import Stacked
from training.averaging.topology import Topology, exponential

WORKERS, BATCH, STEPS, EVERY = 8, 16, 400, 10
HIDDEN, PIXELS, CLASSES = 64, 64, 10
MOMENTUM = 0.9
RATES = (0.02, 0.05, 0.1)
TARGET = 95.0  # % of the validation digits, for times
SPLIT = {"train": 900, "validation": 297, "test": 600}

# One worker of the modelled cluster is a node of 8 GPUs that trains I-JEPA's ViT-H/14 on 256 of 2,048 pictures.
# Numbers of `python -m training.plan ijepa/vith14_in1k`; a test holds them to it. Forward passes of three networks,
# backward passes of two; 4 bytes per trained parameter.
FORWARD_FLOPS, BACKWARD_FLOPS = 481e9, 296e9
PARAMETERS = 652.7e6
NODE_FLOPS = 8 * 312e12 * 0.4  # 8 A100 at 40 % of their bfloat16 peak: assumed, not measured
NODE_BATCH = 256


@dataclass(frozen=True)
class Digits:
    """Pixels [N, 64], standardised with the training set's statistics, and labels [N]; shards are training rows."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    even: list[Tensor]
    sorted: list[Tensor]


@cache
def digits(seed: int) -> Digits:
    """The split of a seed; `even` shards are drawn at random, `sorted` ones by label, so that a worker sees 1 or 2."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    pixels, labels = torch.from_numpy(loaded.data).float(), torch.from_numpy(loaded.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    parts = order.split(list(SPLIT.values()))
    mean, spread = pixels[parts[0]].mean(), pixels[parts[0]].std()
    train, validation, test = (((pixels[part] - mean) / spread, labels[part]) for part in parts)
    by_label = train[1].argsort(stable=True)
    size = SPLIT["train"] // WORKERS
    rows = torch.arange(SPLIT["train"])
    return Digits(
        train,
        validation,
        test,
        [rows[worker * size : (worker + 1) * size] for worker in range(WORKERS)],
        [by_label[worker * size : (worker + 1) * size] for worker in range(WORKERS)],
    )


def initial(seed: int) -> Tensor:
    """Weights of the network as one vector [d]: 64 - 64 - 10, He's start."""
    draw = torch.Generator().manual_seed(10_000 + seed)
    first = torch.randn(PIXELS * HIDDEN, generator=draw) * (2 / PIXELS) ** 0.5
    second = torch.randn(HIDDEN * CLASSES, generator=draw) * (1 / HIDDEN) ** 0.5
    return torch.cat([first, torch.zeros(HIDDEN), second, torch.zeros(CLASSES)])


def logits(weights: Tensor, pixels: Tensor) -> Tensor:
    """Class scores [n, B, 10] of n networks [n, d] on their own pixels [n, B, 64]."""
    first, bias, second, last = weights.split([PIXELS * HIDDEN, HIDDEN, HIDDEN * CLASSES, CLASSES], dim=1)
    hidden = torch.baddbmm(bias[:, None], pixels, first.view(-1, PIXELS, HIDDEN)).relu()  # [n, B, 64]
    return torch.baddbmm(last[:, None], hidden, second.view(-1, HIDDEN, CLASSES))  # [n, B, 10]


def accuracy(weights: Tensor, data: tuple[Tensor, Tensor]) -> Tensor:
    """Accuracy of each network [n, d] in per cent, [n]."""
    pixels, labels = data
    with torch.no_grad():
        guesses = logits(weights, pixels.expand(len(weights), -1, -1)).argmax(-1)  # [n, N]
    return 100 * (guesses == labels).float().mean(1)


@dataclass(frozen=True)
class Outcome:
    """What one training gave: accuracies in per cent, on the validation digits and, at the end, on the test digits.

    Attributes:
        validation: mean over workers at the end.
        mean, worst: test accuracy over workers at the end.
        agreed: test accuracy of the consensus.
        reached: steps until the mean worker was at TARGET on the validation digits; None if never.
    """

    validation: float
    mean: float
    worst: float
    agreed: float
    reached: int | None


def train(make: Callable[[Tensor, int], Stacked], seed: int, lr: float, *, skewed: bool) -> Outcome:
    """One training with SGD and local momentum; weights that are not finite count as guessing nothing right."""
    data = digits(seed)
    stacked = make(initial(seed), seed)
    shards = data.sorted if skewed else data.even
    draws = [torch.Generator().manual_seed(1000 * seed + worker) for worker in range(WORKERS)]
    momentum = torch.zeros(WORKERS, len(initial(seed)))
    reached = None
    for step in range(1, STEPS + 1):
        picks = [
            shard[torch.randint(len(shard), (BATCH,), generator=draw)]
            for shard, draw in zip(shards, draws, strict=True)
        ]
        rows = torch.stack(picks)
        weights = stacked.debiased().detach().requires_grad_()
        scores = logits(weights, data.train[0][rows])
        loss = F.cross_entropy(scores.flatten(0, 1), data.train[1][rows].flatten()) * WORKERS
        (gradient,) = torch.autograd.grad(loss, weights)
        momentum = MOMENTUM * momentum + gradient
        stacked.add(-lr * momentum)
        stacked.mix()
        if step % EVERY == 0 and reached is None:
            now = accuracy(stacked.debiased(), data.validation).mean().item()
            reached = step if now >= TARGET else None
    final = stacked.debiased()
    tested = torch.where(final.isfinite().all(1), accuracy(final, data.test), 0.0)
    agreed = stacked.consensus()[None]
    return Outcome(
        torch.where(final.isfinite().all(1), accuracy(final, data.validation), 0.0).mean().item(),
        tested.mean().item(),
        tested.min().item(),
        accuracy(agreed, data.test).item() if bool(agreed.isfinite().all()) else 0.0,
        reached,
    )


def best(make: Callable[[Tensor, int], Stacked], seed: int, *, skewed: bool) -> Outcome:
    """The training whose learning rate does best on the validation digits, with the least steps of any to TARGET.

    Every arm tries the same three learning rates.
    """
    tried = [train(make, seed, lr, skewed=skewed) for lr in RATES]
    reached = [each.reached for each in tried if each.reached is not None]
    return replace(max(tried, key=lambda each: each.validation), reached=min(reached, default=None))


def workload() -> Workload:
    """A step of one node of the modelled cluster."""
    per_flop = NODE_BATCH / NODE_FLOPS
    return Workload(FORWARD_FLOPS * per_flop, BACKWARD_FLOPS * per_flop, 4 * PARAMETERS)


def seconds_per_step(method: str, gigabits: float, seed: int, topology: Topology | None = None) -> float:
    """Modelled seconds per step of the slowest worker over 200 steps, with stragglers."""
    load, network = workload(), Network(gigabits * GIGABIT)
    slow = slowdowns(200, WORKERS, spread=0.05, straggling=0.02, factor=2.0, seed=seed)
    ends = {
        "all_reduce": lambda: all_reduce_ends(load, network, slow),
        "gossip": lambda: gossip_ends(load, network, slow, topology or exponential(WORKERS)),
        "overlap": lambda: gossip_ends(load, network, slow, topology or exponential(WORKERS), staleness=1),
        "local": lambda: local_sgd_ends(load, network, slow, 8),
        "async": lambda: async_gossip_ends(load, slow),
    }[method]()
    return ends[-1].max().item() / len(slow)
