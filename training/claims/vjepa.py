"""V-JEPA: feature prediction serves motion and appearance better than pixel prediction (arXiv:2404.08471)."""

from __future__ import annotations

from typing import Any

from training.claims.arms import latent_against_pixels
from training.claims.base import Claim, Comparison

RECIPE, BASELINE = "vjepa/tiny_moving_scenes", "mae/tiny_moving_scenes"
SOURCE: tuple[str, dict[str, Any]] = ("moving_scenes", {"size": 32, "path": "orbit"})
LABELS = ("direction", "speed", "colour", "shape")


CLAIM = Claim(
    name="vjepa",
    title="V-JEPA: latent prediction against pixel prediction on clips",
    paper="Bardes et al., arXiv:2404.08471",
    statement=(
        "Feature prediction alone, on clips, learns features that serve both motion and appearance tasks from a frozen "
        "backbone, better than pixel prediction with the same encoder."
    ),
    setting=(
        "Clips of 32 pixels in which one solid circles among others (`moving_scenes`); no single frame tells its "
        "direction (clockwise or not) or speed. The pixel predictor has the same encoder, predictor, masks, clips and "
        "training FLOPs. Read-outs are linear, on the mean token of the frozen encoder, from 1,000 labelled clips."
    ),
    metrics={
        "direction": "accuracy, % (motion, 2 directions)",
        "speed": "accuracy, % (motion, 3 speeds)",
        "colour": "accuracy, % (appearance, 8 colours)",
        "shape": "accuracy, % (appearance, 4 shapes)",
    },
    arms=latent_against_pixels(RECIPE, BASELINE, SOURCE, LABELS, ("V-JEPA", "16 x 16 pixels of 4 frames")),
    comparisons=(
        *(Comparison(label, "latent", "pixels") for label in ("direction", "shape")),
        *(Comparison(label, "latent", "untrained") for label in ("direction", "shape")),
        *(Comparison(label, "latent", "pixels", decisive=False) for label in ("speed", "colour")),
        *(Comparison(label, "latent", "untrained", decisive=False) for label in ("speed", "colour")),
    ),
)
