"""The end of torch.distributed, in order.

Threads of gloo give tensors back to Python when a collective is over. One that does so while Python ends aborts the
process ("terminate called without an active exception"), so the group, which waits for its threads, must be gone first.
"""

from __future__ import annotations

import gc

import torch.distributed as dist

# Defaults of its functions are the group of the moment it is imported: imported later (DistributedDataParallel does,
# through dynamo), it would hold the group for good, and destroying the group would wait for no thread.
import torch.distributed.nn  # noqa: F401


def leave() -> None:
    """Destroy the process group, if there is one; nothing may refer to a wrapped model or a pending collective."""
    gc.collect()
    if dist.is_initialized():
        dist.destroy_process_group()
