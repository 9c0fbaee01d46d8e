"""AVERAGERS: every way of agreeing by name."""

from __future__ import annotations

from importlib import import_module
from typing import Any

AVERAGERS: dict[str, str] = {
    "all_reduce": "training.averaging.all_reduce:AllReduce",
}


def averager_class(name: str) -> Any:
    """The class of an averager.

    Raises:
        ValueError: there is no such averager.
    """
    if name not in AVERAGERS:
        raise ValueError(f"unknown averaging {name!r}; this version has {', '.join(AVERAGERS)}")
    module, attribute = AVERAGERS[name].split(":")
    return getattr(import_module(module), attribute)
