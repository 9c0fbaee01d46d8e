"""How well a model labels pictures it never saw: by its classifier or regressor, or by the nearest labelled ones.

    python -m training.few_labels runs/paws-digits                       # the final model on the test split
    python -m training.few_labels runs/paws-in1k --set root=data/imagenet/val

A run's folder says which samples were labelled, so every protocol sees the same ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn

from jepa_hub.models.paws import PAWSModel
from jepa_hub.models.pit import PiTModel
from jepa_hub.nn.resnet import soft_neighbours
from training.config import Settings
from training.data.registry import source_class
from training.data.source import Source
from training.data.support import labelled_samples
from training.probing.features import default_processor, extract_features
from training.probing.results import summarise


@dataclass(frozen=True)
class Accuracy:
    """Shares of pictures whose label is the most likely one, and among the five most likely; of how many."""

    top1: float
    top5: float
    count: int


@dataclass(frozen=True)
class Errors:
    """Of numbers: root mean square in `unit`, share of the variance that is explained, and of how many pictures."""

    rmse: float
    r2: float
    unit: str
    count: int


Classifying = PAWSModel | PiTModel  # models with a classifier of their own


class _Read(nn.Module):
    """One of a model's outputs as a module of pixels [B, 3, 1, H, W]."""

    def __init__(self, model: Classifying, what: str) -> None:
        super().__init__()
        self.model, self.what = model, what

    def forward(self, pixels: Tensor) -> Tensor:
        """Embeddings [B, E], logits [B, K] or numbers [B, V]."""
        if isinstance(self.model, PiTModel):
            return self.model.values(pixels) if self.what == "values" else self.model.logits(pixels)
        embedded = self.model.embed(pixels)
        if self.what == "embedding":
            return embedded.predicted
        assert self.model.classifier is not None  # checked by the caller
        return self.model.classifier(embedded.pooled)


def read(
    model: Classifying, source: Source, indices: Sequence[int] | None, label: str, what: str
) -> tuple[Tensor, Tensor]:
    """Embeddings, logits or numbers [N, E] of samples, whole pictures in eval mode, and their labels [N]."""
    table = extract_features(
        _Read(model, what), source, indices=indices, processor=default_processor(model), progress=False
    )
    return table.features, table.labels[label]


def accuracy(scores: Tensor, labels: Tensor) -> Accuracy:
    """Of scores [N, K] with labels [N]."""
    best = scores.topk(min(5, scores.shape[1]), dim=1).indices  # [N, 5]
    right = best == labels[:, None]
    return Accuracy(right[:, 0].float().mean().item(), right.any(dim=1).float().mean().item(), len(labels))


def nearest_neighbours(
    model: PAWSModel,
    labelled: tuple[Source, Sequence[int]],
    unseen: tuple[Source, Sequence[int] | None],
    label: str,
) -> Accuracy:
    """Accuracy of the soft nearest-neighbour classifier with all labelled samples as its support.

    Args:
        model: a PAWS model.
        labelled: source and numbers of the labelled samples.
        unseen: source and numbers of the samples to classify; None is all.
        label: of both sources.

    Source: arXiv:2104.13963, sec. 4, PAWS-NN.
    """
    supports, known = read(model, *labelled, label, "embedding")
    queries, truth = read(model, *unseen, label, "embedding")
    count = labelled[0].labels[label].num_classes
    assert count is not None  # it is a class label
    one_hot = nn.functional.one_hot(known, count).float()
    return accuracy(soft_neighbours(queries, supports, one_hot, model.config.temperature), truth)


def classifier_accuracy(model: Classifying, unseen: tuple[Source, Sequence[int] | None], label: str) -> Accuracy:
    """Accuracy of a fine-tuned model's own classifier.

    Raises:
        ValueError: it has none.
    """
    if model.classifier is None:
        raise ValueError("this model has no classifier: train one with a recipe of the method finetune or supervised")
    logits, truth = read(model, *unseen, label, "logits")
    return accuracy(logits, truth)


def regressor_errors(model: Classifying, unseen: tuple[Source, Sequence[int] | None], label: str) -> Errors:
    """Errors of a model's own regressor.

    Raises:
        ValueError: it has none.
    """
    if not isinstance(model, PiTModel) or model.regressor is None:
        raise ValueError("this model has no regressor: train one with a recipe of the method supervised")
    said, truth = read(model, *unseen, label, "values")
    truth = truth.double()
    error = (said[:, 0].double() - truth).square().mean()
    spread = (truth - truth.mean()).square().mean()
    return Errors(float(error.sqrt()), float(1 - error / spread), unseen[0].labels[label].unit, len(truth))


def labelled_part(settings: Settings) -> tuple[Source, list[int], str]:
    """Source, numbers and label of the samples that a run knew the labels of.

    Raises:
        ValueError: the run had no labelled samples.
    """
    from training.build import build_source

    wanted = settings.data.support
    if wanted is None:
        raise ValueError("this run had no labelled samples: data.support is not set")
    source = build_source(wanted.source or settings.data.source)
    members = labelled_samples(source, wanted, settings.run.seed)
    return source, torch.cat(members).sort().values.tolist(), wanted.label


def unseen_source(settings: Settings, split: str, changes: Mapping[str, Any]) -> Source:
    """The run's source at another split, or with other settings.

    Raises:
        ValueError: the source has no such split and nothing is changed, so that the same pictures would be read.
    """
    from training.build import build_source
    from training.config import Named

    named = settings.data.source
    fields = source_class(named.name).Settings.model_fields
    own = {**named.own, **changes}
    if "split" in fields and "split" not in changes:
        splits = get_args(fields["split"].annotation)
        if splits and split not in splits:
            raise ValueError(f"{named.name} has splits {', '.join(map(str, splits))}, not {split!r}")
        own["split"] = split
    elif not changes:
        raise ValueError(f"{named.name} has no splits: say where the unseen pictures are, such as --set root=data/val")
    return build_source(Named.model_validate({"name": named.name, **own}), "--set")


def evaluate(
    model: Classifying, settings: Settings, split: str = "test", changes: Mapping[str, Any] | None = None
) -> Accuracy:
    """Accuracy on pictures the run never saw, by the model's classifier or by the labelled samples of its run."""
    unseen = unseen_source(settings, split, changes or {})
    if model.classifier is not None:
        label = settings.data.support.label if settings.data.support else str(settings.method.own["label"])
        return classifier_accuracy(model, (unseen, None), label)
    if isinstance(model, PiTModel):
        raise ValueError("this model has no classifier: train one with a recipe of the method supervised")
    source, indices, label = labelled_part(settings)
    return nearest_neighbours(model, (source, indices), (unseen, None), label)


def evaluate_numbers(
    model: Classifying, settings: Settings, split: str = "test", changes: Mapping[str, Any] | None = None
) -> Errors:
    """Errors on pictures the run never saw, of a model that says numbers."""
    label = str(settings.method.own["label"])
    return regressor_errors(model, (unseen_source(settings, split, changes or {}), None), label)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    from jepa_hub.models.base import JEPAModel
    from training.recipe import apply_overrides, load_recipe

    parser = argparse.ArgumentParser(prog="training.few_labels", description=__doc__.splitlines()[0])
    parser.add_argument(
        "runs", type=Path, nargs="+", help="folders of runs, such as runs/paws-digits; several are seeds"
    )
    parser.add_argument("--weights", choices=("final", "best"), default="final", help="which model of the run")
    parser.add_argument("--split", default="test", help="of the run's source")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="settings of the source to change"
    )
    chosen = parser.parse_args(arguments)
    scores = []
    for run in chosen.runs:
        folder = run / chosen.weights
        if not (folder / "settings.yaml").is_file():
            parser.error(f"{folder} is no finished model of a run; train it first")
        model = JEPAModel.from_pretrained(folder)
        if not isinstance(model, Classifying):
            parser.error(f"{run} holds a {type(model).__name__}; this command is for the families paws and pit")
        settings = load_recipe(str(folder / "settings.yaml"))
        given = apply_overrides({}, chosen.set)
        if isinstance(model, PiTModel) and not settings.method.own.get("num_classes"):
            errors = evaluate_numbers(model, settings, chosen.split, given)
            scores.append(100 * errors.r2)
            said = f"error {errors.rmse:.3g} {errors.unit}".rstrip()
            print(f"{run}: R2 {scores[-1]:.1f} %, {said} (root mean square) of {errors.count} (its regressor)")
            continue
        how = "its classifier" if model.classifier is not None else "its labelled neighbours"
        found = evaluate(model, settings, chosen.split, given)
        scores.append(100 * found.top1)
        print(f"{run}: top-1 {100 * found.top1:.1f} %, top-5 {100 * found.top5:.1f} % of {found.count} ({how})")
    if len(scores) > 1:
        summary = summarise(scores)
        print(f"mean of {len(scores)}: {summary.mean:.1f} ± {summary.half_width:.1f} % (95 % t-interval)")


if __name__ == "__main__":
    main()
