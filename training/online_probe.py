"""A probe on frozen features while training; its best score chooses the model in `best/`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jepa_hub.models.base import JEPAModel
from jepa_hub.models.paws import PAWSModel
from training import few_labels
from training.config import OnlineProbeSettings, Settings
from training.data.registry import source_class
from training.probing.features import extract_features
from training.probing.linear import linear_probe
from training.probing.neighbours import knn_probe
from training.probing.results import ProbeResult
from training.probing.splits import Part, build_source, make_splits
from training.probing.tables import separate

PROBES: dict[str, Callable[..., ProbeResult]] = {"knn": knn_probe, "linear": linear_probe}


def _has_splits(source: str) -> bool:
    return "split" in source_class(source).Settings.model_fields


class OnlineProbe:
    """Reads a label out of a model's features; only training and validation samples are looked at.

    Args:
        settings: which label, probe and samples.
        run: its source is used where the settings name none, its labelled samples for the kind "support".

    Raises:
        ValueError: the source has no such label, too few samples, or the run has no labelled samples.
    """

    def __init__(self, settings: OnlineProbeSettings, run: Settings) -> None:
        self.settings = settings
        named = settings.source or run.data.source
        sizes = {"train": settings.num_train, "validation": settings.num_test, "test": settings.num_test}
        # Sources that draw their samples draw no more than the probe reads.
        own = {key: value for key, value in named.own.items() if key not in ("split", "num_samples")}
        if settings.kind in ("support", "classifier") and settings.source and not _has_splits(named.name):
            unseen = build_source(named.name, own)  # nothing is trained on these, so all of them validate
            self.parts = {"validation": Part(unseen, list(range(len(unseen)))[: settings.num_test])}
        else:
            self.parts = make_splits(named.name, own, sizes, (run.run.seed,)).parts
        labels = self.parts["validation"].source.labels
        if settings.label not in labels:
            raise ValueError(f"probe.label is {settings.label!r}; the source has {', '.join(labels) or 'no labels'}")
        self.labelled = few_labels.labelled_part(run)[:2] if settings.kind == "support" else None
        self.best: float | None = None

    def score(self, model: JEPAModel) -> float:
        """Validation score: accuracy for a class, R2 for a number."""
        if self.settings.kind in ("support", "classifier"):
            return self._few_labels(model)
        found: dict[str, Any] = {}
        for name, part in self.parts.items():
            found[name] = extract_features(model, part.source, indices=part.indices, progress=False)
        train, validation, test, _ = separate(found["train"], found["validation"], found["test"])
        result = PROBES[self.settings.kind](train, validation, test, self.settings.label)
        return result.validation  # the test samples stay unseen: the best model is chosen by this number

    def _few_labels(self, model: JEPAModel) -> float:
        part = self.parts["validation"]
        unseen = part.source, part.indices
        if self.labelled is None and isinstance(model, few_labels.Classifying):
            return few_labels.classifier_accuracy(model, unseen, self.settings.label).top1
        if self.labelled is None or not isinstance(model, PAWSModel):
            raise ValueError(f"probe.kind={self.settings.kind} is not for {type(model).__name__}")
        return few_labels.nearest_neighbours(model, self.labelled, unseen, self.settings.label).top1

    def improves(self, score: float) -> bool:
        """Whether this is the best score so far, which is remembered."""
        if self.best is not None and score <= self.best:
            return False
        self.best = score
        return True
