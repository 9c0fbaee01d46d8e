"""Objectives: formulas of tensors. They know no model, no batch and no number of workers.

Legend: B samples, M targets of a sample, T tokens of a target, D channels, P pixel values of a patch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LATENT_DISTANCES = ("l1", "l2", "smooth_l1")


def latent_distance(predicted: Tensor, target: Tensor, distance: str = "l1") -> Tensor:
    """Mean distance of predicted features from their targets, 0-d.

    Args:
        predicted: [..., D].
        target: [..., D], as `JEPAModel.prediction_targets` gives them (standardised); detached here.
        distance: "l1" (V-JEPA), "l2" (half the squared error) or "smooth_l1" (what I-JEPA's code computes; its paper
            writes a squared error).

    Raises:
        ValueError: the shapes differ (broadcasting would hide a mix-up of masks) or the distance is unknown.

    Source: arXiv:2404.08471, eq. 1; arXiv:2301.08243, sec. 3.
    """
    if predicted.shape != target.shape:
        raise ValueError(f"predicted {tuple(predicted.shape)} and target {tuple(target.shape)} differ")
    target = target.detach()
    if target.dtype != torch.float64:
        predicted, target = predicted.float(), target.float()  # half precision would lose small differences
    if distance == "l1":
        return (predicted - target).abs().mean()
    if distance == "l2":
        return (predicted - target).square().mean() / 2
    if distance == "smooth_l1":
        return F.smooth_l1_loss(predicted, target, beta=1.0)
    raise ValueError(f"distance is one of {', '.join(LATENT_DISTANCES)}, not {distance!r}")


def pixel_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of predicted patches, 0-d.

    Args:
        predicted: [..., P].
        target: [..., P], as `MAEModel.prediction_targets` gives them.

    Raises:
        ValueError: the shapes differ.

    Source: arXiv:2111.06377, sec. 3.
    """
    if predicted.shape != target.shape:
        raise ValueError(f"predicted {tuple(predicted.shape)} and target {tuple(target.shape)} differ")
    if target.dtype != torch.float64:
        predicted, target = predicted.float(), target.float()
    return (predicted - target).square().mean()


def channel_std(features: Tensor) -> Tensor:
    """Standard deviation of each channel over samples and tokens, averaged, 0-d; falls to 0 on collapse.

    Args:
        features: [B, N, D].
    """
    return features.detach().float().flatten(0, -2).std(dim=0).mean()


def mean_cosine(first: Tensor, second: Tensor) -> Tensor:
    """Mean cosine of two sets of vectors [..., D], 0-d."""
    return F.cosine_similarity(first.detach().float(), second.detach().float(), dim=-1).mean()


def rank_me(features: Tensor, eps: float = 1e-7) -> Tensor:
    """Effective rank of a set of vectors [N, D], 0-d: the exponential of the entropy of their singular values.

    Between 1 (all on one line: collapse) and min(N, D). Source: arXiv:2210.02885, eq. 3.
    """
    values = torch.linalg.svdvals(features.detach().double())
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny) + eps
    return (-(shares * shares.log()).sum()).exp()
