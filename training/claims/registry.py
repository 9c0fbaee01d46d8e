"""CLAIMS: every claim by name."""

from __future__ import annotations

from importlib import import_module

from training.claims.base import Claim
from training.config import nearest

CLAIMS: dict[str, str] = {
    "ijepa": "training.claims.ijepa:CLAIM",
    "vjepa": "training.claims.vjepa:CLAIM",
}


def claim(name: str) -> Claim:
    """The claim of a name.

    Raises:
        ValueError: there is no such claim; the nearest is named.
    """
    if name not in CLAIMS:
        raise ValueError(f"unknown claim {name!r}{nearest(name, CLAIMS)}; there are {', '.join(CLAIMS)}")
    module, attribute = CLAIMS[name].split(":")
    found = getattr(import_module(module), attribute)
    assert isinstance(found, Claim)
    return found
