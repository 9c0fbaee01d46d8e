"""Averager: how workers agree. The loop is the same for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar

from accelerate import Accelerator
from pydantic import BaseModel, ConfigDict, PositiveFloat
from torch import nn


class AveragingSettings(BaseModel):
    """Settings of an averager; each adds its own.

    Attributes:
        timeout: seconds that a worker may keep the others waiting before they stop.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    timeout: PositiveFloat = 1800.0


class WorkerLostError(RuntimeError):
    """Another worker died or fell silent; the text says when, and how to go on."""


def lost_worker(error: BaseException, where: str) -> WorkerLostError | None:
    """The error in words, if it is one of the network between workers.

    Args:
        error: what a collective or a message raised.
        where: e.g. "after step 12".
    """
    from torch import distributed as dist

    if isinstance(error, WorkerLostError):
        return error
    text = str(error)
    signs = ("gloo", "NCCL", "Connection closed", "Connection reset", "Timed out", "Broken pipe")
    if not isinstance(error, dist.DistError) and not any(sign in text for sign in signs):
        return None
    return WorkerLostError(
        f"another worker died or fell silent {where}, so this one stops ({text.splitlines()[0]}). Look at the first "
        "error of the others, then start all workers again: the run resumes from the newest whole checkpoint"
    )


class Averager:
    """The seam between the loop and the workers; the base class does nothing but step."""

    Settings: ClassVar[type[AveragingSettings]] = AveragingSettings

    def __init__(self, settings: Any, accelerator: Accelerator) -> None:
        self.settings = settings
        self.accelerator = accelerator

    @classmethod
    def handlers(cls, settings: Any) -> list[Any]:
        """What Accelerate is to be built with, e.g. its DistributedDataParallelKwargs."""
        return []

    def prepare(self, method: nn.Module, optimizer: Any) -> tuple[nn.Module, Any]:
        """Both as the loop uses them: on the device, under autocast, wrapped where workers share gradients.

        They go together because sharding replaces the parameters that the optimizer holds.
        """
        raise NotImplementedError

    def around_step(self, method: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """Around one forward and backward pass; `last` of those that make a step."""
        return nullcontext()

    def step(self, method: nn.Module, optimizer: Any) -> None:
        """One optimizer step, then whatever makes workers agree."""
        optimizer.step()

    @contextmanager
    def evaluating(self, method: nn.Module) -> Iterator[None]:
        """Weights to look at or to save, e.g. averaged ones, while the context lasts; every worker enters it."""
        yield

    def consolidate(self, method: nn.Module) -> None:
        """Make every worker hold the weights of the finished model."""

    def report(self) -> dict[str, float]:
        """What the log shows of the agreement, measured when `evaluating` was last entered."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What this worker must save besides the model that `evaluating` shows and the main worker's optimizer."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, but the checkpoint has {sorted(state)}")

    def close(self, *, failed: bool) -> None:
        """Stop what runs beside the training; called once, by every worker, or by those that `failed`."""
