"""Sources that draw their samples: deterministic by seed, drawn once in parallel processes and kept as shards."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from training.data.shards import Shards, write_shards
from training.data.source import Label, Sample, Source, SourceSettings

_AHEAD = 2  # batches in work per process, which bounds memory


class GeneratedSettings(SourceSettings):
    """Settings that all drawn sources share.

    Attributes:
        size: of the square pictures, pixels.
        num_samples: of this split.
        seed: of everything drawn.
        split: part of the key of every sample, so that no two splits share one.
        cache: folder that holds the finished shards; None draws each sample whenever it is read.
        num_processes: that fill the cache; None is one per processor. Their number does not change what is drawn.
    """

    size: int = Field(default=64, ge=16, le=512)
    num_samples: int = Field(default=20000, ge=1)
    seed: int = 0
    split: Literal["train", "validation", "test"] = "train"
    cache: Path | None = Path("data")
    num_processes: int | None = Field(default=None, ge=1)


class CountedSettings(GeneratedSettings):
    """Settings of drawn sources that have a few objects in a scene.

    Attributes:
        min_objects, max_objects: per scene.
    """

    min_objects: int = Field(default=1, ge=1, le=8)
    max_objects: int = Field(default=4, ge=1, le=8)

    @model_validator(mode="after")
    def _objects(self) -> CountedSettings:
        if self.min_objects > self.max_objects:
            raise ValueError(f"min_objects ({self.min_objects}) must not be above max_objects ({self.max_objects})")
        return self


class Generated(Source):
    """Samples that are a pure function of (settings, index); a subclass says how to draw them.

    Building one fills the cache if it is not there. Several processes may build it at once: each writes its own copy,
    the first to finish is kept.
    """

    name: ClassVar[str]
    version: ClassVar[int]  # raised whenever the drawn pixels or labels change, so that no old cache is taken for new
    batch_size: ClassVar[int]  # drawn at once

    def __init__(self, settings: GeneratedSettings) -> None:
        self.settings = settings
        self._stored: Shards | None = None
        folder = self.folder
        if folder is not None:
            if not any(folder.glob("*")):
                self._fill(folder)
            self._stored = Shards(Shards.Settings(root=str(folder)))
            # A sample's number is its identity: with a gap in the shards later numbers would mean others.
            if self._stored.damaged or len(self._stored) != settings.num_samples:
                raise ValueError(
                    f"{folder} holds {len(self._stored)} whole samples of {settings.num_samples}: it is damaged. "
                    "Delete it, and it is drawn again"
                )

    @abstractmethod
    def render_samples(self, indices: Sequence[int]) -> list[Sample]:
        """Samples drawn together, without the cache; each is the same in any company."""

    @property
    @abstractmethod
    def drawn_labels(self) -> dict[str, Label]:
        """What is known about every sample."""

    @property
    def folder(self) -> Path | None:
        """Where the shards of these settings are kept; None without a cache."""
        if self.settings.cache is None:
            return None
        matters = self.settings.model_dump(mode="json", exclude={"cache", "num_processes"})
        text = json.dumps({"version": self.version, **matters}, sort_keys=True)
        return self.settings.cache / f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    @property
    def labels(self) -> dict[str, Label]:
        """What is known about every sample, by name."""
        return self.drawn_labels if self._stored is None else self._stored.labels

    def __len__(self) -> int:
        return self.settings.num_samples if self._stored is None else len(self._stored)

    def read(self, index: int, key: int) -> Sample:
        """Sample `index`, from the cache if there is one.

        Raises:
            IndexError: there is no such sample.
            SampleError: the cache is damaged.
        """
        return self.render_sample(index) if self._stored is None else self._stored.read(index, key)

    def order(self, seed: int, epoch: int) -> Tensor:
        """The order of an epoch, int64 [len]."""
        return super().order(seed, epoch) if self._stored is None else self._stored.order(seed, epoch)

    def render_sample(self, index: int) -> Sample:
        """Sample `index`, drawn now.

        Raises:
            IndexError: there is no such sample.
        """
        if not 0 <= index < self.settings.num_samples:
            raise IndexError(f"sample {index} of {self.settings.num_samples}")
        return self.render_samples([index])[0]

    def _fill(self, folder: Path) -> None:
        write_shards(
            folder,
            self._drawn(),
            kind=self.kind,
            labels=self.drawn_labels,
            total=self.settings.num_samples,
            description=f"{self.name}: {self.settings.model_dump_json(exclude={'cache', 'num_processes'})}",
        )

    def _drawn(self) -> Iterator[Sample]:
        """All samples in order, drawn by several processes."""
        total = self.settings.num_samples
        batches = [range(at, min(at + self.batch_size, total)) for at in range(0, total, self.batch_size)]
        workers = min(self.settings.num_processes or os.cpu_count() or 1, len(batches))
        if workers == 1:
            for batch in batches:
                yield from self.render_samples(batch)
            return
        # fork needs no `if __name__ == "__main__"` in the user's script, but is unsafe outside Linux
        context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        bare = type(self)(self.settings.model_copy(update={"cache": None}))
        pool = ProcessPoolExecutor(workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,))
        with pool:
            waiting = deque(pool.submit(_draw_batch, bare, batch) for batch in batches[: workers * _AHEAD])
            for following in [*batches[workers * _AHEAD :], *[None] * len(waiting)]:
                done = waiting.popleft().result()
                if following is not None:
                    waiting.append(pool.submit(_draw_batch, bare, following))
                for index, pixels, *rest in done:
                    yield Sample(index, torch.from_numpy(pixels), *rest)


def _draw_batch(source: Generated, batch: Sequence[int]) -> list[tuple[Any, ...]]:
    """The fields of the samples of a batch; arrays travel as bytes, tensors would each take a shared-memory handle."""
    return [
        (each.index, each.pixels.numpy(), each.labels, each.captions, each.details)
        for each in source.render_samples(batch)
    ]
