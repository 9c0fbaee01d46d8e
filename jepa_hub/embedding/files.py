"""Bulk embedding: files and folders in, one file of feature vectors out.

Every image is one row, every window of a video is one row. Files are read ahead by threads, encoded in batches, and
kept batch by batch, so that a killed run goes on where it stopped. A file that cannot be read is logged and left out.
"""

from __future__ import annotations

import functools
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from jepa_hub.embedding.embedder import VIDEO_SUFFIXES, Bad, Embedder, Unit
from jepa_hub.embedding.store import FileInfo, Row, Store
from jepa_hub.pictures import save_pca

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".jp2", ".avif", ".gif")


@dataclass(frozen=True)
class Report:
    """What a run did."""

    output: Path
    num_rows: int
    num_new: int  # files embedded by this run
    num_kept: int  # files that an earlier run had embedded
    num_bad: int  # files that could not be read
    errors: Path

    def __str__(self) -> str:
        text = f"wrote {self.output}: {self.num_rows} rows; {self.num_new} files embedded"
        if self.num_kept:
            text += f", {self.num_kept} kept from an earlier run"
        if self.num_bad:
            text += f", {self.num_bad} could not be read and were left out (see {self.errors})"
        return text


# The run --------------------------------------------------------------------------------------------------------------
def embed_files(
    embedder: Embedder,
    inputs: Iterable[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    file_format: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Report:
    """Embed every image and video of `inputs` into one file, going on from where an earlier run stopped.

    Args:
        embedder: model, processor and settings.
        inputs: files, and folders that are searched recursively.
        output: ends in .safetensors, .npz or .parquet, unless `file_format` says which it is.
        overwrite: forget what earlier runs wrote.
        progress: show a progress bar on a terminal.

    Raises:
        ValueError: no input file, an output begun with other settings, or not one file that could be read.
        OSError: an input is not there.
    """
    output = Path(output)
    files = [_info(path) for path in find_files(inputs)]
    output.parent.mkdir(parents=True, exist_ok=True)
    store = Store(output, embedder.comparable(), embedder.metadata(), file_format=file_format, overwrite=overwrite)
    store.check_names(info.name for info in files)
    complete = store.complete
    todo = [info for info in files if info not in complete]
    log = _ErrorLog(output)
    bar = tqdm(total=len(files), initial=len(files) - len(todo), unit="file", disable=None if progress else True)
    with bar:
        for finished in _rows(embedder, todo, store, log):
            bar.update(finished)
            bar.set_postfix(unreadable=len(log.bad), refresh=False)
    try:
        num_rows = store.finish(files)
    except ValueError as error:
        raise ValueError(f"{error}{log.first}") from error
    num_bad = len(log.bad)
    return Report(output, num_rows, len(todo) - num_bad, len(files) - len(todo), num_bad, log.path)


def _rows(embedder: Embedder, todo: Sequence[FileInfo], store: Store, log: _ErrorLog) -> Iterator[int]:
    """Encode and keep everything; yields how many files were finished since the last time."""
    batch: list[Unit] = []
    seen: dict[FileInfo, int] = {info: len(kept) for info, kept in store.windows.items()}

    def flush() -> int:
        """Encode and keep what waits in `batch`; how many files that finished."""
        if not batch:
            return 0
        results = embedder.encode(batch)
        batch.clear()
        store.add([row for row in results if isinstance(row, Row)])
        finished = 0
        for result in results:
            if isinstance(result, Bad):
                finished += log.add(result)
                continue
            seen[result.file] = seen.get(result.file, 0) + 1
            finished += seen[result.file] == result.num_windows
        return finished

    for result in _ahead(_reads(embedder, todo, store.windows, log), embedder.settings.num_workers):
        if isinstance(result, Bad):
            yield log.add(result)
            continue
        for unit in result:
            if batch and (len(batch) == embedder.settings.batch_size or batch[0].pixels.shape != unit.pixels.shape):
                yield flush()
            batch.append(unit)
    yield flush()


def _reads(
    embedder: Embedder, todo: Sequence[FileInfo], kept: dict[FileInfo, set[int]], log: _ErrorLog
) -> Iterator[Callable[[], list[Unit] | Bad]]:
    for info in todo:
        try:
            for read in embedder.plan(info, kept.get(info, ())):
                if info in log.bad:
                    break  # the rest of a damaged video would be left out anyway
                yield functools.partial(_guarded, read, info)
        except Exception as error:  # one bad file must not end the run; it is logged with its reason
            yield functools.partial(Bad, info, error)


def _guarded(read: Callable[[], list[Unit]], info: FileInfo) -> list[Unit] | Bad:
    try:
        return read()
    except Exception as error:  # as above
        return Bad(info, error)


def _ahead(reads: Iterator[Callable[[], list[Unit] | Bad]], num_workers: int) -> Iterator[list[Unit] | Bad]:
    """Results in order, while threads work on the next ones."""
    if num_workers == 0:
        yield from (read() for read in reads)
        return
    pool = ThreadPoolExecutor(num_workers)
    waiting: deque[Future[list[Unit] | Bad]] = deque()
    try:
        for read in reads:
            waiting.append(pool.submit(read))
            if len(waiting) > 2 * num_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class _ErrorLog:
    """`<output>.errors.jsonl`: one line per file that could not be embedded by this run."""

    def __init__(self, output: Path) -> None:
        self.path = output.with_name(f"{output.name}.errors.jsonl")
        self.path.unlink(missing_ok=True)
        self.bad: dict[FileInfo, str] = {}

    @property
    def first(self) -> str:
        """The first reason, in words."""
        return (
            f": {next(iter(self.bad.values()))} ({len(self.bad)} files are listed in {self.path})" if self.bad else ""
        )

    def add(self, bad: Bad) -> int:
        """Log a file once; returns 1 when it is new."""
        if bad.info in self.bad:
            return 0
        reason = str(bad.error) or type(bad.error).__name__
        self.bad[bad.info] = reason
        line = {"file": bad.info.name, "window": bad.window, "type": type(bad.error).__name__, "error": reason}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        return 1


# Pictures -------------------------------------------------------------------------------------------------------------
def draw(embedder: Embedder, inputs: Sequence[str | os.PathLike[str]], path: Path) -> Path:
    """The PCA picture of one image or of the first window of one video.

    Raises:
        ValueError: not exactly one file, or a file ending that is no picture.
        OSError: the file is not there or cannot be read.
    """
    files = find_files(inputs)
    if len(files) != 1:
        raise ValueError(f"a picture shows one image or video, got {len(files)} files")
    (unit, *_) = next(embedder.plan(_info(files[0])))()
    features = embedder.model.encode(unit.pixels.to(embedder.model.device, embedder.dtype))
    if unit.times is not None:
        times = unit.times.unflatten(0, (features.grid_size[0], -1)).mean(dim=-1)  # [T]
        features = replace(features, frame_times=times[None])
    return save_pca(path, features, unit.pixels, mean=embedder.processor.mean, std=embedder.processor.std)


# Files ----------------------------------------------------------------------------------------------------------------
def find_files(inputs: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Images and videos among files and folders, each once; folders are searched recursively, hidden names left out.

    Raises:
        ValueError: a file with another ending, or nothing found.
        OSError: an input is not there.
    """
    found: dict[Path, None] = {}
    for given in inputs:
        path = Path(given).expanduser()
        if path.is_dir():
            for folder, subfolders, names in os.walk(path):
                subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
                found |= {Path(folder, name): None for name in sorted(names) if _is_media(name)}
        elif not path.exists():
            raise FileNotFoundError(f"there is no file or folder {path}")
        elif not _is_media(path.name):
            raise ValueError(
                f"{path} is neither an image ({', '.join(IMAGE_SUFFIXES)}) nor a video ({', '.join(VIDEO_SUFFIXES)})"
            )
        else:
            found[path] = None
    if not found:
        raise ValueError("there is no image or video in what was given")
    return list(found)


def _is_media(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES + VIDEO_SUFFIXES)


def _info(path: Path) -> FileInfo:
    status = path.stat()
    return FileInfo(path.as_posix(), status.st_size, status.st_mtime_ns)
