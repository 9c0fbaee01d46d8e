"""Single messages between workers over gloo, for averagers that do not meet in a collective.

On the CPU, and blocking: a gloo receive does not tell before it is waited for whether it has completed, and NCCL has no
receive from any source and no communicator that threads may share.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

REQUEST, REPLY = 1, 2  # tags
FOREVER = timedelta(days=30)  # who waits for requests may hear nothing for as long as nobody has anything to say


def open_wire() -> Any:
    """A group of its own for messages; every worker calls it."""
    return dist.new_group(timeout=FOREVER, backend="gloo")


def send(wire: Any, vector: Tensor, peer: int, tag: int, seconds: float) -> None:
    """Send a CPU vector.

    Raises:
        RuntimeError: the peer is gone, or did not take it in time.
    """
    work = dist.isend(vector, peer, group=wire, tag=tag)
    assert work is not None  # every worker belongs to the group
    work.wait(timedelta(seconds=seconds))


def receive(wire: Any, like: Tensor, peer: int, tag: int, seconds: float) -> Tensor:
    """What the peer sends, a CPU vector as long as `like`.

    Raises:
        RuntimeError: the peer is gone, or did not send it in time.
    """
    vector = torch.empty_like(like, device="cpu")
    work = dist.irecv(vector, peer, group=wire, tag=tag)
    assert work is not None  # every worker belongs to the group
    work.wait(timedelta(seconds=seconds))
    return vector


def next_request(wire: Any, box: Tensor) -> int:
    """Fill `box` with the next request of anyone, and who sent it."""
    return dist.recv(box, None, group=wire, tag=REQUEST)
