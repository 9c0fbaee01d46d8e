"""Batches: which samples make up a step, read, cropped and masked in worker processes.

A batch is a pure function of (settings, step, pass, rank): there is no state to save, a resumed run starts reading
where it stopped, and two workers read together exactly what one with twice the batch would.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from jepa_hub.masking.draws import MaskSampler, keyed, keyed_pick
from training.config import DataSettings, ViewSettings
from training.data.captions import draw_captions
from training.data.source import Sample, SampleError, Source
from training.data.support import SUPPORT_VIEW, Support
from training.data.views import CROP, crops, draw_key

logger = logging.getLogger(__name__)

REPLACEMENT, READ, CAPTION = 104, 105, 107  # purposes of keys, so that no two draws of a run share one
_ATTEMPTS = 10


class BadDataError(RuntimeError):
    """More samples were unreadable than data.max_bad allows; the text names some of them."""


@dataclass(frozen=True)
class Layout:
    """How the samples of a step are dealt out.

    Attributes:
        batch_size: samples per forward pass and rank.
        accumulation: passes per step.
        rank, world: of this worker and how many there are.
    """

    batch_size: int
    accumulation: int = 1
    rank: int = 0
    world: int = 1

    @property
    def step_size(self) -> int:
        """Samples of one optimizer step over all workers."""
        return self.batch_size * self.accumulation * self.world


class BatchReader(Dataset[dict[str, Any]]):
    """Pass `number` (counted over the whole run) as one item: index, crops, masks and labels of this rank's samples.

    With several views, "other_crops" lists them, large ones first; with a support, "support" holds its samples; with
    captions, "captions" lists those drawn, sample by sample, and "caption_ids" and "known_ids" tell which are true.

    Args:
        source: of samples.
        settings: batch size, views and so on.
        sampler: of masks; None for methods without.
        size: (height, width) of views.
        seed: of the run.
        layout: how samples are dealt out.
        support: labelled samples beside the batch, or None.

    Raises:
        ValueError: the source holds fewer samples than one step needs.
    """

    def __init__(
        self,
        source: Source,
        settings: DataSettings,
        sampler: MaskSampler | None,
        size: tuple[int, int],
        seed: int,
        layout: Layout,
        support: Support | None = None,
    ) -> None:
        self.source, self.settings, self.sampler = source, settings, sampler
        self.size, self.seed, self.layout, self.support = size, seed, layout, support
        self.steps_per_epoch = len(source) // layout.step_size
        if not self.steps_per_epoch:
            raise ValueError(
                f"the source holds {len(source)} samples, one step needs {layout.step_size} "
                f"(batch {layout.batch_size} x accumulation {layout.accumulation} x workers {layout.world})"
            )

    def samples_of(self, number: int) -> list[int]:
        """Sample numbers of a pass of this rank."""
        step, part = divmod(number, self.layout.accumulation)
        epoch, place = divmod(step, self.steps_per_epoch)
        start = place * self.layout.step_size
        start += (part * self.layout.world + self.layout.rank) * self.layout.batch_size
        return self._order(epoch)[start : start + self.layout.batch_size].tolist()

    def __getitem__(self, number: int) -> dict[str, Any]:
        step = number // self.layout.accumulation
        samples: list[Sample] = []
        bad: list[str] = []
        numbers = self.samples_of(number)
        for index, key in zip(numbers, keyed(self.seed, step, torch.tensor(numbers), READ).tolist(), strict=True):
            samples.append(self._read(index, key, step, bad))
        indices = [sample.index for sample in samples]
        batch: dict[str, Any] = {
            "index": torch.tensor(indices),
            "crops": self._crops(samples, step, 0),  # [B, 3, F, H, W] uint8
            "labels": _labels(samples),
            "bad": bad,
            "step": step,
        }
        large, small = self.settings.num_views, self.settings.small_views
        others = [self._crops(samples, step, view) for view in range(1, large)]
        if small is not None:
            settings = self.settings.views.model_copy(update={"crop_scale": small.crop_scale})
            size = (small.size, small.size)
            others += [self._crops(samples, step, large + view, settings, size) for view in range(small.count)]
        if others:
            batch["other_crops"] = others
        if self.support is not None and step < self.support.until_step:
            batch["support"] = self._support(self.support, number, step, bad)
        if self.settings.captions is not None:
            batch |= draw_captions(samples, self.settings.captions, keyed(self.seed, step, batch["index"], CAPTION))
        if self.sampler is not None:
            batch["masks"] = self.sampler(indices, seed=self.seed, step=step)
        return batch

    def _crops(
        self,
        samples: list[Sample],
        step: int,
        view: int,
        settings: ViewSettings | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """One view of each sample, uint8 [B, 3, F, H, W]; every view draws its own crop."""
        indices = torch.tensor([sample.index for sample in samples])
        keys = keyed(self.seed, step, indices, CROP, view) if view else keyed(self.seed, step, indices, CROP)
        chosen, size = settings or self.settings.views, size or self.size
        return torch.stack(crops([sample.pixels for sample in samples], size, chosen, keys))

    def _support(self, support: Support, number: int, step: int, bad: list[str]) -> dict[str, Any]:
        """Views of the labelled samples of a pass."""
        drawn = support.sampler.draw(number)
        samples = []
        keys = keyed(self.seed, step, drawn.samples, READ).tolist()
        classes = drawn.classes.repeat(len(drawn.samples) // len(drawn.classes)).tolist()
        for index, key, which in zip(drawn.samples.tolist(), keys, classes, strict=True):
            try:
                samples.append(support.source.read(index, key))
            except SampleError as error:
                bad.append(str(error))
                samples.append(self._spare(support, number, which, bad))
        crops = [self._crops(samples, step, SUPPORT_VIEW + view) for view in range(self.settings.support_views)]
        return {
            "index": torch.tensor([sample.index for sample in samples]),
            "crops": crops,
            "labels": drawn.labels,
            "classes": drawn.classes,
            "num_classes": drawn.num_classes,
            "label": self.settings.support.label if self.settings.support else "",
        }

    def _spare(self, support: Support, number: int, which: int, bad: list[str]) -> Sample:
        """The last labelled sample of a class, in the order of the pass, that can be read: never another class."""
        for index in reversed(support.sampler.order(number, which).tolist()):
            try:
                return support.source.read(index, int(draw_key(self.seed, number, index, READ)))
            except SampleError as error:
                bad.append(str(error))
        raise BadDataError(f"no labelled sample of class {which} can be read: " + "; ".join(bad[-3:]))

    def _read(self, index: int, key: int, step: int, bad: list[str]) -> Sample:
        """Sample `index`, or another one, chosen by key, when it is unreadable; the reason goes into `bad`."""
        for attempt in range(_ATTEMPTS):
            try:
                return self.source.read(index, key)
            except SampleError as error:
                bad.append(str(error))
                index = int(keyed_pick(keyed(self.seed, step, index, REPLACEMENT, attempt), len(self.source)))
                key = int(draw_key(self.seed, step, index, READ))
        raise BadDataError(f"{_ATTEMPTS} samples in a row could not be read; the last reasons: " + "; ".join(bad[-3:]))

    def _order(self, epoch: int) -> Tensor:
        return _cached_order(self.source, self.seed, epoch)


@lru_cache(maxsize=2)
def _cached_order(source: Source, seed: int, epoch: int) -> Tensor:
    return source.order(seed, epoch)


def _labels(samples: list[Sample]) -> dict[str, Tensor]:
    names = samples[0].labels
    return {name: torch.tensor([sample.labels[name] for sample in samples]) for name in names}


class BadSamples:
    """Counts unreadable samples and stops the run when there are too many."""

    def __init__(self, max_share: float) -> None:
        self.max_share = max_share
        self.seen = self.bad = 0
        self._told: set[str] = set()

    def add(self, seen: int, bad: list[str]) -> None:
        """Count a batch; each reason is logged once.

        Raises:
            BadDataError: too large a share is unreadable.
        """
        self.seen += seen
        self.bad += len(bad)
        for reason in bad:
            if reason not in self._told:
                self._told.add(reason)
                logger.warning("unreadable sample replaced: %s", reason)
        # A handful of bad samples in the first batches says nothing about their share yet.
        if self.bad > max(3.0, self.max_share * max(self.seen, 1000)):
            some = "; ".join(sorted(self._told)[:3])
            raise BadDataError(
                f"{self.bad} of {self.seen} samples could not be read, more than data.max_bad={self.max_share:g} "
                f"allows; among them: {some}"
            )


def batches(reader: BatchReader, first_step: int, steps: int, *, pin_memory: bool) -> Iterator[dict[str, Any]]:
    """The passes of steps first_step .. steps - 1 in order."""
    settings, accumulation = reader.settings, reader.layout.accumulation
    workers = settings.workers
    loader: DataLoader[dict[str, Any]] = DataLoader(
        reader,
        batch_size=None,  # an item is a batch already
        sampler=range(first_step * accumulation, steps * accumulation),
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=settings.prefetch if workers else None,
        persistent_workers=False,
        worker_init_fn=_one_thread if workers else None,
    )
    yield from loader


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)  # workers run side by side already


def epochs(reader: BatchReader, steps: int) -> float:
    """Passes over the source that `steps` make."""
    return steps / reader.steps_per_epoch if reader.steps_per_epoch else math.inf
