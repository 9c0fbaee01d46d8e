"""Local SGD: workers step alone and take the mean of their weights every few steps; with SlowMo's momentum on top.

Source: arXiv:1805.09767 (local SGD); arXiv:1808.07217 (post-local SGD); arXiv:1910.00643 (SlowMo).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from training.averaging.base import AveragingSettings
from training.averaging.per_worker import PerWorker, share_gradients


class LocalSGDSettings(AveragingSettings):
    """Settings of `LocalSGD`.

    Attributes:
        every: steps between two means.
        after: steps at the beginning that share gradients instead (post-local SGD).
        optimizer_state: whether the optimizer's moments are averaged with the weights; three times the message for
            AdamW.
        slow_momentum: of SlowMo, 0 is plain local SGD; the paper tunes it between 0 and 0.8.
        slow_lr: of SlowMo.
    """

    every: PositiveInt = 8
    after: int = Field(default=0, ge=0)
    optimizer_state: bool = False
    slow_momentum: float = Field(default=0.0, ge=0, lt=1)
    slow_lr: PositiveFloat = 1.0


class SlowMomentum:
    """SlowMo's outer update: u <- beta u + (previous - mean) / lr, x <- previous - slow_lr lr u.

    Args:
        start: the weights that all workers begin with, [count].
        momentum, slow_lr: beta and alpha of the paper.
    """

    def __init__(self, start: Tensor, momentum: float, slow_lr: float = 1.0) -> None:
        self.previous, self.buffer = start.clone(), torch.zeros_like(start)
        self.momentum, self.slow_lr = momentum, slow_lr

    def __call__(self, mean: Tensor, lr: float) -> Tensor:
        """The new weights, given the mean of the workers' and the learning rate of their last step."""
        if lr <= 0:
            return mean
        self.buffer = self.momentum * self.buffer + (self.previous - mean) / lr
        self.previous = self.previous - self.slow_lr * lr * self.buffer
        return self.previous


class LocalSGD(PerWorker):
    """Parameters, moving averages and saved buffers are averaged every `every` steps."""

    Settings: ClassVar[type[AveragingSettings]] = LocalSGDSettings

    def start(self) -> None:
        """No step has been taken."""
        self.steps = 0
        settings = self.settings
        self.slow = (
            SlowMomentum(self.flat.read(), settings.slow_momentum, settings.slow_lr) if settings.slow_momentum else None
        )

    @contextmanager
    def around_step(self, method: nn.Module, *, last: bool) -> Iterator[None]:
        """In the first `after` steps the gradients are shared once a step's passes are done."""
        yield
        if last and self.steps < self.settings.after:
            share_gradients(list(method.parameters()), self.group, self.world)

    def step(self, method: nn.Module, optimizer: Any) -> None:
        """One local step; the mean where one is due."""
        optimizer.step()
        self.steps += 1
        if self.steps > self.settings.after and (self.steps - self.settings.after) % self.settings.every == 0:
            self.agree(optimizer)

    def agree(self, optimizer: Any) -> None:
        """Every worker takes the mean of all."""
        mean = self.consensus()
        if self.slow is not None:
            mean = self.slow(mean, optimizer.param_groups[0]["lr"])
        self.flat.write(mean)
        if self.settings.optimizer_state:
            moments = [
                value
                for state in optimizer.state.values()
                for name, value in sorted(state.items())
                if isinstance(value, Tensor) and value.is_floating_point() and name != "step"
            ]
            if moments:
                packed = self.mean(torch.cat([each.reshape(-1) for each in moments]))
                parts = packed.split([each.numel() for each in moments])
                torch._foreach_copy_(
                    moments, [part.view(each.shape) for part, each in zip(parts, moments, strict=True)]
                )

    def own_state(self) -> dict[str, Any]:
        """Steps done and SlowMo's buffers."""
        slow = {} if self.slow is None else {"previous": self.slow.previous.cpu(), "buffer": self.slow.buffer.cpu()}
        return {"steps": self.steps, **slow}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Take back what `own_state` gave."""
        self.steps = state["steps"]
        if self.slow is not None:
            self.slow.previous = state["previous"].to(self.flat.device)
            self.slow.buffer = state["buffer"].to(self.flat.device)
