"""What averagers share whose workers hold different weights between agreements."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch import distributed as dist

from training.averaging.base import Averager
from training.averaging.flat import Flat

WHOLE = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


class PerWorker(Averager):
    """Every worker has its own weights and optimizer; the model that is evaluated and saved is their mean.

    Looking at the mean or saving it changes nothing: a run that saves twice as often trains the same.
    """

    flat: Flat
    optimizer: Any
    group: Any = None
    spread = 0.0

    def prepare(self, method: nn.Module, optimizer: Any) -> tuple[nn.Module, Any]:
        """Both on the device and under autocast; no gradient is shared."""
        kind = self.accelerator.distributed_type
        if kind not in WHOLE:
            raise ValueError(
                f"averaging {type(self).__name__} needs a whole model on every worker, not {kind.value}: use "
                "averaging.name=all_reduce with it, or launch without it"
            )
        method = self.accelerator.prepare_model(method, evaluation_mode=True)
        method.train()
        self.optimizer = self.accelerator.prepare_optimizer(optimizer)
        self.flat = Flat(method)
        if self.world > 1:
            self.group = dist.new_group(timeout=timedelta(seconds=self.settings.timeout))
            start = self.flat.read()
            dist.broadcast(start, 0, group=self.group)
            self.flat.write(start)
        self.start()
        return method, self.optimizer

    def start(self) -> None:
        """Make what the averager needs once the weights are there."""

    @property
    def world(self) -> int:
        """Number of workers."""
        return self.accelerator.num_processes

    @property
    def rank(self) -> int:
        """This worker."""
        return self.accelerator.process_index

    def mean(self, vector: Tensor) -> Tensor:
        """The mean of a vector over workers; the same on every one."""
        if self.world == 1:
            return vector
        total = vector.clone()
        dist.all_reduce(total, group=self.group)
        return total / self.world

    def consensus(self) -> Tensor:
        """The weights that the workers agree on, [count]; the same on every one."""
        return self.mean(self.flat.read())

    @contextmanager
    def evaluating(self, method: nn.Module) -> Iterator[None]:
        """The consensus in place of the worker's own weights."""
        own = self.flat.read()
        agreed = self.consensus()
        gap = self.mean((own - agreed).square().sum()[None]).item()
        self.spread = (gap / max(agreed.square().sum().item(), 1e-30)) ** 0.5
        self.flat.write(agreed)
        try:
            yield
        finally:
            self.flat.write(own)

    def consolidate(self, method: nn.Module) -> None:
        """Every worker takes the consensus."""
        self.flat.write(self.consensus())

    def report(self) -> dict[str, float]:
        """`disagreement`: root mean square distance of the workers from the consensus, relative to its norm."""
        return {"disagreement": self.spread}

    def own_state(self) -> dict[str, Any]:
        """What a subclass saves besides weights and optimizer."""
        return {}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Take back what `own_state` gave."""

    def state_dict(self) -> dict[str, Any]:
        """This worker's weights, optimizer and messages under way."""
        return {
            "world": self.world,
            "weights": self.flat.read().cpu(),
            "optimizer": self.optimizer.state_dict(),
            "own": self.own_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave.

        Raises:
            ValueError: the checkpoint is of another number of workers.
        """
        if state.get("world") != self.world:
            made = f"{state['world']} workers" if state else "fewer workers, or by another averager"
            raise ValueError(
                f"the checkpoint was made by {made}, now there are {self.world}: each worker has its own weights under "
                f"{type(self).__name__}, so their number cannot change. Start as many, or a new run from final/ or "
                "best/ with model.checkpoint"
            )
        self.flat.write(state["weights"].to(self.flat.device))
        self.optimizer.load_state_dict(state["optimizer"])
        self.load_own_state(state["own"])


def sum_in_order(vectors: list[Tensor]) -> Tensor:
    """The sum of vectors, always in the given order, so that a rerun gives the same bits."""
    total = vectors[0].clone()
    for each in vectors[1:]:
        total += each
    return total


@torch.no_grad()
def share_gradients(parameters: list[nn.Parameter], group: Any, world: int) -> None:
    """Replace gradients by their mean over workers, in one message."""
    with_gradient = [each for each in parameters if each.grad is not None]
    grads = [each.grad for each in with_gradient if each.grad is not None]
    if not grads or world == 1:
        return
    packed = torch.cat([each.reshape(-1) for each in grads])
    dist.all_reduce(packed, group=group)
    packed /= world
    sizes = [each.numel() for each in grads]
    torch._foreach_copy_(grads, [part.view(own.shape) for part, own in zip(packed.split(sizes), grads, strict=True)])
