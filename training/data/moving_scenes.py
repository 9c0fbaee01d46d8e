"""Moving scenes: clips in which the largest solid crosses or circles the scene among smaller ones, drawn on the fly.

The middle of a clip alone does not tell where things move: with `path: straight`, the path is symmetric about a point
that was drawn without regard to direction and speed. Played backwards, a clip of one direction is a clip of the
opposite one, so that features that ignore the order of the frames cannot tell the two apart. Frames away from the
middle do hint at it, as with any straight path inside a picture: what is at the left edge in the first frame will go
right. With `path: orbit` no frame at all tells direction or speed, whichever it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from training.data.drawing import centres, project, render
from training.data.generated import CountedSettings, Generated
from training.data.moving_layout import PATHS, Layout
from training.data.scene_graph import COLOURS, describe, plural, scene_graph
from training.data.solids import SHAPES
from training.data.source import Label, Sample

SPEEDS = ("slow", "medium", "fast")
_UNITS = {"straight": (0.12, 0.19, 0.26), "orbit": (0.2, 0.35, 0.5)}  # scene units per frame
_WAYS = {
    "right": "moves to the right",
    "left": "moves to the left",
    "away": "moves away from the camera",
    "towards": "moves towards the camera",
    "clockwise": "circles clockwise",
    "anticlockwise": "circles anticlockwise",
}
_PACES = ("slowly", "at medium speed", "fast")


class MovingScenesSettings(CountedSettings):
    """Settings of `moving_scenes`; see CountedSettings.

    Attributes:
        frames: per clip.
        path: of the target. "straight": right, away, left, towards. "orbit": clockwise, anticlockwise.
        speeds: slow, medium and fast, in scene units per frame; a picture is about seven units wide. None fits 16
            frames, and more frames proportionally slower.
    """

    num_samples: int = Field(default=4000, ge=1)
    max_objects: int = Field(default=3, ge=1, le=5)
    frames: int = Field(default=16, ge=2, le=256)
    path: Literal["straight", "orbit"] = "straight"
    speeds: tuple[float, float, float] | None = None

    @property
    def units(self) -> tuple[float, ...]:
        """The speeds in scene units per frame."""
        return self.speeds or tuple(round(speed * min(1, 15 / (self.frames - 1)), 6) for speed in _UNITS[self.path])

    @model_validator(mode="after")
    def _path(self) -> MovingScenesSettings:
        slow, medium, fast = self.units
        if not 0 < slow < medium < fast:
            raise ValueError(f"speeds must be three rising positive numbers, got {self.speeds}")
        length, longest = (self.frames - 1) * fast, PATHS[self.path].longest
        if length > longest:
            raise ValueError(
                f"{self.frames} frames at {fast:g} units per frame make a path of {length:.2f} units, and {longest:g} "
                f"fit into the picture: lower the speeds or frames"
            )
        return self


class MovingScenes(Generated):
    """Clips of one large moving object (the target) and up to four small ones that drift slowly.

    Labels are about the target, except `count`. `details["scene"]` is the scene graph in the middle of the clip, target
    first, with the least visible fraction of all frames; each object also has its `velocity` (right and away as the
    camera sees it, scene units per frame) and `path`, its image position in every frame.
    """

    settings: MovingScenesSettings
    Settings = MovingScenesSettings
    kind = "clip"
    name = "moving_scenes"
    version = 1
    batch_size = 16

    @property
    def drawn_labels(self) -> dict[str, Label]:
        """`direction`, `speed`, `colour` and `shape` of the target, and the `count` of objects."""
        directions = PATHS[self.settings.path].directions
        counts = tuple(str(count + 1) for count in range(self.settings.max_objects))
        return {
            "direction": Label("class", len(directions), directions),
            "speed": Label("class", len(SPEEDS), SPEEDS),
            "colour": Label("class", len(COLOURS), tuple(COLOURS)),
            "shape": Label("class", len(SHAPES), SHAPES),
            "count": Label("class", len(counts), counts, "objects"),
        }

    def render_samples(self, indices: Sequence[int]) -> list[Sample]:
        """Samples drawn together; each is the same in any company."""
        settings, frames = self.settings, self.settings.frames
        layout = Layout(
            settings.seed,
            settings.split,
            np.array(indices, np.int64),
            path=settings.path,
            frames=frames,
            speeds=settings.units,
            objects=(settings.min_objects, settings.max_objects),
        )
        shots = layout.at(np.arange(frames) - (frames - 1) / 2)
        pictures, visible = render(shots, settings.size)
        pixels = torch.from_numpy(pictures).unflatten(0, (-1, frames)).permute(0, 4, 1, 2, 3)  # [B, 3, F, H, W]
        least = visible.reshape(len(indices), frames, -1).min(1)
        where = project(shots, centres(shots))[0].reshape(len(indices), frames, -1, 2)
        middle, velocity = layout.at(np.zeros(1)), layout.velocity
        samples = []
        for row, index in enumerate(indices):
            scene = scene_graph(middle, layout.looks, least, row)
            for slot, thing in enumerate(scene):
                thing["velocity"] = np.round(velocity[row, slot], 4).tolist()
                thing["path"] = np.round(where[row, :, slot], 4).tolist()
            direction, speed = int(layout.direction[row]), int(layout.speed[row])
            labels: dict[str, int | float] = {
                "direction": direction,
                "speed": speed,
                "colour": int(layout.looks.colour[row, 0]),
                "shape": int(layout.looks.shape[row, 0]),
                "count": len(scene) - 1,
            }
            said = _sentences(scene, layout.path.directions[direction], speed)
            samples.append(Sample(index, pixels[row].contiguous(), labels, said, {"scene": scene}))
        return samples


def _sentences(scene: list[dict[str, Any]], direction: str, speed: int) -> tuple[str, ...]:
    target, others = scene[0], len(scene) - 1
    way, name = _WAYS[direction], f"{target['colour']} {target['shape']}"
    sentences = [
        f"A {name} {way}.",
        f"A {name} {way}, {_PACES[speed]}.",
        f"{describe(target, 'material').capitalize()} moves {_PACES[speed]}.",
    ]
    if others:
        sentences.append(
            f"A large {name} {way}; there {'is' if others == 1 else 'are'} {plural(others, 'small object')}."
        )
    return tuple(sentences)
