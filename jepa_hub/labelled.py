"""Labels of files, batch by batch, and how commands print them; a file that cannot be read harms no other."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import typer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Labelled:
    """What was found in a file: labels, the most likely first, and their probabilities; or why it could not be read."""

    path: str
    labels: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str | None = None

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self.path}: could not be read: {self.error}"
        shares = zip(self.labels, self.probabilities, strict=True)
        return f"{self.path}: {', '.join(f'{name} {share:.1%}' for name, share in shares)}"


def label_files(paths: Sequence[str], batch_size: int, label: Callable[[list[str]], Any]) -> Iterator[Labelled]:
    """The labels of each file; one that cannot be read is logged, and said in its place.

    Args:
        paths: the files.
        batch_size: how many go to `label` at once.
        label: files -> what was found, with `labels` (a list of names per file) and `probabilities` [B, labels].
    """
    for start in range(0, len(paths), batch_size):
        part = list(paths[start : start + batch_size])
        try:
            found = label(part)
        except (ValueError, OSError) as error:
            if len(part) > 1:  # one of them is bad: find out which
                yield from label_files(part, 1, label)
                continue
            logger.warning("%s left out: %s", part[0], error)
            yield Labelled(part[0], error=str(error))
            continue
        for path, labels, probabilities in zip(part, found.labels, found.probabilities.tolist(), strict=True):
            yield Labelled(path, tuple(labels), tuple(probabilities))


def report(found: Iterable[Labelled], *, as_json: bool, strict: bool) -> None:
    """Print what was found as it comes, or all of it as JSON; a file without labels is an error when `strict`."""
    told = []
    for each in found:
        told.append(each)
        if not as_json:
            typer.echo(str(each))
    if as_json:
        typer.echo(json.dumps([asdict(each) for each in told], indent=2))
    if strict and any(each.error for each in told):
        raise typer.Exit(1)
