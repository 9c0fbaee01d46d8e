"""Videos named by lists, as V-JEPA and V-JEPA 2 take them: one "path label" a line, separated by a space."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from pydantic import NonNegativeFloat, PositiveInt, field_validator
from torch import Tensor

from jepa_hub.masking.draws import keyed, keyed_order
from training.data.clip_window import WindowSettings, read_window
from training.data.decoding import Names, reading
from training.data.source import EPOCH_ORDER, Label, Sample, SampleError, Source

_LEAST_BYTES = 1024  # of a video; upstream takes smaller files for failed downloads
_LOOKED_FOR = 16  # files of each list whose presence is checked at the start


class VideoListSettings(WindowSettings):
    """Which videos, and which clip of each.

    Attributes:
        files: the lists. A line is a path, a space and a whole number, the label; the path may hold spaces and be in
            double quotes, and a relative one counts from the folder of its list. A list may also be of paths alone.
        weights: one per list: its share of an epoch, relative to the others. Videos of a heavy list then come more than
            once an epoch, those of a light one once in several. None takes every video once.
        num_classes: None takes the highest label plus one.
        frames, frame_step, fps: the clip to cut out of each video.
    """

    files: tuple[str, ...]
    weights: tuple[NonNegativeFloat, ...] | None = None
    num_classes: PositiveInt | None = None

    @field_validator("files", mode="before")
    @classmethod
    def _one_file(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class VideoList(Source):
    """Clips of the videos that lists name.

    Source: V-JEPA (arXiv 2404.08471) and V-JEPA 2 (2506.09985), whose lists it reads.

    Args:
        settings: see VideoListSettings.

    Raises:
        FileNotFoundError: there is no such list, or none of the first videos of one is there.
        ValueError: a list is empty or has lines of another form, or weights do not fit.
    """

    Settings = VideoListSettings
    kind = "clip"

    def __init__(self, settings: VideoListSettings) -> None:
        self.settings = settings
        if not settings.files:
            raise ValueError("files is empty; give at least one list of videos")
        lists = [_read_list(Path(file).expanduser()) for file in settings.files]
        self._sizes = [len(paths) for paths, _ in lists]
        self._paths = Names(path for paths, _ in lists for path in paths)
        self._classes = np.concatenate([classes for _, classes in lists])  # [N]
        self._num_classes = settings.num_classes or int(self._classes.max()) + 1
        self._labels = {"class": Label("class", self._num_classes)} if self._classes.min() >= 0 else {}
        self._quotas = self._find_quotas()

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def labels(self) -> dict[str, Label]:
        """The class, unless a list has none or some are negative."""
        return self._labels

    def order(self, seed: int, epoch: int) -> Tensor:
        """The videos of an epoch, int64 [N]: a permutation, or with weights each list by its share.

        With weights every list runs through its own permutations, one after the other and on over the ends of epochs,
        so that each of its videos is seen as often as any other, give or take one.
        """
        if self.settings.weights is None:
            return super().order(seed, epoch)
        chosen, first = [], 0
        for number, (size, quota) in enumerate(zip(self._sizes, self._quotas, strict=True)):
            place = torch.arange(epoch * quota, (epoch + 1) * quota)  # in the endless row of permutations
            for turn in range(epoch * quota // size, -(-(epoch + 1) * quota // size)):
                permutation = keyed_order(keyed(seed, turn, EPOCH_ORDER, number), size).argsort()
                chosen.append(first + permutation[place[place // size == turn] % size])
            first += size
        videos = torch.cat(chosen)  # [N]
        return videos[keyed_order(keyed(seed, epoch, EPOCH_ORDER), len(videos)).argsort()]

    def read(self, index: int, key: int) -> Sample:
        """A clip of video `index`; `key` decides where its window starts."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        path = self._paths[index]
        with reading(path):
            size = os.path.getsize(path)
        if size < _LEAST_BYTES:
            raise SampleError(f"{path} has {size} bytes; a video has at least {_LEAST_BYTES}")
        label = int(self._classes[index])
        if self._labels and label >= self._num_classes:
            raise SampleError(f"{path} has the label {label}, beyond the {self._num_classes} classes")
        labels: dict[str, int | float] = {"class": label} if self._labels else {}
        return Sample(index, read_window(Path(path), self.settings, key, path), labels, details={"path": path})

    def _find_quotas(self) -> list[int]:
        """Samples of each list in an epoch of as many samples as there are videos."""
        weights = self.settings.weights
        if weights is None:
            return self._sizes
        if len(weights) != len(self._sizes):
            raise ValueError(f"{len(weights)} weights for {len(self._sizes)} files; give one each")
        if not sum(weights):
            raise ValueError("all weights are 0; at least one list must be used")
        ends = np.round(np.cumsum(weights) / sum(weights) * len(self)).astype(int)
        return [int(quota) for quota in np.diff(ends, prepend=0)]


def _read_list(file: Path) -> tuple[list[str], np.ndarray]:
    """Absolute paths and labels [N] of a list; labels are -1 when it has none."""
    if not file.is_file():
        raise FileNotFoundError(f'there is no list {file}; it holds one "path label" a line, separated by a space')
    lines = file.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    entries = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not entries:
        raise ValueError(f'{file} is empty; it holds one "path label" a line, separated by a space')
    split = [(number, *_split(line)) for number, line in entries]
    labelled = split[0][2] is not None
    odd = next((number for number, _, label in split if (label is not None) != labelled), None)
    if odd is not None:
        raise ValueError(
            f"{file}, line {odd}: {lines[odd - 1]!r} {'has no label' if labelled else 'has a label'}, unlike the first"
            ' line; every line is "path label" with a whole number for the label, or every line is a path'
        )
    if any("://" in path for _, path, _ in split[:_LOOKED_FOR]):
        raise ValueError(f"{file} names addresses ({split[0][1]}); videos are read from disk: download them first")
    folder = file.absolute().parent
    paths = [str(folder / path) for _, path, _ in split]
    looked_for = paths[:: max(1, len(paths) // _LOOKED_FOR)][:_LOOKED_FOR]
    if not any(os.path.exists(path) for path in looked_for):
        raise FileNotFoundError(f"none of the {len(looked_for)} videos looked for in {file} is there, e.g. {paths[0]}")
    return paths, np.array([-1 if label is None else label for _, _, label in split], dtype=np.int64)


def _split(line: str) -> tuple[str, int | None]:
    """Path and label of a line; a path alone has the label None."""
    path, space, label = line.rpartition(" ")
    try:
        number: int | None = int(label) if space else None
    except ValueError:
        number = None
    if number is None:
        path = line
    path = path.strip()
    quoted = len(path) > 1 and path[0] == path[-1] == '"'
    return (path[1:-1].replace('""', '"') if quoted else path), number
