"""Suites: test videos in the layouts in which they are published, and the simulated worlds that come with the package.

Nothing is downloaded. A suite lists its videos without opening them; a video that is missing or cannot be read is
reported by the evaluation and is in no score.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from jepa_hub.media.clips import MediaError
from jepa_hub.media.video import read_frames
from jepa_hub.physics.scores import Video


@dataclass(frozen=True)
class Item:
    """A video of a suite and how to read it.

    Attributes:
        video: what is known about it.
        read: gives uint8 [F, 3, H, W], already subsampled; raises MediaError.
    """

    video: Video
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class Suite:
    """Test videos and the published settings for them.

    Attributes:
        name: of the suite.
        items: in order; the videos of a group follow each other.
        context_frames, window_frames, stride: of the published sweep.
        aspect: how frames become square: "crop" or "squash".
        resolve: for suites whose pairs are found by looking: (videos, their frames) of a group -> the videos with
            their pairs.
        answers: whether the truth is secret and answers are to be handed in.
        batch: videos that are read and measured together.
    """

    name: str
    items: Sequence[Item]
    context_frames: tuple[int, ...] = (2, 4, 6, 8, 10)
    window_frames: int = 16
    stride: int = 2
    aspect: str = "crop"
    resolve: Callable[[list[Video], list[Tensor]], list[Video]] | None = None
    answers: bool = False
    batch: int = 1

    @property
    def groups(self) -> list[list[Item]]:
        """Items by group, in order."""
        found: dict[tuple[str, str], list[Item]] = {}
        for item in self.items:
            found.setdefault((item.video.property, item.video.group), []).append(item)
        return list(found.values())


def _folder(path: Path, what: str) -> Path:
    if not path.is_dir():
        raise ValueError(f"{path} is no folder; expected {what}")
    return path


# IntPhys --------------------------------------------------------------------------------------------------------------
INTPHYS_BLOCKS = {"O1": "object permanence", "O2": "shape constancy", "O3": "spatio-temporal continuity"}


def read_pictures(folder: Path, step: int) -> Tensor:
    """Every `step`-th picture of a folder by name, uint8 [F, 3, H, W].

    Raises:
        MediaError: there is none, or one cannot be read.
    """
    paths = sorted(folder.glob("*.png"))[::step]
    if not paths:
        raise MediaError(f"{folder}: no .png pictures")
    pictures = []
    for path in paths:
        try:
            with Image.open(path) as picture:
                pictures.append(torch.from_numpy(np.asarray(picture.convert("RGB")).copy()))
        except (OSError, ValueError, SyntaxError) as error:
            raise MediaError(f"{path}: not a readable picture ({error})") from error
    if len({each.shape for each in pictures}) > 1:
        raise MediaError(f"{folder}: pictures of different sizes")
    return torch.stack(pictures).permute(0, 3, 1, 2)  # [F, 3, H, W]


def intphys_dev(root: Path, step: int = 2) -> Suite:
    """IntPhys dev: `root/O1|O2|O3/<scene>/<1..4>/scene/*.png` and `<1..4>/status.json`.

    Four videos of a scene make two pairs, found by looking: the partner of the first is the one that stays equal to it
    for longest. The frames are the first 99 (0 to 98), every second one: 49 frames, 17 windows.

    Raises:
        ValueError: the folder holds no block.
    """
    blocks = [name for name in INTPHYS_BLOCKS if (_folder(root, "the IntPhys dev set") / name).is_dir()]
    if not blocks:
        raise ValueError(f"{root} has none of {', '.join(INTPHYS_BLOCKS)}: it is not the IntPhys dev set")
    items = []
    for block in blocks:
        for scene in sorted(path for path in (root / block).iterdir() if path.is_dir()):
            for number in "1234":
                folder = scene / number
                status, truth = folder / "status.json", None
                if status.is_file():
                    truth = bool(json.loads(status.read_text(encoding="utf-8"))["header"]["is_possible"])
                video = Video(f"{block}/{scene.name}/{number}", INTPHYS_BLOCKS[block], scene.name, possible=truth)
                items.append(Item(video, lambda folder=folder: _first_99(folder / "scene", step)))  # type: ignore[misc]
    return Suite("intphys-dev", items, resolve=pair_by_looks)


def _first_99(folder: Path, step: int) -> Tensor:
    return read_pictures(folder, 1)[:99:step][: 99 // step]


def pair_by_looks(videos: list[Video], frames: list[Tensor]) -> list[Video]:
    """The four videos of a scene with their two pairs, and the first frame at which each pair differs.

    Raises:
        ValueError: there are not four, a pair is not one possible and one impossible video, or a truth is unknown.
    """
    if len(videos) != 4:
        raise ValueError(f"a scene has 4 videos, {videos[0].group} has {len(videos)}")
    splits = [first_difference(frames[0], each) for each in frames[1:]]
    partner = 1 + max(range(3), key=lambda index: splits[index])
    rest = [index for index in (1, 2, 3) if index != partner]
    found = list(videos)
    for name, (one, two) in (("a", (0, partner)), ("b", (rest[0], rest[1]))):
        if {videos[one].possible, videos[two].possible} != {True, False}:
            raise ValueError(
                f"{videos[one].name} and {videos[two].name} look like a pair but are not one possible and one "
                "impossible video: a status.json is missing, or the pictures were compressed again, which hides where "
                "they begin to differ"
            )
        event = first_difference(frames[one], frames[two])
        for index in (one, two):
            found[index] = replace(videos[index], pair=f"{videos[index].group}/{name}", event=event)
    return found


def first_difference(one: Tensor, two: Tensor) -> int:
    """Number of the first frame in which two videos differ; the length of the shorter where none does."""
    length = min(len(one), len(two))
    differ = (one[:length] != two[:length]).flatten(1).any(1).nonzero()
    return int(differ[0]) if len(differ) else length


def intphys_test(root: Path, step: int = 2) -> Suite:
    """IntPhys test: `root/test/<O1..O3>/<scene>/<1..4>/scene/*.png`, and the list of tasks `root/task.txt`.

    The truth is secret: the evaluation writes answers to hand in.

    Raises:
        ValueError: the list of tasks is missing, or a line of it cannot be read.
    """
    tasks = root / "task.txt"
    if not tasks.is_file():
        raise ValueError(f"{tasks} is missing: the IntPhys test set has its list of tasks there")
    items = []
    for number, line in enumerate(tasks.read_text(encoding="utf-8").split("\n"), 1):
        task = line.strip()
        if not task:
            continue
        block, _, rest = task.partition("/")
        # "O1/0001..." names the scene in its first seven letters and the video in its last two, as in the task list
        if block not in INTPHYS_BLOCKS or len(task) < 9 or task[-2] != "/" or not rest:
            raise ValueError(f"{tasks}, line {number}: expected a task such as O1/0001/1, got {task!r}")
        folder = root / "test" / (task[:7] + task[-2:]) / "scene"
        video = Video(task, INTPHYS_BLOCKS[block], task[3:7])
        items.append(Item(video, lambda folder=folder: _first_99(folder, step)))  # type: ignore[misc]
    return Suite("intphys-test", items, answers=True, batch=4)


# GRASP ----------------------------------------------------------------------------------------------------------------
def grasp(root: Path, step: int = 10) -> Suite:
    """GRASP level 2: `root/level2/P_<Property>/<scene>.mp4` and `IP_<Property>/` with the same names.

    Raises:
        ValueError: there is no such folder, or a property lacks its other half.
    """
    level = _folder(root / "level2", "the folder level2 of GRASP")
    possible = {path.name[2:]: path for path in sorted(level.glob("P_*")) if path.is_dir()}
    impossible = {path.name[3:]: path for path in sorted(level.glob("IP_*")) if path.is_dir()}
    if not possible or possible.keys() != impossible.keys():
        alone = sorted(possible.keys() ^ impossible.keys()) or ["P_*"]
        raise ValueError(f"{level}: every P_<Property> needs its IP_<Property>; alone: {', '.join(alone)}")
    items = []
    for name in possible:
        files = {kind: {path.name for path in folder[name].glob("*.mp4")} for kind, folder in
                 (("P", possible), ("IP", impossible))}  # fmt: skip
        for scene in sorted(files["P"] | files["IP"]):  # one that lacks its other half is reported when it is read
            for truth, folder in ((True, possible[name]), (False, impossible[name])):
                path = folder / scene
                video = Video(f"{folder.name}/{scene}", name, scene, pair=scene, possible=truth)
                items.append(Item(video, lambda path=path: _film(path, step)))  # type: ignore[misc]
    return Suite("grasp", items)


def _film(path: Path, step: int, start: int = 0) -> Tensor:
    """Every `step`-th frame of a film from frame `start` on, uint8 [F, 3, H, W]."""
    if not path.is_file():
        raise MediaError(f"{path}: no such file")
    if start == 0:
        return read_frames(path, stride=step).frames
    frames = read_frames(path).frames
    if start >= len(frames):
        raise MediaError(f"{path}: has {len(frames)} frames, and its part is said to begin at frame {start}")
    return frames[start::step]


# InfLevel-lab ---------------------------------------------------------------------------------------------------------
INFLEVEL = {"continuity": "object permanence", "solidity": "solidity", "gravity": "gravity"}


def inflevel_lab(root: Path, lists: Path | None = None, step: int = 5, *, priming: bool = False) -> Suite:
    """InfLevel-lab: `root/{continuity,gravity,solidity}/*.mp4`, with a list of pairs for each.

    Args:
        root: of the data set.
        lists: folder with a CSV file per property whose name contains the property's; columns
            `vid{1,2}_{path,start_priming_1,end_priming_1,start_priming_2,end_priming_2,label}`; `root` by default.
        step: frames of the film per frame taken.
        priming: keep the part that shows the objects first; otherwise videos begin after it, and the longer of a pair
            loses its first frames so that both end alike.

    Raises:
        ValueError: a folder, a list or a column is missing.
    """
    lists = lists or root
    items: list[Item] = []
    for name, title in INFLEVEL.items():
        if not (root / name).is_dir():
            continue
        tables = sorted(lists.glob(f"*{name}*.csv"))
        if len(tables) != 1:
            raise ValueError(f"{lists}: expected one CSV file with {name!r} in its name, found {len(tables)}")
        with tables[0].open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for number, row in enumerate(rows):
            items += _inflevel_pair(root / name, title, f"{name}/{number:05d}", row, step, priming, tables[0])
    if not items:
        raise ValueError(f"{root} has none of the folders {', '.join(INFLEVEL)}: it is not InfLevel-lab")
    title = "inflevel-lab-priming" if priming else "inflevel-lab"
    contexts = (4, 8, 12, 16, 20)
    return Suite(title, items, context_frames=contexts, window_frames=32, aspect="squash")


def _inflevel_pair(
    folder: Path, title: str, pair: str, row: dict[str, str], step: int, priming: bool, table: Path
) -> Iterator[Item]:
    needed = [f"vid{side}_{column}" for side in (1, 2) for column in ("path", "end_priming_2", "label")]
    if lacking := [column for column in needed if row.get(column) in (None, "")]:
        raise ValueError(f"{table}, pair {pair}: no {', '.join(lacking)}")
    starts = [0 if priming else int(float(row[f"vid{side}_end_priming_2"])) + 1 for side in (1, 2)]
    paths = [folder / Path(row[f"vid{side}_path"]).name for side in (1, 2)]
    for side in (0, 1):
        truth = row[f"vid{side + 1}_label"].strip().lower() in ("possible", "1", "true")
        video = Video(f"{pair}/{side + 1}", title, pair, pair=pair, possible=truth)

        def read(side: int = side) -> Tensor:
            mine = _film(paths[side], 1, starts[side])
            if not priming:  # both end alike
                mine = mine[max(0, len(mine) - len(_film(paths[1 - side], 1, starts[1 - side]))) :]
            return mine[::step]

        yield Item(video, read)


SUITES: dict[str, str] = {
    "worlds": "our simulated worlds, part of the package: nothing to download",
    "intphys-dev": "IntPhys dev set",
    "intphys-test": "IntPhys test set: writes answers to hand in",
    "grasp": "GRASP level 2",
    "inflevel-lab": "InfLevel-lab without priming",
    "inflevel-lab-priming": "InfLevel-lab with priming",
}


def open_suite(name: str, root: Path | None = None, **settings: Any) -> Suite:
    """A suite by name.

    Args:
        name: one of SUITES.
        root: folder of the data, or, for "worlds", a file that `jepa-hub physics make` wrote; None for the one that
            comes with the package.
        settings: of the suite's function.

    Raises:
        ValueError: an unknown suite, or data that are not in its layout.
    """
    if name not in SUITES:
        raise ValueError(f"unknown suite {name!r}; there are {', '.join(SUITES)}")
    if name == "worlds":
        from jepa_hub.physics.worlds import worlds_suite

        return worlds_suite(root, **settings)
    if root is None:
        raise ValueError(f"{name} ({SUITES[name]}) is data of yours: say where with --root")
    makers: dict[str, Callable[..., Suite]] = {
        "intphys-dev": intphys_dev,
        "intphys-test": intphys_test,
        "grasp": grasp,
        "inflevel-lab": inflevel_lab,
        "inflevel-lab-priming": lambda *args, **more: inflevel_lab(*args, **more, priming=True),
    }
    return makers[name](root, **settings)
