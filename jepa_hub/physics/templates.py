"""What happens in the simulated worlds: one template per property, drawn as four scenes, two possible and two not.

Two ways of being impossible, both balanced so that no frame and no amount of motion gives the answer away:

spliced: two possible scenes that look the same, pixel by pixel, in the middle; the impossible clips start as one and
    end as the other. Every frame of an impossible clip is a frame of a possible one. (permanence, shape, colour,
    continuity, inertia)
crossed: two boards, seen (`looks`) and acting (`solids`); the impossible clips show one and obey the other. What is
    seen and how things move are each as frequent in possible as in impossible clips, and of the two impossible clips
    one moves more than its possible partner and one less. (gravity, support, solidity)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from jepa_hub.physics.stage import COLOURS, FLOORS, SCREENS, SHAPES, Board, Scene, Screen, Thing, View

Rng = np.random.Generator
MIDDLE = 7.5  # frame at which things are hidden
BEAM = 0.12  # half the depth of shelves that act unseen: a broad one would hide the object's shadow, or shade it
REACH = 2.0  # where things enter and leave, in units from the middle


@dataclass(frozen=True)
class Plan:
    """The two possible scenes of a quadruplet and how the impossible ones follow.

    Attributes:
        first, second: possible scenes.
        crossed: show one and obey the other; otherwise spliced.
        directions: what is wrong in the two impossible clips: the one that begins (spliced) or looks (crossed) like
            `first`, and the one like `second`.
    """

    first: Scene
    second: Scene
    crossed: bool
    directions: tuple[str, str]


def view(rng: Rng) -> View:
    """A camera, a light and a floor."""
    return View(
        azimuth=rng.uniform(-8, 8),
        elevation=rng.uniform(9, 15),
        distance=rng.uniform(5.1, 5.5),
        light=(rng.uniform(-0.25, 0.25), rng.uniform(0.05, 0.35)),
        floor=int(rng.integers(FLOORS)),
    )


def _thing(rng: Rng, shapes: tuple[str, ...] = SHAPES) -> Thing:
    return Thing(
        shape=str(rng.choice(shapes)),
        colour=str(rng.choice(list(COLOURS))),
        radius=rng.uniform(0.4, 0.5),
        start=(0.0, rng.uniform(0.3, 0.7), 0.0),
        turn=rng.uniform(-0.5, 0.5),
    )


def _crossing(thing: Thing, rng: Rng) -> Thing:
    """`thing` on its way from one side to the other, in the middle at about MIDDLE."""
    speed = REACH / MIDDLE * rng.uniform(0.95, 1.1) * rng.choice((-1, 1))
    middle = MIDDLE + rng.uniform(-0.3, 0.3)
    return replace(thing, start=(-speed * middle, *thing.start[1:]), velocity=speed)


def _standing(rng: Rng, height: float = 1.5) -> Screen:
    return Screen(0.0, -0.5, rng.uniform(1.9, 2.3), height, None, int(rng.integers(SCREENS)))


def _rising(rng: Rng, x: float, width: float) -> Screen:
    lag = rng.uniform(-0.5, 0.5)
    stages = (1 + lag, 5 + lag, 10 + lag, 14 + lag)
    return Screen(x, -0.6, width, rng.uniform(1.6, 1.9), stages, int(rng.integers(SCREENS)))


def _one_thing(rng: Rng, variant: str) -> Scene:
    """A scene whose single object is hidden for a while: it passes behind a screen, or a screen rises before it."""
    seen, thing = view(rng), _thing(rng)
    if variant.startswith("passing"):
        screen = _standing(rng) if variant == "passing" else None
        return Scene(seen, _crossing(thing, rng), screen)
    thing = replace(thing, start=(rng.uniform(-1.2, 1.2), *thing.start[1:]))
    screen = _rising(rng, thing.start[0], rng.uniform(1.7, 2.1)) if variant == "resting" else None
    return Scene(seen, thing, screen)


def permanence(rng: Rng, variant: str) -> Plan:
    """The object is there or not."""
    scene = _one_thing(rng, variant)
    return Plan(scene, replace(scene, thing=None), False, ("disappears", "appears"))


def _changed(rng: Rng, variant: str, field: str, values: tuple[str, ...], word: str) -> Plan:
    scene = _one_thing(rng, variant)
    assert scene.thing is not None
    old, new = rng.permutation(values)[:2]
    first, second = (
        replace(
            scene,
            thing=replace(scene.thing, shape=str(each)) if field == "shape" else replace(scene.thing, colour=str(each)),
        )
        for each in (old, new)
    )
    return Plan(first, second, False, (f"{word} changes", f"{word} changes back"))


def shape(rng: Rng, variant: str) -> Plan:
    """The object is of one shape or another."""
    return _changed(rng, variant, "shape", SHAPES, "shape")


def colour(rng: Rng, variant: str) -> Plan:
    """The object is of one colour or another."""
    return _changed(rng, variant, "colour", tuple(COLOURS), "colour")


def continuity(rng: Rng, variant: str) -> Plan:
    """The object is in one place or another: left or right (resting), on the floor or on a shelf (passing)."""
    seen, thing = view(rng), _thing(rng)
    if variant.startswith("resting"):
        x = rng.uniform(0.75, 1.0)
        screen = _rising(rng, 0.0, rng.uniform(3.4, 3.7)) if variant == "resting" else None
        places = [replace(thing, start=(side * x, *thing.start[1:])) for side in rng.permutation((-1, 1))]
        return Plan(Scene(seen, places[0], screen), Scene(seen, places[1], screen), False, ("jumps", "jumps back"))
    thing = replace(_crossing(thing, rng), radius=rng.uniform(0.34, 0.42))
    shelf = Board((0.0, 1.25, 1.1), (3.2, 0.35, 0.06))
    low = replace(thing, start=(thing.start[0], 0.3, 0.0))
    high = replace(thing, start=(thing.start[0], 1.25, 1.16))
    screen = _standing(rng, rng.uniform(2.3, 2.5)) if variant == "passing" else None
    scenes = [Scene(seen, place, screen, (shelf,), (shelf,)) for place in (low, high)]
    order = rng.permutation(2)
    return Plan(scenes[order[0]], scenes[order[1]], False, ("jumps", "jumps back"))


def inertia(rng: Rng, variant: str) -> Plan:
    """The object comes from the left or from the right."""
    scene = _one_thing(rng, variant)
    assert scene.thing is not None
    x, y, z = scene.thing.start
    other = replace(scene.thing, start=(-x, y, z), velocity=-scene.thing.velocity)
    return Plan(scene, replace(scene, thing=other), False, ("turns round", "turns round"))


def gravity(rng: Rng, variant: str) -> Plan:
    """The object slides along a shelf that ends in the middle, behind the screen, or goes on."""
    height, side = rng.uniform(1.1, 1.3), float(rng.choice((-1, 1)))
    thing = replace(_thing(rng), radius=rng.uniform(0.34, 0.42))
    speed = rng.uniform(0.26, 0.3)
    thing = replace(thing, start=(-side * speed * 6.5, 0.5, height), velocity=side * speed)
    long = Board((0.0, 0.5, height - 0.07), (3.2, BEAM, 0.07))
    end = rng.uniform(-1.0, -0.85)  # where the short one ends: early, so that the fall is over when it can be seen
    short = Board((side * (end - 3.2) / 2, 0.5, height - 0.07), ((3.2 + end) / 2, BEAM, 0.07))
    screen = replace(_standing(rng, rng.uniform(2.4, 2.6)), width=rng.uniform(2.5, 2.7))
    seen = view(rng)
    hidden = screen if variant == "passing" else None
    first, second = (Scene(seen, thing, hidden, (board,), (board,)) for board in (long, short))
    return Plan(first, second, True, ("falls through", "flies on"))


def support(rng: Rng, variant: str) -> Plan:
    """The object stands on a platform, wider than the screen, that stays or is pulled away."""
    height = rng.uniform(1.0, 1.15)
    thing = replace(_thing(rng), radius=rng.uniform(0.34, 0.42), start=(rng.uniform(-0.6, 0.4), 0.5, height))
    width = rng.uniform(1.7, 1.9)
    stays = Board((thing.start[0], 0.5, height - 0.07), (width / 2 + 0.5, BEAM, 0.07))
    leaves = replace(stays, leaves=rng.uniform(3.0, 3.4))  # early, so that the fall is over when it can be seen
    rises = (0.5, 3.0, 11.5, 14.0)
    screen = Screen(thing.start[0], -0.6, width, rng.uniform(2.0, 2.2), rises, int(rng.integers(SCREENS)))
    seen = view(rng)
    hidden = screen if variant == "resting" else None
    first, second = (Scene(seen, thing, hidden, (board,), (board,)) for board in (stays, leaves))
    return Plan(first, second, True, ("falls through", "hovers"))


def solidity(rng: Rng, variant: str) -> Plan:
    """The object meets a wall, which stands out above the screen, or there is none."""
    thing = replace(_crossing(_thing(rng), rng), radius=rng.uniform(0.34, 0.42))
    y = thing.start[1]
    wall = Board((0.0, y, rng.uniform(1.0, 1.15)), (0.08, 0.55, 1.15))
    gone = replace(wall, centre=(0.0, y, -20.0))
    screen = _standing(rng, rng.uniform(1.3, 1.5)) if variant == "passing" else None
    seen = view(rng)
    first, second = (Scene(seen, thing, screen, (board,), (board,)) for board in (wall, gone))
    return Plan(first, second, True, ("passes through", "stops at nothing"))


@dataclass(frozen=True)
class Property:
    """A property of the physical world.

    Attributes:
        plan: draws a quadruplet of a variant.
        variants: hidden ones first; those that end in "_seen" have no screen.
        title: in words.
    """

    plan: Callable[[Rng, str], Plan]
    variants: tuple[str, ...]
    title: str


_HIDDEN = ("resting", "passing", "resting_seen", "passing_seen")
PROPERTIES: dict[str, Property] = {
    "permanence": Property(permanence, _HIDDEN, "object permanence"),
    "shape": Property(shape, _HIDDEN, "shape constancy"),
    "colour": Property(colour, _HIDDEN, "colour constancy"),
    "continuity": Property(continuity, _HIDDEN, "spatio-temporal continuity"),
    "inertia": Property(inertia, ("passing", "passing_seen"), "inertia"),
    "gravity": Property(gravity, ("passing", "passing_seen"), "gravity"),
    "support": Property(support, ("resting", "resting_seen"), "support"),
    "solidity": Property(solidity, ("passing", "passing_seen"), "solidity"),
}


def possible_scene(rng: Rng) -> Scene:
    """A possible scene of any property and variant, for training."""
    name = str(rng.choice(list(PROPERTIES)))
    chosen = PROPERTIES[name]
    plan = chosen.plan(rng, str(rng.choice(chosen.variants)))
    return plan.first if rng.random() < 0.5 else plan.second


_SPLITS = {"train": 0, "validation": 1, "test": 2}


def scene_rng(seed: int, split: str, *numbers: int) -> Rng:
    """The generator of one scene or quadruplet: no two splits, seeds or numbers share one."""
    return np.random.default_rng([seed, _SPLITS[split], *numbers])
