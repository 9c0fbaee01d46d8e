"""Looking an entry of a registry up: a plain dict of names to "module:attribute", imported when it is used."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from training.config import nearest


def entry(table: Mapping[str, str], name: str, what: str) -> Any:
    """What `table` holds under `name`.

    Args:
        table: name -> "module:attribute".
        name: as a recipe or command gives it.
        what: the kind of entry, for the error.

    Raises:
        ValueError: there is no such entry; the nearest is named.
    """
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}{nearest(name, table)}; this version has {', '.join(table)}")
    module, attribute = table[name].split(":")
    return getattr(import_module(module), attribute)
