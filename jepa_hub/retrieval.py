"""Finding pictures by texts and texts by pictures, where a picture's vector depends on the text.

Two stages: a shortlist by the text-free vectors, one product, then the exact score for the few that are left. What the
shortlist loses is measured by `tradeoff`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jepa_hub.models.llip import ImageParts, LlipModel, TextParts

_QUERIES = 64  # texts whose shortlists are re-ranked at once


@dataclass(frozen=True)
class Found:
    """What was found for each query, the best first.

    Attributes:
        indices: int64 [Q, top], into what was searched.
        scores: cosines [Q, top].
    """

    indices: Tensor
    scores: Tensor


@dataclass(frozen=True)
class Tradeoff:
    """What a shortlist of some length costs and loses.

    Attributes:
        shortlist: pictures that are re-ranked; all of them is the exact search.
        recall: share of queries with a right picture among the first k.
        agreement: share of the exact search's first k that is found.
        milliseconds: per query, the median of several runs.
    """

    shortlist: int
    recall: float
    agreement: float
    milliseconds: float


class Gallery:
    """Pictures that texts search: keys and values of every mixture token, 2 K E numbers a picture, and E to shortlist.

    Args:
        model: a Llip model.
        parts: of `encode_image`.
    """

    def __init__(self, model: LlipModel, parts: ImageParts) -> None:
        if not len(parts.pooled):
            raise ValueError("a gallery needs at least one picture")
        self.model, self.parts = model, parts

    @classmethod
    def of(cls, model: LlipModel, batches: Iterable[Tensor | Mapping[str, Any]]) -> Gallery:
        """The gallery of batches of pictures, each a processor's output or [B, 3, H, W]."""
        found = [model.encode_image(each) for each in batches]
        if not found:
            raise ValueError("a gallery needs at least one picture")
        return cls(model, ImageParts(*(torch.cat(each) for each in zip(*found, strict=True))))

    def __len__(self) -> int:
        return len(self.parts.pooled)

    @torch.no_grad()
    def search(
        self,
        texts: TextParts | str | Sequence[str],
        *,
        top: int = 10,
        shortlist: int | None = 100,
        temperature: float | None = None,
    ) -> Found:
        """The best pictures for each text.

        Args:
            texts: words, or of `encode_text`.
            top: pictures per text.
            shortlist: pictures that the text-free vectors pass on; None ranks all of them exactly.
            temperature: tau, instead of the model's.

        Raises:
            ValueError: `top` is more than the shortlist or not positive.
        """
        asked = texts if isinstance(texts, TextParts) else self.model.encode_text(texts)
        length = len(self) if shortlist is None else min(shortlist, len(self))
        if top < 1 or (length < top and length < len(self)):
            raise ValueError(f"top ({top}) must be 1 or more, and not more than the shortlist ({length})")
        top = min(top, length)
        if length == len(self) or not self.model.mixes_by_text:
            best = self.model.cosines(self.parts, asked, temperature=temperature).T.topk(top, dim=-1)  # of [Q, N]
            return Found(best.indices, best.values)
        found = [
            self._rerank(TextParts(*each), length, top, temperature)
            for each in zip(asked.queries.split(_QUERIES), asked.targets.split(_QUERIES), strict=True)
        ]
        return Found(*(torch.cat(each) for each in zip(*found, strict=True)))

    def _rerank(self, texts: TextParts, length: int, top: int, temperature: float | None) -> tuple[Tensor, Tensor]:
        """Indices and scores [Q, top] of a shortlist that is scored exactly."""
        candidates = (texts.targets @ self.parts.pooled.T).topk(length, dim=-1).indices  # [Q, L]
        exact = []
        for query, target, chosen in zip(texts.queries, texts.targets, candidates, strict=True):
            keys, values = self.parts.keys[chosen], self.parts.values[chosen]  # [L, K, E]
            exact.append(self.model.mixing(keys, values, query[None], temperature)[:, 0] @ target)  # [L]
        best = torch.stack(exact).topk(top, dim=-1)
        return candidates.gather(1, best.indices), best.values

    @torch.no_grad()
    def describe(self, texts: TextParts | Sequence[str], *, top: int = 5, temperature: float | None = None) -> Found:
        """The best texts for each picture of the gallery, all scored exactly: indices into `texts` [N, top]."""
        asked = texts if isinstance(texts, TextParts) else self.model.encode_text(texts)
        cosines = self.model.cosines(self.parts, asked, temperature=temperature)  # [N, T]
        best = cosines.topk(min(top, cosines.shape[1]), dim=-1)
        return Found(best.indices, best.values)


def recall_at(cosines: Tensor, truth: Tensor, k: int) -> float:
    """Share of rows with at least one right column among the first k; rows without a right column do not count.

    With pictures as rows this is image-to-text recall with several captions a picture; transposed, text-to-image.

    Args:
        cosines: [R, C].
        truth: bool [R, C].
        k: how many columns are looked at.

    Raises:
        ValueError: the shapes differ, k is not 1 .. C, or no row has a right column.
    """
    rows = _rows(cosines, truth)
    if not 1 <= k <= cosines.shape[1]:
        raise ValueError(f"k must be 1 .. {cosines.shape[1]}, got {k}")
    first = cosines[rows].topk(k, dim=-1).indices  # [R', k]
    return float(truth[rows].gather(1, first).any(dim=1).double().mean())


def map_at_r(cosines: Tensor, truth: Tensor) -> float:
    """Mean average precision at R, R being the number of right columns of a row: 1 only if all come first.

    Unlike recall at 1 it asks for every caption of a picture. Source: arXiv:2204.03359 (ECCV Caption), sec. 3.

    Args:
        cosines: [R, C].
        truth: bool [R, C].
    """
    rows = _rows(cosines, truth)
    right = truth[rows]
    order = cosines[rows].argsort(dim=-1, descending=True)
    hits = right.gather(1, order).double()  # [R', C], best first
    counts = right.sum(dim=1)  # [R']
    places = torch.arange(1, hits.shape[1] + 1, dtype=torch.float64, device=hits.device)
    precision = hits.cumsum(dim=1) / places
    inside = places[None] <= counts[:, None]
    return float(((precision * hits * inside).sum(dim=1) / counts).mean())


def _rows(cosines: Tensor, truth: Tensor) -> Tensor:
    if cosines.shape != truth.shape or cosines.ndim != 2 or truth.dtype != torch.bool:
        raise ValueError(
            f"cosines and truth (bool) must be one [R, C], got {tuple(cosines.shape)} and {truth.dtype} "
            f"{tuple(truth.shape)}"
        )
    rows = truth.any(dim=1)
    if not rows.any():
        raise ValueError("no row has a right column")
    return rows


def tradeoff(
    gallery: Gallery,
    texts: TextParts,
    truth: Tensor,
    shortlists: Sequence[int],
    *,
    k: int = 1,
    repeats: int = 5,
) -> list[Tradeoff]:
    """Recall, agreement with the exact search, and time of several shortlists, the exact search last.

    Args:
        gallery: of N pictures.
        texts: Q of them.
        truth: bool [Q, N], which pictures a text is true of; texts without any do not count.
        shortlists: lengths.
        k: pictures per text that are looked at.
        repeats: runs whose median time counts.
    """
    exact = gallery.search(texts, top=k, shortlist=None)
    rows = _rows(truth.double(), truth)
    found = []
    for length in [*sorted({min(each, len(gallery)) for each in shortlists} - {len(gallery)}), len(gallery)]:
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            result = gallery.search(texts, top=k, shortlist=length)
            times.append((time.perf_counter() - start) / len(texts.queries))
        recall = truth.gather(1, result.indices).any(dim=1)[rows].double().mean()
        same = (result.indices[:, :, None] == exact.indices[:, None]).any(dim=-1).double().mean()
        found.append(Tradeoff(length, float(recall), float(same), 1000 * sorted(times)[len(times) // 2]))
    return found
