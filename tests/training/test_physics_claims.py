"""The claims physics and physics_flicker: what they compare, and the suite in flickering light."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from jepa_hub import JEPAModel, JEPAProcessor
from jepa_hub.physics.evaluation import Protocol, evaluate
from jepa_hub.physics.suites import open_suite
from jepa_hub.physics.tables import score_table
from jepa_hub.physics.worlds import worlds_suite
from training.claims import physics, physics_flicker
from training.reproduce import RESULTS, load_results


def test_clips_of_a_quadruplet_share_the_light() -> None:
    steady, lit = worlds_suite(), physics_flicker.flickering_suite(0.1)
    assert [item.video for item in lit.items] == [item.video for item in steady.items]
    groups: dict[tuple[str, str], list[int]] = {}
    for index, item in enumerate(steady.items):
        groups.setdefault((item.video.property, item.video.group), []).append(index)
    lights = []
    for chosen in list(groups.values())[::60]:
        plain = [np.asarray(steady.items[index].read()).astype(int) for index in chosen]
        shown = [np.asarray(lit.items[index].read()) for index in chosen]
        inside = np.ones(plain[0].shape, dtype=bool)  # where no clip was cut off at black or white
        for clip in shown:
            assert clip.dtype == np.uint8
            inside &= (clip > 0) & (clip < 255)
        for clip, source in zip(shown[1:], plain[1:], strict=True):
            changed = (clip.astype(int) - source)[inside]
            assert np.array_equal(changed, (shown[0].astype(int) - plain[0])[inside])
        light = shown[0].astype(int) - plain[0]  # [F, 3, H, W]
        assert np.abs(light[0] - light[1]).mean() > 0  # another light in every frame
        lights.append(light)
    assert len(lights) >= 3 and not np.array_equal(lights[0], lights[1])  # and in every quadruplet


def test_the_light_is_that_of_training() -> None:
    """As strong as `data.views.flicker` of the recipe, which is what the claim scores in."""
    item, lit = worlds_suite().items[0], physics_flicker.flickering_suite(0.05).items[0]
    light = torch.from_numpy(np.asarray(lit.read()).astype(float) - np.asarray(item.read()).astype(float))
    assert light[:, :, 0, 0].std().item() == pytest.approx(0.05 * 255, rel=0.5)  # 16 draws at a corner


@pytest.mark.parametrize(("name", "arm"), [("vjepa-tiny-worlds", "latent"), ("mae-tiny-worlds", "pixels")])
def test_what_ships_is_seed_0_of_the_claim(name: str, arm: str, tmp_path: Path) -> None:
    """By its scores: the half precision of what ships may turn a pair or two of 120."""
    model, processor = (kind.from_pretrained(name) for kind in (JEPAModel, JEPAProcessor))
    suite = open_suite("worlds", properties=["permanence"], seen=False)
    protocol = Protocol(context_frames=(physics.CONTEXT,), batch_size=32)
    (row,) = score_table(evaluate(model, processor, suite, tmp_path / "raw.jsonl", protocol, progress=False), ["mean"])
    told = load_results(RESULTS, "physics_flicker")[arm][0]["metrics"]
    assert row.relative.value == pytest.approx(told["permanence"], abs=2)
    assert row.matched.value == pytest.approx(told["permanence_matched"], abs=2)
