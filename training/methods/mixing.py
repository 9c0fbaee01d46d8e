"""Mixup and CutMix: pictures and their labels mixed in pairs."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def mix(pixels: Tensor, targets: Tensor, mixup: float, cutmix: float) -> tuple[Tensor, Tensor]:
    """Mixed pixels [B, 3, F, H, W] and targets [B, K], each sample with the one at the other end of the batch.

    One kind and one share are drawn for the batch, from torch's generator of the CPU: where both kinds are on, either
    is as likely.

    Args:
        pixels: [B, 3, F, H, W].
        targets: shares of classes [B, K].
        mixup: alpha of the Beta distribution of shares, 0 for none. Source: arXiv:1710.09412.
        cutmix: the same; a rectangle of the other picture is pasted in. Source: arXiv:1905.04899.
    """
    if not mixup and not cutmix:
        return pixels, targets
    cut = bool(cutmix) and (not mixup or bool(torch.rand(()) < 0.5))
    alpha = cutmix if cut else mixup
    share = float(torch.distributions.Beta(alpha, alpha).sample())  # that each picture keeps
    others = pixels.flip(0)
    if cut:
        pixels, share = _pasted(pixels, others, share)
    else:
        pixels = share * pixels + (1 - share) * others
    return pixels, share * targets + (1 - share) * targets.flip(0)


def _pasted(pixels: Tensor, others: Tensor, share: float) -> tuple[Tensor, float]:
    """A rectangle of the area 1 - share, centred anywhere and cut off at the border, from the others; what is kept."""
    height, width = pixels.shape[-2:]
    tall, wide = (round(side * math.sqrt(1 - share)) for side in (height, width))
    row, column = (int(torch.randint(side, ())) for side in (height, width))
    top, bottom = max(0, row - tall // 2), min(height, row - tall // 2 + tall)
    left, right = max(0, column - wide // 2), min(width, column - wide // 2 + wide)
    inside = torch.zeros(height, width, dtype=torch.bool, device=pixels.device)
    inside[top:bottom, left:right] = True
    pasted = max(0, bottom - top) * max(0, right - left)
    return torch.where(inside, others, pixels), 1 - pasted / (height * width)
