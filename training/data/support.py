"""Support: which samples count as labelled, and which of them come with a batch. Both are functions of seeds alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from jepa_hub.masking.draws import keyed, keyed_order
from training.config import SupportSettings
from training.data.source import Source

SUPPORT_VIEW = 1000  # number of a support's first view: one sample is cropped differently there and in the batch
LABELLED, CLASS_ORDER, IMAGE_ORDER = 107, 108, 109  # purposes of keys, so that no two draws of a run share one


def labelled_samples(source: Source, settings: SupportSettings, seed: int) -> list[Tensor]:
    """Numbers of the labelled samples of each class, int64; in the order of the draw, so that fewer are a part of more.

    Args:
        source: of samples.
        settings: how many are labelled.
        seed: used where the settings have none.

    Raises:
        ValueError: there is no such class label, or a class has fewer samples than are asked for (with the counts).
    """
    known = source.labels
    if settings.label not in known or known[settings.label].kind != "class":
        classes = [name for name, label in known.items() if label.kind == "class"]
        raise ValueError(
            f"data.support.label is {settings.label!r}; class labels of the source: {', '.join(classes) or 'none'}"
        )
    count = known[settings.label].num_classes
    assert count is not None  # a class label has it
    values = source.label_values(settings.label)  # [N]
    allowed = torch.ones(len(values), dtype=torch.bool)
    if settings.subset is not None:
        allowed = _listed(Path(settings.subset), len(values))
    chosen = []
    for number in range(count):
        members = ((values == number) & allowed).nonzero()[:, 0]
        key = keyed(seed if settings.seed is None else settings.seed, number, LABELLED)
        members = members[keyed_order(key, len(members)).argsort()] if len(members) else members
        wanted = settings.per_class
        if settings.fraction is not None:
            wanted = max(1, round(settings.fraction * len(members)))
        chosen.append(members if wanted is None else members[:wanted])
    wanted = settings.per_class or 1
    _refuse_few(source, settings.label, chosen, wanted, "data.support.per_class")
    return chosen


def _listed(path: Path, total: int) -> Tensor:
    """Which samples a text file of numbers names, bool [N]."""
    if not path.is_file():
        raise ValueError(f"there is no data.support.subset file {path}; it lists the number of one sample a line")
    words = path.read_text(encoding="utf-8").split()
    if not words or not all(word.isdigit() and int(word) < total for word in words):
        bad = next((word for word in words if not word.isdigit() or int(word) >= total), "nothing")
        raise ValueError(f"{path} lists numbers of samples, 0 .. {total - 1}; it holds {bad!r}")
    allowed = torch.zeros(total, dtype=torch.bool)
    allowed[torch.tensor(list(map(int, words)))] = True
    return allowed


def _refuse_few(source: Source, label: str, chosen: list[Tensor], wanted: int, setting: str) -> None:
    few = {number: len(members) for number, members in enumerate(chosen) if len(members) < wanted}
    if few:
        names = source.labels[label].names
        shown = ", ".join(f"{names[number] if names else number}: {count}" for number, count in list(few.items())[:10])
        raise ValueError(
            f"{setting} asks for {wanted} labelled samples of each class of {label!r}, but {len(few)} of {len(chosen)} "
            f"classes have fewer ({shown}{', ...' if len(few) > 10 else ''})"
        )


@dataclass(frozen=True)
class Drawn:
    """Labelled samples of one batch, image-major: the first of every class, then the second of every class, ...

    Attributes:
        samples: int64 [S], numbers in the source.
        labels: int64 [S], places among the classes that all workers draw for this batch.
        classes: int64 [C], classes of this worker.
        num_classes: of all workers.
    """

    samples: Tensor
    labels: Tensor
    classes: Tensor
    num_classes: int


@dataclass(frozen=True)
class Support:
    """Labelled samples beside the batches of a run.

    Attributes:
        source: they are read from.
        sampler: chooses them.
        until_step: optimizer step from which on there are none.
    """

    source: Source
    sampler: SupportSampler
    until_step: int


class SupportSampler:
    """Which labelled samples come with pass `number`: distinct ones, of classes that go round.

    Classes are drawn without repetition until fewer than a full draw is left, then all over again; samples of a class
    are drawn anew for each pass. Workers that share classes have different samples of them.

    Args:
        members: labelled samples of each class.
        settings: classes and images of a batch.
        seed: of the run.
        rank, world: of this worker and how many there are.
        source: for the words of an error.

    Raises:
        ValueError: more classes or images are asked for than there are (with the counts).
    """

    def __init__(
        self, members: list[Tensor], settings: SupportSettings, seed: int, rank: int, world: int, source: Source
    ) -> None:
        self.members, self.seed, self.rank, self.world = members, seed, rank, world
        self.unique = settings.unique_classes and world > 1
        sharing = 1 if self.unique else world
        self.num_classes = settings.classes or len(members) // (world if self.unique else 1)
        needed = self.num_classes * (world if self.unique else 1)
        if not 0 < needed <= len(members):
            raise ValueError(
                f"data.support.classes asks for {self.num_classes} classes"
                + (f" of their own for each of {world} workers" if self.unique else "")
                + f", the labels have {len(members)}"
            )
        least = min(len(each) for each in members) // sharing
        self.images = settings.images or least
        wanted = self.images * sharing
        setting = "data.support.images"
        if sharing > 1:
            setting += f" ({self.images} x {sharing} workers that share classes)"
        _refuse_few(source, settings.label, members, max(wanted, 1), setting)
        self.rounds = len(members) // needed  # passes until classes are shuffled again

    def draw(self, number: int) -> Drawn:
        """The labelled samples of pass `number` of the run."""
        turn, place = divmod(number, self.rounds)
        order = keyed_order(keyed(self.seed, turn, CLASS_ORDER), len(self.members)).argsort()
        width = self.num_classes * (self.world if self.unique else 1)
        together = order[place * width : (place + 1) * width]
        first = self.rank * self.num_classes if self.unique else 0
        classes = together[first : first + self.num_classes]
        rows = [self.order(number, int(each))[self._mine()] for each in classes]
        samples = torch.stack(rows, dim=1).flatten()  # [images * C]
        labels = torch.arange(first, first + self.num_classes).repeat(self.images)
        return Drawn(samples, labels, classes, width)

    def order(self, number: int, which: int) -> Tensor:
        """All labelled samples of a class in the order of pass `number`."""
        members = self.members[which]
        return members[keyed_order(keyed(self.seed, number, which, IMAGE_ORDER), len(members)).argsort()]

    def _mine(self) -> slice:
        start = 0 if self.unique else self.rank * self.images
        return slice(start, start + self.images)
