"""AVERAGERS: every way of agreeing by name."""

from __future__ import annotations

from typing import Any

from training.registries import entry

AVERAGERS: dict[str, str] = {
    "all_reduce": "training.averaging.all_reduce:AllReduce",
    "local_sgd": "training.averaging.local_sgd:LocalSGD",
    "push_sum": "training.averaging.push_sum:PushSum",
    "async_gossip": "training.averaging.async_gossip:AsyncGossip",
    "delayed": "training.averaging.delayed:Delayed",
}


def averager_class(name: str) -> Any:
    """The class of an averager.

    Raises:
        ValueError: there is no such averager.
    """
    return entry(AVERAGERS, name, "averaging")
