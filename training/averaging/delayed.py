"""Asynchronous SGD with a master copy: no worker waits for another, every gradient is an update of its own.

A thread of worker 0 keeps the master. A worker sends its gradient, gets the newest parameters and goes on; how many
updates happened in between is the gradient's delay, which the server counts. n workers make n updates where all_reduce
makes one, so divide the learning rate by n to begin with.
Source: arXiv:2006.13838, sec. III (survey); step sizes: arXiv:2202.08550.
"""

from __future__ import annotations

import copy
import threading
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from training.averaging.base import AveragingSettings, WorkerLostError
from training.averaging.per_worker import PerWorker
from training.averaging.server import DelayedServer, StepSize, StepSizes
from training.averaging.wire import REPLY, REQUEST, next_request, open_wire, receive, send

GRADIENT, READ, STOP = 0.0, 1.0, 2.0
OPTIONS = ("lr", "weight_decay")  # of a parameter group, set by the schedule of the worker that sends


class DelayedSettings(AveragingSettings):
    """Settings of `Delayed`; see `StepSizes`.

    Attributes:
        step_size: fixed, adaptive_a or adaptive_b; the learning rate is what a gradient without delay gets.
        divisor: of fixed.
        share: of adaptive_a.
        aggregate: step along the mean of every worker's last gradient (PIAG).
    """

    step_size: StepSize = "adaptive_b"
    divisor: float = Field(default=1.0, ge=1)
    share: float = Field(default=0.9, gt=0, le=1)
    aggregate: bool = False


class Delayed(PerWorker):
    """Workers hold copies of the master, each as old as its own last message.

    Moving averages and buffers are each worker's own; the finished model takes their mean.
    """

    Settings: ClassVar[type[AveragingSettings]] = DelayedSettings

    def prepare(self, method: nn.Module, optimizer: Any) -> tuple[nn.Module, Any]:
        """As `PerWorker`; the optimizer that steps is the server's."""
        if self.accelerator.scaler is not None:
            raise ValueError("averaging delayed cannot scale the loss for fp16: use run.precision=bf16 or fp32")
        return super().prepare(method, optimizer)

    def start(self) -> None:
        """The server takes a copy of the weights that all begin with."""
        settings = self.settings
        inner = self.optimizer.optimizer
        self.parameters: list[Tensor] = [each for group in inner.param_groups for each in group["params"]]
        self.counts = [each.numel() for each in self.parameters]
        self.count = sum(self.counts)
        self.header = 3 + len(OPTIONS) * len(inner.param_groups)  # kind, version (two numbers), options of each group
        self.version = self.delay = 0
        self.failure: BaseException | None = None
        self.lock = threading.Lock()
        self.thread = self.wire = self.server = None
        if self.rank == 0:
            sizes = StepSizes(settings.step_size, divisor=settings.divisor, share=settings.share)
            self.server = DelayedServer(copy.deepcopy(inner), sizes, self.world, aggregate=settings.aggregate)
        if self.world > 1:
            self.wire = open_wire()
            if self.rank == 0:
                self.thread = threading.Thread(target=self._guarded, name="server", daemon=True)
                self.thread.start()

    # ------------------------------------------------------------------------------------------------- the training

    @torch.no_grad()
    def step(self, method: nn.Module, optimizer: Any) -> None:
        """Hand the gradient over and take the newest parameters."""
        grads = [torch.zeros_like(each) if each.grad is None else each.grad for each in self.parameters]
        gradient = torch.cat([each.reshape(-1) for each in grads])
        rates = [{name: group[name] for name in OPTIONS} for group in optimizer.param_groups]
        self._take(*self._ask(GRADIENT, gradient, rates))

    def _take(self, vector: Tensor, version: int) -> None:
        for own, part in zip(self.parameters, vector.split(self.counts), strict=True):
            own.copy_(part.view(own.shape))
        self.version = version

    def _ask(self, kind: float, gradient: Tensor, rates: list[dict[str, float]]) -> tuple[Tensor, int]:
        if self.server is not None:
            if self.failure is not None:
                raise WorkerLostError(
                    f"the server of averaging delayed ended ({str(self.failure).splitlines()[0]}). Start all workers "
                    "again: the run resumes from the newest whole checkpoint"
                ) from self.failure
            with self.lock:
                if kind == GRADIENT:
                    self.delay = self.server.update(0, self.version, gradient, rates)
                return self.server.read(), self.server.version
        limit = self.settings.timeout
        options = [rate[name] for rate in rates for name in OPTIONS] or [0.0] * (self.header - 3)
        try:
            head = torch.tensor([kind, *_split(self.version), *options], dtype=gradient.dtype)
            send(self.wire, torch.cat([gradient.cpu(), head]), 0, REQUEST, limit)
            reply = receive(self.wire, torch.empty(self.count + 3, dtype=gradient.dtype), 0, REPLY, limit)
        except RuntimeError as error:
            raise WorkerLostError(
                f"worker {self.rank} lost the server (worker 0) after update {self.version}: it died, or did not "
                f"answer within averaging.timeout={self.settings.timeout:g} s ({str(error).splitlines()[0]}). Look at "
                "its error, then start all workers again: the run resumes from the newest whole checkpoint"
            ) from error
        self.delay = int(reply[-1])
        return reply[: self.count].to(gradient.device), _join(reply[-3], reply[-2])

    def consensus(self) -> Tensor:
        """The master parameters, and the mean of everything else."""
        self._barrier()
        own = [each.clone() for each in self.parameters]
        with torch.no_grad():
            nothing = torch.zeros(self.count, dtype=own[0].dtype, device=own[0].device)
            vector, _ = self._ask(READ, nothing, [])
            self._take(vector, self.version)
            agreed = self.mean(self.flat.read())
            torch._foreach_copy_(self.parameters, own)
        return agreed

    def _barrier(self) -> None:
        self.mean(torch.zeros(1, device=self.flat.device))

    def report(self) -> dict[str, float]:
        """The disagreement, and the delay of this worker's last gradient in updates."""
        return {**super().report(), "delay": float(self.delay)}

    def own_state(self) -> dict[str, Any]:
        """The version this worker holds; the server's state beside it."""
        self._barrier()
        return {"version": self.version, "server": None if self.server is None else self.server.state_dict()}

    def load_own_state(self, state: dict[str, Any]) -> None:
        """Take back what `own_state` gave."""
        self.version = state["version"]
        if self.server is not None:
            with self.lock:
                self.server.load_state_dict(state["server"])
        if self.world > 1:
            self._barrier()  # no gradient arrives before the server is back

    def close(self, *, failed: bool) -> None:
        """End the server's thread; worker 1 tells it. A failed run does not wait for it."""
        if self.world == 1 or failed:
            return
        if self.rank == 1:
            head = torch.zeros(self.count + self.header, dtype=self.parameters[0].dtype)
            head[self.count] = STOP
            send(self.wire, head, 0, REQUEST, self.settings.timeout)
        if self.thread is not None:
            self.thread.join(self.settings.timeout)

    # --------------------------------------------------------------------------------------------------- the server

    def _guarded(self) -> None:
        try:
            self._serve()
        except BaseException as error:
            self.failure = error

    @torch.no_grad()
    def _serve(self) -> None:
        assert self.server is not None  # only worker 0 has this thread
        device = self.parameters[0].device
        inbox = torch.empty(self.count + self.header, dtype=self.parameters[0].dtype)
        while True:
            sender = next_request(self.wire, inbox)
            head = inbox[self.count :].tolist()
            if head[0] == STOP:
                return
            with self.lock:
                delay = 0
                if head[0] == GRADIENT:
                    values = head[3:]
                    rates = [
                        dict(zip(OPTIONS, values[start : start + len(OPTIONS)], strict=True))
                        for start in range(0, len(values), len(OPTIONS))
                    ]
                    gradient = inbox[: self.count].to(device, copy=True)
                    delay = self.server.update(sender, _join(head[1], head[2]), gradient, rates)
                reply = self.server.read().cpu()
                version = self.server.version
            answer = torch.cat([reply, torch.tensor([*_split(version), float(delay)], dtype=reply.dtype)])
            send(self.wire, answer, sender, REPLY, self.settings.timeout)


def _split(version: int) -> tuple[float, float]:
    """A version as two numbers that float32 holds exactly."""
    return float(version >> 20), float(version & ((1 << 20) - 1))


def _join(high: Any, low: Any) -> int:
    return (int(high) << 20) + int(low)
