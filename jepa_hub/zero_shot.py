"""Pictures into classes that are named by words: templates, one query per class, pieces that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jepa_hub.models.llip import ImageParts, LlipModel, TextParts
from jepa_hub.models.probe import Classification
from jepa_hub.nn.text import unit

Template = str | Callable[[str], str]
# What the shipped models have seen; for models of photographs give their own, such as OpenAI's 80 for ImageNet.
PLAIN: tuple[Template, ...] = ("{}",)
_TEXTS = 256  # encoded at once
_NUMBERS = 1 << 24  # of the [pictures, classes, E] array that are made at once


@dataclass(frozen=True)
class Classes:
    """Named classes, encoded once for any number of pictures.

    Attributes:
        names: of the C classes.
        texts: one query [C, E] and one target [C, E] for each.
    """

    names: tuple[str, ...]
    texts: TextParts


def encode_classes(model: LlipModel, names: Sequence[str], templates: Iterable[Template] = PLAIN) -> Classes:
    """Classes from their names and some templates.

    The target of a class is the mean of its templates' targets, of unit length; its query is the plain mean of their
    queries, so that a picture is mixed once per class, not once per template.

    Args:
        model: a Llip model.
        names: of the classes, each once.
        templates: texts with {} for the name, or functions of it.

    Raises:
        ValueError: fewer than two classes, a name twice, an empty name, or a template without a place for the name.

    Source: the official evaluation code of arXiv:2405.00740.
    """
    several = tuple(templates)
    _check(names, several)
    texts = [_filled(template, name) for name in names for template in several]
    parts = [model.encode_text(texts[start : start + _TEXTS]) for start in range(0, len(texts), _TEXTS)]
    queries, targets = (torch.cat(each).unflatten(0, (len(names), -1)) for each in zip(*parts, strict=True))
    return Classes(tuple(names), TextParts(queries.mean(dim=1), unit(targets.mean(dim=1))))  # [C, E] each


def _check(names: Sequence[str], templates: Sequence[Template]) -> None:
    if isinstance(names, str) or len(names) < 2:
        raise ValueError(f"give the names of at least two classes, got {names!r}")
    blank = [place for place, name in enumerate(names) if not name.strip()]
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if blank or twice:
        raise ValueError(f"names of classes must differ and not be empty: {', '.join(twice) or 'one is empty'}")
    bad = [each for each in templates if isinstance(each, str) and "{}" not in each]
    if bad or not templates:
        raise ValueError(f"a template holds {{}} where the name goes; got {bad or 'no template'}")


def _filled(template: Template, name: str) -> str:
    return template.replace("{}", name) if isinstance(template, str) else template(name)


@torch.no_grad()
def scores(
    model: LlipModel,
    images: ImageParts | Tensor | Mapping[str, Any],
    classes: Classes,
    *,
    temperature: float | None = None,
) -> Tensor:
    """Cosine of every picture, mixed for every class, with that class: [B, C].

    Args:
        model: a Llip model.
        images: of `encode_image`, or pictures.
        classes: of `encode_classes`.
        temperature: tau of the mixing, instead of the one it was trained with. Choose it on other pictures than those
            you report: the best of several on a test set is no score.
    """
    parts = images if isinstance(images, ImageParts) else model.encode_image(images)
    size = max(1, _NUMBERS // model.config.embed_size)  # classes that one picture may be mixed for at once
    queries, targets = classes.texts
    pieces = zip(queries.split(size), targets.split(size), strict=True)
    return torch.cat([model.cosines(parts, TextParts(*each), temperature=temperature) for each in pieces], dim=1)


@torch.no_grad()
def classify(
    model: LlipModel,
    images: ImageParts | Tensor | Mapping[str, Any],
    classes: Classes | Sequence[str],
    *,
    templates: Iterable[Template] = PLAIN,
    temperature: float | None = None,
    top: int = 5,
) -> Classification:
    """The most likely classes of every picture.

    Probabilities are a softmax over the classes given, at the scale the model has learned: they say which of these
    classes, not whether any of them.

    Args:
        model: a Llip model.
        images: of `encode_image`, a processor's output, or [B, 3, H, W], normalised.
        classes: names, or what `encode_classes` made of them.
        templates: for names, see `encode_classes`.
        temperature: see `scores`.
        top: classes per picture.
    """
    known = classes if isinstance(classes, Classes) else encode_classes(model, classes, templates)
    found = scores(model, images, known, temperature=temperature)  # [B, C]
    shares = (found.float() * model.mixing.logit_scale.float().exp()).softmax(dim=-1)
    best = shares.topk(min(top, len(known.names)), dim=-1)
    return Classification([[known.names[place] for place in row] for row in best.indices.tolist()], best.values)
