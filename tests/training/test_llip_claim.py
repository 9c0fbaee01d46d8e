"""The claim llip: scores of a model that knows and of one that guesses, arms that build, and what the text says."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

from jepa_hub.models.llip import ImageParts, LlipModel
from training.claims import llip_runs
from training.claims.base import Results
from training.claims.llip import CLAIM
from training.claims.llip_runs import SINGLE, anywhere, draw, measured, recalls, remark
from training.data.quadrants import PLACES, THINGS, Quadrants


def results_of(zero_shot: dict[str, list[float]], shuffled: float = 2.1) -> Results:
    return {
        arm: {seed: {"metrics": {"zero_shot": score, "shuffled": shuffled}} for seed, score in enumerate(scores)}
        for arm, scores in zero_shot.items()
    }


class Oracle:
    """Stands for a model: its vectors tell the true things of a picture, place by place."""

    mixes_by_text = False

    def __init__(self, things: torch.Tensor) -> None:
        self.things = things

    def cosines(self, image: ImageParts, texts: list[str]) -> torch.Tensor:
        columns = []
        for text in texts:
            place, thing = text.split(": ")
            columns.append((self.things[:, PLACES.index(place)] == THINGS.index(thing)).float())
        return torch.stack(columns, dim=1)

    def encode_text(self, texts: list[str]) -> list[str]:
        return texts


def test_scores_are_those_of_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Quadrants(Quadrants.Settings(num_samples=500, split="test"))
    things = torch.tensor([source.read(index, 0).details["things"] for index in range(500)])
    parts = ImageParts(torch.zeros(500, 1, 4), torch.zeros(500, 1, 4), torch.randn(500, 4))
    monkeypatch.setattr(llip_runs, "_pictures", lambda *_: (parts, things))
    found = measured(Oracle(things), 0, "test")
    assert {found[name] for name in ("zero_shot", "colour", "shape", "text_recall", "image_recall")} == {100.0}
    assert found["shuffled"] < 5  # chance is 2.1 %; 2,000 answers
    blind = measured(Oracle(things.roll(1, 0)), 0, "test")
    assert blind["zero_shot"] < 5 and blind["text_recall"] < 8 and "entropy" not in blind


def test_recalls() -> None:
    truth = torch.tensor([[True, False, True], [False, True, False]])
    cosines = torch.tensor([[0.1, 0.9, 0.2], [0.3, 0.8, 0.4]])
    found = recalls(cosines, truth)  # texts 1 and 1; pictures 1, 0 and 1
    assert found["text_recall"] == 50 and found["image_recall"] == 0


@pytest.mark.parametrize("overrides", [(), SINGLE, ("model.mixing=learned",)])
def test_an_untrained_model_guesses(overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    from training.build import build_model
    from training.claims.arms import recipe_settings
    from training.probing.features import untrained

    monkeypatch.setattr(llip_runs, "NUM_IMAGES", 250)
    model: Any = untrained(build_model(recipe_settings(llip_runs.RECIPE, 0, Path("unused"), overrides)), 0)
    assert isinstance(model, LlipModel)
    found = measured(model.eval(), 0, "test")
    assert found["zero_shot"] < 6 and found["shuffled"] < 6 and found["rank"] >= 1
    assert ("entropy" in found) == (not overrides) and found.get("entropy", 50.0) <= 100
    assert anywhere(model, 0, "test")["text_recall_anywhere"] < 35  # a guess is true of 8 % of pictures


def test_the_arms_differ_in_what_they_say() -> None:
    from training.build import model_config
    from training.claims.arms import recipe_settings

    sizes = {"llip": 0, "siglip_matched": 0}
    for arm in CLAIM.arms:
        given = inspect.getclosurevars(arm.run).nonlocals["given"]
        config = model_config(recipe_settings(llip_runs.RECIPE, 0, Path("unused"), given))
        assert (config.num_mixture_tokens == 1) == arm.name.startswith("siglip")
        if arm.name in sizes:
            with torch.device("meta"):
                sizes[arm.name] = sum(each.numel() for each in LlipModel(config).parameters())
    assert 1 <= sizes["siglip_matched"] / sizes["llip"] < 1.02


def test_the_remark_and_the_picture(tmp_path: Path) -> None:
    assert remark({}) == "Exchanged pictures: not run."
    results = results_of({"llip": [90.0, 92.0], "siglip": [20.0, 22.0], "siglip_long": [95.0, 95.0], "llip_64": [80.0]})
    text = remark(results)
    assert "the 7 models answer 2.1 to 2.1 % right" in text and "siglip_long (95.0 %), reaches Llip (91.0 %)" in text
    assert "stays below" in remark(results_of({"llip": [90.0], "siglip": [20.0]}))
    draw(results, tmp_path / "llip.png")
    assert (tmp_path / "llip.png").stat().st_size > 3000
