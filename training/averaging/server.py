"""The master copy of asynchronous SGD: what happens to a gradient that comes late. No transport.

`DelayedServer` is fed by workers over gloo (delayed.py) and by a delay trace in one process (simulator.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

StepSize = Literal["fixed", "adaptive_a", "adaptive_b"]


class StepSizes:
    """Step sizes that follow the measured delay.

    With delay tau, the gradient was taken tau updates ago. `budget` is what a gradient without delay gets.
    fixed: budget / divisor. adaptive_a: share of what the last tau steps left of the budget. adaptive_b:
    budget / (tau + 1) if the last tau steps left as much, else nothing. The adaptive rules keep the sum over any
    gradient's delay within the budget, so the largest delay need not be known.
    Source: arXiv:2202.08550, adaptive 1 and 2.

    Args:
        rule: which.
        divisor: of `fixed`, e.g. the largest delay + 1/2 (safe for any smooth function with budget 1 / L).
        share: alpha of `adaptive_a`, in (0, 1].
    """

    def __init__(self, rule: StepSize, *, divisor: float = 1.0, share: float = 0.9) -> None:
        if rule not in ("fixed", "adaptive_a", "adaptive_b") or divisor < 1 or not 0 < share <= 1:
            raise ValueError(
                f"step_size is fixed, adaptive_a or adaptive_b, divisor at least 1, share in (0, 1]; got {rule!r}, "
                f"{divisor}, {share}"
            )
        self.rule, self.divisor, self.share = rule, divisor, share
        self.past: list[float] = []

    def __call__(self, budget: float, delay: int) -> float:
        """The step size of the next update.

        Raises:
            ValueError: a negative delay, or one longer than there were updates.
        """
        if not 0 <= delay <= len(self.past):
            raise ValueError(f"a delay lies between 0 and the {len(self.past)} updates so far, got {delay}")
        spent = sum(self.past[len(self.past) - delay :])
        if self.rule == "fixed":
            size = budget / self.divisor
        elif self.rule == "adaptive_a":
            size = self.share * max(0.0, budget - spent)
        else:
            size = budget / (delay + 1)
            size = size if spent + size <= budget * (1 + 1e-12) else 0.0
        self.past.append(size)
        return size


class DelayedServer:
    """The master parameters, their optimizer, and the number of updates so far.

    Args:
        optimizer: over the master parameters; its learning rates are set anew at every update.
        sizes: step sizes.
        num_workers: that send gradients.
        aggregate: PIAG: step along the mean of every worker's last gradient instead of the newest alone.
            Source: arXiv:1507.02946 (IAG), arXiv:1610.05507 (its proximal form); here without the proximal step.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, sizes: StepSizes, num_workers: int, *, aggregate: bool
    ) -> None:
        self.optimizer, self.sizes, self.aggregate = optimizer, sizes, aggregate
        self.parameters: list[Tensor] = [each for group in optimizer.param_groups for each in group["params"]]
        self.counts = [each.numel() for each in self.parameters]
        self.version = 0
        self.last_delay = 0
        self.table: list[Tensor | None] = [None] * num_workers
        self.taken = [0] * num_workers  # version at which each entry of the table was taken

    @torch.no_grad()
    def read(self) -> Tensor:
        """The master parameters, [count]."""
        return torch.cat([each.detach().reshape(-1) for each in self.parameters])

    @torch.no_grad()
    def write(self, vector: Tensor) -> None:
        """Replace the master parameters."""
        for own, part in zip(self.parameters, vector.split(self.counts), strict=True):
            own.copy_(part.view(own.shape))

    def update(
        self, worker: int, version: int, gradient: Tensor, rates: Sequence[dict[str, float]] | None = None
    ) -> int:
        """Apply a gradient and return its delay in updates.

        Args:
            worker: that took it.
            version: of the parameters it was taken at.
            gradient: [count].
            rates: options such as lr for each group, as the worker's schedule has them; None keeps the present ones.
        """
        for group, options in zip(self.optimizer.param_groups, rates or [], strict=bool(rates)):
            group.update(options)
        delay = self.version - version
        if self.aggregate:
            self.table[worker], self.taken[worker] = gradient, version
            known = [each for each in self.table if each is not None]
            gradient = torch.stack(known).mean(0)
            oldest = min(taken for taken, each in zip(self.taken, self.table, strict=True) if each is not None)
            delay = self.version - oldest
        budget = self.optimizer.param_groups[0]["lr"]
        size = self.sizes(budget, delay)
        if size > 0:
            self._step(gradient, size / budget)
        self.version += 1
        self.last_delay = delay
        return delay

    def _step(self, gradient: Tensor, factor: float) -> None:
        for own, part in zip(self.parameters, gradient.split(self.counts), strict=True):
            own.grad = part.view(own.shape).to(own.dtype)
        rates = [group["lr"] for group in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:
            group["lr"] *= factor
        self.optimizer.step()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """Everything, on the CPU."""
        return {
            "parameters": self.read().cpu(),
            "optimizer": self.optimizer.state_dict(),
            "version": self.version,
            "past": list(self.sizes.past),
            "table": [None if each is None else each.cpu() for each in self.table],
            "taken": list(self.taken),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        device = self.parameters[0].device
        self.write(state["parameters"].to(device))
        self.optimizer.load_state_dict(state["optimizer"])
        self.version, self.sizes.past = state["version"], list(state["past"])
        self.table = [None if each is None else each.to(device) for each in state["table"]]
        self.taken = list(state["taken"])
