"""A probe on frozen features while training; its best score chooses the model in `best/`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jepa_hub.models.base import JEPAModel
from training.config import Named, OnlineProbeSettings
from training.probing.features import extract_features
from training.probing.linear import linear_probe
from training.probing.neighbours import knn_probe
from training.probing.results import ProbeResult
from training.probing.splits import make_splits
from training.probing.tables import separate

PROBES: dict[str, Callable[..., ProbeResult]] = {"knn": knn_probe, "linear": linear_probe}


class OnlineProbe:
    """Reads a label out of a model's features; only training and validation samples are looked at.

    Args:
        settings: which label, probe and samples.
        source: the training source, used where the settings name none.
        seed: of the draw of samples.

    Raises:
        ValueError: the source has no such label, or too few samples.
    """

    def __init__(self, settings: OnlineProbeSettings, source: Named, seed: int) -> None:
        self.settings = settings
        named = settings.source or source
        sizes = {"train": settings.num_train, "validation": settings.num_test, "test": settings.num_test}
        # Sources that draw their samples draw no more than the probe reads.
        own = {key: value for key, value in named.own.items() if key not in ("split", "num_samples")}
        self.parts = make_splits(named.name, own, sizes, (seed,)).parts
        labels = self.parts["train"].source.labels
        if settings.label not in labels:
            raise ValueError(f"probe.label is {settings.label!r}; the source has {', '.join(labels) or 'no labels'}")
        self.best: float | None = None

    def score(self, model: JEPAModel) -> float:
        """Validation score: accuracy for a class, R2 for a number."""
        found: dict[str, Any] = {}
        for name, part in self.parts.items():
            found[name] = extract_features(model, part.source, indices=part.indices, progress=False)
        train, validation, test, _ = separate(found["train"], found["validation"], found["test"])
        result = PROBES[self.settings.kind](train, validation, test, self.settings.label)
        return result.validation  # the test samples stay unseen: the best model is chosen by this number

    def improves(self, score: float) -> bool:
        """Whether this is the best score so far, which is remembered."""
        if self.best is not None and score <= self.best:
            return False
        self.best = score
        return True
