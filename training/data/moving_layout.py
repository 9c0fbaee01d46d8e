"""Where things are in a moving scene: paths of the target, and places for the others that tell nothing about its path.

Midpoint, direction and speed of the target are drawn independently; the other objects have to be clear of every place
where the target could have been, whatever its direction and speed, so that where they are gives no hint.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from torch import Tensor

from training.data.drawing import Shots, in_view, visibility
from training.data.scene_graph import COUNT, LAYOUT, LOOKS, VIEW, draw_looks, draw_view, scene_keys, uniforms
from training.data.solids import FOOTPRINT, Array

TARGET_SIZES, OTHER_SIZES = (0.66, 0.78), (0.38, 0.5)  # scales, scene units
LEAST_VISIBLE = 0.45  # of every object at the places tried; between them it may be a little less
GAP = 0.06  # between footprints at any time, scene units
DRIFT = 0.05  # of the other objects, scene units per frame; they go any way
_MOTION, _MIDPOINT, _PATH = 211, 212, 213  # purposes of keys
_CANDIDATES = 32  # layouts tried at once
_PATIENCE = 20  # tries before the other objects of a crowded clip shrink
_CHECK = 64  # rays per axis when visibility is checked


@dataclass(frozen=True)
class Path(ABC):
    """How the targets of B clips can move; offsets are (right, away) as the camera sees it, from a middle, scene units.

    Attributes:
        reach: half the longest path.
        u: uniform in [0, 1), [B, 2]: what differs between clips.
    """

    reach: float
    u: Array
    directions: ClassVar[tuple[str, ...]]
    longest: ClassVar[float]  # path that fits into the picture
    middles: ClassVar[Array]  # largest offset of the middle from that of the scene

    def take(self, rows: Array) -> Path:
        """The paths of these clips."""
        return replace(self, u=self.u[rows])

    @abstractmethod
    def offset(self, direction: Array, arc: Array) -> Array:
        """Where the targets are `arc` [B] after the middle of the clip, [B, 2]."""

    @abstractmethod
    def clearance(self, offset: Array) -> Array:
        """How far offsets [B, K, 2] are from every place where the target can be, [B, K]."""

    @abstractmethod
    def places(self) -> Array:
        """Some of the places where the target can be, the farthest among them, [places, B, 2]."""


class Straight(Path):
    """Along a line, symmetric about its middle."""

    directions = ("right", "away", "left", "towards")
    longest = 3.95
    middles = np.array([1.2, 2.8])
    _ahead = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])

    def offset(self, direction: Array, arc: Array) -> Array:
        """Where the targets are."""
        return self._ahead[direction] * arc[:, None]

    def clearance(self, offset: Array) -> Array:
        """Distance from the cross that the four directions make."""
        wide, deep = np.moveaxis(np.abs(offset), -1, 0)
        across = np.hypot(np.maximum(wide - self.reach, 0), deep)
        return np.minimum(across, np.hypot(wide, np.maximum(deep - self.reach, 0)))

    def places(self) -> Array:
        """The middle, and three places on each arm of the cross."""
        one = np.concatenate([np.zeros((1, 2)), *(self._ahead * share for share in (1, 2 / 3, 1 / 3))]) * self.reach
        return np.repeat(one[:, None], len(self.u), 1)


class Orbit(Path):
    """Around a circle, from anywhere on it: no frame, not even the first or last, tells direction or speed."""

    directions = ("clockwise", "anticlockwise")  # seen from above
    longest = 9.0  # less than once around, so that speed stays plain
    middles = np.array([0.8, 1.6])

    @property
    def radius(self) -> Array:
        """Of the circles, [B]."""
        return 1.5 + 0.4 * self.u[:, 0]

    def offset(self, direction: Array, arc: Array) -> Array:
        """Where the targets are."""
        angle = 2 * np.pi * self.u[:, 1] + np.where(direction == 1, 1, -1) * arc / self.radius
        return self.radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)

    def clearance(self, offset: Array) -> Array:
        """Distance from the circle."""
        return np.abs(np.hypot(offset[..., 0], offset[..., 1]) - self.radius[:, None])

    def places(self) -> Array:
        """Sixteen places around the circle."""
        angle = np.arange(16) * np.pi / 8
        return np.stack([np.cos(angle), np.sin(angle)], 1)[:, None] * self.radius[:, None]


PATHS: dict[str, type[Path]] = {"straight": Straight, "orbit": Orbit}


class Layout:
    """Moving scenes of some samples: what is in them, where it is at any time, and how the target moves.

    Args:
        seed, split: of the source.
        rows: sample numbers, int64 [B].
        path: "straight" or "orbit".
        frames: per clip.
        speeds: of the target, slow to fast, scene units per frame.
        objects: fewest and most per clip.
    """

    def __init__(
        self,
        seed: int,
        split: str,
        rows: Array,
        *,
        path: str,
        frames: int,
        speeds: tuple[float, ...],
        objects: tuple[int, int],
    ) -> None:
        self.seed, self.split, self.rows = seed, split, rows
        self.half = (frames - 1) / 2
        self.path = PATHS[path](self.half * max(speeds), uniforms(self._keys(_PATH), 2))
        motion = uniforms(self._keys(_MOTION), 2)
        self.direction = (motion[:, 0] * len(self.path.directions)).astype(np.int64)
        self.speed = (motion[:, 1] * len(speeds)).astype(np.int64)
        self.pace = np.array(speeds)[self.speed]
        slots = np.arange(objects[1])
        count = objects[0] + (uniforms(self._keys(COUNT), 1) * (objects[1] - objects[0] + 1)).astype(np.int64)
        self.looks = draw_looks(self._keys(LOOKS), len(slots))
        low = np.where(slots == 0, TARGET_SIZES[0], OTHER_SIZES[0])
        high = np.where(slots == 0, TARGET_SIZES[1], OTHER_SIZES[1])
        # position: of the target, the middle of its path; of the others, where they are in the middle of the clip
        self.shots = Shots(
            shape=np.where(slots < count, self.looks.shape, -1),
            size=low + (high - low) * self.looks.size,
            yaw=self.looks.yaw,
            position=np.zeros((len(rows), len(slots), 2)),
            colour=self.looks.rgb,
            shiny=self.looks.shiny,
            **draw_view(self._keys(VIEW), pitch=(46, 50), distance=10, spread=0.35),
        )
        self.drift = np.zeros((len(rows), len(slots), 2))  # right and away, scene units per frame
        self._place_target()
        self._place_others()

    def at(self, times: Array) -> Shots:
        """The scenes at F times, frames from the middle of the clip: B * F shots, those of a clip together."""
        offsets = [self.path.offset(self.direction, self.pace * time) for time in times]
        return _frozen(self.shots, self.drift, np.stack(offsets), times)

    @property
    def velocity(self) -> Array:
        """How everything moves in the middle of the clip, right and away, scene units per frame, [B, K, 2]."""
        velocity = self.drift.copy()
        ends = [self.path.offset(self.direction, self.pace * time) for time in (-0.5, 0.5)]
        velocity[:, 0] = ends[1] - ends[0]
        return velocity

    def _keys(self, *purpose: int, only: Array | None = None) -> Tensor:
        return scene_keys(self.seed, self.split, self.rows if only is None else self.rows[only], *purpose)

    def _place_target(self) -> None:
        """Middles from which every path stays in the picture, whatever the true one is."""
        pending, attempt = np.arange(len(self.rows)), 0
        while len(pending):
            u = uniforms(self._keys(_MIDPOINT, attempt, only=pending), 2)
            part, path = self.shots.take(pending), self.path.take(pending)
            part.shape[:, 1:] = -1
            part.position[:, 0] = on_ground(part, (2 * u - 1) * path.middles)
            places = path.places() * 1.03  # also what is between the places tried
            tried = _frozen(part, np.zeros_like(part.position), places, np.zeros(len(places)))
            fit = in_view(tried).reshape(len(pending), -1).all(1)
            self.shots.position[pending[fit], 0] = part.position[fit, 0]
            pending, attempt = pending[~fit], attempt + 1

    def _place_others(self) -> None:
        pending, attempt, slots = np.arange(len(self.rows)), 0, self.shots.shape.shape[1]
        while len(pending):
            self.shots.size[pending, 1:] *= 1 if attempt < _PATIENCE else 0.97
            repeated = np.repeat(pending, _CANDIDATES)
            part, path = self.shots.take(repeated), self.path.take(repeated)
            u = uniforms(self._keys(LAYOUT, attempt, only=pending), _CANDIDATES, slots, 3).reshape(-1, slots, 3)
            part.position[:, 1:] = on_ground(part, (2 * u[:, 1:, :2] - 1) * np.array([3.4, 4.6]))
            angle = 2 * np.pi * u[..., 2:]
            drift = DRIFT * np.concatenate([np.cos(angle), np.sin(angle)], -1)
            fit = self._clear(part, path, drift).reshape(len(pending), _CANDIDATES)
            best = fit.argmax(1) + np.arange(len(pending)) * _CANDIDATES
            fit, part, path, drift = (
                fit[np.arange(len(fit)), fit.argmax(1)],
                part.take(best),
                path.take(best),
                drift[best],
            )
            fit[fit] = self._shown(part.take(fit), path.take(fit), drift[fit])
            self.shots.position[pending[fit], 1:] = part.position[fit, 1:]
            self.drift[pending[fit], 1:] = drift[fit, 1:]
            pending, attempt = pending[~fit], attempt + 1

    def _clear(self, shots: Shots, path: Path, drift: Array) -> Array:
        """Whether the others touch neither each other nor any path of the target, and stay in the picture, bool [B]."""
        radius, absent = FOOTPRINT[shots.shape] * shots.size, shots.shape[:, 1:] < 0
        fit = np.ones(len(shots), bool)
        for time in np.linspace(-self.half, self.half, 5):
            now = _frozen(shots, drift, np.zeros((1, len(shots), 2)), np.array([time]))
            away = seen_from(now, now.position[:, 1:] - now.position[:, :1])
            fit &= in_view(now)
            fit &= ((path.clearance(away) > radius[:, 1:] + radius[:, :1] + GAP) | absent).all(1)
            between = np.linalg.norm(now.position[:, 1:, None] - now.position[:, None, 1:], axis=-1)  # [B, K-1, K-1]
            free = between > radius[:, 1:, None] + radius[:, None, 1:] + GAP
            fit &= (free | absent[:, :, None] | absent[:, None] | np.eye(absent.shape[1], dtype=bool)).all((1, 2))
        return fit

    def _shown(self, shots: Shots, path: Path, drift: Array) -> Array:
        """Whether enough of everything is seen, wherever the target is and at both ends of the clip, bool [B]."""
        if not len(shots):
            return np.ones(0, bool)
        places = path.places()
        times = np.repeat([-self.half, self.half], len(places))
        tried = _frozen(shots, drift, np.concatenate([places, places]), times)
        shown = (visibility(tried, _CHECK) >= LEAST_VISIBLE) | (tried.shape < 0)
        return np.asarray(np.all(shown.reshape(len(shots), -1), axis=1))


def _frozen(shots: Shots, drift: Array, offsets: Array, times: Array) -> Shots:
    """The shots F times each, [B * F]: the target at `offsets` [F, B, 2], the others drifted for `times` [F]."""
    many = shots.take(np.repeat(np.arange(len(shots)), len(times)))
    moved = drift[:, None] * times[:, None, None]  # [B, F, K, 2]
    moved[:, :, 0] = offsets.swapaxes(0, 1)
    return replace(many, position=many.position + on_ground(many, moved.reshape(many.position.shape)))


def on_ground(shots: Shots, vectors: Array) -> Array:
    """World x and y of vectors given as (right, away) of the camera, [B, ..., 2]."""
    return _turned(vectors, shots.azimuth)


def seen_from(shots: Shots, vectors: Array) -> Array:
    """(right, away) of the camera of vectors in world x and y, [B, ..., 2]."""
    return _turned(vectors, -shots.azimuth)


def _turned(vectors: Array, angle: Array) -> Array:
    wide = (slice(None),) + (None,) * (vectors.ndim - 2)
    sin, cos = np.sin(angle)[wide], np.cos(angle)[wide]
    x, y = vectors[..., 0], vectors[..., 1]
    return np.stack([cos * x - sin * y, sin * x + cos * y], -1)
