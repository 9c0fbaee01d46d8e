"""METHODS: every method by name."""

from __future__ import annotations

from typing import Any

from training.registries import entry

METHODS: dict[str, str] = {
    "jepa": "training.methods.jepa:JEPA",
    "mae": "training.methods.mae:MAE",
    "paws": "training.methods.paws:PAWS",
    "finetune": "training.methods.finetune:FineTune",
    "predictor_finetune": "training.methods.predictor_finetune:PredictorFineTune",
    "supervised": "training.methods.supervised:Supervised",
    "diffusion": "training.methods.diffusion:Diffusion",
    "suncet": "training.methods.suncet:SuNCEt",
    "llip": "training.methods.llip:Llip",
}


def method_class(name: str) -> Any:
    """The class of a method.

    Raises:
        ValueError: there is no such method.
    """
    return entry(METHODS, name, "method")
