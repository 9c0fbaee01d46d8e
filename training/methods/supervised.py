"""Supervised training of any vision transformer of the hub: classes by cross-entropy, numbers by squared error.

From random weights, or from a checkpoint of any family whose encoder is a vision transformer, which is fine-tuning.
Source: arXiv:2406.09415, sec. 4.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from jepa_hub.models.base import JEPAModel
from jepa_hub.models.pit import PiTModel
from training.config import Settings as RunSettings
from training.data.source import Label
from training.methods.base import Method, MethodSettings
from training.methods.labelled import check_label, classified, labelled_pictures, names_of
from training.methods.mixing import mix
from training.objectives import number_error


class SupervisedSettings(MethodSettings):
    """Settings of `Supervised`; mixup, CutMix and label smoothing are off by default, as in the paper.

    Attributes:
        label: of the source.
        num_classes: of a class; 0 for a number.
        offset, scale: about the mean and the deviation of a number, in its units.
        train: "all" of the network, or the "head" alone.
        label_smoothing: of the targets.
        mixup, cutmix: alpha of their Beta distributions, 0 for none.
    """

    label: str
    num_classes: int = Field(default=0, ge=0)
    offset: float = 0.0
    scale: float = Field(default=1.0, gt=0)
    train: str = Field(default="all", pattern="^(all|head)$")
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    mixup: float = Field(default=0.0, ge=0)
    cutmix: float = Field(default=0.0, ge=0)


class Supervised(Method):
    """A head on an encoder, trained on the support where the recipe has one, else on the whole batch.

    What a run leaves is a model of the family pit: the encoder with its head.
    """

    Settings: ClassVar[type[MethodSettings]] = SupervisedSettings
    settings: SupervisedSettings
    needs_masks = False
    networks: ClassVar[tuple[str, ...]] = ("encoder",)
    model: PiTModel

    def __init__(self, model: JEPAModel, settings: SupervisedSettings) -> None:
        super().__init__(PiTModel.from_encoder(model), settings)
        if settings.num_classes:
            self.model.start_classifier(settings.num_classes)
        else:
            self.model.start_regressor(1, offset=settings.offset, scale=settings.scale)
        unused = self.model.regressor if settings.num_classes else self.model.classifier
        if unused is not None:
            unused.requires_grad_(False)
        if settings.train == "head":
            self.model.encoder.requires_grad_(False)

    @classmethod
    def check(cls, settings: RunSettings) -> None:
        """The label is one; mixing needs classes, and a support has only classes."""
        check_label(settings)
        own = settings.method.own
        if not own.get("num_classes") and (settings.data.support or own.get("mixup") or own.get("cutmix")):
            raise ValueError("data.support, mixup and cutmix are for classes: set method.num_classes")

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Cross-entropy and accuracy, or squared error in units of `scale`."""
        own = self.settings
        pixels, labels = labelled_pictures(batch, own.label)
        if not own.num_classes:
            return {"loss": number_error(self.model.values(pixels)[:, 0], labels, own.scale)}
        if self.training and (own.mixup or own.cutmix):
            shares = F.one_hot(labels, own.num_classes).float()  # [B, K]
            pixels, labels = mix(pixels, shares, own.mixup, own.cutmix)
        return classified(self.model.logits(pixels), labels, own.label_smoothing)

    def name_classes(self, labels: Mapping[str, Label]) -> None:
        """The classifier says the names of its classes."""
        names = names_of(labels, self.settings.label, self.settings.num_classes)
        self.model.config.class_names = self.model.config.class_names or names

    def parts(self) -> dict[str, nn.Module]:
        """The encoder with its head: one network, whose gradients are clipped together."""
        return {"model": self.model}

    def features(self, pixels: Tensor) -> Tensor:
        """Tokens [B, N, D] of the encoder."""
        with torch.no_grad():
            return self.model.encoder(pixels)
