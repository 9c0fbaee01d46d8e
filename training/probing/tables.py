"""FeatureTable: features, labels and the identity of samples; no probe accepts tables that share a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from jepa_hub.masking.draws import keyed, keyed_order
from training.config import nearest
from training.data.source import Label

TRAIN_DRAW = 201  # purpose of a key, so that no two draws share one


@dataclass(frozen=True)
class FeatureTable:
    """Features of samples, one row each, on the CPU.

    Attributes:
        features: [N, D], or tokens [N, T, D].
        labels: by name; int64 [N] for classes, floating [N] for numbers.
        samples: int64 [N], one number per content (a hash of a sample's pixels): equal rows are the same picture or
            clip, wherever they come from. This is what keeps test samples out of training.
        label_info: what the source says about its labels (number of classes, names, unit).
        indices: int64 [N], number of each sample in its source; None where that is unknown.
        skipped: why samples are missing, one line per unreadable sample.

    Raises:
        ValueError: the rows do not match.
    """

    features: Tensor
    labels: dict[str, Tensor]
    samples: Tensor
    label_info: dict[str, Label] = field(default_factory=dict)
    indices: Tensor | None = None
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.features.ndim not in (2, 3):
            raise ValueError(f"features are [N, D] or tokens [N, T, D]; got {tuple(self.features.shape)}")
        columns = {"samples": self.samples, **{f"label {name!r}": values for name, values in self.labels.items()}}
        if self.indices is not None:
            columns["indices"] = self.indices
        for name, values in columns.items():
            if values.shape != (len(self.features),):
                raise ValueError(f"{name} has shape {tuple(values.shape)} for {len(self.features)} rows of features")

    def __len__(self) -> int:
        return len(self.features)

    def select(self, rows: Tensor) -> FeatureTable:
        """The rows at `rows` (int64 positions, or bool [N]), in that order."""
        return replace(
            self,
            features=self.features[rows],
            labels={name: values[rows] for name, values in self.labels.items()},
            samples=self.samples[rows],
            indices=None if self.indices is None else self.indices[rows],
        )

    def pooled(self) -> FeatureTable:
        """The table with the mean token of each sample; itself where the features are pooled already."""
        return self if self.features.ndim == 2 else replace(self, features=self.features.mean(dim=1))

    def label(self, name: str) -> Tensor:
        """Values of a label: int64 for classes, float64 for numbers.

        Raises:
            ValueError: no such label (the nearest is named), or a value that is missing or out of range.
        """
        if name not in self.labels:
            known = ", ".join(self.labels) or "none"
            raise ValueError(f"unknown label {name!r}{nearest(name, self.labels)}; these samples have: {known}")
        values = self.labels[name]
        if values.is_floating_point():
            bad = int((~values.isfinite()).sum())
            if bad:
                raise ValueError(f"label {name!r}: {bad} of {len(values)} values are NaN or infinite")
            return values.double()
        if len(values) and int(values.min()) < 0:
            raise ValueError(f"label {name!r}: class {int(values.min())} is negative; classes are numbered from 0")
        known_classes = self.label_info[name].num_classes if name in self.label_info else None
        if known_classes is not None and len(values) and int(values.max()) >= known_classes:
            raise ValueError(f"label {name!r}: class {int(values.max())}, but it has classes 0 to {known_classes - 1}")
        return values.long()

    def num_classes(self, name: str) -> int:
        """Classes of a label: what the source says, or else one more than the highest class that occurs."""
        info = self.label_info.get(name)
        return info.num_classes if info is not None and info.num_classes else int(self.label(name).max()) + 1


def check_tables(train: FeatureTable, validation: FeatureTable, test: FeatureTable, label: str) -> None:
    """Refuse tables a probe must not be fitted and scored on.

    Raises:
        ValueError: a table is empty, a sample occurs in two of them, widths or kinds of label differ, features are not
            finite, or the label never varies in the training or test samples.
    """
    tables = {"train": train, "validation": validation, "test": test}
    for name, table in tables.items():
        if not len(table):
            raise ValueError(f"the {name} split holds no samples; ask for at least one")
        if table.features.shape[1:] != train.features.shape[1:]:
            raise ValueError(f"{name} features {tuple(table.features.shape)} differ from {tuple(train.features.shape)}")
        if not table.features.isfinite().all():
            raise ValueError(f"{name} features hold NaN or infinity; a diverged model cannot be probed")
        if table.label(label).is_floating_point() != train.label(label).is_floating_point():
            raise ValueError(f"label {label!r} holds classes in one split and numbers in another")
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        shared = int(torch.isin(tables[first].samples, tables[second].samples).sum())
        if shared:
            raise ValueError(
                f"{shared} samples of {first} are also in {second}: scores would be too good. Use other samples, or "
                f"training.probing.tables.separate(...) to drop them"
            )
    for name in ("train", "test"):
        values = tables[name].label(label)
        if len(values.unique()) < 2:
            kind = "value" if values.is_floating_point() else "class"
            raise ValueError(f"label {label!r} has one {kind} only ({values[0].item()}) in {name}: nothing to read out")


def separate(
    train: FeatureTable, validation: FeatureTable, test: FeatureTable
) -> tuple[FeatureTable, FeatureTable, FeatureTable, dict[str, int]]:
    """The tables without samples that occur in a later one, and how many rows each lost.

    The test samples stay whole, so that a number does not depend on what it is trained with.
    """
    kept_validation = ~torch.isin(validation.samples, test.samples)  # [N]
    kept_train = ~torch.isin(train.samples, torch.cat([validation.samples, test.samples]))  # [N]
    lost = {"train": int((~kept_train).sum()), "validation": int((~kept_validation).sum()), "test": 0}
    return train.select(kept_train), validation.select(kept_validation), test, lost


def draw(table: FeatureTable, count: int, seed: int) -> FeatureTable:
    """`count` samples of a table without replacement, the same for the same seed; the whole table if it has fewer."""
    return table.select(keyed_order(keyed(seed, TRAIN_DRAW), len(table)).argsort()[:count])


def join_names(names: Sequence[str], most: int = 3) -> str:
    """The first few of many lines, and how many there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return "; ".join(names[:most]) + more
