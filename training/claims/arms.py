"""Arms that several claims share: train a recipe and probe it, or probe what was never trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.claims.base import Arm
from training.config import Settings
from training.probing.features import extract_features, raw_pixels, untrained
from training.probing.linear import linear_probe
from training.probing.splits import build_source
from training.probing.tables import FeatureTable

SPLITS = {"train": 1000, "validation": 500, "test": 2000}  # labelled samples: few, as where pretraining is needed


def recipe_settings(recipe: str, seed: int, work: Path, overrides: Sequence[str] = ()) -> Settings:
    """A recipe's settings for one seed, with its run in `work`."""
    from training.recipe import load_recipe

    fixed = [f"run.seed={seed}", f"run.out={work}", "run.threads=1", "data.workers=0", "run.trackers=[]"]
    return load_recipe(recipe, [*overrides, *fixed])


def train(recipe: str, seed: int, work: Path, overrides: Sequence[str] = ()) -> Any:
    """The model that a recipe trains; a run that was cut off goes on."""
    from jepa_hub.models.base import JEPAModel
    from training.loop import Run

    final = work / "final"
    if not final.is_dir():
        Run(recipe_settings(recipe, seed, work, overrides)).train()
    return JEPAModel.from_pretrained(final)


def shared(recipe: str, seed: int, work: Path, overrides: Sequence[str] = ()) -> Any:
    """`train` for a run that several cells use: the first trains, others wait for it."""
    from filelock import FileLock

    work.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(work.with_name(work.name + ".lock")):
        return train(recipe, seed, work, overrides)


def fresh(recipe: str, seed: int, overrides: Sequence[str] = ()) -> Any:
    """The untrained model of a recipe."""
    from training.build import build_model

    settings = recipe_settings(recipe, seed, Path("unused"), overrides)
    return untrained(build_model(settings), seed)


def tables(source: str, settings: Mapping[str, Any], model: Any | None, layers: int = 1) -> dict[str, FeatureTable]:
    """Features of the three splits: of a model's last `layers` blocks, or raw pixels for None."""
    found = {}
    for split, count in SPLITS.items():
        samples = build_source(source, {**settings, "split": split, "num_samples": count})
        options: dict[str, Any] = {"limit": count, "progress": False}
        if model is None:
            found[split] = raw_pixels(samples, **options)
        else:
            found[split] = extract_features(model, samples, layers=layers, **options)
    return found


def read_out(found: Mapping[str, FeatureTable], labels: Sequence[str]) -> dict[str, float]:
    """The linear read-out of every label: accuracy in per cent, R2 in per cent for numbers."""
    scores = {}
    for label in labels:
        result = linear_probe(found["train"], found["validation"], found["test"], label)
        scores[label] = 100 * result.value
    return scores


def matched_steps(recipe: str, baseline: str, overrides: Sequence[str] = ()) -> int:
    """Steps after which `baseline` has spent as many training FLOPs as `recipe` with `overrides` in all its steps."""
    from training.build import build_masks, model_config
    from training.flops import training_flops_per_sample

    spent = []
    for name, given in ((recipe, overrides), (baseline, ())):
        settings = recipe_settings(name, 0, Path("unused"), given)
        config = model_config(settings)
        assert settings.masks is not None  # both predict masked tokens
        per_sample = training_flops_per_sample(settings, config, build_masks(settings.masks, config))
        assert per_sample is not None  # both methods have a formula
        spent.append((per_sample * settings.data.batch_size * settings.run.accumulation, settings.run.steps))
    (wanted, steps), (each, _) = spent
    return round(steps * wanted / each)


def latent_against_pixels(
    recipe: str,
    baseline: str,
    source: tuple[str, Mapping[str, Any]],
    labels: Sequence[str],
    names: tuple[str, str],
    overrides: Sequence[str] = (),
) -> tuple[Arm, ...]:
    """The arms of a claim that a JEPA learns more than a pixel predictor.

    Args:
        recipe, baseline: of the JEPA and of the pixel predictor, which gets as many FLOPs.
        source: of labelled samples, and its settings.
        labels: what is read out.
        names: of the JEPA and of the raw-pixel read-out, for the table.
        overrides: of the JEPA's recipe.
    """

    def latent(seed: int, work: Path) -> dict[str, float]:
        return read_out(tables(*source, train(recipe, seed, work, overrides)), labels)

    def pixels(seed: int, work: Path) -> dict[str, float]:
        steps = f"run.steps={matched_steps(recipe, baseline, overrides)}"
        return read_out(tables(*source, train(baseline, seed, work, [steps])), labels)

    def nothing(seed: int, work: Path) -> dict[str, float]:
        return read_out(tables(*source, fresh(recipe, seed)), labels)

    def raw(seed: int, work: Path) -> dict[str, float]:
        return read_out(tables(*source, None), labels)

    return (
        Arm("latent", names[0], latent),
        Arm("pixels", "pixel prediction, equal FLOPs", pixels),
        Arm("untrained", "random weights", nothing),
        Arm("raw", names[1], raw),  # nothing in it is random: the same for every seed, so that differences are paired
    )


def learned(
    recipe: str, source: tuple[str, Mapping[str, Any]], labels: Sequence[str], names: tuple[str, str], layers: int
) -> tuple[Arm, ...]:
    """The arms of a claim that a recipe learns features: it, its untrained twin and raw pixels.

    Args:
        recipe: what is trained.
        source: of labelled samples, and its settings.
        labels: what is read out.
        names: of the model and of the raw-pixel read-out, for the table.
        layers: how many of the last blocks are read, side by side.
    """

    def trained(seed: int, work: Path) -> dict[str, float]:
        return read_out(tables(*source, train(recipe, seed, work), layers), labels)

    def nothing(seed: int, work: Path) -> dict[str, float]:
        return read_out(tables(*source, fresh(recipe, seed), layers), labels)

    def raw(seed: int, work: Path) -> dict[str, float]:
        return read_out(tables(*source, None), labels)

    return (
        Arm("trained", names[0], trained),
        Arm("untrained", "random weights", nothing),
        Arm("raw", names[1], raw),  # nothing in it is random: the same for every seed, so that differences are paired
    )
