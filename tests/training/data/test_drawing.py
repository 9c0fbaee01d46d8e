"""The ray caster against marching along every ray in small steps. About 3 seconds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from training.data import drawing
from training.data.drawing import Shots, bounds, camera, centres, corners, project, render, visibility
from training.data.solids import FOOTPRINT, HALF_HEIGHT, HALF_WIDTH, SHAPES, SLOPE, Array, interval, normals

COUNT = 6  # shots
RESOLUTION = 32


def some_shots(steep: bool) -> Shots:
    """Four solids of every kind around the middle; camera and light from the side or almost from above."""
    draw = np.random.default_rng(5)
    around, high = draw.uniform(0, 2 * np.pi, COUNT), draw.uniform(1.1, 1.5, COUNT) if steep else np.full(COUNT, 0.7)
    light = np.stack([np.cos(high) * np.cos(around), np.cos(high) * np.sin(around), np.sin(high)], 1)
    angle = np.arange(4) * np.pi / 2 + draw.uniform(0, 6, (COUNT, 1))
    return Shots(
        shape=np.stack([draw.permutation(4) for _ in range(COUNT)]),
        size=draw.uniform(0.7, 1.0, (COUNT, 4)),
        yaw=draw.uniform(0, 6, (COUNT, 4)),
        position=1.5 * np.stack([np.cos(angle), np.sin(angle)], -1),
        colour=draw.uniform(0.1, 0.9, (COUNT, 4, 3)),
        shiny=draw.random((COUNT, 4)) < 0.5,
        azimuth=draw.uniform(-0.5, 0.5, COUNT),
        pitch=np.full(COUNT, 1.2 if steep else 0.5),
        distance=np.full(COUNT, 9.0),
        spread=np.full(COUNT, 0.36),
        light=light,
        ground=np.full((COUNT, 3), 0.4),
    )


def inside(shots: Shots, points: Array) -> Array:
    """Which objects hold which points: [B, N, 3] -> bool [B, K, N]."""
    offset = points[:, None] - centres(shots)[:, :, None]  # [B, K, N, 3]
    sin, cos = np.sin(shots.yaw)[..., None], np.cos(shots.yaw)[..., None]
    x, y, z = np.moveaxis(offset, -1, 0) / shots.size[..., None]
    x, y = cos * x + sin * y, cos * y - sin * x
    half, high = HALF_WIDTH[shots.shape][..., None], HALF_HEIGHT[shots.shape][..., None]
    round_ = np.hypot(x, y)
    tall = np.abs(z) < high
    forms = {
        "sphere": x * x + y * y + z * z < half * half,
        "cube": (np.abs(x) < half) & (np.abs(y) < half) & tall,
        "cylinder": (round_ < half) & tall,
        "cone": (round_ < SLOPE * (high - z)) & tall,
    }
    return np.select([shots.shape[..., None] == kind for kind in range(4)], [forms[name] for name in SHAPES])


def march(shots: Shots, start: Array, ray: Array, far: float, not_owner: Array | None = None) -> Array:
    """The first object that each ray enters, -1 for none: start and ray [B, N, 3] -> [B, N]."""
    found = np.full(start.shape[:2], -1)
    for step in np.arange(0.01, far, 0.02):
        held = inside(shots, start + ray * step)  # [B, K, N]
        if not_owner is not None:
            held &= np.arange(held.shape[1])[:, None] != not_owner[:, None]
        found = np.where((found < 0) & held.any(1), held.argmax(1), found)
    return found


def rays(shots: Shots) -> Array:
    lens = camera(shots)
    ticks = ((2 * np.arange(RESOLUTION) + 1) / RESOLUTION - 1) * shots.spread[0]
    across, above = np.tile(ticks, RESOLUTION), -np.repeat(ticks, RESOLUTION)
    return np.asarray(lens.forward[:, None] + across[:, None] * lens.right[:, None] + above[:, None] * lens.up[:, None])


@pytest.mark.parametrize("steep", [False, True])
def test_hits_and_shadows_are_those_of_marching(steep: bool) -> None:
    shots = some_shots(steep)
    trace = drawing._trace(shots, RESOLUTION)
    owner = trace.owner.reshape(COUNT, -1)
    eye, ray = camera(shots).eye[:, None], rays(shots)
    near = 6.0  # nothing is nearer to a camera
    expected = march(shots, eye + ray * near, ray, 6)
    assert (expected == owner).mean() > 0.995  # steps miss a grazed edge
    assert all((expected == slot).any() for slot in range(4))

    ends = eye + ray * trace.depth.reshape(COUNT, -1, 1)
    dark = drawing._shadows(shots, RESOLUTION, trace).reshape(COUNT, -1)
    light = np.broadcast_to(shots.light[:, None], ends.shape)
    shaded = march(shots, ends, light, 4, not_owner=owner) >= 0
    assert (shaded == dark).mean() > 0.99
    assert steep or (dark & (owner >= 0)).any()
    assert (dark & (owner < 0)).any()


def test_normals_are_those_of_the_depth() -> None:
    """A point a little inside the surface, against the normal, is in the solid; a little outside is not."""
    for kind in range(4):
        draw = np.random.default_rng(kind)
        ray = draw.normal(size=(3, 4000)).astype(np.float32)
        origin = -4 * ray + 0.5 * draw.uniform(-1, 1, ray.shape).astype(np.float32)
        near, far = interval(kind, origin, ray)
        point = (origin + near * ray)[:, near < far]
        normal = normals(kind, point)
        assert point.shape[1] > 1000
        assert np.allclose((normal * normal).sum(0), 1, atol=1e-4)
        one = replace(
            some_shots(False).take(np.arange(1)),
            shape=np.full((1, 1), kind),
            size=np.ones((1, 1)),
            yaw=np.zeros((1, 1)),
            position=np.zeros((1, 1, 2)),
        )
        lift = np.array([0, 0, HALF_HEIGHT[kind]])
        assert inside(one, (point - 4e-3 * normal).T[None] + lift).mean() > 0.98
        assert inside(one, (point + 4e-3 * normal).T[None] + lift).mean() < 0.02


def test_projection() -> None:
    shots = some_shots(False)
    middle = np.broadcast_to(np.array([0, 0, 0.4]), (COUNT, 1, 3))
    where, depth = project(shots, middle)
    assert np.allclose(where, 0.5)
    assert np.allclose(depth[:, 0], shots.distance)
    above, _ = project(shots, middle + np.array([0, 0, 0.5]))
    assert (above[..., 1] < 0.5).all()
    box = project(shots, corners(shots))[0]
    assert np.allclose(bounds(shots)[..., :2], box.min(2))
    lowest = corners(shots)[..., 2].min(2)
    assert np.allclose(lowest, 0)  # objects stand on the ground


def test_visibility() -> None:
    shots = some_shots(False)
    alone = replace(shots, shape=np.where(np.arange(4) == 0, shots.shape, -1))
    assert np.allclose(visibility(alone, 64), [1, 0, 0, 0])
    share = visibility(shots, 64)
    assert ((share >= 0) & (share <= 1)).all()
    assert (share < 0.95).any()
    reach = (FOOTPRINT[shots.shape] * shots.size).max()
    behind = replace(shots.take(np.array([0])), azimuth=np.zeros(1))
    position = np.array([[[0, -1.2 * reach], [0, 1.2 * reach], [2.5, 0], [-2.5, 0]]])
    hidden = replace(behind, position=position, pitch=np.array([0.1]), shape=np.array([[1, 1, 1, 1]]))
    hidden.size[0, :2] = 1.0, 0.5
    assert visibility(hidden, 64)[0, 1] < 0.2 < visibility(hidden, 64)[0, 0]


def test_pictures_do_not_depend_on_company() -> None:
    shots = some_shots(False)
    together, visible = render(shots, 32)
    assert together.shape == (COUNT, 32, 32, 3)
    assert together.dtype == np.uint8
    for row in (0, COUNT - 1):
        alone, share = render(shots.take(np.array([row])), 32)
        assert (alone[0] == together[row]).all()
        assert (share[0] == visible[row]).all()
