"""PAWS: views of a sample agree on its neighbours among labelled samples. Source: arXiv:2104.13963."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from jepa_hub.nn.resnet import soft_neighbours
from training.config import Settings as RunSettings
from training.methods.base import MethodSettings
from training.methods.gathering import average, gather
from training.methods.residual import ResidualMethod, label_rows
from training.objectives import negative_entropy, paws_consistency, paws_targets, sharpen


class PAWSSettings(MethodSettings):
    """Settings of `PAWS`.

    Attributes:
        sharpening: temperature of the targets; 1 does not sharpen.
        me_max: weight of the mean entropy maximisation; 0 leaves it out.
        label_smoothing: of the support's labels.
    """

    sharpening: float = Field(default=0.25, gt=0)
    me_max: float = Field(default=1.0, ge=0)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)


class PAWS(ResidualMethod):
    """Predicting view assignments with support samples."""

    Settings: ClassVar[type[MethodSettings]] = PAWSSettings
    views: ClassVar[str] = "two or more, and a support"

    @classmethod
    def check(cls, settings: RunSettings) -> None:
        """Two large views and a support that never ends."""
        if settings.data.num_views != 2:
            raise ValueError(f"paws compares two large views: set data.num_views=2 (it is {settings.data.num_views})")
        if settings.data.support is None or settings.data.support.until < 1:
            raise ValueError("paws needs labelled samples at every step: give data.support, with until: 1")

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Consistency of all views with the swapped large ones, minus the entropy of the mean prediction."""
        support, views = batch["support"], batch["views"]
        first, second, supports = self.embed(*views[:2], support["pixels"])
        small = [self.model.embed(torch.cat(views[2:])).predicted] if len(views) > 2 else []
        repeats = len(support["pixels"]) // len(support["labels"])
        # Rows of the label matrix follow the gathered supports: all views of worker 0, then those of worker 1, ...
        labels = gather(
            label_rows(support["labels"], support["num_classes"], self.settings.label_smoothing, repeats)
        )  # [W*V*S, K]
        temperature = self.model.config.temperature
        with torch.autocast(views[0].device.type, enabled=False):
            anchors = soft_neighbours(
                torch.cat([first.predicted, second.predicted, *small]), gather(supports.predicted), labels, temperature
            )  # [(2 + M)*B, K]
            swapped = torch.cat([second.projected, first.projected]).detach()
            large = soft_neighbours(swapped, gather(supports.projected.detach()), labels, temperature)  # [2*B, K]
            targets = paws_targets(large, len(views) - 2, self.settings.sharpening)
            consistency = paws_consistency(anchors, targets)
            balance = negative_entropy(average(sharpen(anchors, self.settings.sharpening).mean(dim=0)))
            loss = consistency + self.settings.me_max * balance
        found = {
            "loss": loss,
            "consistency": consistency.detach(),
            "entropy": -balance.detach(),
            "confidence": targets[: len(large)].max(dim=-1).values.mean(),
        }
        truth = batch["labels"].get(support["label"])
        if truth is not None:  # known to us, never to the loss: how good the targets are
            found["pseudo_label_accuracy"] = _hits(large, gather(support["classes"]), truth)
        return found


def _hits(probabilities: Tensor, classes: Tensor, truth: Tensor) -> Tensor:
    """Share of pictures, among those of the support's classes, whose most likely class is theirs, 0-d.

    Args:
        probabilities: [2 * B, K], both large views.
        classes: [K] or, where workers share them, K of each worker.
        truth: [B].
    """
    known = classes[: probabilities.shape[-1]]
    best, truth = known[probabilities.argmax(dim=-1)], truth.repeat(2)
    possible = (truth[:, None] == known).any(dim=-1)
    return ((best == truth) & possible).sum() / possible.sum().clamp_min(1)
