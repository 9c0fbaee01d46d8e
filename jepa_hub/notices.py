"""Things a user is told once, on standard error: licences, fallbacks."""

from __future__ import annotations

import os
import sys

_said: set[str] = set()


def say_once(message: str) -> None:
    """Print `message` on standard error the first time it comes up; JEPA_HUB_QUIET=1 silences all of them."""
    if message in _said or os.environ.get("JEPA_HUB_QUIET") == "1":
        return
    _said.add(message)
    print(f"jepa_hub: {message}", file=sys.stderr)
