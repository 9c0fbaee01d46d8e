"""How good made pictures are: the Frechet distance of features, and whether a classifier sees the class asked for.

    python -m training.generation runs/dit-tiny_digits --judge runs/pit-tiny_digits --picture samples.png

Features are those of a classifier trained on the same data (what its head reads), so a distance is comparable with
others of the same classifier only, and is no FID, which is the same formula on an Inception network.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jepa_hub.models.base import JEPAModel
from jepa_hub.models.dit import DiTModel
from jepa_hub.models.pit import PiTModel
from jepa_hub.processing import IMAGENET_MEAN, IMAGENET_STD
from training.data.source import Source
from training.probing.features import default_processor, extract_features


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Squared Frechet (2-Wasserstein) distance of two sets of features [N, D] and [M, D], each taken as a Gaussian.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), the last trace by the eigenvalues of C1^(1/2) C2 C1^(1/2), which is
    symmetric. 0 for equal means and covariances; sampling error adds to it, the more the fewer the samples.

    Raises:
        ValueError: other widths, or a set of fewer than two.

    Source: Dowson and Landau, J. Multivariate Analysis 12 (1982); on features: arXiv:1706.08500.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or min(len(first), len(second)) < 2:
        raise ValueError(f"features are [N, D] and [M, D] of two and more, not {first.shape} and {second.shape}")
    first, second = first.double(), second.double()
    one, two = torch.cov(first.T).reshape(first.shape[1], -1), torch.cov(second.T).reshape(first.shape[1], -1)
    values, vectors = torch.linalg.eigh(one)
    root = vectors @ (values.clamp_min(0).sqrt()[:, None] * vectors.T)  # [D, D]
    common = torch.linalg.eigvalsh(root @ two @ root).clamp_min(0).sqrt().sum()
    apart = (first.mean(0) - second.mean(0)).square().sum()
    return float((apart + one.trace() + two.trace() - 2 * common).clamp_min(0))


def normalised(pictures: Tensor) -> Tensor:
    """Pictures [B, 3, H, W] of 0 to 1 as models take them."""
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    return (pictures - mean) / std


@torch.no_grad()
def judged(judge: PiTModel, pictures: Tensor, batch_size: int = 256) -> tuple[Tensor, Tensor]:
    """What a classifier's head reads [B, D], and the classes it sees [B], in pictures [B, 3, H, W] of 0 to 1."""
    if judge.classifier is None:
        raise ValueError("the judge has no classifier: train one with a recipe of the method supervised")
    judge.eval()
    features = torch.cat([judge.pooled(part) for part in normalised(pictures).split(batch_size)])
    return features, judge.classifier(features).argmax(dim=1)


def real_features(judge: PiTModel, source: Source) -> Tensor:
    """What a classifier's head reads in all samples of a source [N, D]."""
    processor = default_processor(judge)
    return extract_features(_Pooled(judge), source, processor=processor, progress=False).features


class _Pooled(torch.nn.Module):
    """What the head reads, as a module of pixels [B, 3, 1, H, W]."""

    def __init__(self, judge: PiTModel) -> None:
        super().__init__()
        self.judge = judge

    def forward(self, pixels: Tensor) -> Tensor:
        return self.judge.pooled(pixels)


def asked_labels(num_classes: int, per_class: int) -> Tensor:
    """So many of each class, class by class, int64 [num_classes * per_class]."""
    return torch.arange(num_classes).repeat_interleave(per_class)


def score(judge: PiTModel, pictures: Tensor, labels: Tensor | None, real: Tensor) -> dict[str, float]:
    """`frechet`, and with labels `agreement`: the share of pictures, in per cent, in which the judge sees its label.

    Args:
        judge: a classifier.
        pictures: made ones [B, 3, H, W], 0 to 1.
        labels: asked for, int64 [B]; None for pictures of any class.
        real: features of real ones, see `real_features`.
    """
    features, seen = judged(judge, pictures)
    found = {"frechet": frechet_distance(features, real)}
    if labels is not None:
        found["agreement"] = 100 * float((seen == labels).float().mean())
    return found


def save_grid(pictures: Tensor, path: Path, *, columns: int, enlarge: int = 6) -> None:
    """A PNG of pictures [B, 3, H, W] of 0 to 1 in rows of `columns`, each pixel `enlarge` pixels wide."""
    from PIL import Image

    rows = -(-len(pictures) // columns)
    height, width = pictures.shape[-2:]
    sheet = torch.full((3, rows * (height * enlarge + 2) - 2, columns * (width * enlarge + 2) - 2), 0.5)
    for index, picture in enumerate(pictures.repeat_interleave(enlarge, -1).repeat_interleave(enlarge, -2)):
        top, left = (index // columns) * (height * enlarge + 2), (index % columns) * (width * enlarge + 2)
        sheet[:, top : top + height * enlarge, left : left + width * enlarge] = picture
    Image.fromarray((255 * sheet).round().byte().permute(1, 2, 0).numpy()).save(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    from training.few_labels import evaluate
    from training.probing.splits import build_source
    from training.recipe import load_recipe

    parser = argparse.ArgumentParser(prog="training.generation", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished run of the method diffusion")
    parser.add_argument("--judge", type=Path, required=True, help="folder of a finished run of the method supervised")
    parser.add_argument("--per-class", type=int, default=50, help="pictures of each class")
    parser.add_argument("--steps", type=int, default=50, help="of the scheduler")
    parser.add_argument("--guidance", type=float, default=1.0, help="1 is none")
    parser.add_argument("--scheduler", default="ddim", help="ddpm, ddim or dpm")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--picture", type=Path, help="write the first ten pictures of each class as a PNG")
    chosen = parser.parse_args(arguments)
    models: list[Any] = [JEPAModel.from_pretrained(run / "final") for run in (chosen.run, chosen.judge)]
    model, judge = models
    if not isinstance(model, DiTModel) or not isinstance(judge, PiTModel) or not model.config.num_classes:
        parser.error("RUN is of the family dit, with classes, and --judge of the family pit")
    settings, judges = (load_recipe(str(run / "final" / "settings.yaml")) for run in (chosen.run, chosen.judge))
    labels = asked_labels(model.config.num_classes, chosen.per_class)
    pictures = model.sample(
        labels, steps=chosen.steps, guidance=chosen.guidance, scheduler=chosen.scheduler, seed=chosen.seed
    )
    named = settings.data.source
    real = real_features(judge, build_source(named.name, named.own))
    found = score(judge, pictures, labels, real)
    found["judge_accuracy"] = 100 * evaluate(judge, judges).top1
    print(json.dumps({name: round(value, 3) for name, value in found.items()} | {"pictures": len(pictures)}))
    if chosen.picture:
        first = torch.arange(len(labels)).view(model.config.num_classes, -1)[:, :10].flatten()
        save_grid(pictures[first], chosen.picture, columns=min(10, chosen.per_class))
        print(f"wrote {chosen.picture}")


if __name__ == "__main__":
    main()
