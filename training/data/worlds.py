"""Worlds: possible clips of the simulated physics worlds, for training; the impossible ones are only ever tested on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field

from jepa_hub.physics.stage import Stage
from jepa_hub.physics.templates import possible_scene, scene_rng
from training.data.generated import Generated, GeneratedSettings
from training.data.source import Label, Sample

_STAGES: dict[int, Stage] = {}  # one GL context per process and size


class WorldsSettings(GeneratedSettings):
    """Settings of `worlds`; see GeneratedSettings.

    Attributes:
        frames: per clip; the scenes are made for 16.
    """

    size: int = Field(default=48, ge=32, le=256)
    num_samples: int = Field(default=3000, ge=1)
    frames: int = Field(default=16, ge=16, le=16)


class Worlds(Generated):
    """Clips of scenes with one object or none, in which nothing impossible happens.

    Needs MuJoCo (extra `physics`) until the cache is there.
    """

    settings: WorldsSettings
    Settings = WorldsSettings
    kind = "clip"
    name = "worlds"
    version = 3
    batch_size = 8

    @property
    def drawn_labels(self) -> dict[str, Label]:
        """`present`: whether the scene has an object."""
        return {"present": Label("class", 2, ("no", "yes"))}

    def render_samples(self, indices: Sequence[int]) -> list[Sample]:
        """Samples drawn together; each is the same in any company."""
        settings = self.settings
        stage = _STAGES.get(settings.size)
        if stage is None:
            stage = _STAGES[settings.size] = Stage(settings.size)
        samples = []
        for index in indices:
            scene = possible_scene(scene_rng(settings.seed, settings.split, index))
            pixels = torch.from_numpy(stage.draw(scene)).permute(3, 0, 1, 2).contiguous()  # [3, F, H, W]
            thing = scene.thing
            details = {} if thing is None else {"shape": thing.shape, "colour": thing.colour}
            samples.append(Sample(index, pixels, {"present": int(thing is not None)}, (), details))
        return samples
