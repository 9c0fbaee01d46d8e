"""What a training process sets for itself: memory that is kept, and attention that needs no plan for every length."""

from __future__ import annotations

import ctypes
import sys

import torch

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # numbers of glibc's mallopt
_NEVER = 2**31 - 1


def tune(device: torch.device) -> None:
    """Set this process up to train on a device; a run calls it, no import does."""
    if device.type == "cpu":
        keep_freed_memory()
    else:
        # cuDNN builds a plan, some tens of milliseconds, for every new pair of lengths, and masks draw new lengths at
        # almost every step. Torch's own fused kernels take any length.
        torch.backends.cuda.enable_cudnn_sdp(False)


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed instead of returning it; whether it agreed.

    Every step asks for the same large blocks. Returned and asked for anew, each page of them is faulted in again: tens
    of thousands of faults a step, a tenth of the time. It holds for the process.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False  # another C library, such as musl
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
