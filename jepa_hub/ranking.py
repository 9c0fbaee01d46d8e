"""Ranks in a bank of candidates and mean reciprocal ranks, with a rule for ties that is always said.

The equivariance measure of image world models: of one picture, a bank holds the target latents of N changed versions;
the predictor is told each change in turn and its prediction should lie nearest to that version.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jepa_hub import photometry
from jepa_hub.processing import IMAGENET_MEAN, IMAGENET_STD

TIES = ("worst", "mean", "best")
DISTANCES = ("tokens", "pooled")


def ranks(distances: Tensor, truth: Tensor, ties: str = "worst") -> Tensor:
    """The rank of the true candidate of each query, float [Q], 1 is best.

    Args:
        distances: [Q, N], of queries from candidates.
        truth: int64 [Q], which candidate is the true one.
        ties: how candidates at exactly the same distance as the true one count: "worst" puts the truth behind all of
            them, "best" before, "mean" in the middle.

    Raises:
        ValueError: shapes that do not fit, an unknown rule, or distances that are not numbers.
    """
    if ties not in TIES:
        raise ValueError(f"ties is one of {', '.join(TIES)}, not {ties!r}")
    if distances.ndim != 2 or truth.shape != distances.shape[:1]:
        raise ValueError(
            f"expected distances [Q, N] and truth [Q], got {tuple(distances.shape)} and {tuple(truth.shape)}"
        )
    if distances.isnan().any():
        raise ValueError("some distances are not numbers, so that nothing can be ranked")
    true = distances.gather(1, truth[:, None])  # [Q, 1]
    nearer = (distances < true).sum(1).double()
    tied = (distances == true).sum(1).double() - 1
    share = {"worst": 1.0, "mean": 0.5, "best": 0.0}[ties]
    return nearer + share * tied + 1


def mean_reciprocal_rank(found: Tensor) -> float:
    """Mean of 1 / rank; 1 is perfect."""
    return float((1 / found.double()).mean())


def chance_level(candidates: int) -> float:
    """The mean reciprocal rank of guessing: the harmonic number of N over N.

    It is also what a predictor gets that is deaf to the change: it gives one prediction for all N, so that the N ranks
    are 1 to N.
    """
    return math.fsum(1 / rank for rank in range(1, candidates + 1)) / candidates


@dataclass(frozen=True)
class Ranking:
    """How well a model applies changes.

    Attributes:
        ranks: by kind of distance, [P, N] for P pictures and N changes.
        candidates: N, the size of each bank.
    """

    ranks: dict[str, Tensor]
    candidates: int

    @property
    def chance(self) -> float:
        """What guessing gets."""
        return chance_level(self.candidates)

    @property
    def mrr(self) -> dict[str, float]:
        """Mean reciprocal rank by kind of distance."""
        return {name: mean_reciprocal_rank(found.flatten()) for name, found in self.ranks.items()}


def draw_changes(
    count: int, strength: float | Sequence[float] = 1.0, *, seed: int = 0, only: str | None = None
) -> Tensor:
    """Parameters [N, 7] of a bank: all four jitters drawn uniformly, or one of them in even steps.

    Args:
        count: N.
        strength: in units of the paper's jitter, one number or one for each of brightness, contrast, saturation, hue.
        seed: of the draw.
        only: a single jitter; its values are evenly spaced over its range, which leaves no luck in the draw.
    """
    strengths = [float(strength)] * 4 if isinstance(strength, (int, float)) else [float(each) for each in strength]
    if len(strengths) != len(photometry.JITTER) or count < 2:
        raise ValueError(f"expected one strength or four and two changes or more, got {strengths} and {count}")
    reach = torch.tensor([each * unit for each, unit in zip(strengths, photometry.JITTER.values(), strict=True)])
    table = torch.zeros(count, len(photometry.NAMES))
    if only is None:
        draw = torch.rand(count, len(reach), generator=torch.Generator().manual_seed(seed))
        table[:, : len(reach)] = (2 * draw - 1) * reach
        return table
    if only not in photometry.JITTER:
        raise ValueError(f"only is one of {', '.join(photometry.JITTER)}, not {only!r}")
    place = photometry.NAMES.index(only)
    table[:, place] = torch.linspace(-1, 1, count) * reach[place]
    return table


@torch.no_grad()
def rank_changes(
    model: Any,
    pixels: Tensor,
    changes: Tensor,
    *,
    told: Tensor | None = None,
    ties: str = "worst",
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Ranking:
    """Ranks of a model's predictions among the target latents of changed versions of the same picture.

    The model sees the clean, whole picture, is told a change, and predicts all tokens. "tokens" compares token by
    token (mean squared difference over all), "pooled" the means over tokens.

    Args:
        model: with `predict(pixels, conditioning=...)` of whole pictures and `prediction_targets`: an IWMModel.
        pixels: [P, 3, H, W], normalised.
        changes: parameters [N, 7], see `draw_changes`; the same for every picture.
        told: parameters [N, 7] that the model is told instead, for controls; by default the true ones.
        ties, mean, std: see `ranks` and `photometry.apply_normalised`.

    Source: arXiv:2403.00504, sec. 4.1. The paper's banks hold 256 views, and it says neither how ties count nor whether
    tokens or their means are compared.
    """
    told = changes if told is None else told
    count = len(changes)
    action = photometry.conditioning(told).to(pixels)
    truth = torch.arange(count, device=pixels.device)
    found: dict[str, list[Tensor]] = {name: [] for name in DISTANCES}
    for picture in pixels:
        copies = picture.expand(count, *picture.shape)
        bank = model.prediction_targets(photometry.apply_normalised(copies, changes, mean, std))  # [N, T, D]
        predicted = predict_whole(model, copies, action)  # [N, T, D]
        found["tokens"].append(ranks(_squared(predicted.flatten(1), bank.flatten(1)), truth, ties))
        found["pooled"].append(ranks(_squared(predicted.mean(1), bank.mean(1)), truth, ties))
    return Ranking({name: torch.stack(rows) for name, rows in found.items()}, count)


def predict_whole(model: Any, pixels: Tensor, conditioning: Tensor) -> Tensor:
    """Predicted tokens [B, T, D] of whole pictures that are wholly seen.

    Args:
        model: an IWMModel.
        pixels: [B, 3, H, W], normalised.
        conditioning: [B, 7].
    """
    return model.predict(pixels, conditioning=conditioning)[:, 0]


def rank_pixels(pixels: Tensor, changes: Tensor, *, pooled: bool = False, ties: str = "worst") -> Ranking:
    """What knowing the answer gives: the true change applied to the pixels, or, pooled, to the picture's mean colour.

    The first must be 1 unless two changes give the same picture. So is the second for all but grey pictures, as every
    jitter is linear: a latent that keeps no more of a picture than its mean colour can rank perfectly. The measure
    tells whether a change is applied, not how much of a picture it is applied to.

    Args:
        pixels: [P, 3, H, W] in [0, 1].
        changes: parameters [N, 7].
        pooled: apply changes to the mean colour alone.
        ties: see `ranks`.
    """
    truth = torch.arange(len(changes), device=pixels.device)
    rows = []
    for picture in pixels:
        bank = photometry.apply(picture.expand(len(changes), *picture.shape), changes)
        if pooled:
            flat = picture.mean((1, 2), keepdim=True).expand(len(changes), 3, 1, 1)
            rows.append(ranks(_squared(photometry.apply(flat, changes).flatten(1), bank.mean((2, 3))), truth, ties))
        else:
            again = photometry.apply(picture.expand(len(changes), *picture.shape).clone(), changes)
            rows.append(ranks(_squared(again.flatten(1), bank.flatten(1)), truth, ties))
    return Ranking({"colour" if pooled else "pixels": torch.stack(rows)}, len(changes))


def _squared(queries: Tensor, candidates: Tensor) -> Tensor:
    """Squared distances [Q, N], exact where both are equal (a product of matrices is not)."""
    return torch.cdist(queries, candidates, compute_mode="donot_use_mm_for_euclid_dist").square()
