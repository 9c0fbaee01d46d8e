"""Evaluation of a suite: surprises of every video, kept as they come, so that a run that was cut off goes on.

The file of raw surprises is JSON lines: a header with the settings, then one line per video or per video that could not
be read. Scores are computed from it, now or at any later time.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepa_hub.media.clips import MediaError
from jepa_hub.physics.scores import Raw, Video, by_context
from jepa_hub.physics.suites import Item, Suite
from jepa_hub.physics.surprise import step_means, surprise, windows_of

logger = logging.getLogger(__name__)

FORMAT = "jepa_hub surprises 1"


@dataclass(frozen=True)
class Protocol:
    """How surprise is measured; what is None is the suite's.

    Attributes:
        context_frames, window_frames, stride: of the windows, in frames that were taken.
        group: which mask token.
        batch_size: windows per forward pass; changes nothing but speed.
    """

    context_frames: tuple[int, ...] | None = None
    window_frames: int | None = None
    stride: int | None = None
    group: int = 0
    batch_size: int = 16

    def filled(self, suite: Suite) -> Protocol:
        """With the suite's own settings where there are none."""
        return replace(
            self,
            context_frames=tuple(self.context_frames or suite.context_frames),
            window_frames=self.window_frames or suite.window_frames,
            stride=self.stride or suite.stride,
        )


def evaluate(
    model: Any,
    processor: Any,
    suite: Suite,
    out: Path,
    protocol: Protocol | None = None,
    *,
    about: dict[str, Any] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Raw:
    """Raw surprises of a suite; what `out` holds already is not computed again.

    Args:
        model, processor: see `surprise_curve`; the processor is told the suite's aspect.
        suite: from `open_suite`.
        out: file of raw surprises, written line by line.
        protocol: what differs from the suite's settings.
        about: goes into the header: the model's name, for example. A file of other settings is refused.
        overwrite: start anew.
        progress: show a bar.

    Raises:
        ValueError: `out` is of another model, suite or protocol, or no video could be read.
    """
    from tqdm import tqdm

    chosen = (protocol or Protocol()).filled(suite)
    assert chosen.context_frames is not None and chosen.window_frames is not None
    windows_of(model, chosen.window_frames, chosen.context_frames, chosen.window_frames, 1)  # refused before any work
    settings = {name: value for name, value in asdict(chosen).items() if name != "batch_size"}
    header = {"format": FORMAT, "suite": suite.name, **settings, **(about or {})}
    header = json.loads(json.dumps(header))  # tuples become lists, as when it is read back
    if overwrite:
        out.unlink(missing_ok=True)
    done = _resume(out, header)
    processor = replace(processor, aspect=suite.aspect)
    with (
        out.open("a", encoding="utf-8") as file,
        tqdm(total=len(suite.items), unit="video", disable=not progress) as bar,
    ):
        for chunk in _chunks(suite):
            missing = [item for item in chunk if item.video.name not in done]
            if missing:
                for line in _measure(model, processor, suite, chunk, chosen):
                    if line["name"] not in done:
                        file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())
            bar.update(len(chunk))
    return load_raw(out)


def _chunks(suite: Suite) -> list[list[Item]]:
    """Groups, several together where the suite's videos are short."""
    chunks: list[list[Item]] = []
    for group in suite.groups:
        if chunks and suite.resolve is None and len(chunks[-1]) + len(group) <= suite.batch:
            chunks[-1].extend(group)
        else:
            chunks.append(list(group))
    return chunks


def _resume(out: Path, header: dict[str, Any]) -> set[str]:
    """Names of the videos that a file holds; a line that was cut off is taken away."""
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(header) + "\n", encoding="utf-8")
        return set()
    content = out.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    lines = [json.loads(line) for line in whole.splitlines()]
    if not lines or lines[0] != header:
        found = lines[0] if lines else {}
        differ = sorted(key for key in {*found, *header} if found.get(key) != header.get(key))
        raise ValueError(
            f"{out} holds surprises of other settings ({', '.join(differ) or 'no header'}): choose another file, or "
            "add --overwrite"
        )
    if len(whole) < len(content):
        with out.open("r+b") as file:
            file.truncate(len(whole))
    return {line["name"] for line in lines[1:] if "error" not in line}  # what failed is tried again


def _measure(model: Any, processor: Any, suite: Suite, chunk: list[Item], protocol: Protocol) -> list[dict[str, Any]]:
    """One line per video of a chunk."""
    frames: dict[str, Tensor] = {}
    videos: list[Video] = []
    lines: list[dict[str, Any]] = []
    for item in chunk:
        try:
            frames[item.video.name] = _long_enough(item, protocol)
            videos.append(item.video)
        except (MediaError, OSError) as error:
            logger.warning("%s: %s", item.video.name, error)
            lines.append({"name": item.video.name, "error": str(error)})
    if suite.resolve is not None and videos:
        try:
            videos = suite.resolve(videos, [frames[video.name] for video in videos])
        except ValueError as error:
            logger.warning("%s", error)
            return lines + [{"name": video.name, "error": str(error)} for video in videos]
    shapes: dict[tuple[int, ...], list[Video]] = {}
    for video in videos:
        shapes.setdefault(tuple(frames[video.name].shape), []).append(video)
    for several in shapes.values():
        pixels = processor([frames[video.name] for video in several], odd_frames="drop", layout="FCHW")
        maps = surprise(
            model,
            pixels,
            context_frames=protocol.context_frames or (),
            window_frames=protocol.window_frames,
            stride=protocol.stride or 1,
            group=protocol.group,
            per_token=True,
            batch_size=protocol.batch_size,
        )
        for video, steps in zip(several, step_means(maps), strict=True):  # [C, W, T]
            lines.append({**asdict(video), "surprises": _plain(steps)})
    return lines


def _long_enough(item: Item, protocol: Protocol) -> Tensor:
    frames = item.read()
    if len(frames) < (protocol.window_frames or 0):
        raise MediaError(f"{len(frames)} frames, fewer than one window of {protocol.window_frames}")
    return frames


def _plain(steps: Tensor) -> list[Any]:
    """[C, W, T] as lists; None where a step was context."""
    return [[[None if v != v else round(v, 7) for v in w] for w in c] for c in steps.tolist()]


def load_raw(path: Path) -> Raw:
    """The raw surprises of a file.

    Raises:
        ValueError: it is no such file, or holds no video.
    """
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no file of raw surprises: {error}") from error
    if not lines or not isinstance(lines[0], dict) or lines[0].get("format") != FORMAT:
        raise ValueError(
            f"{path} is no file of raw surprises (format {FORMAT!r}): write one with jepa-hub physics eval"
        )
    found = {line["name"]: line for line in lines[1:] if "error" not in line}
    bad = {line["name"]: line["error"] for line in lines[1:] if "error" in line and line["name"] not in found}
    if not found:
        first = next(iter(bad.values()), "it lists none")
        raise ValueError(f"{path}: no video could be read ({len(bad)} failed, the first: {first})")
    names = [each.name for each in fields(Video)]
    videos = [Video(**{name: line[name] for name in names}) for line in found.values()]
    return Raw(
        videos, _stacked([line["surprises"] for line in found.values()]), lines[0]["context_frames"], lines[0], bad
    )


def _stacked(rows: Sequence[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[V, C, W, T] of videos with different numbers of windows; NaN where there is none."""
    arrays = [np.array([[[math.nan if v is None else v for v in w] for w in c] for c in row]) for row in rows]
    longest = max(each.shape[1] for each in arrays)
    stacked = np.full((len(arrays), arrays[0].shape[0], longest, arrays[0].shape[2]), math.nan)
    for place, each in enumerate(arrays):
        stacked[place, :, : each.shape[1]] = each
    return stacked


def write_answers(raw: Raw, folder: Path) -> list[Path]:
    """The two files that IntPhys asks for: "task score" per line, the score 1 - surprise (mean, and maximum).

    Surprises are those of the least surprising context length, window by window, as published. A task appears once.

    Raises:
        ValueError: a video could not be read: an incomplete list would be refused.
    """
    if raw.bad:
        raise ValueError(f"{len(raw.bad)} videos could not be read, the first {next(iter(raw.bad.items()))}")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for reduction, name in (("max", "maximum_surprise_answer.txt"), ("mean", "average_surprise_answer.txt")):
        table = by_context(raw, reduction)
        score = table.get("filtered", table[str(raw.contexts[0])])
        path = folder / name
        rows = sorted((video.name, 1 - value) for video, value in zip(raw.videos, score, strict=True))
        path.write_text("".join(f"{task} {value:.6f}\n" for task, value in rows), encoding="utf-8")
        written.append(path)
    return written


def untrained_like(model: Any, seed: int) -> Any:
    """A model of the same architecture with random weights: the control of every claim about surprise."""
    torch.manual_seed(seed)
    config = type(model.config)(**{
        key: value for key, value in model.config.to_dict().items() if key in {f.name for f in fields(model.config)}
    })  # fmt: skip
    fresh = type(model)(config)
    return fresh.eval()
