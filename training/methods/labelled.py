"""What methods that learn labels share: which pictures are labelled, and the metrics of classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from training.config import Settings
from training.data.source import Label


def check_label(settings: Settings) -> None:
    """Return if the method and the support, where there is one, name the same label.

    Raises:
        ValueError: they do not.
    """
    support = settings.data.support
    if support is not None and support.label != settings.method.own.get("label", support.label):
        raise ValueError(f"method.label and data.support.label are both the class to learn, not {support.label!r} too")


def names_of(labels: Mapping[str, Label], label: str, num_classes: int) -> list[str]:
    """Names of the classes of a label; empty where they have none, or where the method has room for more classes.

    Args:
        labels: of a source, by name.
        label: which is learned.
        num_classes: that the method has room for; 0 learns a number.

    Raises:
        ValueError: there is no such label, it is of the other kind, or it has more classes.
    """
    if label not in labels:
        raise ValueError(f"method.label {label!r} is none of the source's: {', '.join(labels) or 'it has none'}")
    found = labels[label]
    if not num_classes:
        if found.kind != "number":
            raise ValueError(f"{label!r} is a class of {found.num_classes}: set method.num_classes={found.num_classes}")
        return []
    if found.kind != "class":
        raise ValueError(f"{label!r} is a number, not {num_classes} classes: method.num_classes=0 learns numbers")
    if (found.num_classes or 0) > num_classes:
        raise ValueError(f"{label!r} has {found.num_classes} classes, the recipe {num_classes}")
    return list(found.names) if len(set(found.names)) == num_classes else []


def labelled_pictures(batch: dict[str, Any], label: str) -> tuple[Tensor, Tensor]:
    """Pixels [B, 3, F, H, W] and labels [B]: of the support where the recipe has one, else of the whole batch."""
    support = batch.get("support")
    if support is None:
        return batch["pixels"], batch["labels"][label]
    pixels, local = support["pixels"], support["labels"]
    return pixels, support["classes"][local - local.min()].repeat(len(pixels) // len(local))


def classified(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> dict[str, Tensor]:
    """Cross-entropy of logits [B, K] from labels [B] or from shares of classes [B, K], and the accuracy."""
    loss = F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)
    truth = labels.argmax(dim=1) if labels.is_floating_point() else labels
    return {"loss": loss, "accuracy": (logits.argmax(dim=1) == truth).float().mean()}
