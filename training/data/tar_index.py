"""Which tars make up a data set, and where every member of a tar lies: found once by its headers, kept beside it."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import itertools
import json
import logging
import os
import re
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from training.data.decoding import Names

logger = logging.getLogger(__name__)

CONTENTS = "dataset.json"  # of a folder that write_shards made
FORMAT = "jepa_hub shards 1"
_VERSION = 1  # of an index
_BLOCK = 512  # of a tar
_PADDING = 1 << 20  # zeros that writers may put after the end mark
_CLASS_BYTES = 24  # of a .cls member: an integer in digits
_NAME = re.compile(r"(?P<key>(?:.*/)?[^./][^./]*)\.(?P<suffix>[^/]+)", re.DOTALL)  # "a/b.left.jpg": a/b, left.jpg
_Group = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class TarIndex:
    """The samples of one tar: members of one name up to its first dot are one sample, as in webdataset.

    Attributes:
        path: of the tar.
        keys: names of the samples.
        suffixes: kinds of members, in lower case.
        members: int64 [M, 4], in the order of the samples: sample, number of the suffix, offset, size in bytes.
        highest_class: of its .cls members; None when there are none, or they are not whole numbers.
        lowest_class: likewise.
        damage: what of it cannot be used and why, in words; empty when it is whole.
    """

    path: Path
    keys: Names
    suffixes: tuple[str, ...]
    members: np.ndarray[Any, Any]
    lowest_class: int | None = None
    highest_class: int | None = None
    damage: str = ""
    _starts: np.ndarray[Any, Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_starts", np.searchsorted(self.members[:, 0], np.arange(len(self.keys) + 1)))

    def having(self, suffixes: Iterable[str]) -> np.ndarray[Any, Any]:
        """Whether each sample has a member of one of these kinds, bool [N]."""
        wanted = [self.suffixes.index(suffix) for suffix in suffixes if suffix in self.suffixes]
        having = np.zeros(len(self.keys), dtype=bool)
        having[self.members[np.isin(self.members[:, 1], wanted), 0]] = True
        return having

    def sample(self, row: int) -> _Group:
        """(offset, size) of the members of a sample, by suffix."""
        rows = self.members[self._starts[row] : self._starts[row + 1]].tolist()
        return {self.suffixes[suffix]: (offset, size) for _, suffix, offset, size in rows}


def index_tar(path: Path) -> TarIndex:
    """The index of a tar, from its cache when the tar has the size and time it had then, else scanned and cached.

    Raises:
        OSError: the tar cannot be opened.
    """
    stat = path.stat()
    stamp = {"version": _VERSION, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    for place in _cache_places(path):
        found = _load(place, stamp)
        if found is not None:
            return _from_record(path, found)
    record = _scan(path, stat.st_size)
    for place in _cache_places(path):
        if _save(place, {**stamp, **record}):
            break
    return _from_record(path, record)


def _cache_places(path: Path) -> tuple[Path, Path]:
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    digest = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]
    return path.with_name(f"{path.name}.index.json"), home / "jepa_hub" / "tar_index" / f"{digest}.json"


def _load(place: Path, stamp: dict[str, int]) -> dict[str, Any] | None:
    try:
        record = json.loads(place.read_text())
        if {name: record[name] for name in stamp} != stamp:
            return None
        if len(record["members"]) % 4 or not isinstance(record["keys"], list):
            return None
    except (OSError, ValueError, LookupError, TypeError):  # none, torn or of another program: scanned again
        return None
    return dict(record)


def _save(place: Path, record: dict[str, Any]) -> bool:
    unfinished = place.with_name(f"{place.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(record, separators=(",", ":")))
        os.replace(unfinished, place)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        logger.debug("no index kept at %s: %s", place, error)
        return False
    return True


def _from_record(path: Path, record: dict[str, Any]) -> TarIndex:
    members = np.array(record["members"], dtype=np.int64).reshape(-1, 4)
    low, high = record["classes"] or (None, None)
    return TarIndex(path, Names(record["keys"]), tuple(record["suffixes"]), members, low, high, record["damage"])


def _scan(path: Path, size: int) -> dict[str, Any]:
    """What is kept of a tar; only headers are read, and the digits of .cls members, which lie next to theirs."""
    groups: dict[str, _Group] = {}
    classes: list[int] | None = []
    damage, torn, last = "", "", ""
    with path.open("rb") as file:
        try:
            with cast("Any", tarfile.open(fileobj=file, mode="r:")) as tar:
                while (member := tar.next()) is not None:
                    tar.members.clear()  # tarfile remembers every header otherwise
                    name = _NAME.fullmatch(member.name)
                    if name is None or not member.isreg() or member.issparse() or "__MACOSX/" in member.name:
                        continue
                    last, suffix = name["key"], name["suffix"].lower()
                    if member.offset_data + member.size > size:
                        damage, torn = f"it breaks off within {member.name}", last
                        break
                    groups.setdefault(last, {})[suffix] = (member.offset_data, member.size)
                    if suffix == "cls" and classes is not None:
                        classes = _with_class(classes, file, member)
                else:
                    damage = _after_last(file, tar.offset, size)
        except (tarfile.TarError, OSError, ValueError) as error:
            damage = f"it breaks off: {error}" if groups else _not_a_tar(file, error)
    _drop_torn(groups, torn, last if damage else "")
    suffixes = sorted({suffix for group in groups.values() for suffix in group})
    number = {suffix: place for place, suffix in enumerate(suffixes)}
    members: list[int] = []
    for sample, group in enumerate(groups.values()):
        for suffix, (offset, length) in group.items():
            members += [sample, number[suffix], offset, length]
    return {
        "keys": list(groups),
        "suffixes": suffixes,
        "members": members,
        "classes": [min(classes), max(classes)] if classes else None,
        "damage": damage,
    }


def _with_class(classes: list[int], file: IO[bytes], member: tarfile.TarInfo) -> list[int] | None:
    """The lowest and highest class so far; None from the first one on that is no whole number."""
    if member.size > _CLASS_BYTES:
        return None
    file.seek(member.offset_data)
    try:
        value = int(file.read(member.size))
    except ValueError:
        return None
    return [min([value, *classes]), max([value, *classes])]


def _drop_torn(groups: dict[str, _Group], torn: str, last: str) -> None:
    """Take out the sample in which a tar breaks off: one of its members is cut, or is missing after the tear."""
    if torn:
        groups.pop(torn, None)
    elif last in groups and set(groups[last]) < set(next(iter(groups.values()))):
        del groups[last]


def _after_last(file: IO[bytes], offset: int, size: int) -> str:
    """What is wrong where a tar should end, in words."""
    file.seek(offset)
    block = file.read(_BLOCK)
    if any(block):
        return f"its header at byte {offset} of {size} cannot be read"
    if len(block) < _BLOCK:
        return "it has no end mark, so it may be cut off"
    if size - offset > _PADDING:
        return f"{size - offset} bytes after its end mark are not read (two tars joined into one?)"
    return ""


def _not_a_tar(file: IO[bytes], error: Exception) -> str:
    file.seek(0)
    head = file.read(6)
    if head[:2] == b"\x1f\x8b" or head[:3] == b"BZh" or head[:4] == b"\x28\xb5\x2f\xfd" or head == b"\xfd7zXZ\0":
        return "it is compressed, so that no sample can be reached by itself: unpack it to a plain .tar"
    return f"it is no tar that can be read: {error}" if file.tell() else "it is empty (0 bytes)"


def find_tars(root: str) -> tuple[list[Path], dict[str, Any]]:
    """The tars that a root stands for, sorted, and what dataset.json says where a folder has one.

    Raises:
        FileNotFoundError: there are none.
        ValueError: the root is remote, or its dataset.json is none of ours.
    """
    if re.match(r"(pipe:|[a-zA-Z][a-zA-Z0-9+.-]+://)", root):
        raise ValueError(f"{root} is remote; shards are read from disk: download them first, or mount the storage")
    path = Path(root).expanduser()
    if not path.exists():
        return _by_pattern(str(path)), {}
    if not path.is_dir():
        return [path], {}
    if (path / CONTENTS).is_file():
        return _by_contents(path)
    tars = sorted(path.rglob("*.tar"))
    if not tars:
        packed = next(itertools.chain(path.rglob("*.tar.*"), path.rglob("*.tgz")), None)
        hint = f" ({packed.name} is compressed: unpack it to a plain .tar)" if packed else ""
        raise FileNotFoundError(f"there is no .tar in {path}{hint}")
    return tars, {}


def _by_contents(folder: Path) -> tuple[list[Path], dict[str, Any]]:
    try:
        contents = json.loads((folder / CONTENTS).read_text())
        names = [str(shard["name"]) for shard in contents["shards"]]
        recognised = contents["format"] == FORMAT and bool(names)
    except (ValueError, LookupError, TypeError):
        recognised = False
    if not recognised:
        raise ValueError(f"{folder / CONTENTS} is torn, or not of the format {FORMAT!r}: write the data set again")
    paths = [folder / Path(name).name for name in names]
    present = [path for path in paths if path.is_file()]
    if not present:
        raise FileNotFoundError(f"none of the {len(paths)} shards that {folder / CONTENTS} names is there")
    for path in set(paths) - set(present):
        logger.warning("%s is missing; the data set is used without it", path)
    return present, contents


def _by_pattern(root: str) -> list[Path]:
    patterns = [root]
    if "{" in root:
        from webdataset.shardlists import expand_urls  # type: ignore[import-untyped]

        patterns = expand_urls(root)
    found = {each: [each] if os.path.exists(each) else sorted(glob.glob(each, recursive=True)) for each in patterns}
    missing = [each for each, paths in found.items() if not paths]
    if missing:
        of = f" ({len(missing)} of the {len(patterns)} that {root} names)" if len(patterns) > 1 else ""
        raise FileNotFoundError(f"there is no {missing[0]}{of}")
    return [Path(each) for each in dict.fromkeys(itertools.chain.from_iterable(found.values()))]
