"""What PAWS and SuNCEt share: embeddings of several batches of views, label matrices, features in eval mode."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa_hub.models.base import JEPAModel
from jepa_hub.models.paws import Embeddings, PAWSModel
from jepa_hub.notices import say_once
from training.methods.base import Method
from training.methods.gathering import world_size


class ResidualMethod(Method):
    """A method that trains a PAWS model on views and a support."""

    needs_masks = False

    def __init__(self, model: JEPAModel, settings: Any) -> None:
        if not isinstance(model, PAWSModel):
            raise ValueError(f"this method trains the family paws, not {type(model).__name__}: set model.name=paws")
        if world_size() > 1:
            if torch.cuda.is_available():  # one batch norm over all workers, as upstream
                nn.SyncBatchNorm.convert_sync_batchnorm(model)
            else:
                say_once("workers on a CPU have no common batch norm: each normalises by its own samples")
        super().__init__(model, settings)
        self.model: PAWSModel

    @property
    def frozen_norms(self) -> bool:
        """Whether batch norms keep their statistics."""
        return getattr(self.settings, "freeze_norms", False)

    def train(self, mode: bool = True) -> Any:
        """As of any module; frozen norms stay in eval mode."""
        super().train(mode)
        if self.frozen_norms:
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def embed(self, *parts: Tensor) -> list[Embeddings]:
        """Embeddings of several batches of equal size of pictures, in one pass and one batch norm."""
        joined = self.model.embed(torch.cat(parts))
        sizes = [len(part) for part in parts]
        return [Embeddings(*each) for each in zip(*(tensor.split(sizes) for tensor in joined), strict=True)]

    def features(self, pixels: Tensor) -> Tensor:
        """Tokens [B, N, D] in eval mode: looking must not move the statistics of the batch norms."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            return super().features(pixels)
        finally:
            for module, mode in modes:
                module.training = mode


def label_rows(labels: Tensor, num_classes: int, smoothing: float, repeats: int = 1) -> Tensor:
    """Smoothed one-hot rows [repeats * S, K] of labels [S]: 1 - smoothing + smoothing / K on, smoothing / K off."""
    hot = F.one_hot(labels, num_classes).float()
    return (hot * (1 - smoothing) + smoothing / num_classes).repeat(repeats, 1)
