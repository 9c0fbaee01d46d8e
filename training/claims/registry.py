"""CLAIMS: every claim by name."""

from __future__ import annotations

from training.claims.base import Claim
from training.registries import entry

CLAIMS: dict[str, str] = {
    "ijepa": "training.claims.ijepa:CLAIM",
    "ijepa_features": "training.claims.ijepa_features:CLAIM",
    "vjepa": "training.claims.vjepa:CLAIM",
    "paws": "training.claims.paws:CLAIM",
    "suncet": "training.claims.suncet:CLAIM",
    "pit_supervised": "training.claims.pit_supervised:CLAIM",
    "pit_mae": "training.claims.pit_mae:CLAIM",
    "pit_diffusion": "training.claims.pit_diffusion:CLAIM",
    "averaging": "training.claims.averaging:CLAIM",
    "async_steps": "training.claims.async_steps:CLAIM",
    "iwm": "training.claims.iwm:CLAIM",
    "flexpredict": "training.claims.flexpredict:CLAIM",
    "physics": "training.claims.physics:CLAIM",
    "physics_flicker": "training.claims.physics_flicker:CLAIM",
    "llip": "training.claims.llip:CLAIM",
}


def claim(name: str) -> Claim:
    """The claim of a name.

    Raises:
        ValueError: there is no such claim; the nearest is named.
    """
    found = entry(CLAIMS, name, "claim")
    assert isinstance(found, Claim)
    return found
