"""Which samples train, choose and test a probe; the three never meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from pydantic import ValidationError
from torch import Tensor

from jepa_hub.masking.draws import keyed, keyed_integers, keyed_order, keyed_pick
from training.config import nearest
from training.data.registry import source_class
from training.data.source import Source

SPLIT, SPLIT_ORDER, SEED_DRAW = 205, 206, 207  # purposes of keys
NAMES = ("train", "validation", "test")
# Of 20 equal shares by the hash of the index. They do not depend on the sizes asked for: a sample that tests one run
# never trains another.
_SHARES = {"train": range(14), "validation": range(14, 17), "test": range(17, 20)}


@dataclass(frozen=True)
class Part:
    """Samples of one split: where they are read, and their numbers there, ascending."""

    source: Source
    indices: list[int]


@dataclass(frozen=True)
class Splits:
    """The samples of a probe run.

    Attributes:
        parts: by split; the train part holds what all seeds draw together.
        draws: per seed, the numbers of its training samples (with repeats in a bootstrap).
        how: "all", "subset" (without replacement) or "bootstrap" (with).
        available: samples of each split that could have been drawn.
        notes: what a reader of the results should know.
    """

    parts: dict[str, Part]
    draws: dict[int, list[int]]
    how: str
    available: dict[str, int]
    notes: list[str] = field(default_factory=list)


def build_source(name: str, settings: Mapping[str, Any]) -> Source:
    """The source `name` of SOURCES.

    Raises:
        ValueError: no such source, or a setting it does not have or take.
    """
    cls = source_class(name)
    try:
        return cls(cls.Settings(**settings))
    except ValidationError as error:
        said = []
        for each in error.errors():
            where = ".".join(str(part) for part in each["loc"])
            hint = nearest(where, cls.Settings.model_fields) if each["type"] == "extra_forbidden" else ""
            said.append(f"{where}: {each['msg']}{hint}")
        raise ValueError(f"source {name}: {'; '.join(said)}") from None


def make_splits(name: str, settings: Mapping[str, Any], sizes: Mapping[str, int], seeds: Sequence[int]) -> Splits:
    """The samples of a run, a pure function of the arguments.

    A source that names its splits (`split` is one of a few words) keeps them; where it names no validation split, that
    comes from its train split. Any other source is divided by a keyed hash of the sample number, which cannot know of
    samples that are nearly the same, such as clips of one video (what is exactly the same is dropped later). Each
    seed draws its own training samples: without replacement where the split holds at least twice as many, otherwise
    with (a bootstrap), so that scores vary over seeds as they would over fresh training sets. Validation and test
    samples are the same for all seeds.

    Args:
        name: of SOURCES.
        settings: of the source, without `split`.
        sizes: samples wanted, by split.
        seeds: of the draws.

    Raises:
        ValueError: an impossible setting, or a split without samples.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds are one or more different whole numbers; got {list(seeds)}")
    for split in NAMES:
        if sizes[split] < 1:
            raise ValueError(f"the {split} split needs at least 1 sample; got {sizes[split]}")
    needed = {**sizes, "train": sizes["train"] * len(seeds)}
    sources, candidates = _open(name, settings, needed)
    for split in NAMES:
        if not len(candidates[split]):
            raise ValueError(f"the {split} split of {name} holds no samples ({len(sources[split])} in the source)")
    notes = [
        f"{split}: {sizes[split]} samples asked for, {name} has {len(candidates[split])}"
        for split in NAMES
        if len(candidates[split]) < sizes[split]
    ]
    how, draws = _draws(candidates["train"], sizes["train"], seeds)
    parts = {"train": Part(sources["train"], sorted({index for drawn in draws.values() for index in drawn}))}
    for split in NAMES[1:]:
        own = candidates[split]
        order = keyed_order(keyed(SPLIT_ORDER), len(own)).argsort()[: sizes[split]]
        parts[split] = Part(sources[split], own[order].sort().values.tolist())
    return Splits(parts, draws, how, {split: len(candidates[split]) for split in NAMES}, notes)


def _open(
    name: str, settings: Mapping[str, Any], needed: Mapping[str, int]
) -> tuple[dict[str, Source], dict[str, Tensor]]:
    """By split, the source and the numbers of the samples that belong to it."""
    fields = source_class(name).Settings.model_fields
    named = get_args(fields["split"].annotation) if "split" in fields else ()
    if not named:  # none, or any text (huggingface): one set of samples, of which the settings may choose a part
        source = build_source(name, settings)
        return dict.fromkeys(NAMES, source), {split: share_of(len(source), split) for split in NAMES}
    if "split" in settings:
        raise ValueError(f"leave split={settings['split']!r} out: a probe reads all splits of {name}")
    own = {split: split if split in named else "train" for split in NAMES}
    if "train" not in named or "test" not in named:
        raise ValueError(f"source {name} has splits {', '.join(map(str, named))}; a probe needs train and test")
    # Sources that draw their samples draw no more than is read.
    drawn = "num_samples" in fields and "num_samples" not in settings
    sources = {
        split: build_source(
            name, {**settings, "split": own[split], **({"num_samples": needed[split]} if drawn else {})}
        )
        for split in NAMES
    }
    candidates = {split: torch.arange(len(sources[split])) for split in NAMES}
    if own["validation"] == "train":
        sources["validation"] = sources["train"]
        shares = {split: share_of(len(sources["train"]), split) for split in NAMES}
        candidates |= {
            "validation": shares["validation"],
            "train": torch.cat([shares["train"], shares["test"]]).sort()[0],
        }
    return sources, candidates


def share_of(length: int, split: str) -> Tensor:
    """Numbers of the samples of a source of `length` that belong to a split, ascending: 70, 15 and 15 %."""
    shares = keyed_pick(keyed(SPLIT, torch.arange(length)), 20)  # [length]
    low, high = _SHARES[split].start, _SHARES[split].stop
    return ((shares >= low) & (shares < high)).nonzero().flatten()


def _draws(candidates: Tensor, count: int, seeds: Sequence[int]) -> tuple[str, dict[int, list[int]]]:
    """How training samples are drawn, and their numbers by seed."""
    total = len(candidates)
    if len(seeds) == 1 and count >= total:
        return "all", {seeds[0]: candidates.tolist()}
    if len(seeds) == 1 or 2 * count <= total:
        rows = {seed: keyed_order(keyed(seed, SEED_DRAW), total).argsort()[:count].sort().values for seed in seeds}
        return "subset", {seed: candidates[each].tolist() for seed, each in rows.items()}
    size = torch.full((min(count, total),), total)
    rows = {seed: keyed_integers(keyed(seed, SEED_DRAW), size).sort().values for seed in seeds}
    return "bootstrap", {seed: candidates[each].tolist() for seed, each in rows.items()}
