"""Sliding scenes: clips in which the camera slides over a plain strewn with solids of one kind, drawn on the fly.

No single frame tells where or how fast: the plain has no beginning and no end (it repeats beyond what the camera can
see), so that every frame of every motion is drawn from the same distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field, model_validator

from training.data.drawing import Shots, render
from training.data.generated import Generated, GeneratedSettings
from training.data.moving_layout import on_ground
from training.data.scene_graph import LOOKS, VIEW, Looks, draw_looks, draw_view, plural, scene_keys, uniforms
from training.data.solids import SHAPES, Array
from training.data.source import Label, Sample

DIRECTIONS = ("right", "away", "left", "towards")  # in which the solids seem to move
SPEEDS = ("slow", "medium", "fast")
CELLS, CELL = 8, 1.6  # of the plain before it repeats: more than the camera sees, shadows included; scene units
FILLED = 0.45  # share of cells that hold a solid
SIZES = (0.45, 0.6)  # scales, scene units; a solid stays inside its cell
_AHEAD = 1.1  # middle of what the camera sees, beyond the point it looks at, scene units
_MOTION, _FIELD = 214, 215  # purposes of keys
_AXES = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])


class SlidingScenesSettings(GeneratedSettings):
    """Settings of `sliding_scenes`; see GeneratedSettings.

    Attributes:
        frames: per clip.
        speeds: slow, medium and fast, in scene units per frame; a picture is about seven units wide.
    """

    num_samples: int = Field(default=4000, ge=1)
    frames: int = Field(default=16, ge=2, le=256)
    speeds: tuple[float, float, float] = (0.1, 0.25, 0.4)

    @model_validator(mode="after")
    def _rising(self) -> SlidingScenesSettings:
        slow, medium, fast = self.speeds
        if not 0 < slow < medium < fast:
            raise ValueError(f"speeds must be three rising positive numbers, got {self.speeds}")
        return self


@dataclass(frozen=True)
class _Plain:
    """The plains of B clips: looks, places (right, away) as the camera sees them [B, K, 2], and how they move."""

    shots: Shots
    looks: Looks
    direction: Array
    speed: Array
    velocity: Array  # [B, 2] scene units per frame

    def at(self, times: Array) -> Shots:
        """B * F shots, those of a clip together."""
        size = CELLS * CELL
        many = self.shots.take(np.repeat(np.arange(len(self.shots)), len(times)))
        moved = self.velocity[:, None] * times[None, :, None]  # [B, F, 2]
        place = many.position + moved.reshape(-1, 1, 2)
        wrapped = np.mod(place + size / 2, size) - size / 2 + np.array([0.0, _AHEAD])
        many.position[:] = on_ground(many, wrapped)
        return many


class SlidingScenes(Generated):
    """Clips of a plain that slides by.

    Labels: `direction` and `speed` of the motion, and the `shape` of all solids; their colours differ.
    """

    settings: SlidingScenesSettings
    Settings = SlidingScenesSettings
    kind = "clip"
    name = "sliding_scenes"
    version = 1
    batch_size = 16

    @property
    def drawn_labels(self) -> dict[str, Label]:
        """`direction`, `speed` and `shape`."""
        return {
            "direction": Label("class", len(DIRECTIONS), DIRECTIONS),
            "speed": Label("class", len(SPEEDS), SPEEDS),
            "shape": Label("class", len(SHAPES), SHAPES),
        }

    def render_samples(self, indices: Sequence[int]) -> list[Sample]:
        """Samples drawn together; each is the same in any company."""
        frames = self.settings.frames
        plain = self._compose(np.array(indices, np.int64))
        pictures, _ = render(plain.at(np.arange(frames) - (frames - 1) / 2), self.settings.size)
        pixels = torch.from_numpy(pictures).unflatten(0, (-1, frames)).permute(0, 4, 1, 2, 3)  # [B, 3, F, H, W]
        samples = []
        for row, index in enumerate(indices):
            direction, speed = int(plain.direction[row]), int(plain.speed[row])
            shape = int(plain.looks.shape[row, 0])
            labels: dict[str, int | float] = {"direction": direction, "speed": speed, "shape": shape}
            said = f"{plural(2, SHAPES[shape])[4:].capitalize()} slide by, {DIRECTIONS[direction]}, {SPEEDS[speed]}."
            samples.append(Sample(index, pixels[row].contiguous(), labels, (said,)))
        return samples

    def _compose(self, rows: Array) -> _Plain:
        settings, slots = self.settings, CELLS**2
        looks = draw_looks(scene_keys(settings.seed, settings.split, rows, LOOKS), slots)
        looks.shape[:] = looks.shape[:, :1]  # one kind to a clip
        motion = uniforms(scene_keys(settings.seed, settings.split, rows, _MOTION), 4)
        direction, speed = (motion[:, 0] * len(_AXES)).astype(np.int64), (motion[:, 1] * 3).astype(np.int64)
        u = uniforms(scene_keys(settings.seed, settings.split, rows, _FIELD), slots, 3)
        room = CELL - 2 * SIZES[1]  # by which a solid may be off the middle of its cell
        cells = np.stack(np.meshgrid(np.arange(CELLS), np.arange(CELLS), indexing="ij"), -1).reshape(-1, 2) * CELL
        place = cells + room * u[..., :2] + motion[:, None, 2:] * CELLS * CELL  # anywhere, so that no cell is special
        return _Plain(
            shots=Shots(
                shape=np.where(u[..., 2] < FILLED, looks.shape, -1),
                size=SIZES[0] + (SIZES[1] - SIZES[0]) * looks.size,
                yaw=looks.yaw,
                position=place,
                colour=looks.rgb,
                shiny=looks.shiny,
                **draw_view(
                    scene_keys(settings.seed, settings.split, rows, VIEW), pitch=(58, 62), distance=10, spread=0.33
                ),
            ),
            looks=looks,
            direction=direction,
            speed=speed,
            velocity=_AXES[direction] * np.array(settings.speeds)[speed, None],
        )
