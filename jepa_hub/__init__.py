"""Pretrained models of the JEPA family: load one, get features, predictions and surprise.

The public names are imported on first use, so that `import jepa_hub` costs nothing: neither torch nor transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jepa_hub.catalog import CHECKPOINTS
    from jepa_hub.catalog_row import Checkpoint
    from jepa_hub.features import Features
    from jepa_hub.masks import Masks
    from jepa_hub.models.base import JEPAModel
    from jepa_hub.models.probe import Probe
    from jepa_hub.physics.surprise import SurpriseCurve, surprise, surprise_curve
    from jepa_hub.processing import JEPAProcessor
    from jepa_hub.version import __version__

__all__ = [
    "CHECKPOINTS",
    "Checkpoint",
    "Features",
    "JEPAModel",
    "JEPAProcessor",
    "Masks",
    "Probe",
    "SurpriseCurve",
    "__version__",
    "surprise",
    "surprise_curve",
]

_HOME = {
    "CHECKPOINTS": "jepa_hub.catalog",
    "Checkpoint": "jepa_hub.catalog_row",
    "Features": "jepa_hub.features",
    "JEPAModel": "jepa_hub.models.base",
    "JEPAProcessor": "jepa_hub.processing",
    "Masks": "jepa_hub.masks",
    "Probe": "jepa_hub.models.probe",
    "SurpriseCurve": "jepa_hub.physics.surprise",
    "surprise": "jepa_hub.physics.surprise",
    "surprise_curve": "jepa_hub.physics.surprise",
    "__version__": "jepa_hub.version",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(_unknown(name), name=name)
    from importlib import import_module

    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value  # the next access is a plain look-up
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _unknown(name: str) -> str:
    from difflib import get_close_matches

    spelling = {public.lower(): public for public in __all__}
    close = get_close_matches(name.lower(), spelling, n=1)
    hint = f"did you mean {spelling[close[0]]!r}?" if close else f"it has {', '.join(__all__)}"
    return f"module 'jepa_hub' has no attribute {name!r}; {hint}"
