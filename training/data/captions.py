"""Texts of samples: which are drawn for a step, and which of a batch's texts are known to be true of which sample."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from jepa_hub.masking.draws import keyed_order
from training.config import CaptionSettings
from training.data.scene_graph import describe, plural, relations
from training.data.source import Sample


def draw_captions(samples: Sequence[Sample], settings: CaptionSettings, keys: Tensor) -> dict[str, Any]:
    """The captions of a batch.

    Args:
        samples: B of them.
        settings: what a caption is and how many each sample gets.
        keys: int64 [B], which decide.

    Returns:
        "captions", n*B texts, sample by sample; "caption_ids" int64 [n*B]; "known_ids" int64 [B, F]: of all texts that
        are true of a sample, as far as is known, padded with 0.

    Raises:
        ValueError: a sample has no caption; the text says what to do.
    """
    chosen: list[str] = []
    known: list[list[int]] = []
    for sample, key in zip(samples, keys, strict=True):
        every = captions_of(sample, settings)
        order = keyed_order(key, len(every)).argsort().tolist()
        chosen += [every[order[place % len(order)]] for place in range(settings.per_sample)]
        known.append([caption_id(text) for text in every])
    longest = max(map(len, known))
    return {
        "captions": chosen,
        "caption_ids": torch.tensor([caption_id(text) for text in chosen]),
        "known_ids": torch.tensor([row + [0] * (longest - len(row)) for row in known]),
    }


def captions_of(sample: Sample, settings: CaptionSettings) -> list[str]:
    """Every caption that may be drawn for a sample, each once.

    Raises:
        ValueError: there is none.
    """
    if settings.kind == "scene":
        if "scene" not in sample.details:
            raise ValueError("data.captions.kind=scene needs a source that draws scenes; this one keeps no scene graph")
        return scene_phrases(sample.details["scene"], positions=settings.positions)
    if not sample.captions:
        raise ValueError(
            f"sample {sample.index} has no caption: name the source's texts (caption_keys of shards, captions of "
            "huggingface), or leave such samples out"
        )
    return list(dict.fromkeys(sample.captions))


@lru_cache(maxsize=1 << 16)
def caption_id(text: str) -> int:
    """A number for a text, never 0; equal texts have equal numbers in every process."""
    number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)
    return number or 1


def scene_phrases(scene: Sequence[dict[str, Any]], *, positions: bool) -> list[str]:
    """All phrases that are true of a scene graph: counts, objects by some or all of their looks, pairs.

    The looks are named with and without an article, because labels come without.

    Args:
        scene: from training.data.scene_graph.scene_graph.
        positions: whether phrases tell where in the picture objects are, and how they lie to each other.
    """
    found = [plural(len(scene), "object")]
    for thing in scene:
        whole = describe(thing)
        found += [whole, f"a {thing['shape']}", f"a {thing['colour']} object", describe(thing, "material")]
        found += [thing["shape"], thing["colour"], f"{thing['colour']} {thing['shape']}"]
        if positions:
            found.append(f"{whole} {place(thing)}")
    found += [f"{describe(one)} and {describe(other)}" for one, other in permutations(scene, 2)]
    if positions:
        found += [sentence.rstrip(".").replace(" is ", " ", 1) for sentence in relations(list(scene))]
    return list(dict.fromkeys(found))


def place(thing: dict[str, Any]) -> str:
    """Where an object is in the picture, in words."""
    across = thing["image_position"][0]
    return "on the left" if across < 0.4 else "on the right" if across > 0.6 else "in the middle"
