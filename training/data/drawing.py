"""Drawing scenes of solids on a ground plane by casting rays, many pictures at once, without any GL library.

An object is a solid of training.data.solids, scaled, turned about the vertical and stood on the ground. A ray meets a
convex solid in one interval, so that hits and shadows are the same few formulas. Only the pixels inside the rectangle
around an object (or its shadow) are tried.

World: x to the right, y away from the camera (at azimuth 0), z up, the ground is z = 0; lengths are scene units.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from training.data.solids import HALF_HEIGHT, HALF_WIDTH, SHAPES, Array, interval, normals

_AIM = np.array([0.0, 0.0, 0.4])  # the camera looks at this point
_MARGIN = 0.01  # between an object and the edge of the picture that it is whole in
_SAMPLES = 2  # per pixel and axis
_BUFFER = 2**19  # samples worked on at once, so that the arrays stay in the processor's cache
_LEVELS = 4096  # steps of the table from linear light to sRGB
_CURVE = (255 * np.linspace(0, 1, _LEVELS) ** (1 / 2.2) + 0.5).astype(np.uint8)


@dataclass(frozen=True)
class Shots:
    """B pictures of up to K objects each.

    Attributes:
        shape: int [B, K], index into SHAPES; -1 where there is no object.
        size: [B, K] scale of the canonical form, scene units.
        yaw: [B, K] radians about the vertical.
        position: [B, K, 2] of the middle of the footprint.
        colour: [B, K, 3] linear RGB in [0, 1].
        shiny: bool [B, K].
        azimuth: [B] radians by which the camera is carried around the scene.
        pitch: [B] radians by which it looks down.
        distance: [B] from the camera to the middle of the scene.
        spread: [B] tangent of half the field of view.
        light: [B, 3] unit vector towards the light.
        ground: [B, 3] linear RGB.
    """

    shape: Array
    size: Array
    yaw: Array
    position: Array
    colour: Array
    shiny: Array
    azimuth: Array
    pitch: Array
    distance: Array
    spread: Array
    light: Array
    ground: Array

    def __len__(self) -> int:
        return len(self.shape)

    def take(self, rows: Array) -> Shots:
        """The shots of these numbers, which may repeat."""
        return Shots(**{each.name: getattr(self, each.name)[rows] for each in fields(self)})

    def chunks(self, resolution: int) -> Iterator[Shots]:
        """The shots in parts that are drawn at once."""
        step = max(1, _BUFFER // resolution**2)
        for start in range(0, len(self), step):
            yield self.take(np.arange(start, min(start + step, len(self))))


class Camera(NamedTuple):
    """Where the cameras are and which way they look, each [B, 3]."""

    eye: Array
    right: Array
    up: Array
    forward: Array


def camera(shots: Shots) -> Camera:
    """The cameras of the shots."""
    sin_a, cos_a, zero = np.sin(shots.azimuth), np.cos(shots.azimuth), np.zeros(len(shots))
    sin_p, cos_p = np.sin(shots.pitch), np.cos(shots.pitch)
    forward = np.stack([-sin_a * cos_p, cos_a * cos_p, -sin_p], 1)
    up = np.stack([-sin_a * sin_p, cos_a * sin_p, cos_p], 1)
    return Camera(_AIM - forward * shots.distance[:, None], np.stack([cos_a, sin_a, zero], 1), up, forward)


def centres(shots: Shots) -> Array:
    """Middles of the objects, [B, K, 3]; z is half the height, because they stand on the ground."""
    return np.concatenate([shots.position, (HALF_HEIGHT[shots.shape] * shots.size)[..., None]], -1)


def project(shots: Shots, points: Array) -> tuple[Array, Array]:
    """Where points are in the pictures.

    Args:
        shots: B of them.
        points: [B, ..., 3], in front of the camera.

    Returns:
        Positions [B, ..., 2], (0, 0) at the top left and (1, 1) at the bottom right corner; depths [B, ...] along the
        direction the camera looks, scene units.
    """
    lens = camera(shots)
    wide = (slice(None),) + (None,) * (points.ndim - 2)
    offset = points - lens.eye[wide]
    depth, across, above = ((offset * axis[wide]).sum(-1) for axis in (lens.forward, lens.right, lens.up))
    scale = 0.5 / (depth * shots.spread[wide])
    return np.stack([0.5 + across * scale, 0.5 - above * scale], -1), depth


def corners(shots: Shots) -> Array:
    """Corners of the boxes around the objects, [B, K, 8, 3]."""
    sides = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])  # [8, 3]
    half = np.stack([HALF_WIDTH, HALF_WIDTH, HALF_HEIGHT], 1)[shots.shape] * shots.size[..., None]  # [B, K, 3]
    x, y, z = np.moveaxis(half[:, :, None] * sides, -1, 0)  # 3 x [B, K, 8]
    sin, cos = np.sin(shots.yaw)[..., None], np.cos(shots.yaw)[..., None]
    return np.stack([cos * x - sin * y, sin * x + cos * y, z], -1) + centres(shots)[:, :, None]


def bounds(shots: Shots) -> Array:
    """Rectangles around the objects in the pictures: left, top, right, bottom, [B, K, 4], 0 to 1 inside."""
    where = project(shots, corners(shots))[0]  # [B, K, 8, 2]
    return np.concatenate([where.min(2), where.max(2)], -1)


def in_view(shots: Shots) -> Array:
    """Whether every object is whole in the picture, bool [B]."""
    where = bounds(shots)
    inside = np.all((where > _MARGIN) & (where < 1 - _MARGIN), axis=-1)  # [B, K]
    return np.asarray(np.all(inside | (shots.shape < 0), axis=1))


def render(shots: Shots, size: int) -> tuple[Array, Array]:
    """The pictures, uint8 RGB [B, size, size, 3], and the visible fraction of each object, [B, K]."""
    parts = [_shade(part, size) for part in shots.chunks(size * _SAMPLES)]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def visibility(shots: Shots, resolution: int) -> Array:
    """Visible share of the pixels that each object would have alone, [B, K]; 0 where there is no object.

    Args:
        shots: B of them.
        resolution: rays per axis.
    """
    return np.concatenate([_trace(part, resolution).visible for part in shots.chunks(resolution)])


class _Trace(NamedTuple):
    owner: Array  # int8 [B * S * S]: the object each ray hits, -1 for the ground
    depth: Array  # float32 [B * S * S]: along the ray whose component along `forward` is 1
    visible: Array  # [B, K]
    frames: Array  # float32 [12, B, K], from _frames


def _trace(shots: Shots, resolution: int) -> _Trace:
    """What the rays through a grid of resolution x resolution points hit first."""
    count, slots = shots.shape.shape
    frames = _frames(shots)
    lens, ticks = camera(shots), _ticks(resolution)
    slope = lens.forward[:, 2:] - ticks * shots.spread[:, None] * lens.up[:, 2:]  # [B, S], of each row
    ground = (lens.eye[:, 2:] / -slope).astype(np.float32)
    depth = np.repeat(ground.ravel(), resolution)  # [B*S*S]
    owner = np.full(depth.shape, -1, np.int8)
    alone = np.zeros((count, slots), np.int64)
    boxes = _boxes(bounds(shots), resolution)
    for slot, kind, rows in _groups(shots):
        pairs = _pairs(boxes[rows, slot])
        place, ray = _rays(shots, rows, pairs, resolution, frames[:, rows, slot])
        origin = np.repeat(frames[:3, rows, slot], pairs.counts, axis=1)
        near, far = interval(kind, origin, ray)
        hit = near < far
        alone[rows, slot] = np.bincount(pairs.item[hit], minlength=len(rows))
        hit &= near < depth[place]
        depth[place[hit]] = near[hit]
        owner[place[hit]] = slot
    seen = np.empty_like(alone)
    for slot in range(slots):
        seen[:, slot] = (owner == slot).reshape(count, -1).sum(1)
    return _Trace(owner, depth, seen / np.maximum(alone, 1), frames)


def _frames(shots: Shots) -> Array:
    """Eye, forward, right and up as each object's canonical form sees them, float32 [12, B, K]."""
    lens = camera(shots)
    offset = lens.eye[:, None] - centres(shots)  # [B, K, 3]
    vectors = [offset] + [np.broadcast_to(each[:, None], offset.shape) for each in (lens.forward, lens.right, lens.up)]
    return np.concatenate([_canonical(shots, each) for each in vectors]).astype(np.float32)


def _canonical(shots: Shots, vectors: Array) -> Array:
    """Vectors [B, K, 3] turned and scaled into the objects' canonical forms, [3, B, K]."""
    sin, cos = np.sin(shots.yaw), np.cos(shots.yaw)
    x, y, z = np.moveaxis(vectors, -1, 0)
    return np.stack([cos * x + sin * y, cos * y - sin * x, z]) / shots.size


def _groups(shots: Shots) -> Iterator[tuple[int, int, Array]]:
    """(slot, shape, rows): objects treated alike, at most one per picture, so that no two share a ray."""
    for slot in range(shots.shape.shape[1]):
        for kind in range(len(SHAPES)):
            rows = np.flatnonzero(shots.shape[:, slot] == kind)
            if len(rows):
                yield slot, kind, rows


def _ticks(resolution: int) -> Array:
    """Middles of the columns in [-1, 1]."""
    return (2 * np.arange(resolution) + 1) / resolution - 1


def _boxes(where: Array, resolution: int) -> Array:
    """Rectangles [..., 4] in [0, 1] as columns and rows of rays: left, top, right, bottom, ends exclusive."""
    grid = np.clip(where * resolution, 0, resolution)
    return np.concatenate([np.floor(grid[..., :2]), np.ceil(grid[..., 2:])], -1).astype(np.int64)


class _Pairs(NamedTuple):
    counts: Array  # [n] rays of each rectangle
    item: Array  # [P] which rectangle
    row: Array  # [P]
    column: Array  # [P]


def _pairs(boxes: Array) -> _Pairs:
    """Every ray of n rectangles [n, 4], one rectangle after the other."""
    left, top, right, bottom = boxes.T
    width = right - left
    counts = np.maximum(width, 0) * np.maximum(bottom - top, 0)
    item = np.repeat(np.arange(len(boxes)), counts)
    along = np.arange(len(item)) - np.repeat(counts.cumsum() - counts, counts)
    row, column = np.divmod(along.astype(np.int32), width[item].astype(np.int32))
    return _Pairs(counts, item, row + top[item], column + left[item])


def _rays(shots: Shots, rows: Array, pairs: _Pairs, resolution: int, frames: Array) -> tuple[Array, Array]:
    """Where the rays of `pairs` are in the buffers, [P], and their directions in the canonical forms, [3, P]."""
    ticks = _ticks(resolution).astype(np.float32)
    spread = np.repeat(shots.spread[rows].astype(np.float32), pairs.counts)
    across, above = ticks[pairs.column] * spread, ticks[pairs.row] * -spread
    forward, right, up = np.repeat(frames[3:], pairs.counts, axis=1).reshape(3, 3, -1)
    place = (rows[pairs.item] * resolution + pairs.row) * resolution + pairs.column
    return place, forward + across * right + above * up


def _shadows(shots: Shots, resolution: int, trace: _Trace) -> Array:
    """Which rays end in the shadow of another object, bool [B * S * S]."""
    dark = np.zeros(trace.owner.shape, bool)
    solid = corners(shots)  # [B, K, 8, 3]
    light = shots.light[:, None, None]  # [B, 1, 1, 3]
    fallen = solid - light * (solid[..., 2:] / light[..., 2:])  # the corners' shadows on the ground
    where = project(shots, np.concatenate([solid, fallen], 2))[0]  # [B, K, 16, 2]
    boxes = _boxes(np.concatenate([where.min(2), where.max(2)], -1), resolution)
    towards = _canonical(shots, np.broadcast_to(shots.light[:, None], (*shots.shape.shape, 3))).astype(np.float32)
    for slot, kind, rows in _groups(shots):
        pairs = _pairs(boxes[rows, slot])
        place, ray = _rays(shots, rows, pairs, resolution, trace.frames[:, rows, slot])
        point = np.repeat(trace.frames[:3, rows, slot], pairs.counts, axis=1) + trace.depth[place] * ray
        near, far = interval(kind, point, np.repeat(towards[:, rows, slot], pairs.counts, axis=1))
        # a convex object shades itself where it faces away from the light, which shading sees by itself
        shaded = (near < far) & (far > 0) & (trace.owner[place] != slot)
        dark[place[shaded]] = True
    return dark


def _shade(shots: Shots, size: int) -> tuple[Array, Array]:
    resolution, count = size * _SAMPLES, len(shots)
    trace = _trace(shots, resolution)
    dark = _shadows(shots, resolution, trace)
    # ground: its light changes slowly and is worked out per pixel; what shadows and objects take off, per ray
    clear = np.where(dark, np.float32(0.42), np.float32(1)) * (trace.owner < 0)
    clear = clear.reshape(count, size, _SAMPLES, size, _SAMPLES).mean((2, 4))
    linear = _ground(shots, size) * clear[..., None]  # [B, H, W, 3]
    place = np.flatnonzero(trace.owner >= 0)
    frame, rest = np.divmod(place, resolution * resolution)
    row, column = np.divmod(rest, resolution)
    shaded = _surface(shots, resolution, trace, place, frame, row, column, dark[place])  # [3, P]
    pixel = (frame * size + row // _SAMPLES) * size + column // _SAMPLES
    for channel in range(3):
        light = np.bincount(pixel, shaded[channel] / _SAMPLES**2, count * size * size)
        linear[..., channel] += light.reshape(count, size, size)
    return _CURVE[(np.clip(linear, 0, 1) * (_LEVELS - 1) + 0.5).astype(np.int32)], trace.visible


def _ground(shots: Shots, size: int) -> Array:
    """Light from the bare ground, float32 [B, H, W, 3]: brightest in the middle, fading into the backdrop."""
    lens = camera(shots)
    ticks = _ticks(size) * shots.spread[:, None]  # [B, S]
    ray = [
        lens.forward[:, axis, None, None]
        + ticks[:, None] * lens.right[:, axis, None, None]
        - ticks[:, :, None] * lens.up[:, axis, None, None]
        for axis in range(2)
    ]  # x and y, [B, H, W]
    depth = lens.eye[:, 2:] / (ticks * lens.up[:, 2:] - lens.forward[:, 2:])  # [B, H]
    x, y = (lens.eye[:, axis, None, None] + depth[..., None] * ray[axis] for axis in range(2))
    fade = 1 / (1 + 0.012 * (x * x + y * y))
    return (shots.ground[:, None, None] * (0.55 + 0.45 * fade[..., None])).astype(np.float32)


def _surface(
    shots: Shots, resolution: int, trace: _Trace, place: Array, frame: Array, row: Array, column: Array, dark: Array
) -> Array:
    """Light from the objects, linear RGB float32 [3, P]: diffuse, ambient, a weak fill light, and highlights."""
    ticks = _ticks(resolution).astype(np.float32)
    owner = trace.owner[place]
    kinds = shots.shape[frame, owner]
    spread = shots.spread.astype(np.float32)[frame]
    across, above = ticks[column] * spread, ticks[row] * -spread
    eye, forward, right, up = trace.frames[:, frame, owner].reshape(4, 3, -1)
    point = eye + trace.depth[place] * (forward + across * right + above * up)  # [3, P]
    normal = np.empty_like(point)
    for kind in range(len(SHAPES)):
        chosen = np.flatnonzero(kinds == kind)
        normal[:, chosen] = normals(kind, point[:, chosen])
    yaw = shots.yaw.astype(np.float32)
    sin, cos = np.sin(yaw)[frame, owner], np.cos(yaw)[frame, owner]
    nx, ny, nz = cos * normal[0] - sin * normal[1], sin * normal[0] + cos * normal[1], normal[2]
    lens = Camera(*(each.astype(np.float32).T[:, frame] for each in camera(shots)))  # [3, P] each
    view = lens.forward + across * lens.right + above * lens.up
    view = view / np.sqrt((view * view).sum(0))
    lx, ly, lz = shots.light.astype(np.float32).T[:, frame]
    lit = np.maximum(nx * lx + ny * ly + nz * lz, 0) * ~dark
    fill = np.maximum(nz * lz - nx * lx - ny * ly, 0)
    facing = nx * view[0] + ny * view[1] + nz * view[2]
    mirror = view - 2 * facing * np.stack([nx, ny, nz])  # where a mirror would look
    shine = np.maximum(mirror[0] * lx + mirror[1] * ly + mirror[2] * lz, 0) * ~dark
    shiny = shots.shiny[frame, owner]
    high = shine * shine
    high = high * high * high * high  # ^8
    bright = np.where(shiny, 0.9 * high * high * high + 0.16 * np.maximum(mirror[2], 0), 0.04 * high)
    albedo = shots.colour.astype(np.float32)[frame, owner].T  # [3, P]
    return albedo * (0.26 + 0.1 * nz + 0.72 * lit + 0.12 * fill) + bright
