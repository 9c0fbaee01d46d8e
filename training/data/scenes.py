"""Scenes: still pictures of a few solids on the ground, in the manner of CLEVR (arXiv:1612.06890), drawn on the fly.

Every factor is uniform and independent of the others; the object nearest to the camera, which the labels are about,
has uniform shape, colour, material and size too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from training.data.drawing import Shots, camera, in_view, render, visibility
from training.data.generated import CountedSettings, Generated
from training.data.scene_graph import (
    COLOURS,
    COUNT,
    LAYOUT,
    LOOKS,
    VIEW,
    WORDS,
    Looks,
    captions,
    distances,
    draw_looks,
    draw_view,
    scene_graph,
    scene_keys,
    uniforms,
)
from training.data.solids import FOOTPRINT, SHAPES, Array
from training.data.source import Label, Sample

SIZES = (0.65, 1.1)  # smallest and largest scale, scene units
LEAST_VISIBLE = 0.35  # share of an object's pixels that the others may not hide
NEAREST_BY = 0.15  # scene units by which the nearest object is nearer than the next
GAP = 0.1  # between footprints, scene units
_CORNER, _EXTENT = np.array([-2.7, -2.8]), np.array([5.4, 6.0])  # of the ground that objects are thrown on
_CANDIDATES = 24  # layouts tried at once
_PATIENCE = 12  # tries before the objects of a crowded scene shrink
_CHECK = 64  # rays per axis when visibility is checked; fixed, so that a scene does not depend on the picture's size


class ScenesSettings(CountedSettings):
    """Settings of `scenes`; see CountedSettings."""


class Scenes(Generated):
    """Stills of 1 to 8 objects with occlusion, shading, shadows and perspective.

    Labels are about the object nearest to the camera, except `count`. `details["scene"]` is the scene graph
    (training.data.scene_graph.scene_graph), nearest object first; captions name counts, objects and relations.
    """

    settings: ScenesSettings
    Settings = ScenesSettings
    kind = "image"
    name = "scenes"
    version = 1
    batch_size = 128

    @property
    def drawn_labels(self) -> dict[str, Label]:
        """`count`, and `shape`, `colour`, `depth`, `x` and `y` of the nearest object."""
        counts = tuple(str(count + 1) for count in range(self.settings.max_objects))
        return {
            "count": Label("class", len(counts), counts, "objects"),
            "shape": Label("class", len(SHAPES), SHAPES),
            "colour": Label("class", len(COLOURS), tuple(COLOURS)),
            "depth": Label("number", unit="scene units"),
            "x": Label("number", unit="picture widths"),
            "y": Label("number", unit="picture heights"),
        }

    def render_samples(self, indices: Sequence[int]) -> list[Sample]:
        """Samples drawn together; each is the same in any company."""
        settings = self.settings
        rows = np.array(indices, np.int64)
        shots, looks = self._compose(rows)
        pictures, _ = render(shots, settings.size)
        pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2)  # [B, 3, H, W]
        visible = visibility(shots, _CHECK)
        words = scene_keys(settings.seed, settings.split, rows, WORDS)
        samples = []
        for row, index in enumerate(indices):
            scene = scene_graph(shots, looks, visible, row)
            nearest = scene[0]
            labels: dict[str, int | float] = {
                "count": len(scene) - 1,
                "shape": int(looks.shape[row, 0]),
                "colour": int(looks.colour[row, 0]),
                "depth": nearest["depth"],
                "x": nearest["image_position"][0],
                "y": nearest["image_position"][1],
            }
            said = captions(scene, words[row])
            samples.append(Sample(index, pixels[row].contiguous(), labels, said, {"scene": scene}))
        return samples

    def _compose(self, rows: Array) -> tuple[Shots, Looks]:
        """Looks first, then places: layouts are redrawn until they are fit, which leaves the looks uniform."""
        settings = self.settings
        slots = settings.max_objects

        def keys(*purpose: int) -> torch.Tensor:
            return scene_keys(settings.seed, settings.split, rows, *purpose)

        span = slots - settings.min_objects + 1
        count = settings.min_objects + (uniforms(keys(COUNT), 1) * span).astype(np.int64)  # [B, 1]
        looks = draw_looks(keys(LOOKS), slots)
        shots = Shots(
            shape=np.where(np.arange(slots) < count, looks.shape, -1),
            size=SIZES[0] + (SIZES[1] - SIZES[0]) * looks.size,
            yaw=looks.yaw,
            position=np.zeros((len(rows), slots, 2)),
            colour=looks.rgb,
            shiny=looks.shiny,
            **draw_view(keys(VIEW), pitch=(26, 34), distance=10, spread=0.34),
        )
        pending, attempt = np.arange(len(rows)), 0
        while len(pending):
            shots.size[pending] *= 1 if attempt < _PATIENCE else 0.97
            layout_keys = scene_keys(settings.seed, settings.split, rows[pending], LAYOUT, attempt)
            placed, fit = place(shots.take(pending), uniforms(layout_keys, _CANDIDATES, slots, 2))
            fit &= clearly_visible(placed, LEAST_VISIBLE)
            shots.position[pending[fit]] = placed.position[fit]
            pending, attempt = pending[~fit], attempt + 1
        return shots, looks


def place(shots: Shots, u: Array) -> tuple[Shots, Array]:
    """The shots with objects in the first of several layouts that is fit, and whether there was one, bool [B].

    Fit: objects are apart and whole in the picture, and object 0 is the nearest by NEAREST_BY.

    Args:
        shots: B of them.
        u: uniform in [0, 1), [B, candidates, K, 2].
    """
    count, tries, slots = u.shape[:3]
    many = shots.take(np.repeat(np.arange(count), tries))
    present = many.shape >= 0
    position = _CORNER + u.reshape(-1, slots, 2) * _EXTENT
    # nearest first: an object's slot says its rank in depth, so that what it is like cannot depend on it
    away = np.linalg.norm(position - camera(many).eye[:, None, :2], axis=-1)
    order = np.where(present, away, np.inf).argsort(1)
    many = replace(many, position=np.take_along_axis(position, order[..., None], 1))
    depth = np.where(present, distances(many), np.inf)
    fit = (depth[:, 1:] > depth[:, :1] + NEAREST_BY).all(1) & in_view(many) & apart(many)
    best = fit.reshape(count, tries).argmax(1) + np.arange(count) * tries
    return many.take(best), fit[best]


def apart(shots: Shots) -> Array:
    """Whether no two objects touch, bool [B]."""
    radius = FOOTPRINT[shots.shape] * shots.size  # [B, K]
    between = np.linalg.norm(shots.position[:, :, None] - shots.position[:, None], axis=-1)  # [B, K, K]
    free = between > radius[:, :, None] + radius[:, None] + GAP
    absent = shots.shape < 0
    return (free | absent[:, :, None] | absent[:, None] | np.eye(radius.shape[1], dtype=bool)).all((1, 2))


def clearly_visible(shots: Shots, least: float) -> Array:
    """Whether at least this share of every object is seen, bool [B]."""
    return np.asarray(np.all((visibility(shots, _CHECK) >= least) | (shots.shape < 0), axis=1))
