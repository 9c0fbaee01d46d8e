"""What is in a drawn scene: keyed draws of its looks, the scene graph, and sentences about it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepa_hub.masking.draws import keyed, keyed_bits
from training.data.drawing import Shots, camera, centres, project
from training.data.solids import SHAPES, Array

# sRGB of the eight colours; far apart, also under shading.
COLOURS: dict[str, tuple[int, int, int]] = {
    "grey": (104, 104, 104),
    "red": (190, 30, 35),
    "blue": (40, 75, 220),
    "green": (28, 120, 28),
    "brown": (125, 72, 24),
    "purple": (135, 38, 200),
    "cyan": (40, 205, 210),
    "yellow": (250, 225, 45),
}
MATERIALS = ("matte", "shiny")
SPLITS = {"train": 0, "validation": 1, "test": 2}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")

# Purposes of keys, so that no two draws of a sample share one.
COUNT, LOOKS, VIEW, LAYOUT, WORDS = range(201, 206)


def uniforms(keys: Tensor, *shape: int) -> Array:
    """Uniform float64 in [0, 1): keys [B] give [B, *shape]."""
    bits = (keyed_bits(keys, int(np.prod(shape))) >> 11) & (2**53 - 1)  # [B, N]
    return (bits.double() / 2**53).numpy().reshape(len(keys), *shape)


def scene_keys(seed: int, split: str, indices: Array, *purpose: int) -> Tensor:
    """One key per sample, [B]; the split is part of it, so that no two splits share a scene."""
    return keyed(seed, SPLITS[split], torch.from_numpy(np.asarray(indices, np.int64)), *purpose)


@dataclass(frozen=True)
class Looks:
    """What objects are like, before they are placed: [B, K] each, all factors uniform and independent."""

    shape: Array  # index into SHAPES
    colour: Array  # index into COLOURS
    shiny: Array  # bool
    size: Array  # in [0, 1)
    yaw: Array  # radians
    rgb: Array  # linear, [B, K, 3]: the colour a little off in tone and brightness


def draw_looks(keys: Tensor, slots: int) -> Looks:
    """The looks of `slots` objects for each key [B]."""
    u = uniforms(keys, slots, 9)  # [B, K, 9]
    colour = (u[..., 1] * len(COLOURS)).astype(np.int64)
    palette = np.array(list(COLOURS.values())) / 255
    tone = 1 + 0.06 * (2 * u[..., 5:8] - 1) + 0.08 * (2 * u[..., 8:] - 1)
    return Looks(
        shape=(u[..., 0] * len(SHAPES)).astype(np.int64),
        colour=colour,
        shiny=u[..., 2] < 0.5,
        size=u[..., 3],
        yaw=2 * np.pi * u[..., 4],
        rgb=np.clip(palette[colour] * tone, 0, 1) ** 2.2,
    )


def draw_view(keys: Tensor, *, pitch: tuple[float, float], distance: float, spread: float) -> dict[str, Array]:
    """Camera, light and ground of each key [B], as the last fields of Shots.

    Args:
        keys: int64 [B].
        pitch: lowest and highest, degrees.
        distance: of the camera, scene units; jittered by 3 %.
        spread: tangent of half the field of view.
    """
    u = uniforms(keys, 8)
    side, height = np.radians(140 * u[:, 3] - 70), np.radians(40 + 15 * u[:, 4])
    azimuth = np.radians(20 * u[:, 0] - 10)
    around = azimuth + side  # the light comes from over the camera's shoulders
    light = np.stack([np.cos(height) * np.sin(around), -np.cos(height) * np.cos(around), np.sin(height)], 1)
    tint = 1 + 0.05 * (2 * u[:, 5:8] - 1)
    return {
        "azimuth": azimuth,
        "pitch": np.radians(pitch[0] + (pitch[1] - pitch[0]) * u[:, 1]),
        "distance": distance * (0.97 + 0.06 * u[:, 2]),
        "spread": np.full(len(u), spread),
        "light": light,
        "ground": 0.46 * tint * (0.85 + 0.3 * u[:, 5:6]),
    }


def scene_graph(shots: Shots, looks: Looks, visible: Array, row: int) -> list[dict[str, Any]]:
    """The objects of shot `row`, plain values: what they are like and where they are.

    `position` is the middle of the object and `depth` its distance from the camera, in scene units; `image_position`
    is x and y in [0, 1] from the top left corner; `visible_fraction` is the share of its pixels not hidden by others.
    """
    shot = shots.take(np.array([row]))
    middle = centres(shot)
    where, _ = project(shot, middle)
    distance = distances(shot)
    return [
        {
            "shape": SHAPES[looks.shape[row, slot]],
            "colour": list(COLOURS)[looks.colour[row, slot]],
            "material": MATERIALS[int(looks.shiny[row, slot])],
            "size": _plain(shots.size[row, slot]),
            "yaw": _plain(shots.yaw[row, slot]),
            "position": _plain(middle[0, slot]),
            "depth": _plain(distance[0, slot]),
            "image_position": _plain(where[0, slot]),
            "visible_fraction": _plain(visible[row, slot]),
        }
        for slot in np.flatnonzero(shots.shape[row] >= 0)
    ]


def distances(shots: Shots) -> Array:
    """From the camera to the middles of the objects, [B, K]."""
    return np.asarray(np.linalg.norm(centres(shots) - camera(shots).eye[:, None], axis=-1))


def _plain(value: Any) -> Any:
    """Python numbers, rounded so that they read well as JSON."""
    return np.round(np.asarray(value, np.float64), 4).tolist()


def describe(thing: dict[str, Any], *words: str) -> str:
    """What a caption calls an object, such as "a red cube"; the values of `words` ("material") go in front."""
    text = " ".join([*(thing[word] for word in words), thing["colour"], thing["shape"]])
    return f"a {text}"  # no colour or material starts with a vowel


def listed(parts: list[str]) -> str:
    """The parts as in "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def plural(count: int, noun: str) -> str:
    """A number and its noun, as in "one cube" and "two cubes"."""
    return f"{NUMBERS[count]} {noun}" + ("s" if count != 1 else "")


def captions(scene: list[dict[str, Any]], key: Tensor, most_relations: int = 4) -> tuple[str, ...]:
    """Sentences that are true of a scene: its count, its objects, and where they are to each other.

    Args:
        scene: from scene_graph.
        key: 0-d; decides the order of the list and which relations are told.
        most_relations: sentences about pairs, at most.
    """
    order = uniforms(key[None], 2, 128)[0]
    shuffled = [scene[i] for i in order[0, : len(scene)].argsort()]
    verb = "is" if len(scene) == 1 else "are"
    sentences = [
        f"There {verb} {plural(len(scene), 'object')}.",
        f"{listed([describe(each) for each in shuffled])}.",
        f"{listed([describe(each, 'material') for each in shuffled])}.",
    ]
    if len(scene) > 1:
        nearest = min(scene, key=lambda each: each["depth"])
        sentences.append(f"The object nearest to the camera is {describe(nearest)}.")
        sentences.append(_count_of(shuffled[0], scene, "shape" if order[1, -1] < 0.5 else "colour"))
        told = relations(scene)
        chosen = order[1, : len(told)].argsort()[:most_relations]
        sentences += [told[i] for i in chosen]
    return tuple(sentence[0].upper() + sentence[1:] for sentence in sentences)


def _count_of(thing: dict[str, Any], scene: list[dict[str, Any]], factor: str) -> str:
    count = sum(each[factor] == thing[factor] for each in scene)
    noun = thing["shape"] if factor == "shape" else f"{thing['colour']} object"
    return f"there {'is' if count == 1 else 'are'} {plural(count, noun)}."


def relations(scene: list[dict[str, Any]]) -> list[str]:
    """One sentence per pair and order that is clearly true; none about two objects that are called the same."""
    found = []
    for one, other in permutations(scene, 2):
        if describe(one) == describe(other):
            continue
        across = one["image_position"][0] - other["image_position"][0]
        deeper = one["depth"] - other["depth"]
        if abs(across) > 0.08:
            found.append(f"{describe(one)} is {'right' if across > 0 else 'left'} of {describe(other)}.")
        if abs(deeper) > 0.5:
            found.append(f"{describe(one)} is {'behind' if deeper > 0 else 'in front of'} {describe(other)}.")
    return found
