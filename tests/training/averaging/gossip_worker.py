"""Four gloo workers around a toy module: the real averagers, step by step, beside what the simulator says."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.averaging.flat import Flat
from training.averaging.registry import averager_class

SIZE, LR = 6, 0.05


class Toy(nn.Module):
    """A parameter, its moving average and a BatchNorm: everything that workers agree on."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.linspace(-1, 1, SIZE))
        self.target = nn.Parameter(torch.linspace(-1, 1, SIZE), requires_grad=False)
        self.norm = nn.BatchNorm1d(SIZE)
        self.to(dtype)

    def forward(self, batch: Tensor) -> Tensor:
        """A loss of this worker's batch [B, SIZE]."""
        return (self.norm(batch) * self.x - batch.abs()).square().mean() + (self.x - batch.mean(0)).square().sum()

    @torch.no_grad()
    def after_step(self) -> None:
        """The moving average follows."""
        self.target.lerp_(self.x, 0.1)


class Linear(nn.Module):
    """A loss that is linear in x: every gradient is the worker's slope, wherever and whenever it is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.zeros(SIZE, dtype=torch.float64))

    def forward(self, batch: Tensor) -> Tensor:
        """The parameter times the mean of the batch."""
        return self.x @ batch.mean(0)

    def after_step(self) -> None:
        """Nothing follows."""


def batch_of(rank: int, step: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """What a worker sees at a step, [4, SIZE]."""
    draw = torch.Generator().manual_seed(1000 * rank + step)
    return (torch.randn(4, SIZE, generator=draw, dtype=torch.float64) + rank).to(dtype)


def local_step(module: Any, optimizer: Any, rank: int, step: int) -> None:
    """Gradient only; whoever owns the optimizer steps it."""
    optimizer.zero_grad()
    module(batch_of(rank, step, module.x.dtype)).backward()


def run_averager(
    name: str, own: dict[str, Any], steps: int, module: Any, watch: Callable[[Any, Any], Tensor], accelerator: Any
) -> dict[str, Any]:
    """`steps` steps of a real averager: what `watch` sees after every mix, and the consensus at the end."""
    kind = averager_class(name)
    averager = kind(kind.Settings.model_validate({"timeout": 30, **own}), accelerator)
    method, optimizer = averager.prepare(module, torch.optim.SGD([module.x], lr=LR))
    seen = []
    for step in range(steps):
        local_step(module, optimizer, averager.rank, step)
        with averager.around_step(method, last=True):
            pass
        averager.step(method, optimizer)
        seen.append(watch(averager, module))
        module.after_step()
    before = averager.flat.read()
    with averager.evaluating(method):
        consensus = averager.flat.read()
    untouched = torch.equal(before, averager.flat.read())
    averager.close(failed=False)
    return {"seen": torch.stack(seen), "consensus": consensus, "untouched": untouched, "report": averager.report()}


def values(averager: Any, module: Any) -> Tensor:
    """The worker's numbers."""
    return averager.flat.read()


def mass(averager: Any, module: Any) -> Tensor:
    """The worker's mass and weight with what is on its way to it."""
    averager.settle()
    return averager.current() + sum(box for each in averager.pending for box in each.boxes)


CASES: dict[str, tuple[str, dict[str, Any], int, Callable[[], Any], Any]] = {
    "exponential": ("push_sum", {}, 20, Toy, values),
    "two_peers": ("push_sum", {"topology": {"name": "exponential", "num_peers": 2}}, 20, Toy, values),
    "late_1": ("push_sum", {"staleness": 1}, 20, Toy, values),
    "late_3": ("push_sum", {"staleness": 3, "topology": {"name": "ring"}}, 20, Toy, values),
    "bipartite": ("push_sum", {"topology": {"name": "bipartite_exponential"}}, 20, Toy, values),
    "complete": ("push_sum", {"topology": {"name": "complete"}}, 20, Toy, values),
    "irregular": (
        "push_sum",
        {"staleness": 1, "topology": {"name": "file", "path": "irregular.yaml"}},
        20,
        Toy,
        values,
    ),
    "local": ("local_sgd", {"every": 3}, 20, Toy, values),
    "bfloat16": ("push_sum", {"staleness": 1}, 20, lambda: Toy(torch.bfloat16), mass),
    "pairs": ("async_gossip", {}, 20, Linear, values),
    "server": ("delayed", {"step_size": "fixed"}, 20, Linear, values),
    "post_local": ("local_sgd", {"every": 100, "after": 20}, 20, Toy, values),
    "slow": ("local_sgd", {"every": 4, "slow_momentum": 0.5}, 20, Linear, values),
}


def work(folder: str, environ: dict[str, str]) -> None:
    """One worker: every case in turn; results go to a file per rank."""
    os.environ |= environ
    os.chdir(folder)
    from accelerate import Accelerator

    from training.process_group import leave

    torch.set_num_threads(1)
    accelerator = Accelerator()
    results = {
        name: run_averager(averager, own, steps, make(), watch, accelerator)
        for name, (averager, own, steps, make, watch) in CASES.items()
    }
    torch.save(results, Path(folder) / f"rank{accelerator.process_index}.pt")
    leave()


def simulate(stacked: Any, make: Callable[[], Any], steps: int) -> Tensor:
    """The same steps on the simulator: [steps, n, count] after every mix; `stacked` is left as after the last step."""
    size = stacked.debiased().shape[0]
    modules = [make() for _ in range(size)]
    flats = [Flat(each) for each in modules]
    optimizers = [torch.optim.SGD([each.x], lr=LR) for each in modules]
    seen = []
    for step in range(steps):
        before = stacked.debiased().clone()
        changes = []
        for rank, (module, flat, optimizer) in enumerate(zip(modules, flats, optimizers, strict=True)):
            flat.write(before[rank])
            if step:
                module.after_step()
            local_step(module, optimizer, rank, step)
            optimizer.step()
            changes.append(flat.read() - before[rank])
        stacked.add(torch.stack(changes))
        stacked.mix()
        seen.append(stacked.debiased().clone())
    changes = []
    for module, flat, own in zip(modules, flats, stacked.debiased().clone(), strict=True):
        flat.write(own)
        module.after_step()
        changes.append(flat.read() - own)
    stacked.add(torch.stack(changes))  # what has happened since the last mix
    return torch.stack(seen)
