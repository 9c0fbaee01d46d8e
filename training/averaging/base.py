"""Averager: how workers agree. The loop is the same for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ClassVar

from accelerate import Accelerator
from pydantic import BaseModel, ConfigDict
from torch import nn


class AveragingSettings(BaseModel):
    """Settings of an averager; each adds its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Averager:
    """The seam between the loop and the workers; the base class does nothing but step."""

    Settings: ClassVar[type[AveragingSettings]] = AveragingSettings

    def __init__(self, settings: AveragingSettings, accelerator: Accelerator) -> None:
        self.settings = settings
        self.accelerator = accelerator

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
        """Weights to look at, e.g. averaged ones, while the context lasts."""
        yield

    def consolidate(self, method: nn.Module) -> None:
        """Make every worker hold the weights to save."""

    def state_dict(self) -> dict[str, Any]:
        """What this worker must save besides the weights."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, but the checkpoint has {sorted(state)}")
