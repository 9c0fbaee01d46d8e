"""All-reduce: every worker sees the mean gradient of every step (DDP, FSDP, DeepSpeed, as Accelerate was told)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from training.averaging.base import Averager


class AllReduce(Averager):
    """Synchronous data parallelism; the default."""

    def prepare(self, method: nn.Module, optimizer: Any) -> tuple[nn.Module, Any]:
        """Both wrapped by Accelerate."""
        return self.accelerator.prepare(method, optimizer)

    def around_step(self, method: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """Gradients travel on the last pass of a step only."""
        return nullcontext() if last else self.accelerator.no_sync(method)
