"""What a run has to know of FSDP2, which shares out weights among workers and gathers them where a block runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


def check_sharding(accelerator: Accelerator) -> None:
    """Accelerate leaves weights whole where it cannot share them out, and says nothing.

    Raises:
        ValueError: FSDP is asked for, and this run would not have it.
    """
    asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if asked and accelerator.distributed_type != DistributedType.FSDP:
        kind = accelerator.device.type
        raise ValueError(
            f"FSDP is asked for, but this run is {accelerator.distributed_type.value} on {kind}: Accelerate shares out "
            "weights on GPUs only, and with workers that accelerate launch or torchrun started"
        )


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, gathered from all workers where it is shared out; every worker asks."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@contextmanager
def gathered(method: nn.Module) -> Iterator[None]:
    """Let a part of `method` run by itself: what is in no block is gathered only where the whole method runs."""
    if not isinstance(method, FSDPModule):
        yield
        return
    method.unshard()
    try:
        yield
    finally:
        method.reshard()
