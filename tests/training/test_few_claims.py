"""Claims about few labels: the compute ratio from curves, the text about it, and arms that fit their recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from training.claims import few, paws, suncet
from training.claims.arms import recipe_settings
from training.claims.base import Results

BUDGETS = {"small": 100, "middle": 200, "large": 400}


def results_of(**arms: list[tuple[float, ...]]) -> Results:
    return {
        arm: {
            seed: {"metrics": dict(zip(BUDGETS, curve, strict=True)), "seconds": 1.0, "hardware": "x"}
            for seed, curve in enumerate(curves)
        }
        for arm, curves in arms.items()
    }


@pytest.mark.parametrize(
    ("curve", "wanted", "images"),
    [
        ((50, 60, 70), 60, 200),
        ((50, 60, 70), 65, 300),
        ((50, 60, 70), 40, 100),
        ((50, 60, 70), 71, None),
        ((50, 45, 70), 60, 300),
    ],
)
def test_images_to_reach(curve: tuple[float, ...], wanted: float, images: float | None) -> None:
    assert few.images_to_reach([100, 200, 400], curve, wanted) == images


def test_the_compute_ratio_and_its_bootstrap() -> None:
    twice = results_of(
        cheap=[(60, 70, 75), (62, 72, 77), (64, 74, 79)], dear=[(50, 60, 70), (52, 62, 72), (54, 64, 74)]
    )
    found = few.compute_ratio(twice, "cheap", "dear", BUDGETS)
    assert (
        found is not None
        and found[0] == pytest.approx(0.5)
        and found[1] == pytest.approx(found[2]) == pytest.approx(0.5)
    )
    mixed = results_of(cheap=[(60, 70, 75), (40, 50, 60)], dear=[(50, 60, 70), (50, 60, 70)])
    ratio = few.compute_ratio(mixed, "cheap", "dear", BUDGETS)
    assert ratio is not None and ratio[1] <= 0.5 and ratio[2] == float("inf")  # some draws never get there
    assert few.compute_ratio(results_of(cheap=[(1, 2, 3)], dear=[(1, 2, 3)]), "cheap", "dear", BUDGETS) is None


def test_the_remark_invents_nothing() -> None:
    assert suncet.ratio_text({}) == "Compute ratio at matched accuracy: not run."
    curves = {name: 60.0 + place for place, name in enumerate(suncet.BUDGETS)}
    runs: dict[int, dict[str, Any]] = {seed: {"metrics": curves} for seed in range(3)}
    assert "over 25,600: 1.00 (bootstrap over paired seeds, 95 %: 1.00 to 1.00)" in suncet.ratio_text(
        {"suncet": runs, "simclr": runs}
    )


def test_budgets_are_images_forwarded() -> None:
    for name, recipe in suncet.RECIPES.items():
        settings = recipe_settings(recipe, 0, Path("unused"), ["probe="])
        support = settings.data.support
        each = 2 * settings.data.batch_size + (support.classes * support.images if support else 0)  # type: ignore[operator]
        for images in suncet.BUDGETS.values():
            assert suncet._steps(recipe, images) * each == pytest.approx(images, rel=0.02), name


def test_arms_share_their_labels_and_network() -> None:
    settings = {
        name: recipe_settings(
            name, 3, Path("unused"), ["probe=", *few.labels(1)] if "simclr" not in name else ["probe="]
        )
        for name in (paws.RECIPE, paws.SUPERVISED, few.FINE_TUNE, paws.SIMCLR)
    }
    own = [{key: value for key, value in each.model.own.items() if key != "licence"} for each in settings.values()]
    assert all(each == own[0] for each in own)
    supports = [each.data.support for each in settings.values() if each.data.support is not None]
    assert len(supports) == 3 and all(
        (each.per_class, each.seed, each.label) == (1, None, "digit") for each in supports
    )
    assert len({str(each.data.views) for each in settings.values()}) == 1
    assert paws.CLAIM.core_seeds >= 10 and suncet.CLAIM.core_seeds >= 10
