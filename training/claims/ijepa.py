"""I-JEPA: predicting in a learned space gives better features than predicting pixels (arXiv:2301.08243)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.claims.arms import fresh, matched_steps, read_out, tables, train
from training.claims.base import Arm, Claim, Comparison

RECIPE, BASELINE = "ijepa/tiny_scenes", "mae/tiny_scenes"
SOURCE: tuple[str, dict[str, Any]] = ("scenes", {"size": 64})
LABELS = ("shape", "colour", "count", "depth")


def latent(seed: int, work: Path) -> dict[str, float]:
    """Read-outs of the I-JEPA."""
    return read_out(tables(*SOURCE, train(RECIPE, seed, work)), LABELS)


def pixels(seed: int, work: Path) -> dict[str, float]:
    """Read-outs of the pixel predictor that had the same encoder, predictor, data and FLOPs."""
    steps = matched_steps(RECIPE, BASELINE)
    return read_out(tables(*SOURCE, train(BASELINE, seed, work, [f"run.steps={steps}"])), LABELS)


def nothing(seed: int, work: Path) -> dict[str, float]:
    """Read-outs of the encoder that was never trained."""
    return read_out(tables(*SOURCE, fresh(RECIPE, seed)), LABELS)


def raw(seed: int, work: Path) -> dict[str, float]:
    """Read-outs of the pixels themselves (the same for every seed: there is nothing random in them)."""
    return read_out(tables(*SOURCE, None), LABELS)


CLAIM = Claim(
    name="ijepa",
    title="I-JEPA: latent prediction against pixel prediction",
    paper="Assran et al., arXiv:2301.08243",
    statement=(
        "Predicting the representation of image blocks learns more semantic features than reconstructing pixels, at "
        "less computation, without hand-crafted augmentation."
    ),
    setting=(
        "Pictures of one to four solids, 64 pixels (`scenes`). The pixel predictor has the same encoder, predictor, "
        "pictures and training FLOPs (its steps are scaled). Read-outs are linear, on the mean token of the frozen "
        "encoder, from 1,000 labelled pictures: shape and colour of the nearest solid, how many there are, and the "
        "distance of the nearest."
    ),
    metrics={
        "shape": "accuracy, % (4 shapes)",
        "colour": "accuracy, % (8 colours)",
        "count": "accuracy, % (1 to 4)",
        "depth": "R2, % (distance of the nearest solid)",
    },
    arms=(
        Arm("latent", "I-JEPA", latent),
        Arm("pixels", "pixel prediction, equal FLOPs", pixels),
        Arm("untrained", "random weights", nothing),
        Arm("raw", "16 x 16 pixels", raw, seeds=1),
    ),
    comparisons=(
        *(Comparison(label, "latent", "pixels") for label in ("shape", "count", "depth")),
        *(Comparison(label, "latent", "untrained") for label in ("shape", "count", "depth")),
        Comparison("colour", "latent", "pixels", decisive=False),
        Comparison("colour", "latent", "untrained", decisive=False),
    ),
)
