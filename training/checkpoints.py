"""Checkpoints that survive anything: written beside and renamed, checked before use, the newest whole one wins.

A run's folder:
    settings.yaml             what was asked for
    log.jsonl                 one line per logged step
    checkpoints/step-00000500 what resuming needs, complete.json written last
    best/  final/             the model as `JEPAModel.from_pretrained` reads it
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

MARK = "complete.json"
UNFINISHED = ".unfinished"
# A resumed run may change these: they decide neither the weights nor what is learned from.
FREE = ("run.out", "run.log_every", "run.save_every", "run.keep_last", "run.trackers", "run.threads", "data.workers")
FREE_TOO = ("data.prefetch", "data.max_bad", "watch", "probe", "data.batch_size", "run.accumulation")
FREE_WAIT = ("averaging.timeout",)  # how long to wait for others


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used; the text says which, why and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """One whole checkpoint: its folder, the steps done, and what complete.json says."""

    path: Path
    step: int
    facts: dict[str, Any]


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """A tree of settings as dotted names and values."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def check_same_run(
    now: dict[str, Any], then: dict[str, Any], step_size: int, facts: dict[str, Any], path: Path
) -> None:
    """Return if a checkpoint belongs to these settings.

    Args:
        now, then: settings as plain trees.
        step_size: samples per optimizer step over all workers, now.
        facts: of the checkpoint.
        path: of the checkpoint, for the error.

    Raises:
        CheckpointError: a setting differs that decides the weights, or the workers no longer see the same samples.
    """
    new, old = flat(now), flat(then)
    names = sorted(name for name in {*new, *old} if not name.startswith((*FREE, *FREE_TOO, *FREE_WAIT)))
    differ = [f"{name} was {old.get(name)!r}, is {new.get(name)!r}" for name in names if new.get(name) != old.get(name)]
    if differ:
        raise CheckpointError(
            f"{path} is of another run: {'; '.join(differ[:5])}. Use another run.out, restore the settings, or start "
            "afresh with --resume never"
        )
    if facts["step_size"] != step_size:
        raise CheckpointError(
            f"{path} was made with {facts['step_size']} samples per step, these workers take {step_size}: choose "
            "data.batch_size and run.accumulation so that batch x accumulation x workers stays the same"
        )


def write(
    root: Path, step: int, fill: Callable[[Path], None], facts: dict[str, Any], *, is_main: bool, wait: Any
) -> Path:
    """Write checkpoint `step` under `root` so that it is whole or not there at all.

    Args:
        root: the checkpoints folder.
        step: optimizer steps done.
        fill: writes this worker's files into the folder it is given; called by every worker.
        facts: go into complete.json.
        is_main: whether this worker makes folders and renames.
        wait: a barrier over all workers.

    Raises:
        CheckpointError: the disk is full or not writable; earlier checkpoints are untouched.
    """
    final, draft = root / f"step-{step:08d}", root / f"step-{step:08d}{UNFINISHED}"
    try:
        if is_main:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
        wait()
        fill(draft)
        wait()
        if is_main:
            _seal(draft, {"step": step, **facts})
            shutil.rmtree(final, ignore_errors=True)
            draft.rename(final)
            _sync(root)
        wait()
    except OSError as error:
        if is_main:
            shutil.rmtree(draft, ignore_errors=True)
        raise CheckpointError(
            f"checkpoint {final} could not be written ({error.strerror or error}); earlier ones are untouched. Free "
            "some space or set run.out elsewhere, then start again: the run resumes from the newest whole checkpoint"
        ) from error
    return final


def _seal(folder: Path, facts: dict[str, Any]) -> None:
    """Flush every file to the disk, then write what must be there."""
    sizes = {}
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
        sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
    mark = folder / MARK
    with open(mark, "w", encoding="utf-8") as file:
        json.dump({**facts, "files": sizes}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    _sync(folder)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_mark(path: Path) -> dict[str, Any]:
    """What complete.json says, if every file is there in its full size.

    Raises:
        CheckpointError: the checkpoint is torn.
    """
    try:
        facts = json.loads((path / MARK).read_text(encoding="utf-8"))
        sizes = dict(facts["files"])
        int(facts["step"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} has no readable {MARK} ({error})") from None
    for name, size in sizes.items():
        file = path / name
        if not file.is_file() or file.stat().st_size != size:
            found = f"{file.stat().st_size} bytes" if file.is_file() else "nothing"
            raise CheckpointError(f"{path} is torn: {name} should have {size} bytes, there is {found}")
    return facts


def newest(root: Path) -> Checkpoint | None:
    """The newest whole checkpoint under `root`; torn ones are skipped with a warning."""
    folders = sorted((each for each in root.glob("step-*") if not each.name.endswith(UNFINISHED)), reverse=True)
    for folder in folders:
        try:
            facts = read_mark(folder)
        except CheckpointError as error:
            logger.warning("%s; using the one before", error)
            continue
        return Checkpoint(folder, int(facts["step"]), facts)
    return None


def prune(root: Path, keep: int) -> None:
    """Delete all but the newest `keep` whole checkpoints, and drafts that a killed run left."""
    for draft in root.glob(f"step-*{UNFINISHED}"):
        shutil.rmtree(draft, ignore_errors=True)
    whole = sorted(each for each in root.glob("step-*") if (each / MARK).is_file())
    for folder in whole[:-keep]:
        shutil.rmtree(folder, ignore_errors=True)


def cut_log(path: Path, step: int) -> None:
    """Drop lines of log.jsonl after `step`, and a half-written last line, so that a resumed run repeats none."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    draft = path.with_name(path.name + UNFINISHED)
    draft.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    draft.replace(path)
