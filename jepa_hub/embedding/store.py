"""Rows of a bulk embedding, kept safe until all are there.

A row is one image, or one window of a video. Each batch becomes a shard in `<output>.parts`, written beside its place
and renamed, so a killed run leaves whole shards only. Rows of earlier runs stay; a file that changed on disk (size or
time) is embedded again.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jepa_hub.embedding.formats import Array, Plan, read_embeddings, read_metadata, resolve_format, write, write_beside

SHARD_SUFFIX = ".shard.safetensors"
HEADER_BYTES = 60_000_000  # safetensors refuses headers of 100 MB, and the file names lie in the header


@dataclass(frozen=True, order=True)
class FileInfo:
    """An input file; one that changed on disk is another file."""

    name: str
    bytes: int
    modified_ns: int


@dataclass(frozen=True)
class Row:
    """One image or one window of a video, embedded."""

    file: FileInfo
    window: int  # 0 for an image
    num_windows: int  # of the whole file
    size: tuple[int, int]  # height, width of the source in pixels
    grid_size: tuple[int, int, int]  # tokens (T, H, W)
    frame_times: Array | None  # float64 [T], seconds, the centre of each tubelet; None for images
    pooled: Array  # [D]
    tokens: Array | None = None  # [N, D]


class Store:
    """The rows of one output file, kept as shards until `finish`.

    Args:
        output: the file to write.
        settings: whatever changes the numbers, as JSON values; the same in every run over this output.
        metadata: what else is written into the output (model, licence).
        file_format: "safetensors", "npz" or "parquet"; None goes by the ending of `output`.
        overwrite: forget earlier runs.

    Raises:
        ValueError: an unknown format, or an output that was begun with other settings.
        ImportError: parquet without pyarrow.
        OSError: the output exists and is something else.
    """

    def __init__(
        self,
        output: str | os.PathLike[str],
        settings: Mapping[str, Any],
        metadata: Mapping[str, Any] | None = None,
        *,
        file_format: str | None = None,
        overwrite: bool = False,
    ) -> None:
        self.output = Path(output)
        self.format = resolve_format(self.output, file_format)
        self.settings = json.loads(json.dumps(settings))
        self.metadata = {**(metadata or {}), "settings": self.settings}
        self.folder = self.output.with_name(f"{self.output.name}.parts")
        self._tables: dict[Path, list[tuple[FileInfo, int, int]]] = {}
        self._adopted: list[FileInfo] = []  # files of an output that an earlier run finished
        if overwrite:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        self._refuse_other_settings()
        for path in sorted(self.folder.glob(f"*{SHARD_SUFFIX}")):
            self._read_table(path)

    @property
    def complete(self) -> set[FileInfo]:
        """Files whose windows are all kept, by this or an earlier run."""
        counts = {info: count for table in self._tables.values() for info, _, count in table}
        kept = self.windows
        return {info for info, count in counts.items() if len(kept[info]) >= count}.union(self._adopted)

    @property
    def windows(self) -> dict[FileInfo, set[int]]:
        """File -> its windows that lie in shards."""
        kept: dict[FileInfo, set[int]] = {}
        for table in self._tables.values():
            for info, window, _ in table:
                kept.setdefault(info, set()).add(window)
        return kept

    def add(self, rows: Sequence[Row]) -> None:
        """Keep rows for good: once this returns they survive a kill."""
        if not rows:
            return
        steps = max(0 if row.frame_times is None else len(row.frame_times) for row in rows)
        arrays = {
            "pooled": np.stack([row.pooled for row in rows]),
            "frame_times": np.stack([_filled(row.frame_times, steps) for row in rows]),
            "size": np.array([row.size for row in rows], dtype=np.int64),
            "grid_size": np.array([row.grid_size for row in rows], dtype=np.int64),
        }
        tokens = [row.tokens for row in rows if row.tokens is not None]
        if tokens:
            arrays["tokens"] = np.stack(tokens)
        self._write_shard(arrays, [(row.file, row.window, row.num_windows) for row in rows])

    def finish(self, current: Iterable[FileInfo] = ()) -> int:
        """Write the output from every complete file and remove the shards; returns the number of rows.

        Args:
            current: the files of this run as they look now; kept rows of their earlier versions are dropped.

        Raises:
            ValueError: there is no row, or tokens of different grids cannot share one array. The shards are kept.
        """
        if self._adopted and not self._tables:
            return len(read_embeddings(self.output).file)  # nothing is new: the output is whole as it is
        self._adopt_output()
        latest = {info.name: info for info in current}
        complete = self.complete
        places = {
            (info, window): (path, row)
            for path, table in self._tables.items()
            for row, (info, window, _) in enumerate(table)
            if info in complete and latest.get(info.name, info) == info
        }
        if not places:
            raise ValueError("nothing could be embedded, so there is nothing to write")
        order = sorted(places)
        infos = sorted({info for info, _ in order})
        number = {info: index for index, info in enumerate(infos)}
        columns = {
            "file": np.array([number[info] for info, _ in order], dtype=np.int64),
            "window": np.array([window for _, window in order], dtype=np.int64),
        }
        metadata = {
            "format": "jepa_hub.embeddings/1",
            **self.metadata,
            "files": [list(astuple(info)) for info in infos],
        }
        write(self.output, Plan([places[key] for key in order], columns, metadata), self.format)
        shutil.rmtree(self.folder, ignore_errors=True)
        return len(order)

    def check_names(self, names: Iterable[str]) -> None:
        """Refuse, before any work is done, more file names than the format can hold.

        Raises:
            ValueError: the names do not fit the header of a safetensors file.
        """
        needed = sum(len(json.dumps(name)) + 40 for name in names)
        if self.format == "safetensors" and needed > HEADER_BYTES:
            raise ValueError(
                f"the file names take {needed / 1e6:.0f} MB, more than a safetensors header holds: write .parquet, or "
                "embed the folders one by one"
            )

    def _refuse_other_settings(self) -> None:
        note = self.folder / "settings.json"
        begun = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else None
        if self.output.exists():
            try:
                finished = read_metadata(self.output)
            except OSError as error:
                raise OSError(f"{error}: choose another output, or replace it with --overwrite") from error
            if begun is None or begun == finished["settings"]:
                begun = finished["settings"]
                self._adopted = [FileInfo(*entry) for entry in finished["files"]]
            # Otherwise an earlier run with --overwrite was cut short: its shards count, the old output does not.
        if begun is not None and begun != self.settings:
            changed = [key for key in {**begun, **self.settings} if begun.get(key) != self.settings.get(key)]
            listed = "; ".join(f"{key} was {begun.get(key)!r}, now {self.settings.get(key)!r}" for key in changed)
            raise ValueError(
                f"{self.output} was begun with other settings ({listed}), and rows that do not belong together are not "
                "mixed: use the earlier settings, choose another output, or start again with --overwrite"
            )

    def _adopt_output(self) -> None:
        """Rows of a finished output are written again together with the new ones."""
        if not self._adopted:
            return
        old = read_embeddings(self.output)
        counts = np.bincount(old.file, minlength=len(self._adopted))
        table = [(self._adopted[f], int(w), int(counts[f])) for f, w in zip(old.file, old.window, strict=True)]
        if self.format == "safetensors":  # laid out as a shard is, so it is read in place
            self._tables[self.output] = table
            return
        arrays = {"pooled": old.pooled, "frame_times": old.frame_times, "size": old.size, "grid_size": old.grid_size}
        self._write_shard(arrays if old.tokens is None else {**arrays, "tokens": old.tokens}, table)

    def _write_shard(self, arrays: Mapping[str, Array], table: list[tuple[FileInfo, int, int]]) -> None:
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True)
        note = self.folder / "settings.json"
        if not note.is_file():
            write_beside(note, lambda file: file.write(json.dumps(self.settings, indent=2).encode()))
        text = json.dumps([[list(astuple(info)), window, count] for info, window, count in table])
        path = self.folder / f"{uuid.uuid4().hex}{SHARD_SUFFIX}"  # a name that two runs at once do not share
        partial = path.with_suffix(".partial")
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, partial, {"rows": text})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        self._tables[path] = table

    def _read_table(self, path: Path) -> None:
        try:
            with safe_open(str(path), framework="numpy") as file:
                table = json.loads(file.metadata()["rows"])
            self._tables[path] = [(FileInfo(*info), window, count) for info, window, count in table]
        except (SafetensorError, KeyError, TypeError, ValueError):
            path.unlink()  # torn by the disk, since ours are renamed whole: its files are embedded again


def _filled(times: Array | None, steps: int) -> Array:
    """Times with NaN up to `steps`."""
    filled = np.full(steps, np.nan)
    if times is not None:
        filled[: len(times)] = times
    return filled
