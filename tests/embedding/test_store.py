"""The store of a bulk embedding: whole shards, sorted rows, three formats that hold the same."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jepa_hub.embedding.formats import read_embeddings
from jepa_hub.embedding.store import FileInfo, Row, Store
from tests.hub_server import ROOT


def rows(count: int, name: str = "a.png") -> Iterator[Row]:
    for index in range(count):
        yield Row(FileInfo(f"{index}-{name}", 1, 1), 0, 1, (2, 3), (1, 1, 1), None, np.full(4, index, dtype=np.float32))


def test_a_torn_shard_is_embedded_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "out.npz", {"a": 1})
    for row in rows(3):
        store.add([row])
    shard = next((tmp_path / "out.npz.parts").glob("*.shard.safetensors"))
    shard.write_bytes(shard.read_bytes()[:20])
    again = Store(tmp_path / "out.npz", {"a": 1})
    assert len(again.complete) == 2 and not shard.exists()


def test_rows_are_sorted_whatever_the_order_of_shards(tmp_path: Path) -> None:
    store = Store(tmp_path / "out.safetensors", {})
    for row in reversed(list(rows(7))):
        store.add([row])
    assert store.finish() == 7
    assert read_embeddings(tmp_path / "out.safetensors").pooled[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_rows_are_copied_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jepa_hub.embedding.formats.PIECE_BYTES", 100)
    for suffix in ("safetensors", "npz", "parquet"):
        store = Store(tmp_path / f"out.{suffix}", {})
        store.add(list(rows(5)))
        store.add([replace(row, file=FileInfo(f"9{row.file.name}", 1, 1)) for row in rows(4)])
        assert store.finish() == 9
        found = read_embeddings(tmp_path / f"out.{suffix}")
        assert found.pooled[:, 0].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]


def test_a_file_name_that_is_no_unicode(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    for suffix in ("safetensors", "npz", "parquet"):
        store = Store(tmp_path / f"out.{suffix}", {})
        store.add([replace(next(rows(1)), file=FileInfo(name, 1, 1))])
        store.finish()
        assert read_embeddings(tmp_path / f"out.{suffix}").names == [name]


@pytest.mark.parametrize(("name", "file_format"), [("out.csv", None), ("out", None), ("out.npz", "hdf5")])
def test_unknown_formats(tmp_path: Path, name: str, file_format: str | None) -> None:
    with pytest.raises(ValueError, match="safetensors, npz, parquet"):
        Store(tmp_path / name, {}, file_format=file_format)


def test_parquet_without_pyarrow_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match="pip install pyarrow"):
        Store(tmp_path / "out.parquet", {})


def test_reading_something_else(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_embeddings(tmp_path / "gone.npz")
    (tmp_path / "torn.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(OSError, match="torn"):
        read_embeddings(tmp_path / "torn.safetensors")


def test_shards_survive_kill_9(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import numpy as np, itertools\n"
        "from jepa_hub.embedding.store import FileInfo, Row, Store\n"
        "store = Store(sys.argv[2], {'a': 1})\n"
        "for i in itertools.count():\n"
        "    store.add([Row(FileInfo(f'{i:06}.png', 1, 1), 0, 1, (2, 3), (1, 1, 1), None, np.full(2000, i, 'f4'))])\n"
        "    print(i, flush=True)\n"
    )
    output = tmp_path / "out.npz"
    process = subprocess.Popen([sys.executable, "-c", code, str(ROOT), str(output)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    last = next(int(line) for line in process.stdout if int(line) >= 20)
    process.kill()
    process.wait()
    process.stdout.close()
    store = Store(output, {"a": 1})
    kept = len(store.complete)
    assert kept > last  # everything that was reported as kept
    assert store.finish() == kept
    found = read_embeddings(output)
    assert (found.pooled == np.arange(kept)[:, None]).all()
