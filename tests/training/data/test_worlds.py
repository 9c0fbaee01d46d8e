"""The source of possible clips: the contract of all sources, and that nothing impossible is in it."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from jepa_hub.physics.stage import Stage
from tests.training.data.contract import check_source
from training.build import own_settings
from training.config import Named
from training.data.worlds import Worlds, WorldsSettings


@pytest.fixture(autouse=True)
def _draws() -> None:
    """Skip where nothing can be drawn."""
    if os.environ.get("JEPA_HUB_REQUIRE_ALL"):
        return
    if importlib.util.find_spec("mujoco") is None:
        pytest.skip("pip install 'jepa-hub[physics]'")
    try:
        Stage(48).close()
    except ImportError as error:
        pytest.skip(f"apt-get install --no-install-recommends libegl1 ({error})")


def test_clips(tmp_path: Path) -> None:
    kept = Worlds(WorldsSettings(num_samples=6, cache=tmp_path, num_processes=1))
    drawn = Worlds(WorldsSettings(num_samples=6, cache=None))
    check_source(kept)
    sample = kept.read(3, 0)
    assert sample.pixels.shape == (3, 16, 48, 48) and (sample.pixels == drawn.read(3, 7).pixels).all()
    assert sample.labels["present"] in (0, 1) and set(kept.labels) == {"present"}
    assert len({kept.read(index, 0).pixels.float().mean().item() for index in range(6)}) == 6
    other = Worlds(WorldsSettings(num_samples=6, cache=None, split="validation"))
    assert (other.read(3, 0).pixels != sample.pixels).any()


def test_what_a_world_does_not_have_is_refused() -> None:
    for setting in ({"max_objects": 3}, {"frames": 8}, {"size": 16}, {"sise": 48}):
        with pytest.raises(ValueError):
            own_settings(WorldsSettings, Named(name="worlds", **setting), "data.source")
