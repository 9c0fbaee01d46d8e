"""Runs that the claims about few labels share: train a recipe on digits, classify pictures it never saw."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from training.claims.arms import recipe_settings, train
from training.claims.base import Results

FINE_TUNE = "paws/digits_finetune"


def score(recipe: str, seed: int, work: Path, overrides: Sequence[str] = ()) -> float:
    """Test accuracy in per cent of what a recipe trains: by its classifier, or by its labelled neighbours."""
    from training import few_labels

    model = train(recipe, seed, work, ["probe=", *overrides])
    settings = recipe_settings(recipe, seed, work, ["probe=", *overrides])
    return 100 * few_labels.evaluate(model, settings).top1


def fine_tuned(pretrained: Path, seed: int, work: Path, per_class: int) -> float:
    """Test accuracy in per cent after fine-tuning a run's final model on so many labels of each class."""
    return score(FINE_TUNE, seed, work, [f"model.checkpoint={pretrained / 'final'}", *labels(per_class)])


def labels(per_class: int) -> list[str]:
    """Overrides: so many labelled samples of each class, at most four of each in a batch."""
    return [f"data.support.per_class={per_class}", f"data.support.images={min(per_class, 4)}"]


def images_to_reach(budgets: Sequence[int], accuracies: Sequence[float], wanted: float) -> float | None:
    """Images forwarded until an accuracy is reached, straight between the measured budgets; None if it never is."""
    best = [max(accuracies[: place + 1]) for place in range(len(accuracies))]
    for place, reached in enumerate(best):
        if reached >= wanted:
            if place == 0 or reached == best[place - 1]:
                return float(budgets[place])
            share = (wanted - best[place - 1]) / (reached - best[place - 1])
            return budgets[place - 1] + share * (budgets[place] - budgets[place - 1])
    return None


def compute_ratio(
    results: Results, cheap: str, dear: str, budgets: dict[str, int], draws: int = 2000
) -> tuple[float, float, float] | None:
    """Images that `cheap` forwards until it is as accurate as `dear` at its last budget, over those of `dear`.

    Mean curves over seeds; the interval is a bootstrap over paired seeds (a draw that never gets there counts as
    more than any ratio that was measured).

    Args:
        results: of the claim.
        cheap, dear: arms.
        budgets: metric -> images forwarded, ascending.
        draws: of the bootstrap.

    Returns:
        The ratio, and the 2.5 and 97.5 per cent points; None without two paired seeds. Infinite is "never reached".
    """
    seeds = sorted(results.get(cheap, {}).keys() & results.get(dear, {}).keys())
    if len(seeds) < 2:
        return None
    images = list(budgets.values())

    def ratio(chosen: Sequence[int]) -> float:
        curves = {
            arm: [sum(results[arm][seed]["metrics"][name] for seed in chosen) / len(chosen) for name in budgets]
            for arm in (cheap, dear)
        }
        found = images_to_reach(images, curves[cheap], curves[dear][-1])
        return float("inf") if found is None else found / images[-1]

    draw = random.Random(0)
    many = sorted(ratio([draw.choice(seeds) for _ in seeds]) for _ in range(draws))
    return ratio(seeds), many[int(0.025 * draws)], many[int(0.975 * draws) - 1]
