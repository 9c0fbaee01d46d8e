"""The tab World, without gradio: mechanics on a small random model, and what the shipped one does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from demos.examples import scenes
from demos.library import Library, Loaded
from demos.tabs import world as tab
from jepa_hub import photometry
from jepa_hub.catalog import CHECKPOINTS
from jepa_hub.processing import JEPAProcessor
from tests.official import tiny_model


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tmp_path_factory.mktemp("iwm")
    model = tiny_model("iwm")
    model.save_pretrained(folder)
    JEPAProcessor(image_size=32, patch_size=model.config.patch_size).save_pretrained(folder)
    return Library().get(str(folder))


@pytest.fixture(scope="module")
def world(loaded: Loaded) -> tab.World:
    return tab.prepare(loaded, scenes()[9][0])


def test_the_bank_holds_changed_versions(world: tab.World) -> None:
    assert world.changes.shape == (255, 7) and world.latents.shape[0] == 255
    version = world.changed(world.changes[17:18])
    wanted = world.loaded.model.prediction_targets(version).flatten(1)
    assert torch.allclose(world.latents[17:18], wanted, atol=1e-5)
    shift, scale = (
        torch.tensor(each).view(3, 1, 1) for each in (world.loaded.processor.mean, world.loaded.processor.std)
    )
    darker = world.changed(tab.parameters({"brightness": -0.5}))[0] * scale + shift
    assert torch.allclose(darker, (world.picture * scale + shift) * 0.5, atol=1e-5)


def test_the_prediction_and_its_rank_are_the_models(world: tab.World) -> None:
    found = tab.expect(world, {"brightness": 0.3, "hue": -0.1})
    model = world.loaded.model
    wanted = model.predict(world.picture[None], conditioning={"brightness": 0.3, "hue": -0.1})[0, 0]
    assert torch.allclose(found.predicted, wanted, atol=1e-5)
    true = model.prediction_targets(world.changed(photometry.parameters({"brightness": 0.3, "hue": -0.1})))[0]
    assert torch.allclose(found.true, true, atol=1e-5)
    away = (world.latents - wanted.flatten()).norm(dim=1)
    own = float((true - wanted).norm())
    assert found.rank == 1 + int((away < own).sum()) and found.candidates == 256
    first = int(found.nearest[0])
    assert (first == 0) == (found.rank == 1)
    if first:
        assert first - 1 == int(away.argmin())
    still = tab.expect(world, {})
    assert still.rank == still.untold_rank  # nothing was told either way
    text = tab.summary(found)
    assert "Told: brightness +0.30, hue -0.10." in text and f"comes {tab.ordinal(found.rank)}**" in text


def test_the_views_show_the_change(world: tab.World) -> None:
    views = tab.draw(tab.expect(world, {"brightness": -0.6}))
    assert list(views) == list(tab.VIEWS) and len({each.size for each in views.values()}) == 1
    seen, asked = (np.asarray(views[name]).astype(float) for name in ("Seen", "Asked for"))
    assert asked.mean() == pytest.approx(0.4 * seen.mean(), rel=0.03)
    still = tab.draw(tab.expect(world, {}))
    assert np.array_equal(np.asarray(still["Seen"]), np.asarray(still["Asked for"]))


def test_what_cannot_be_is_answered(loaded: Loaded, world: tab.World, film: str) -> None:
    with pytest.raises(ValueError, match="not a video"):
        tab.prepare(loaded, film)
    with pytest.raises(ValueError, match="only image world models"):
        tab.prepare(Library().get("ijepa-tiny-scenes"), scenes()[9][0])
    for values in ({"brightness": 5.0}, {"warmth": 0.1}, {"blur": 1.0}):
        with pytest.raises(ValueError, match="goes from"):
            tab.expect(world, values)
    assert [tab.ordinal(each) for each in (1, 2, 3, 4, 11, 12, 13, 21, 112)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "112th",
    ]  # fmt: skip


def test_what_there_is_to_click_is_within_reach() -> None:
    for each in tab.things():
        path, name, value = each.given
        assert Path(path).is_file() and tab.parameters({name: float(value)}).abs().sum() > 0


@pytest.mark.skipif("iwm-tiny-scenes" not in CHECKPOINTS, reason="no image world model ships with this version")
def test_the_shipped_model_follows_brightness() -> None:
    shipped = Library().get("iwm-tiny-scenes")
    ranks = [
        tab.expect(tab.prepare(shipped, scenes()[number][0]), {"brightness": change})
        for number, change in ((9, -0.5), (11, 0.5), (4, -0.5), (18, 0.5))
    ]
    told = np.mean([1 / each.rank for each in ranks])
    untold = np.mean([1 / each.untold_rank for each in ranks])
    assert told > 2 * untold and np.mean([each.rank for each in ranks]) < 80
