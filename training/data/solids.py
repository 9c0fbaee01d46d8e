"""The solids that are drawn, each in a canonical form of about unit radius around the origin, z up."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

SHAPES = ("sphere", "cube", "cylinder", "cone")
# Half width, half height and radius of the footprint of the canonical forms; chosen to look about equally large, so
# that size does not give away shape.
HALF_WIDTH = np.array([0.95, 0.76, 0.8, 0.95])
HALF_HEIGHT = np.array([0.95, 0.76, 0.84, 1.0])
FOOTPRINT = HALF_WIDTH * np.array([1, 2**0.5, 1, 1])
SLOPE = float(HALF_WIDTH[3] / (2 * HALF_HEIGHT[3]))  # of the cone: radius per height below its tip


def interval(kind: int, origin: Array, ray: Array) -> tuple[Array, Array]:
    """Where a ray enters and leaves the canonical form; it misses where the first is not below the second.

    Args:
        kind: index into SHAPES.
        origin: [3, P].
        ray: [3, P].
    """
    half, high = np.float32(HALF_WIDTH[kind]), np.float32(HALF_HEIGHT[kind])
    x, y, z = origin
    dx, dy, dz = ray
    if kind == 1:
        near, far = _slab(z, dz, high)
        for start, step in ((x, dx), (y, dy)):
            low, up = _slab(start, step, half)
            near, far = np.maximum(near, low), np.minimum(far, up)
        return near, far
    if kind == 0:
        return _roots(dx * dx + dy * dy + dz * dz, x * dx + y * dy + z * dz, x * x + y * y + z * z - half * half)
    if kind == 2:
        near, far = _roots(dx * dx + dy * dy, x * dx + y * dy, x * x + y * y - half * half)
    else:
        near, far = _cone(origin, ray, high)
    low, up = _slab(z, dz, high)
    return np.maximum(near, low), np.minimum(far, up)


def _slab(start: Array, step: Array, half: np.floating[Any]) -> tuple[Array, Array]:
    """Where start + t * step is within -half and half."""
    inverse = 1 / np.where(np.abs(step) < 1e-9, np.float32(1e-9), step)
    middle, reach = -start * inverse, np.abs(inverse) * half
    return middle - reach, middle + reach


def _roots(a: Array, b: Array, c: Array) -> tuple[Array, Array]:
    """Roots of a t^2 + 2 b t + c, smaller first; (inf, -inf) where there are none."""
    square = b * b - a * c
    inverse = 1 / np.where(np.abs(a) < 1e-9, np.float32(1e-9), a)
    middle, reach = -b * inverse, np.sqrt(np.maximum(square, 0)) * np.abs(inverse)
    miss = square <= 0
    return np.where(miss, np.inf, middle - reach), np.where(miss, -np.inf, middle + reach)


def _cone(origin: Array, ray: Array, tip: np.floating[Any]) -> tuple[Array, Array]:
    """Where a ray is inside the endless cone below its tip (or, for a flat ray, above it: the slab takes that off)."""
    x, y, z = origin
    dx, dy, dz = ray
    slope, below = np.float32(SLOPE**2), z - tip
    a = dx * dx + dy * dy - slope * dz * dz
    near, far = _roots(a, x * dx + y * dy - slope * below * dz, x * x + y * y - slope * below * below)
    # A ray steeper than the cone's side is outside between the roots, inside both before and after; what is above the
    # tip belongs to the mirrored cone.
    steep, down = a < 0, dz < 0
    return (
        np.where(steep, np.where(down, far, -np.inf), near),
        np.where(steep, np.where(down, np.inf, near), far),
    )


def normals(kind: int, point: Array) -> Array:
    """Outward unit normals at points [3, P] on the surface of the canonical form."""
    x, y, z = point
    if kind == 0:
        return point / np.float32(HALF_WIDTH[0])
    if kind == 1:
        size = np.abs(point)
        return np.where(size == size.max(0), np.sign(point), np.float32(0))
    inside = 1 / np.maximum(np.hypot(x, y), np.float32(1e-6))
    if kind == 2:
        flat = np.abs(z) > HALF_HEIGHT[2] - 1e-3
        side = np.stack([x * inside, y * inside, np.zeros_like(z)])
    else:
        flat = z < 1e-3 - HALF_HEIGHT[3]
        length = np.float32(1 / np.hypot(1, SLOPE))
        side = np.stack([x * inside * length, y * inside * length, np.full_like(z, SLOPE * length)])
    return np.where(flat, np.stack([np.zeros_like(z), np.zeros_like(z), np.sign(z)]), side)
