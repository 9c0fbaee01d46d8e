"""What methods that learn labels share: which pictures are labelled, and the metrics of classes."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from training.config import Settings


def check_label(settings: Settings) -> None:
    """Return if the method and the support, where there is one, name the same label.

    Raises:
        ValueError: they do not.
    """
    support = settings.data.support
    if support is not None and support.label != settings.method.own.get("label", support.label):
        raise ValueError(f"method.label and data.support.label are both the class to learn, not {support.label!r} too")


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
