"""Fine-tuning: a classifier on a PAWS model's trunk, trained with cross-entropy. Source: arXiv:2104.13963, sec. 4."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from jepa_hub.models.base import JEPAModel
from training.config import Settings as RunSettings
from training.methods.base import MethodSettings
from training.methods.labelled import check_label, classified, labelled_pictures
from training.methods.residual import ResidualMethod


class FineTuneSettings(MethodSettings):
    """Settings of `FineTune`.

    Attributes:
        label: of the source, a class.
        num_classes: of it.
        train: "all" of the network, or the "linear" layer alone.
        freeze_norms: batch norms keep their statistics, as small batches call for; always so for "linear".
        label_smoothing: of the targets.
    """

    label: str
    num_classes: int = Field(ge=2)
    train: str = Field(default="all", pattern="^(all|linear)$")
    freeze_norms: bool = False
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)


class FineTune(ResidualMethod):
    """The projection head's first layer stays, a linear layer of zeros replaces the rest, as in upstream's code.

    Trained on the support where the recipe has one, else on the whole batch. From random weights it is the
    supervised baseline.
    """

    Settings: ClassVar[type[MethodSettings]] = FineTuneSettings
    settings: FineTuneSettings

    def __init__(self, model: JEPAModel, settings: FineTuneSettings) -> None:
        super().__init__(model, settings)
        self.model.start_classifier(settings.num_classes)
        if settings.train == "linear":
            self.model.requires_grad_(False)
            assert self.model.classifier is not None  # made above
            self.model.classifier.fc2.requires_grad_(True)

    @classmethod
    def check(cls, settings: RunSettings) -> None:
        """One view is enough."""
        check_label(settings)

    @property
    def frozen_norms(self) -> bool:
        """Whether batch norms keep their statistics."""
        return self.settings.freeze_norms or self.settings.train == "linear"

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Cross-entropy of the labelled pictures."""
        pixels, labels = labelled_pictures(batch, self.settings.label)
        assert self.model.classifier is not None  # made in __init__
        return classified(self.model.classifier(self.model.embed(pixels).pooled), labels, self.settings.label_smoothing)
