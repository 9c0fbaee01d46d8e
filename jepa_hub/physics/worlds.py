"""The simulated suite: drawing quadruplets, keeping them in one small file, and reading them as a suite."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepa_hub.physics.scores import Video
from jepa_hub.physics.stage import Pixels, Stage
from jepa_hub.physics.suites import Item, Suite
from jepa_hub.physics.templates import PROPERTIES, scene_rng

FORMAT = "jepa_hub worlds 1"
SHIPPED = Path(__file__).parent / "data" / "worlds.zip"
CONTEXTS = (4, 6, 8, 10, 12)
MOST_INDEX, MOST_QUADRUPLET = 64 << 20, 64 << 20  # bytes, unpacked; one that ships has 0.4 MB
_TRIES = 60
_LEAST_HIDDEN = 2  # frames in which the two possible clips of a spliced quadruplet look alike


@dataclass(frozen=True)
class Quadruplet:
    """Two possible and two impossible clips.

    Attributes:
        name: property/variant/number.
        clips: uint8 [4, F, H, W, 3]: first, second (possible), and the impossible ones that begin like first and like
            second.
        event: first frame in which the clips of each pair that begin alike differ.
        directions: what is wrong in the two impossible clips.
        crossed: see `templates`.
    """

    name: str
    clips: Pixels
    event: tuple[int, int]
    directions: tuple[str, str]
    crossed: bool


def draw_quadruplet(stage: Stage, kind: str, variant: str, number: int, *, seed: int = 0, split: str = "test") -> Any:
    """A quadruplet, the same for the same arguments; it is drawn anew where things are not wholly hidden.

    Raises:
        ValueError: an unknown property or variant, or no quadruplet of sixty that is as it should be.
    """
    if kind not in PROPERTIES or variant not in PROPERTIES[kind].variants:
        raise ValueError(f"no variant {variant!r} of {kind!r}; there are {_known()}")
    place = list(PROPERTIES).index(kind), PROPERTIES[kind].variants.index(variant), number
    for attempt in range(_TRIES):
        plan = PROPERTIES[kind].plan(scene_rng(seed, split, *place, attempt), variant)
        first, second = stage.draw(plan.first), stage.draw(plan.second)
        if plan.crossed:
            like_first = stage.draw(replace(plan.first, solids=plan.second.solids))
            like_second = stage.draw(replace(plan.second, solids=plan.first.solids))
        else:
            split_at = _middle(first, second) if not variant.endswith("_seen") else len(first) // 2
            if split_at is None:
                continue
            like_first = np.concatenate([first[:split_at], second[split_at:]])
            like_second = np.concatenate([second[:split_at], first[split_at:]])
        clips = np.stack([first, second, like_first, like_second])
        events = tuple(_first_difference(clips[side], clips[side + 2]) for side in (0, 1))
        if all(4 <= event < len(first) - 1 for event in events) and (not plan.crossed or _balanced(clips)):
            name = f"{kind}/{variant}/{number:04d}"
            return Quadruplet(name, clips, (events[0], events[1]), plan.directions, plan.crossed)
    raise ValueError(f"{kind}/{variant} {number}: no good quadruplet in {_TRIES} draws")


def _balanced(clips: Pixels) -> bool:
    """Whether one impossible clip moves more than the possible one it begins like, and the other moves less."""
    moved = np.abs(np.diff(clips.astype(np.int16), axis=1)).sum((1, 2, 3, 4))
    return bool((moved[2] - moved[0]) * (moved[3] - moved[1]) < 0)


def _known() -> str:
    return ", ".join(f"{kind}/{variant}" for kind, each in PROPERTIES.items() for variant in each.variants)


def _middle(first: Pixels, second: Pixels) -> int | None:
    """A frame in the middle of the longest time in which two clips look alike, or None where that is too short."""
    alike = (first == second).all((1, 2, 3))
    best, run = (0, 0), 0
    for frame, same in enumerate([*alike, False]):
        if same:
            run += 1
            continue
        best, run = max(best, (run, frame - run)), 0
    length, start = best
    return None if length < _LEAST_HIDDEN else start + (length + 1) // 2


def _first_difference(one: Pixels, two: Pixels) -> int:
    differ = (one != two).any((1, 2, 3)).nonzero()[0]
    return int(differ[0]) if len(differ) else len(one)


# Making and keeping ---------------------------------------------------------------------------------------------------
def wanted(hidden: int, seen: int) -> list[tuple[str, str, int]]:
    """(property, variant, number) of a suite with so many quadruplets of each hidden and each seen variant."""
    found = []
    for kind, each in PROPERTIES.items():
        for variant in each.variants:
            found += [(kind, variant, number) for number in range(seen if variant.endswith("_seen") else hidden)]
    return found


def make_suite(
    path: Path,
    *,
    hidden: int = 30,
    seen: int = 8,
    size: int = 48,
    seed: int = 0,
    split: str = "test",
    processes: int | None = None,
    progress: bool = True,
) -> Path:
    """Draw a suite and write it to one file; needs MuJoCo.

    Args:
        path: a .zip file, written beside and renamed.
        hidden: quadruplets of each variant with a screen.
        seen: quadruplets of each variant without one.
        size: of the pictures, pixels.
        seed, split: of everything drawn; no two splits share a scene, and training uses "train".
        processes: that draw at the same time; None is one per processor. Their number changes nothing.
        progress: show a bar.
    """
    from tqdm import tqdm

    jobs = wanted(hidden, seen)
    index, arrays = [], {}
    drawn: dict[str, list[Quadruplet]] = {}
    for each in tqdm(
        _drawn(jobs, size, seed, split, processes), total=len(jobs), unit="quadruplet", disable=not progress
    ):
        drawn.setdefault(each.name.rsplit("/", 1)[0], []).append(each)
    for name, several in drawn.items():
        arrays[name.replace("/", "-")] = np.stack([each.clips for each in several])  # [Q, 4, F, H, W, 3]
        index += [
            {"name": each.name, "events": each.event, "directions": each.directions, "crossed": each.crossed}
            for each in several
        ]
    about = {"format": FORMAT, "size": size, "seed": seed, "split": split, "quadruplets": index}
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.unfinished-{os.getpid()}")
    with zipfile.ZipFile(draft, "w", zipfile.ZIP_LZMA) as file:
        _write(file, "index.json", json.dumps(about, indent=1).encode())
        for name, clips in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, _packed(clips))
            _write(file, f"{name}.npy", buffer.getvalue())
    draft.replace(path)
    return path


def _write(file: zipfile.ZipFile, name: str, content: bytes) -> None:
    """A member with a fixed date, so that the same clips give the same bytes."""
    info = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
    info.compress_type = zipfile.ZIP_LZMA
    file.writestr(info, content)


def _packed(clips: Pixels) -> Pixels:
    """Differences from frame to frame (modulo 256), which compress twenty times better than frames."""
    moved = clips.copy()
    moved[:, :, 1:] -= clips[:, :, :-1]
    moved[:, 1:] -= moved[:, :1].copy()  # and from clip to clip: they have much in common
    return moved


def _unpacked(moved: Pixels) -> Pixels:
    clips = moved.copy()
    clips[:, 1:] += moved[:, :1]
    return np.cumsum(clips, axis=2, dtype=np.uint8)


def _drawn(
    jobs: Sequence[tuple[str, str, int]], size: int, seed: int, split: str, processes: int | None
) -> Iterator[Quadruplet]:
    workers = min(processes or os.cpu_count() or 1, len(jobs))
    if workers == 1:
        for job in jobs:
            yield _draw(size, seed, split, job)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_Draw(size, seed, split), jobs, chunksize=4)


@dataclass(frozen=True)
class _Draw:
    size: int
    seed: int
    split: str

    def __call__(self, job: tuple[str, str, int]) -> Quadruplet:
        return _draw(self.size, self.seed, self.split, job)


@cache
def stage_of(size: int) -> Stage:
    """The stage of this process and size: making one costs more than drawing a clip."""
    return Stage(size)


def _draw(size: int, seed: int, split: str, job: tuple[str, str, int]) -> Quadruplet:
    found = draw_quadruplet(stage_of(size), *job, seed=seed, split=split)
    assert isinstance(found, Quadruplet)
    return found


# Reading --------------------------------------------------------------------------------------------------------------
def read_suite(path: Path | None = None) -> list[Quadruplet]:
    """Every quadruplet of a file that `make_suite` wrote; the one that comes with the package by default.

    Raises:
        ValueError: it is no such file, or damaged.
    """
    path = path or SHIPPED
    try:
        with zipfile.ZipFile(path) as file:
            about = json.loads(_member(file, "index.json", MOST_INDEX))
            if about.get("format") != FORMAT:
                raise ValueError(f"its format is {about.get('format')!r}, this version reads {FORMAT!r}")
            counts = Counter(_part(entry["name"]) for entry in about["quadruplets"])
            places: dict[str, int] = {}
            parts: dict[str, Pixels] = {}
            found = []
            for entry in about["quadruplets"]:
                key = _part(entry["name"])
                if key not in parts:
                    stored = _member(file, f"{key}.npy", counts[key] * MOST_QUADRUPLET)
                    parts[key] = _unpacked(np.load(io.BytesIO(stored), allow_pickle=False))
                row = places[key] = places.get(key, -1) + 1
                events, directions = entry["events"], entry["directions"]
                found.append(
                    Quadruplet(
                        entry["name"],
                        parts[key][row],
                        (events[0], events[1]),
                        (directions[0], directions[1]),
                        entry["crossed"],
                    )
                )
    except (OSError, zipfile.BadZipFile, KeyError, IndexError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no suite of simulated worlds: {type(error).__name__}: {error}") from error
    return found


def _part(name: str) -> str:
    """The member that holds a quadruplet, without its ending."""
    return name.rsplit("/", 1)[0].replace("/", "-")


def _member(file: zipfile.ZipFile, name: str, most: int) -> bytes:
    """A member, unless it unpacks to more than it can need: some kilobytes of zip may hold gigabytes."""
    size = file.getinfo(name).file_size
    if size > most:
        raise ValueError(
            f"{name} in {file.filename} unpacks to {size / 2**20:.0f} MB; it should have {most >> 20} at most"
        )
    return file.read(name)


def worlds_suite(path: Path | None = None, *, seen: bool = True, properties: Sequence[str] = ()) -> Suite:
    """The simulated worlds as a suite. Variants without a screen are scored as properties of their own ("..., seen").

    Args:
        path: of the file; the one that comes with the package by default.
        seen: whether to include the variants of the hidden properties that have no screen.
        properties: only these.

    Raises:
        ValueError: an unknown property, or a file that is no such suite.
    """
    if unknown := set(properties) - set(PROPERTIES):
        raise ValueError(f"unknown properties {sorted(unknown)}; there are {', '.join(PROPERTIES)}")
    items = []
    for each in read_suite(path):
        kind, variant, number = each.name.split("/")
        hidden = any(not name.endswith("_seen") for name in PROPERTIES[kind].variants)
        plain = variant.endswith("_seen") and hidden
        if (properties and kind not in properties) or (plain and not seen):
            continue
        title = f"{kind}, seen" if plain else kind
        for place, clip in enumerate(each.clips):
            side = place % 2
            # crossed clips end as they began: what moves alike then is in the other pair
            ending = 1 - side if place >= 2 else side
            video = Video(
                name=f"{each.name}/{place}",
                property=title,
                group=f"{variant}/{number}",
                pair=f"{variant}/{number}/{side}",
                possible=place < 2,
                ending=f"{variant}/{number}/{ending}",
                variant=variant,
                direction=each.directions[side],
                event=each.event[side],
            )
            items.append(Item(video, lambda clip=clip: _tensor(clip)))  # type: ignore[misc]
    return Suite("worlds", items, context_frames=CONTEXTS, batch=32)


def _tensor(clip: Pixels) -> Tensor:
    return torch.from_numpy(clip.copy()).permute(0, 3, 1, 2)  # [F, 3, H, W]
