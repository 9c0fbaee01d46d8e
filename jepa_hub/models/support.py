"""Support: the labelled pictures that a PAWS model classifies by, and the checks on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Support:
    """Embedded labelled pictures.

    Attributes:
        embeddings: [S, E].
        labels: int64 [S], 0 .. K - 1.
        names: of the K classes.
    """

    embeddings: Tensor
    labels: Tensor
    names: tuple[str, ...]

    @property
    def one_hot(self) -> Tensor:
        """The labels as float [S, K]."""
        return F.one_hot(self.labels, len(self.names)).to(self.embeddings.dtype)


def check_support(
    num_images: int, labels: Sequence[int | str] | Tensor, classes: int | Sequence[str] | None
) -> tuple[tuple[str, ...], Tensor]:
    """Names of the classes and the labels as numbers int64 [S].

    Args:
        num_images: S.
        labels: of each picture, all names or all numbers.
        classes: how many there are, or their names; None takes those among the labels (numbers: 0 .. the highest).

    Raises:
        ValueError: the counts differ, a label is out of range or unknown, or a class has no picture.
    """
    given = labels.tolist() if isinstance(labels, Tensor) else list(labels)
    if len(given) != num_images or not given:
        raise ValueError(
            f"a support needs one label per picture: there are {num_images} pictures and {len(given)} labels"
        )
    kinds = {str if isinstance(label, str) else int for label in given}
    if len(kinds) > 1:
        raise ValueError("labels of a support are all names or all numbers, not some of each")
    names: tuple[str, ...]
    if kinds == {str}:
        if isinstance(classes, int):
            raise ValueError(f"the labels are names: give classes= as their names, not {classes}")
        names = tuple(classes) if classes is not None else tuple(sorted(set(map(str, given))))
        unknown = sorted(set(map(str, given)) - set(names))
        if unknown:
            raise ValueError(f"labels {', '.join(unknown)} are none of the {len(names)} classes {', '.join(names)}")
        numbers = [names.index(str(label)) for label in given]
    else:
        numbers = [int(label) for label in given]
        count = classes if isinstance(classes, int) else len(classes) if classes is not None else max(numbers) + 1
        names = tuple(classes) if isinstance(classes, Sequence) else tuple(map(str, range(count)))
        wrong = sorted({number for number in numbers if not 0 <= number < count})
        if wrong:
            raise ValueError(
                f"labels {', '.join(map(str, wrong))} are out of range: there are {count} classes, 0 .. {count - 1}"
            )
    found = torch.tensor(numbers)
    counts = found.bincount(minlength=len(names)).tolist()
    missing = [name for name, number in zip(names, counts, strict=True) if not number]
    if missing:
        shown = ", ".join(f"{name}: {number}" for name, number in list(zip(names, counts, strict=True))[:20])
        raise ValueError(
            f"{len(missing)} of {len(names)} classes have no picture in the support ({', '.join(missing[:10])}); "
            f"pictures per class: {shown}{', ...' if len(names) > 20 else ''}"
        )
    return names, found
