"""All-reduce: every worker sees the mean gradient of every step (DDP, FSDP, DeepSpeed, as Accelerate was told)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal

from accelerate.utils import DDPCommunicationHookType, DistributedDataParallelKwargs
from torch import nn

from training.averaging.base import Averager, AveragingSettings


class AllReduceSettings(AveragingSettings):
    """Settings of `AllReduce`.

    Attributes:
        compression: of the gradients that DDP sends: half precision, or PowerSGD's low rank (arXiv:1905.13727), which
            torch begins after 1,000 steps.
    """

    compression: Literal["none", "fp16", "bf16", "power_sgd"] = "none"


class AllReduce(Averager):
    """Synchronous data parallelism; the default."""

    Settings: ClassVar[type[AveragingSettings]] = AllReduceSettings

    @classmethod
    def handlers(cls, settings: Any) -> list[Any]:
        """DDP's communication hook, where one is asked for."""
        if settings.compression == "none":
            return []
        hook = DDPCommunicationHookType(settings.compression)
        return [DistributedDataParallelKwargs(comm_hook=hook)]

    def prepare(self, method: nn.Module, optimizer: Any) -> tuple[nn.Module, Any]:
        """Both wrapped by Accelerate.

        Raises:
            ValueError: the network between the workers cannot compress so (bf16 needs NCCL).
        """
        try:
            return self.accelerator.prepare(method, optimizer)
        except TypeError as error:
            if "hook" not in str(error):
                raise
            raise ValueError(f"averaging.compression={self.settings.compression}: {error}") from error

    def around_step(self, method: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """Gradients travel on the last pass of a step only."""
        return nullcontext() if last else self.accelerator.no_sync(method)
