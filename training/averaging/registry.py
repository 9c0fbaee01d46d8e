"""AVERAGERS: every way of agreeing by name."""

from __future__ import annotations

from typing import Any

from training.registries import entry

AVERAGERS: dict[str, str] = {
    "all_reduce": "training.averaging.all_reduce:AllReduce",
}


def averager_class(name: str) -> Any:
    """The class of an averager.

    Raises:
        ValueError: there is no such averager.
    """
    return entry(AVERAGERS, name, "averaging")
