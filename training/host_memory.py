"""Memory of a training process on a CPU: freed blocks are kept for the next step."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # numbers of glibc's mallopt
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed instead of returning it; whether it agreed.

    Every step asks for the same large blocks. Returned and asked for anew, each page of them is faulted in again: tens
    of thousands of faults a step, a tenth of the time. It holds for the process: a run calls it, no import does.
    """
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False  # another C library, such as musl
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
