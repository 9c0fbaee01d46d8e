"""Objectives: formulas of tensors. They know no model, no batch and no number of workers.

Legend: B samples, M targets of a sample, T tokens of a target, D channels, P pixel values of a patch; K classes, S
supports, R rows (views of samples), E channels of an embedding; B pictures and T texts of pairs.
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


def number_error(predicted: Tensor, target: Tensor, scale: float = 1.0) -> Tensor:
    """Mean squared error of numbers [B] in units of `scale`, 0-d.

    Raises:
        ValueError: the shapes differ.
    """
    if predicted.shape != target.shape:
        raise ValueError(f"predicted {tuple(predicted.shape)} and target {tuple(target.shape)} differ")
    wide = torch.float64 if predicted.dtype == torch.float64 else torch.float32
    return ((predicted.to(wide) - target.to(wide)) / scale).square().mean()


def sharpen(probabilities: Tensor, temperature: float = 0.25) -> Tensor:
    """Probabilities [R, K] raised to 1 / temperature and normalised: nearer to one-hot below 1.

    Source: arXiv:2104.13963, sec. 3.
    """
    raised = probabilities ** (1 / temperature)
    return raised / raised.sum(dim=-1, keepdim=True)


@torch.no_grad()
def paws_targets(large: Tensor, num_small: int = 0, sharpening: float = 0.25, least: float = 1e-4) -> Tensor:
    """Targets [(2 + num_small) * B, K] of the two large views and the small ones, without gradient.

    Each large view's target is the other's sharpened prediction; that of a small view is the mean of the two.

    Args:
        large: class probabilities [2 * B, K], already swapped: row i is the prediction that view row i is to match.
        num_small: small views of a sample.
        sharpening: temperature.
        least: smaller entries become 0, as in upstream's code.

    Source: arXiv:2104.13963, eq. 2, and sec. 4 for small views.
    """
    targets = sharpen(large, sharpening)  # [2*B, K]
    if num_small:
        first, second = targets.chunk(2)
        targets = torch.cat([targets, ((first + second) / 2).repeat(num_small, 1)])  # [(2 + M)*B, K]
    return targets.masked_fill(targets < least, 0.0)


def paws_consistency(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of predictions from their targets, 0-d.

    Args:
        probabilities: [R, K].
        targets: [R, K], as `paws_targets` gives them.

    Raises:
        ValueError: the shapes differ.

    Source: arXiv:2104.13963, eq. 2.
    """
    if probabilities.shape != targets.shape:
        raise ValueError(f"predictions {tuple(probabilities.shape)} and targets {tuple(targets.shape)} differ")
    return -torch.special.xlogy(targets, probabilities).sum(dim=-1).mean()


def negative_entropy(mean: Tensor) -> Tensor:
    """Sum p log p of a distribution [K], 0-d: -log K where it is uniform, 0 where one class has it all.

    Of the mean sharpened prediction it is the term that PAWS calls mean entropy maximisation (me-max).
    """
    return torch.special.xlogy(mean, mean).sum()


def nt_xent(queries: Tensor, keys: Tensor, temperature: float = 0.1, offset: int = 0) -> Tensor:
    """SimCLR's loss, 0-d: of each view, the other view of its sample among all other keys.

    Args:
        queries: embeddings [2 * B, E] of any length; rows i and B + i are views of one sample.
        keys: [N, E], the queries of all workers, which get no gradient: pass them detached.
        temperature: of the softmax.
        offset: row of `keys` that is query 0.

    Raises:
        ValueError: an odd number of queries, or keys that do not hold them all.

    Source: arXiv:2002.05709, eq. 1; keys without gradient as in the official SuNCEt code.
    """
    count = len(queries)
    logits = _similarities(queries, keys, temperature, offset)  # [2*B, N]
    if count % 2:
        raise ValueError(f"queries are two views of each sample, so an even number, not {count}")
    positive = torch.arange(count, device=queries.device).roll(count // 2) + offset
    return F.cross_entropy(logits, positive)


def suncet(
    queries: Tensor, keys: Tensor, labels: Tensor, key_labels: Tensor, temperature: float = 0.1, offset: int = 0
) -> Tensor:
    """SuNCEt, 0-d: of each labelled sample, the softmax weight of those that share its label, itself left out.

    The same soft nearest-neighbour classifier as PAWS, with every labelled sample held out once; the logarithm is
    outside the sum over positives.

    Args:
        queries: embeddings [Q, E] of any length.
        keys: [S, E], the queries of all workers.
        labels: of the queries [Q, K], one-hot or smoothed.
        key_labels: of the keys [S, K].
        temperature: of the softmax.
        offset: row of `keys` that is query 0.

    Raises:
        ValueError: a sample has no other of its label, or the shapes do not fit.

    Source: arXiv:2006.10803, eq. 3.
    """
    logits = _similarities(queries, keys, temperature, offset)  # [Q, S]
    if labels.shape != (len(queries), key_labels.shape[-1]) or len(key_labels) != len(keys):
        raise ValueError(
            f"labels {tuple(labels.shape)} and {tuple(key_labels.shape)} do not fit {len(queries)} queries and "
            f"{len(keys)} keys"
        )
    others = labels.to(logits.dtype) @ key_labels.to(logits.dtype).T  # [Q, S], above 0 where a label is shared
    alone = (others.masked_fill(logits.isinf(), 0).amax(dim=-1) < 0.5).nonzero()[:, 0]
    if len(alone):
        raise ValueError(
            f"sample(s) {', '.join(map(str, alone.tolist()[:10]))} have no other of their label in the batch"
        )
    probabilities = logits.softmax(dim=-1) @ key_labels.to(logits.dtype)  # [Q, K]
    return -torch.special.xlogy(labels.to(logits.dtype), probabilities).sum(dim=-1).mean()


def sigmoid_pairs(logits: Tensor, positive: Tensor, ignored: Tensor | None = None) -> Tensor:
    """Sum over pairs of -log sigmoid(logit) where a picture and a text belong together, else -log sigmoid(-logit); 0-d.

    Divide it by the number of texts: SigLIP and Llip divide by the batch, not by the number of pairs.

    Args:
        logits: [B, T], picture by text.
        positive: bool [B, T], which belong together.
        ignored: bool [B, T], pairs that do not count; positives count always.

    Source: arXiv:2303.15343, sec. 3.2; arXiv:2405.00740, eq. 4.
    """
    _check_pairs(logits, positive, ignored)
    signed = torch.where(positive, logits, -logits)
    terms = -F.logsigmoid(signed if signed.dtype == torch.float64 else signed.float())
    return (terms if ignored is None else terms.masked_fill(ignored & ~positive, 0.0)).sum()


def softmax_pairs(
    logits: Tensor, positive: Tensor, ignored: Tensor | None = None, totals: Tensor | None = None
) -> Tensor:
    """Mean over rows of -log softmax(logit) of their positives, averaged over a row's positives; 0-d.

    CLIP's objective is the mean of it over the rows and over the columns (the transposed arguments).

    Args:
        logits: [B, T].
        positive: bool [B, T]; every row has one.
        ignored: bool [B, T], pairs that do not count; positives count always.
        totals: logsumexp [B] of whole rows, where `logits` are a part of them.

    Source: arXiv:2103.00020, fig. 3.
    """
    _check_pairs(logits, positive, ignored)
    if not positive.any(dim=-1).all():
        raise ValueError("every row needs a positive")
    whole = logits if logits.dtype == torch.float64 else logits.float()
    if totals is None:
        totals = log_totals(whole, positive, ignored)
    mean = (whole * positive).sum(dim=-1) / positive.sum(dim=-1)  # [B]
    return (totals - mean).mean()


def log_totals(logits: Tensor, positive: Tensor, ignored: Tensor | None = None) -> Tensor:
    """Logsumexp of the rows [B] of logits [B, T], without pairs that do not count."""
    if ignored is not None:
        # not infinite: of a row of which nothing counts, neither the total nor its gradient may be NaN
        logits = logits.masked_fill(ignored & ~positive, torch.finfo(logits.dtype).min / 2)
    return logits.logsumexp(dim=-1)


def _check_pairs(logits: Tensor, positive: Tensor, ignored: Tensor | None) -> None:
    shapes = {tuple(each.shape) for each in (logits, positive, ignored) if each is not None}
    if len(shapes) > 1 or logits.ndim != 2:
        raise ValueError(f"logits, positive and ignored must be one [B, T], got {sorted(shapes)}")


def _similarities(queries: Tensor, keys: Tensor, temperature: float, offset: int) -> Tensor:
    """Cosines over the temperature [Q, N], -inf where a query meets itself."""
    count = len(queries)
    if queries.shape[-1] != keys.shape[-1] or offset < 0 or offset + count > len(keys):
        raise ValueError(f"{len(keys)} keys do not hold queries {tuple(queries.shape)} from row {offset} on")
    if queries.dtype != torch.float64:
        queries, keys = queries.float(), keys.float()
    logits = F.normalize(queries, dim=-1) @ F.normalize(keys, dim=-1).T / temperature  # [Q, N]
    rows = torch.arange(count, device=queries.device)
    itself = torch.zeros_like(logits, dtype=torch.bool).index_put_((rows, rows + offset), torch.tensor(True))
    return logits.masked_fill(itself, -torch.inf)


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
