"""METHODS: every method by name."""

from __future__ import annotations

from importlib import import_module
from typing import Any

METHODS: dict[str, str] = {
    "jepa": "training.methods.jepa:JEPA",
    "mae": "training.methods.mae:MAE",
}


def method_class(name: str) -> Any:
    """The class of a method.

    Raises:
        ValueError: there is no such method.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; this version has {', '.join(METHODS)}")
    module, attribute = METHODS[name].split(":")
    return getattr(import_module(module), attribute)
