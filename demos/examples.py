"""What the tabs show before anyone has uploaded anything: drawn pictures and simulated clips of this project.

They come with the package; none was in the training data of a shipped model. data/README.md says how they were made.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from jepa_hub.physics.worlds import Quadruplet, read_suite

DATA = Path(__file__).parent / "data"
CLIP_RATE = 8  # frames per second of the simulated clips when they are played
WORLDS = DATA / "worlds.zip"


@dataclass(frozen=True)
class Example:
    """Something to click.

    Attributes:
        title: in a few words.
        given: what its tab takes: the paths of files, or names.
        thumbnail: a picture of it.
    """

    title: str
    given: tuple[str, ...]
    thumbnail: Image.Image


@dataclass(frozen=True)
class Solid:
    """A picture of one solid, and what is in it."""

    path: str
    colour: str
    shape: str


@cache
def worlds() -> tuple[Quadruplet, ...]:
    """Quadruplets of the simulated worlds, drawn larger than those that are scored."""
    return tuple(read_suite(WORLDS))


@cache
def scenes() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(path, captions) of the drawn scenes."""
    rows = json.loads((DATA / "scenes" / "captions.json").read_text(encoding="utf-8"))
    return tuple((str(DATA / "scenes" / row["file"]), tuple(row["captions"])) for row in rows)


@cache
def solids() -> tuple[Solid, ...]:
    """Pictures of one solid each."""
    rows = json.loads((DATA / "solids" / "labels.json").read_text(encoding="utf-8"))
    return tuple(Solid(str(DATA / "solids" / row["file"]), row["colour"], row["shape"]) for row in rows)


def write_film(path: Path, frames: np.ndarray[Any, Any], rate: float = CLIP_RATE) -> Path:
    """Frames uint8 [F, H, W, 3] as an H.264 film, near enough to lossless."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000))
        stream.height, stream.width = (side // 2 * 2 for side in frames.shape[1:3])
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "12"}
        for frame in frames[:, : stream.height, : stream.width]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame))))
        container.mux(stream.encode())
    return path


def clip(name: str, number: int, folder: Path) -> Example:
    """One clip of a quadruplet as a film in `folder`: 0 and 1 possible, 2 and 3 impossible."""
    quadruplet = next(each for each in worlds() if each.name == name)
    path = folder / f"{name.replace('/', '-')}-{number}.mp4"
    if not path.exists():
        draft = path.with_name(f"draft-{path.name}")
        write_film(draft, quadruplet.clips[number]).replace(path)
    kind = name.split("/")[0]
    title = f"{kind}: {quadruplet.directions[number - 2]}" if number >= 2 else f"video: {kind}"
    return Example(title, (str(path),), Image.fromarray(quadruplet.clips[number][4]))


def gallery(numbers: tuple[int, ...], title: str) -> Example:
    """Scenes as one example."""
    paths = tuple(scenes()[number][0] for number in numbers)
    if len(paths) == 1:
        return Example(title, paths, Image.open(paths[0]).convert("RGB"))
    sheet = Image.new("RGB", (224, 224), (255, 255, 255))
    for place, path in enumerate(paths[:4]):
        small = Image.open(path).convert("RGB").resize((110, 110), Image.Resampling.LANCZOS)
        sheet.paste(small, (place % 2 * 114, place // 2 * 114))
    return Example(title, paths, sheet)
