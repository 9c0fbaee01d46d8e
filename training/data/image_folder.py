"""Pictures in a folder: one folder per class, as ImageNet has it, or pictures without labels in any arrangement."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from training.data.decoding import IMAGE_SUFFIXES, Names, read_image
from training.data.source import Label, Sample, Source, SourceSettings

logger = logging.getLogger(__name__)

_LAYOUT = "expected root/CLASS/.../picture.jpg, or pictures without labels anywhere under root"


class ImageFolderSettings(SourceSettings):
    """Which pictures.

    Attributes:
        root: the folder. Classes are its own folders in the order of their names, empty ones included, so that the
            folders of training and validation agree.
        labelled: whether the folders of `root` are classes; None means yes where two or more of them hold pictures and
            no picture lies beside them.
        subset: a text file of the pictures to use, one a line: paths relative to `root`, or bare file names. Classes
            stay those of the whole folder.
    """

    root: str
    labelled: bool | None = None
    subset: str | None = None


class ImageFolder(Source):
    """The pictures under a folder, sorted by path.

    Args:
        settings: see ImageFolderSettings.

    Raises:
        FileNotFoundError: there is no such folder or subset file.
        ValueError: there are no pictures, no class folders though `labelled`, or the subset names what is not there.
    """

    Settings = ImageFolderSettings
    kind = "image"

    def __init__(self, settings: ImageFolderSettings) -> None:
        self.settings = settings
        self._root = Path(settings.root).expanduser()
        if not self._root.is_dir():
            what = "is a file, not a folder" if self._root.exists() else "does not exist"
            raise FileNotFoundError(f"{self._root} {what}; {_LAYOUT}")
        classes = sorted(entry.name for entry in os.scandir(self._root) if _is_folder(entry))
        paths = sorted(_pictures(str(self._root), ""))
        if not paths:
            raise ValueError(f"there is no picture in {self._root}; {_LAYOUT} ({', '.join(sorted(IMAGE_SUFFIXES))})")
        self._classes = classes if self._has_classes(paths) else []
        if settings.subset is not None:
            paths = _only(paths, Path(settings.subset).expanduser(), self._root)
        self._number = {name: number for number, name in enumerate(self._classes)}
        self._paths = Names(paths)

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def labels(self) -> dict[str, Label]:
        """The class, when the folders are classes."""
        return {"class": Label("class", len(self._classes), tuple(self._classes))} if self._classes else {}

    def label_values(self, name: str) -> Tensor:
        """The class of every picture [N], from its path."""
        return torch.tensor([self._number[self._paths[index].split("/")[0]] for index in range(len(self))])

    def read(self, index: int, key: int) -> Sample:
        """Picture `index`; nothing in it is random."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        name = self._paths[index]
        path = self._root / name
        labels: dict[str, int | float] = {"class": self._number[name.split("/")[0]]} if self._classes else {}
        return Sample(index, read_image(path, str(path)), labels, details={"path": name})

    def _has_classes(self, paths: list[str]) -> bool:
        labelled = self.settings.labelled
        loose = [path for path in paths if "/" not in path]
        used = {path.split("/")[0] for path in paths} - set(loose)
        if labelled and loose:
            raise ValueError(
                f"{len(loose)} pictures, such as {loose[0]}, lie beside the class folders of {self._root}, so that"
                " their class is unknown; move them, or say labelled: false"
            )
        if labelled is None and loose and used:
            logger.warning("%s has pictures beside its folders (%s), so there are no labels", self._root, loose[0])
        return len(used) > 1 and not loose if labelled is None else labelled


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir() and not entry.name.startswith(".") and entry.name != "__MACOSX"


def _pictures(root: str, under: str) -> Iterator[str]:
    """Paths relative to `root`, with / between folders; hidden files and folders are passed over."""
    folder = os.path.join(root, under)
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_folder(entry):
                if not (entry.is_symlink() and _leads_back(entry.path, root, folder)):
                    yield from _pictures(root, f"{under}{entry.name}/")
            elif not entry.name.startswith(".") and os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
                yield under + entry.name


def _leads_back(link: str, *folders: str) -> bool:
    """Whether a link is to one of these folders or to one that contains it, and would be followed for ever."""
    target = os.path.realpath(link)
    return any(os.path.commonpath((target, os.path.realpath(folder))) == target for folder in folders)


def _only(paths: list[str], subset: Path, root: Path) -> list[str]:
    """Those that a text file names."""
    if not subset.is_file():
        raise FileNotFoundError(f"there is no subset file {subset}; it lists one picture of {root} a line")
    wanted = dict.fromkeys(line.strip().removeprefix("./") for line in subset.read_text().splitlines() if line.strip())
    known = set(paths)
    by_name: dict[str, list[str]] = {}
    if not all("/" in name or name in known for name in wanted):
        for path in paths:
            by_name.setdefault(path.rsplit("/", 1)[-1], []).append(path)
    found, missing = set(), []
    for name in wanted:
        matches = [name] if name in known else by_name.get(name, [])
        if len(matches) > 1:
            raise ValueError(f"{subset} names {name}, which is both {matches[0]} and {matches[1]}: give relative paths")
        found.update(matches)
        missing += [] if matches else [name]
    if missing or not found:
        some = ", ".join(missing[:3]) or "nothing"
        raise ValueError(f"{subset}: {len(missing)} of its {len(wanted)} pictures are not in {root}, e.g. {some}")
    return sorted(found)
