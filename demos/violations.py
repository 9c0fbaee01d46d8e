"""Scenes in which something impossible happens: those that come with the demo, and new ones where MuJoCo is there."""

from __future__ import annotations

import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

from demos import examples
from jepa_hub.physics.templates import PROPERTIES
from jepa_hub.physics.worlds import Quadruplet, draw_quadruplet, stage_of

DRAWN_SIZE = 144  # pixels of a scene that is drawn anew
MOST_SECONDS = 90.0


@dataclass(frozen=True)
class Violation:
    """A scene as it should be, and one thing wrong with it.

    Attributes:
        scene: two possible and two impossible clips.
        side: 0 or 1: which of the two things that can be wrong.
    """

    scene: Quadruplet
    side: int

    @property
    def event(self) -> int:
        """The first frame in which it goes wrong."""
        return self.scene.event[self.side]

    @property
    def seconds(self) -> float:
        """When it goes wrong."""
        return self.event / examples.CLIP_RATE

    @property
    def words(self) -> str:
        """What goes wrong."""
        first, second = self.scene.directions
        return (first, second if second != first else f"{second} (2)")[self.side]


class _Studio:
    """A process of its own that simulates: a GL library may end the process it is in, which must not be the server."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()

    def draw(self, *job: Any) -> Quadruplet:
        with self._lock:  # one scene at a time; the others wait
            if self._pool is None:
                self._pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
            try:
                return self._pool.submit(_draw, *job).result(MOST_SECONDS)
            except (BrokenProcessPool, TimeoutError) as error:
                self._end()
                raise ValueError(
                    "MuJoCo ended or took too long: try again, or use the scenes that are there"
                ) from error

    def _end(self) -> None:
        """End the process even where it hangs: neither the server's end nor the next scene shall wait for it."""
        assert self._pool is not None
        running = list((self._pool._processes or {}).values())  # Python 3.14 has terminate_workers()
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in running:
            process.kill()
        self._pool = None


_studio = _Studio()


def _draw(kind: str, variant: str, number: int) -> Quadruplet:
    found = draw_quadruplet(stage_of(DRAWN_SIZE), kind, variant, number, seed=11)
    assert isinstance(found, Quadruplet)
    return found


def can_draw() -> bool:
    """Whether scenes can be simulated here."""
    return find_spec("mujoco") is not None


def draw_scene(kind: str, variant: str, number: int) -> Quadruplet:
    """A new scene, simulated and drawn now.

    A scene that comes with the demo may be of a variant that is drawn no more: then it is the first of its property.

    Raises:
        ImportError: MuJoCo or a GL library is missing.
        ValueError: no such property, or the simulation failed.
    """
    if kind not in PROPERTIES:
        raise ValueError(f"there is no property {kind!r}; there are {', '.join(PROPERTIES)}")
    if variant not in PROPERTIES[kind].variants:
        variant = PROPERTIES[kind].variants[0]
    return _studio.draw(kind, variant, number)


@cache
def scene_names() -> dict[str, Quadruplet]:
    """Scenes by what they are called."""
    found = {}
    for each in examples.worlds():
        kind, variant, number = each.name.split("/")
        words = {"resting": "rests", "passing": "passes", "open_seen": f"{int(number) + 1}"}[variant]
        found[f"{PROPERTIES[kind].title}: {words}"] = each
    return found
