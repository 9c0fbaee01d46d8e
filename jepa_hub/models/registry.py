"""MODELS: every family by name, and their registration with transformers' Auto classes."""

from __future__ import annotations

from importlib import import_module
from typing import Any

MODELS: dict[str, str] = {
    "ijepa": "jepa_hub.models.ijepa:IJepaModel",
    "vjepa": "jepa_hub.models.vjepa:VJepaModel",
    "vjepa2": "jepa_hub.models.vjepa2:VJepa2Model",
    "mae": "jepa_hub.models.mae:MAEModel",
    "flexpredict": "jepa_hub.models.flexpredict:FlexPredictModel",
    "pit": "jepa_hub.models.pit:PiTModel",
    "iwm": "jepa_hub.models.iwm:IWMModel",
    "dit": "jepa_hub.models.dit:DiTModel",
    "paws": "jepa_hub.models.paws:PAWSModel",
    "llip": "jepa_hub.models.llip:LlipModel",
}
TYPE_PREFIX = "jepa_hub_"


def model_class(family: str) -> Any:
    """The model class of a family.

    Raises:
        ValueError: there is no such family.
    """
    if family not in MODELS:
        raise ValueError(f"unknown family {family!r}; this version has {', '.join(MODELS)}")
    module, name = MODELS[family].split(":")
    return getattr(import_module(module), name)


def family_of(model: type) -> str | None:
    """The family a class belongs to, or None for the base class."""
    path = f"{model.__module__}:{model.__qualname__}"
    for name, where in MODELS.items():
        if where == path:
            return name
    return next((family for parent in model.__bases__ if (family := family_of(parent))), None)


def register_auto_classes() -> None:
    """Let transformers' AutoConfig and AutoModel know every family under its `jepa_hub_*` type."""
    from transformers import AutoConfig, AutoModel

    for family in MODELS:
        model = model_class(family)
        AutoConfig.register(model.config_class.model_type, model.config_class, exist_ok=True)
        AutoModel.register(model.config_class, model, exist_ok=True)
