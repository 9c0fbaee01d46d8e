"""The finished file of `jepa-hub embed`: written in pieces from shards, read back as arrays.

safetensors, npz and parquet hold the same rows. Rows are copied in pieces, so memory never holds all of them.
"""

from __future__ import annotations

import json
import os
import struct
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

FORMATS = ("safetensors", "npz", "parquet")
PIECE_BYTES = 1 << 26  # copied at a time
Array = NDArray[Any]
Layout = dict[str, tuple[np.dtype[Any], tuple[int, ...]]]  # name -> dtype, shape with the rows
_CODES = {"float16": "F16", "float32": "F32", "float64": "F64", "int64": "I64"}


@dataclass(frozen=True)
class Embeddings:
    """What `read_embeddings` returns: R rows over F files.

    Attributes:
        pooled: [R, D].
        tokens: [R, N, D], or None when they were not asked for.
        file: int64 [R], index into `names`.
        window: int64 [R], which window of the video; 0 for images.
        frame_times: float64 [R, T] seconds of the tubelets; NaN where an image or a shorter clip has none.
        size: int64 [R, 2], height and width of the source in pixels.
        grid_size: int64 [R, 3], tokens (T, H, W).
        names: the F file names.
        metadata: model, licence, settings, files.
    """

    pooled: Array
    tokens: Array | None
    file: Array
    window: Array
    frame_times: Array
    size: Array
    grid_size: Array
    names: list[str]
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """Which row of which shard becomes which row of the output."""

    places: list[tuple[Path, int]]
    columns: dict[str, Array]  # arrays made here: file, window
    metadata: dict[str, Any]  # "files" is a list of [name, ...]

    @property
    def names(self) -> list[str]:
        """File names, in the order that the column `file` counts."""
        return [entry[0] for entry in self.metadata["files"]]

    def layout(self) -> Layout:
        """Arrays that come from the shards.

        Raises:
            ValueError: shapes differ between shards (frame_times may: they are padded).
        """
        found: Layout = {}
        for path in dict.fromkeys(path for path, _ in self.places):
            with safe_open(str(path), framework="numpy") as shard:
                for name in set(shard.keys()) - set(self.columns):
                    piece = shard.get_slice(name)
                    shape = tuple(piece.get_shape()[1:])
                    dtype, known = found.setdefault(name, (piece[:0].dtype, shape))
                    if name == "frame_times":
                        found[name] = (dtype, (max(known[0], shape[0]),))
                    elif known != shape:
                        raise ValueError(
                            f"{name} of shapes {known} and {shape} do not fit one array: embed images and clips, or "
                            "clips of different sizes, into separate outputs, or leave the tokens out"
                        )
        return {name: (dtype, (len(self.places), *shape)) for name, (dtype, shape) in sorted(found.items())}

    def pieces(self, layout: Layout) -> Iterator[slice]:
        """Ranges of rows that are small enough to be held in memory."""
        row_bytes = sum(dtype.itemsize * int(np.prod(shape[1:])) for dtype, shape in layout.values())
        step = max(1, PIECE_BYTES // max(row_bytes, 1))
        for start in range(0, len(self.places), step):
            yield slice(start, min(start + step, len(self.places)))

    def read(self, name: str, shape: tuple[int, ...], rows: slice) -> Array:
        """Some rows of one array, in the order of the output."""
        parts = []
        start = rows.start
        while start < rows.stop:
            path, first = self.places[start]
            stop = start + 1
            while stop < rows.stop and self.places[stop] == (path, first + stop - start):
                stop += 1
            with safe_open(str(path), framework="numpy") as shard:
                part = shard.get_slice(name)[first : first + stop - start]
            if name == "frame_times":
                part = np.pad(part, ((0, 0), (0, shape[1] - part.shape[1])), constant_values=np.nan)
            parts.append(part)
            start = stop
        return np.ascontiguousarray(np.concatenate(parts))


# Writing --------------------------------------------------------------------------------------------------------------
def write(output: Path, plan: Plan, file_format: str) -> None:
    """Write the output beside its place and rename it."""
    write_beside(output, lambda file: _WRITERS[file_format](file, plan))


def write_beside(path: Path, fill: Callable[[IO[bytes]], object]) -> None:
    """Fill a file beside `path`, force it to the disk, and rename it: either all of it is there, or nothing."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def resolve_format(output: Path, file_format: str | None) -> str:
    """One of FORMATS: as asked, or by the ending of the file.

    Raises:
        ValueError: an unknown format or ending.
        ImportError: parquet without pyarrow.
    """
    chosen = file_format or output.suffix.removeprefix(".").lower()
    if chosen not in FORMATS:
        what = f"format {file_format!r}" if file_format else f"the ending of {output.name}"
        raise ValueError(f"{what} is not known; choose one of {', '.join(FORMATS)} by the ending or with --format")
    if chosen == "parquet":
        _pyarrow()
    return chosen


def _write_safetensors(file: IO[bytes], plan: Plan) -> None:
    layout = plan.layout()
    shapes = {**layout, **{name: (array.dtype, array.shape) for name, array in plan.columns.items()}}
    order = sorted(shapes, key=lambda name: (-shapes[name][0].itemsize, name))  # keeps every array aligned
    metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in plan.metadata.items()}
    header: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for name in order:
        dtype, shape = shapes[name]
        end = offset + dtype.itemsize * int(np.prod(shape))
        header[name] = {"dtype": _CODES[dtype.name], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for name in order:
        if name in plan.columns:
            file.write(plan.columns[name].tobytes())
            continue
        for rows in plan.pieces(layout):
            file.write(plan.read(name, layout[name][1], rows).tobytes())


def _write_npz(file: IO[bytes], plan: Plan) -> None:
    layout = plan.layout()
    whole = {**plan.columns, "names": np.array(plan.names), "metadata": np.array(json.dumps(plan.metadata))}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in whole.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        for name, (dtype, shape) in layout.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                description = {"descr": dtype.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, description)
                for rows in plan.pieces(layout):
                    member.write(plan.read(name, shape, rows).tobytes())


def _write_parquet(file: IO[bytes], plan: Plan) -> None:
    pa, parquet = _pyarrow()
    layout = plan.layout()
    # A file name that is no Unicode keeps its strange bytes as escapes; parquet holds UTF-8 only.
    names = np.array([name.encode("utf-8", "backslashreplace").decode() for name in plan.names])
    writer = None
    for rows in plan.pieces(layout):
        columns = {"name": pa.array(names[plan.columns["file"][rows]])}
        columns |= {name: pa.array(array[rows]) for name, array in plan.columns.items()}
        columns |= {name: _lists(pa, plan.read(name, shape, rows)) for name, (_, shape) in layout.items()}
        table = pa.table(columns).replace_schema_metadata({"jepa_hub": json.dumps(plan.metadata)})
        writer = writer or parquet.ParquetWriter(file, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def _lists(pa: Any, array: Array) -> Any:
    """[R, ...] as lists of fixed length; tokens [R, N, D] as lists of lists."""
    if array.shape[1] == 0:
        return pa.array([[] for _ in array], type=pa.list_(pa.from_numpy_dtype(array.dtype)))
    values = pa.array(array.reshape(-1))
    for length in reversed(array.shape[1:]):
        values = pa.FixedSizeListArray.from_arrays(values, length)
    return values


_WRITERS: dict[str, Callable[[IO[bytes], Plan], None]] = {
    "safetensors": _write_safetensors,
    "npz": _write_npz,
    "parquet": _write_parquet,
}


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "parquet needs pyarrow: pip install pyarrow (the extra jepa-hub[train] has it too)"
        ) from error
    return pyarrow, pyarrow.parquet


# Reading --------------------------------------------------------------------------------------------------------------
def read_embeddings(path: str | os.PathLike[str]) -> Embeddings:
    """The rows of a file that `jepa-hub embed` wrote, whichever its format.

    Raises:
        OSError: there is no such file, or it is torn or something else.
    """
    arrays, metadata = _read(Path(path), with_arrays=True)
    known = {name: arrays.get(name) for name in Embeddings.__dataclass_fields__ if name not in ("names", "metadata")}
    return Embeddings(**known, names=[entry[0] for entry in metadata["files"]], metadata=metadata)  # type: ignore[arg-type]


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Model, licence, settings and files of such a file, without its arrays.

    Raises:
        OSError: there is no such file, or it is torn or something else.
    """
    return _read(Path(path), with_arrays=False)[1]


def _read(path: Path, *, with_arrays: bool) -> tuple[dict[str, Array], dict[str, Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    with path.open("rb") as file:
        start = file.read(4)
    reader = {b"PK\x03\x04": _read_npz, b"PAR1": _read_parquet}.get(start, _read_safetensors)
    try:
        arrays, metadata = reader(path, with_arrays)
    except (SafetensorError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise OSError(f"{path} was not written by `jepa-hub embed`, or is torn ({error})") from error
    if not str(metadata.get("format", "")).startswith("jepa_hub.embeddings/"):
        raise OSError(f"{path} was not written by `jepa-hub embed`")
    return arrays, metadata


def _read_safetensors(path: Path, with_arrays: bool) -> tuple[dict[str, Array], dict[str, Any]]:
    with safe_open(str(path), framework="numpy") as file:
        metadata = {key: _value(value) for key, value in (file.metadata() or {}).items()}
        names = file.keys() if with_arrays else ()
        return {name: file.get_tensor(name) for name in names}, metadata


def _value(text: str) -> Any:
    """JSON where the writer had to write a list, dict or None as text."""
    return json.loads(text) if text[:1] in "[{" or text == "null" else text


def _read_npz(path: Path, with_arrays: bool) -> tuple[dict[str, Array], dict[str, Any]]:
    with np.load(path, allow_pickle=False) as file:
        metadata = json.loads(str(file["metadata"]))
        return {name: file[name] for name in file.files} if with_arrays else {}, metadata


def _read_parquet(path: Path, with_arrays: bool) -> tuple[dict[str, Array], dict[str, Any]]:
    _, parquet = _pyarrow()
    with parquet.ParquetFile(path) as file:
        metadata: Mapping[bytes, bytes] = file.schema_arrow.metadata or {}
        found = json.loads(metadata[b"jepa_hub"])
        if not with_arrays:
            return {}, found
        table = file.read()
    return {name: _array(table.column(name)) for name in table.column_names if name != "name"}, found


def _array(column: Any) -> Array:
    values = column.combine_chunks()
    shape = [len(values)]
    while hasattr(values.type, "value_type"):
        size = getattr(values.type, "list_size", 0)
        if size <= 0:  # the empty lists of frame_times
            return np.empty((len(values), 0))
        shape.append(size)
        values = values.flatten()
    return values.to_numpy(zero_copy_only=False).reshape(shape)
