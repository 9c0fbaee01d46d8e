"""A probe run: features of a model and its baselines, every label and probe, results as plain values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jepa_hub.models.base import JEPAModel
from jepa_hub.processing import JEPAProcessor
from jepa_hub.version import __version__
from training.config import nearest
from training.data.source import Source
from training.probing.attentive import attentive_probe
from training.probing.cache import weights_hash
from training.probing.features import default_processor, extract_features, raw_pixels, untrained
from training.probing.linear import linear_probe
from training.probing.low_shot import LowShot, low_shot
from training.probing.neighbours import knn_probe
from training.probing.results import ProbeResult, summarise
from training.probing.splits import NAMES, Splits, make_splits
from training.probing.tables import FeatureTable, separate

PROBES = ("linear", "knn", "low_shot", "attentive")
BASELINES = ("untrained", "raw_pixels")
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ProbeRun:
    """What is probed, with which samples.

    Attributes:
        source, source_settings: an entry of SOURCES and its settings, without `split`.
        labels: all of the source's by default.
        probes: of PROBES.
        baselines: of BASELINES.
        train, validation, test: samples; each seed draws its own `train` ones.
        seeds: of the draws.
        epochs: of attentive probes.
        layers: how many of the last blocks to read; see `extract_features`.
        batch_size: samples encoded at a time.
        cache: folder for features.
        save_probes: folder for the attentive probes of the first seed, one folder per label.
        num_workers: processes that read samples.
        progress: show bars.

    Raises:
        ValueError: an unknown probe or baseline; the nearest is named.
    """

    source: str
    source_settings: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    probes: tuple[str, ...] = ("linear", "knn")
    baselines: tuple[str, ...] = ()
    train: int = 2000
    validation: int = 500
    test: int = 1000
    seeds: tuple[int, ...] = (0,)
    epochs: int = 20
    layers: int = 1
    batch_size: int = 64
    cache: Path | None = None
    save_probes: Path | None = None
    num_workers: int = 0
    progress: bool = True

    def __post_init__(self) -> None:
        for kind, given, known in (("probe", self.probes, PROBES), ("baseline", self.baselines, BASELINES)):
            for name in given:
                if name not in known:
                    raise ValueError(f"unknown {kind} {name!r}{nearest(name, known)}; there are {', '.join(known)}")
        if not self.probes:
            raise ValueError(f"choose at least one probe of {', '.join(PROBES)}")
        if self.save_probes is not None and "attentive" not in self.probes:
            raise ValueError("save_probes keeps attentive probes: add attentive to the probes")


@dataclass(frozen=True)
class Samples:
    """The three tables of one kind of features, and the training rows of each seed."""

    train: FeatureTable
    validation: FeatureTable
    test: FeatureTable
    rows: dict[int, Tensor]
    lost: dict[str, int]

    def of_seed(self, seed: int) -> tuple[FeatureTable, FeatureTable, FeatureTable]:
        """Training samples of a seed, validation and test samples."""
        return self.train.select(self.rows[seed]), self.validation, self.test


def run_probes(
    model: JEPAModel, run: ProbeRun, *, name: str = "", processor: JEPAProcessor | None = None
) -> dict[str, Any]:
    """Scores of every label and probe on the model's features and on the baselines', ready for JSON.

    Args:
        model: any model of the hub, on the device to use.
        run: what to do.
        name: of the model, written to the results.
        processor: see `extract_features`.

    Raises:
        ValueError: an unknown label, source or setting, an empty split, or a label that does not vary.
    """
    splits = make_splits(run.source, run.source_settings, {each: getattr(run, each) for each in NAMES}, run.seeds)
    labels = _labels(splits.parts["train"].source, run)
    processor = processor or default_processor(model)
    results: list[dict[str, Any]] = []
    counts: dict[str, Any] = {}
    for kind, extract in _kinds(model, run, processor):
        samples = _samples(splits, extract)
        counts = counts or _counts(splits, samples)  # the same for every kind: content decides, not features
        for label in labels:
            for probe in run.probes:
                if probe == "attentive" and samples.train.features.ndim == 2:
                    continue  # raw pixels have no tokens
                results += _scores(kind, probe, label, samples, run, model)
    return {
        "format": FORMAT,
        "jepa_hub": __version__,
        "model": {"name": name, "class": type(model).__name__, "weights": weights_hash(model)},
        "processor": asdict(processor),
        "layers": run.layers,
        "source": {"name": run.source, "settings": dict(run.source_settings)},
        "samples": counts,
        "seeds": list(run.seeds),
        "notes": splits.notes,
        "results": results,
    }


def _labels(source: Source, run: ProbeRun) -> tuple[str, ...]:
    known = source.labels
    if not known:
        raise ValueError(f"source {run.source} has no labels to read out")
    for label in run.labels:
        if label not in known:
            raise ValueError(f"unknown label {label!r}{nearest(label, known)}; {run.source} has {', '.join(known)}")
    return run.labels or tuple(known)


Extract = Callable[[Source, list[int]], FeatureTable]


def _kinds(model: JEPAModel, run: ProbeRun, processor: JEPAProcessor) -> Iterator[tuple[str, Extract]]:
    """The kinds of features, one at a time: their tables need not be in memory together."""
    common: dict[str, Any] = {
        "batch_size": run.batch_size,
        "cache": run.cache,
        "num_workers": run.num_workers,
        "progress": run.progress,
    }
    pooled = "attentive" not in run.probes

    def of_model(network: JEPAModel) -> Extract:
        return lambda source, indices: extract_features(
            network, source, indices=indices, pooled=pooled, layers=run.layers, processor=processor, **common
        )

    yield "model", of_model(model)
    if "untrained" in run.baselines:
        yield "untrained", of_model(untrained(model))
    if "raw_pixels" in run.baselines:
        yield "raw_pixels", lambda source, indices: raw_pixels(source, indices=indices, **common)


def _samples(splits: Splits, extract: Extract) -> Samples:
    tables = [extract(splits.parts[split].source, splits.parts[split].indices) for split in NAMES]
    train, validation, test, lost = separate(*tables)
    assert train.indices is not None  # extract_features gives them
    place = {index: row for row, index in enumerate(train.indices.tolist())}
    rows = {
        seed: torch.tensor([place[index] for index in drawn if index in place], dtype=torch.int64)
        for seed, drawn in splits.draws.items()
    }
    return Samples(train, validation, test, rows, lost)


def _counts(splits: Splits, samples: Samples) -> dict[str, Any]:
    tables = {"train": samples.train, "validation": samples.validation, "test": samples.test}
    return {
        split: {
            "available": splits.available[split],
            "used": len(samples.rows[next(iter(samples.rows))]) if split == "train" else len(table),
            "unreadable": len(table.skipped),
            "dropped_as_also_in_a_later_split": samples.lost[split],
        }
        for split, table in tables.items()
    } | {"train_draw": splits.how}


def _scores(
    features: str, probe: str, label: str, samples: Samples, run: ProbeRun, model: JEPAModel
) -> list[dict[str, Any]]:
    """One entry, or one per fraction of the low-shot probe."""
    found: dict[str, list[ProbeResult | LowShot]] = {}
    heads = model.config.num_attention_heads  # those of the encoder, as published
    for seed in run.seeds:
        tables = samples.of_seed(seed)
        if probe == "linear":
            found.setdefault(probe, []).append(linear_probe(*tables, label, seed=seed))
        elif probe == "knn":
            found.setdefault(probe, []).append(knn_probe(*tables, label, seed=seed))
        elif probe == "low_shot":
            for each in low_shot(*tables, label, seed=seed):
                found.setdefault(f"low_shot {each.fraction:.0%}", []).append(each)
        else:
            fitted = attentive_probe(*tables, label, seed=seed, epochs=run.epochs, num_heads=heads, device=model.device)
            if run.save_probes is not None and features == "model" and seed == run.seeds[0]:
                fitted.probe.save_pretrained(run.save_probes / label)
            found.setdefault(probe, []).append(fitted.result)
    return [_entry(features, name, label, each) for name, each in found.items()]


def _entry(features: str, probe: str, label: str, per_seed: list[ProbeResult | LowShot]) -> dict[str, Any]:
    first = per_seed[0]
    values = [each.value if isinstance(each, ProbeResult) else each.summary.mean for each in per_seed]
    # With one seed, the draws of the low-shot probe still give an interval.
    summary = first.summary if isinstance(first, LowShot) and len(per_seed) == 1 else summarise(values)
    about = first if isinstance(first, ProbeResult) else first.draws[0]
    return {
        "features": features,
        "label": label,
        "probe": probe,
        "kind": about.kind,
        "metric": about.metric,
        "mean": summary.mean,
        "half_width": summary.half_width,
        "text": str(summary),
        "values": summary.values,
        "chance": about.chance,
        "baseline": about.baseline,
        "per_seed": [each.to_dict() for each in per_seed],
    }
