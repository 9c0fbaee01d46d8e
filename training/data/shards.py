"""Data sets as tar shards in the format of webdataset: written once, then read sample by sample in any order."""

from __future__ import annotations

import io
import itertools
import json
import logging
import os
import re
import shutil
import tarfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image
import torch
from pydantic import PositiveInt, TypeAdapter
from torch import Tensor
from tqdm import tqdm

from jepa_hub.masking.draws import keyed, keyed_order
from training.data.clip_window import WindowSettings, read_window
from training.data.decoding import read_image, reading
from training.data.source import EPOCH_ORDER, Label, Sample, SampleError, Source, check_pixels
from training.data.tar_index import CONTENTS, FORMAT, TarIndex, find_tars, index_tar

logger = logging.getLogger(__name__)

_MAX_TEXT = 16 << 20  # bytes of a json or txt member
_MAX_STACK = 80_000_000  # pixels of the frames of a clip in one PNG; Pillow warns from 89 million on
_JSON = "json:"  # prefix of a setting that names a field of the json member
_LABELS = TypeAdapter(dict[str, Label])


def write_shards(
    folder: Path,
    samples: Iterable[Sample],
    *,
    kind: Literal["image", "clip"],
    labels: dict[str, Label],
    total: int,
    samples_per_shard: int = 1000,
    description: str = "",
) -> None:
    """Write samples to `folder` as tar shards that `Shards` and webdataset read; pixels are kept exactly (PNG).

    It writes beside `folder` and renames, so that `folder` is complete or absent. When `folder` is there already, by an
    earlier call or by another process meanwhile, that one is left as it is.

    Args:
        folder: to be made.
        samples: in the order to write; their places in it become their numbers.
        kind: of the samples; the frames of a clip are stacked from top to bottom in one picture.
        labels: what the labels of the samples mean.
        total: number of samples.
        samples_per_shard: the last shard may hold fewer.
        description: of the data set, kept in dataset.json.

    Raises:
        FileExistsError: `folder` holds something else.
        ValueError: a sample does not fit `kind` or `labels`, or there are more or fewer than `total`.
    """
    if total < 1 or samples_per_shard < 1:
        raise ValueError(f"total and samples_per_shard are 1 or more, got {total} and {samples_per_shard}")
    if _complete(folder):
        logger.warning("%s is there already and is left as it is", folder)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    # the random part: in containers every process may have the same id
    unfinished = folder.with_name(f"{folder.name}.unfinished-{os.getpid()}-{os.urandom(3).hex()}")
    unfinished.mkdir()
    try:
        shards = _write_tars(unfinished, samples, kind, labels, total, samples_per_shard)
        contents = {
            "format": FORMAT,
            "kind": kind,
            "description": description,
            "num_samples": total,
            "labels": _LABELS.dump_python(labels, mode="json"),
            "shards": shards,
        }
        (unfinished / CONTENTS).write_text(json.dumps(contents, indent=1))
        try:
            unfinished.rename(folder)
        except OSError:
            if not _complete(folder):
                raise
            logger.warning("%s was written by another process meanwhile; that one is used", folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _complete(folder: Path) -> bool:
    if (folder / CONTENTS).is_file():
        return True
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is no data set of ours (no {CONTENTS}): move it, or choose another")
    return False


def _write_tars(
    folder: Path, samples: Iterable[Sample], kind: str, labels: dict[str, Label], total: int, per_shard: int
) -> list[dict[str, Any]]:
    """Write the tars; the list of them for dataset.json."""
    shards: list[dict[str, Any]] = []
    written = 0
    remaining = iter(tqdm(samples, total=total, unit="sample", desc=f"writing {folder.name.split('.unfinished')[0]}"))
    while batch := list(itertools.islice(remaining, 1)):
        path = folder / f"{len(shards):06d}.tar"
        start = written
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for sample in itertools.chain(batch, itertools.islice(remaining, per_shard - 1)):
                _add(tar, written, sample, kind, labels)
                written += 1
        index_tar(path)  # so that readers need not scan, and a folder made here may be read-only
        shards.append({"name": path.name, "samples": written - start, "bytes": path.stat().st_size})
        if written > total:
            break
    if written != total:
        raise ValueError(f"{total} samples were announced, but {'more' if written > total else written} came")
    return shards


def _add(tar: tarfile.TarFile, number: int, sample: Sample, kind: str, labels: dict[str, Label]) -> None:
    if set(sample.labels) != set(labels):
        raise ValueError(f"sample {number} has the labels {sorted(sample.labels)}, not {sorted(labels)} as announced")
    try:
        pixels = check_pixels(sample.pixels, kind, f"sample {number}")
    except SampleError as error:
        raise ValueError(str(error)) from error
    frames = pixels.shape[1] if kind == "clip" else 1
    if kind == "clip" and pixels[0].numel() > _MAX_STACK:
        raise ValueError(
            f"sample {number}: a clip of {tuple(pixels.shape)} is too large for one picture; keep it as mp4"
        )
    rows = pixels.movedim(0, -1).reshape(-1, pixels.shape[-1], 3)  # [F*H, W, 3]
    picture = io.BytesIO()
    PIL.Image.fromarray(rows.contiguous().numpy()).save(picture, "PNG")
    text = {"labels": sample.labels, "captions": sample.captions, "details": sample.details, "frames": frames}
    members = {"png": picture.getvalue(), "json": json.dumps(text, default=_plain).encode()}
    for suffix, data in members.items():
        member = tarfile.TarInfo(f"{number:08d}.{suffix}")  # without times and owners: the same data, the same bytes
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))


def _plain(value: Any) -> Any:
    """Arrays, tensors, numpy numbers and paths for json."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"labels and details are kept as json, which has no {type(value).__name__}: {value!r}")


class ShardsSettings(WindowSettings):
    """Where the shards are and what in them is what; a folder of `write_shards` needs only `root`.

    Attributes:
        root: a folder of tars, one tar, or a pattern such as data/train-{000..099}.tar or data/*.tar.
        kind: image or clip; None finds out.
        image_keys, video_keys: suffixes of the members to decode.
        label_key: the member with the label (cls), or a field of the json member (json:species); None takes cls where
            every sample has it.
        label_kind: what the label is.
        num_classes: None finds out, for the label cls.
        caption_keys: members and fields with text; those that are there are used.
        mixed_shards: an epoch takes samples from so many shards at a time; more mix better, fewer read more evenly.
        frames, frame_step, fps: the clip to cut out of each video.
    """

    root: str
    kind: Literal["image", "clip"] | None = None
    image_keys: tuple[str, ...] = ("jpg", "jpeg", "png", "webp", "bmp", "ppm")
    video_keys: tuple[str, ...] = ("mp4", "webm", "avi", "mkv", "mov", "m4v", "mpg")
    label_key: str | None = None
    label_kind: Literal["class", "number"] = "class"
    num_classes: PositiveInt | None = None
    caption_keys: tuple[str, ...] = ("txt", "caption", "json:caption")
    mixed_shards: PositiveInt = 8


class Shards(Source):
    """Samples of tar shards, each reached by one seek, so that any order and number of workers cost the same.

    Args:
        settings: see ShardsSettings.

    Attributes:
        damaged: what cannot be used of which tar, in words; reported once here, and training goes on with the rest.

    Raises:
        FileNotFoundError: there is no such folder or tar.
        ValueError: the root is remote, holds no sample, or does not fit the settings.
    """

    Settings = ShardsSettings

    def __init__(self, settings: ShardsSettings) -> None:
        self.settings = settings
        paths, self._contents = find_tars(settings.root)
        with ThreadPoolExecutor(8) as pool:  # on a network disk, opening is waiting
            self._tars: list[TarIndex] = list(
                tqdm(pool.map(index_tar, paths), total=len(paths), desc="indexing tars", disable=None)
            )
        self.damaged = {str(tar.path): tar.damage for tar in self._tars if tar.damage}
        self._check_contents()
        self._own = bool(self._contents)
        self.kind, self._keys = self._find_kind()
        having = [tar.having(self._keys) for tar in self._tars]
        self._rows = [rows.nonzero()[0] for rows in having]
        self._ends = np.cumsum([len(rows) for rows in self._rows])
        for path, text in self.damaged.items():
            logger.warning("%s: %s; the readable part is used", path, text)
        without = sum(int((~rows).sum()) for rows in having)
        if without:
            logger.warning("%d samples of %s have none of %s and are left out", without, settings.root, self._keys)
        self._labels = self._find_labels()

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def labels(self) -> dict[str, Label]:
        """The labels of dataset.json, or "class" or the last word of `label_key`; empty when there are none."""
        return self._labels

    def order(self, seed: int, epoch: int) -> Tensor:
        """Shards in random order, the samples of `mixed_shards` of them mixed at a time: int64 [N], a permutation."""
        key = keyed(seed, epoch, EPOCH_ORDER)
        place = torch.empty(len(self._tars), dtype=torch.int64)
        place[keyed_order(keyed(key, 1), len(self._tars)).argsort()] = torch.arange(len(self._tars))
        sizes = torch.tensor([len(rows) for rows in self._rows])
        window = (place // self.settings.mixed_shards).repeat_interleave(sizes)  # [N]
        mixed = keyed_order(keyed(key, 2), len(self)).argsort()  # [N]
        return mixed[window[mixed].argsort(stable=True)]

    def read(self, index: int, key: int) -> Sample:
        """Sample `index`; `key` decides which window of a video is taken."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        shard = int(np.searchsorted(self._ends, index, side="right"))
        tar = self._tars[shard]
        row = int(self._rows[shard][index - self._ends[shard]])  # from the end, which a negative number counts from
        members, name = tar.sample(row), f"{tar.path}: {tar.keys[row]}"
        wanted = ("json", *(() if self._own else (self._label_key, *self.settings.caption_keys)))
        texts = {each for each in wanted if each in members}
        suffix = next(suffix for suffix in self._keys if suffix in members)
        what = f"{name}.{suffix}"
        with reading(name), tar.path.open("rb", buffering=0) as file:
            media = _take(file, *members[suffix], name)
            fields = {each: _text(file, *members[each], f"{name}.{each}") for each in texts}
        if self._own:
            return self._own_sample(index, read_image(media, what), fields.get("json"), what)
        pixels = read_image(media, what) if self.kind == "image" else read_window(media, self.settings, key, what)
        found = (_field(fields, each) for each in self.settings.caption_keys)
        captions = tuple(text for text in found if isinstance(text, str) and text)
        details = {"path": what, **({"json": fields["json"]} if "json" in fields else {})}
        return Sample(index, pixels, self._label(fields, name), captions, details)

    @property
    def _label_key(self) -> str:
        return self.settings.label_key or "cls"

    def _own_sample(self, index: int, pixels: Tensor, text: Any, what: str) -> Sample:
        try:
            frames, labels = int(text["frames"]), {name: text["labels"][name] for name in self._labels}
            captions, details = tuple(text["captions"]), text["details"]
        except (TypeError, LookupError, ValueError) as error:
            raise SampleError(f"{what}: its json member is not as write_shards makes it ({error!r})") from error
        if self.kind == "clip":
            if frames < 1 or pixels.shape[1] % frames:
                raise SampleError(f"{what}: {pixels.shape[1]} rows are no stack of {frames} frames")
            pixels = pixels.unflatten(1, (frames, -1))  # [3, F, H, W]
        return Sample(index, pixels, labels, captions, details)

    def _label(self, fields: dict[str, Any], name: str) -> dict[str, int | float]:
        labels: dict[str, int | float] = {}
        for label, spec in self._labels.items():
            value = _field(fields, self._label_key)
            try:
                labels[label] = int(value) if spec.kind == "class" else float(value)
            except (TypeError, ValueError):
                raise SampleError(f"{name}: {value!r} at {self._label_key} is no {spec.kind} label") from None
            if spec.num_classes and not 0 <= labels[label] < spec.num_classes:
                raise SampleError(f"{name}: class {value} is not among the {spec.num_classes} classes")
        return labels

    def _check_contents(self) -> None:
        """Compare the shards with what dataset.json says of them."""
        listed = {shard["name"]: shard for shard in self._contents.get("shards", ())}
        for tar in self._tars:
            shard = listed.get(tar.path.name)
            if shard and not tar.damage and len(tar.keys) != shard["samples"]:
                self.damaged[str(tar.path)] = f"it holds {len(tar.keys)} samples, not {shard['samples']}"
        if self._contents and self.settings.label_key:
            raise ValueError(f"{self.settings.root} has its own labels ({CONTENTS}); leave label_key out")

    def _find_kind(self) -> tuple[Literal["image", "clip"], tuple[str, ...]]:
        """Pictures or clips, and the suffixes of the members that hold them."""
        asked, keys = self.settings.kind, dict[str, tuple[str, ...]]()
        if self._own:
            kind = self._contents["kind"]
            if asked not in (None, kind):
                raise ValueError(f"{self.settings.root} holds samples of kind {kind}, not {asked}")
            counts = {kind: sum(len(tar.keys) for tar in self._tars)}
            keys[kind] = ("png",)
        else:
            keys = {"image": self.settings.image_keys, "clip": self.settings.video_keys}
            counts = {kind: sum(int(tar.having(keys[kind]).sum()) for tar in self._tars) for kind in keys}
        kinds: list[Any] = [kind for kind in counts if counts[kind] and asked in (None, kind)]
        if len(kinds) == 2:
            raise ValueError(
                f"{self.settings.root} holds {counts['image']} pictures and {counts['clip']} videos: say which with"
                " kind: image or kind: clip"
            )
        if not kinds:
            raise ValueError(self._nothing())
        return kinds[0], tuple(key.lower() for key in keys[kinds[0]])

    def _nothing(self) -> str:
        """The error for a root without samples."""
        found = sorted({suffix for tar in self._tars for suffix in tar.suffixes})
        reasons = "; ".join(f"{path}: {text}" for path, text in itertools.islice(self.damaged.items(), 3))
        holds = f"its members end in {', '.join(found)}" if found else "its tars hold no member with a suffix"
        wanted = self.settings.image_keys + self.settings.video_keys
        return (
            f"no sample in {self.settings.root}: {holds}, where one of {', '.join(wanted)} is expected (image_keys and"
            f" video_keys){'. ' * bool(reasons)}{reasons}"
        )

    def _find_labels(self) -> dict[str, Label]:
        if self._own:
            return _LABELS.validate_python(self._contents["labels"])
        key, classes = self.settings.label_key, self.settings.num_classes
        if key is None:
            used = [tar for tar, rows in zip(self._tars, self._rows, strict=True) if len(rows)]
            if not all(tar.having(["cls"])[rows].all() for tar, rows in zip(self._tars, self._rows, strict=True)):
                return {}
            if not classes and any(tar.highest_class is None or (tar.lowest_class or 0) < 0 for tar in used):
                logger.warning("%s: .cls members are no classes 0, 1, ..., so there are no labels", self.settings.root)
                return {}
        name = "class" if key in (None, "cls") else re.split("[:.]", self._label_key)[-1]
        if self.settings.label_kind == "number":
            return {name: Label("number")}
        if classes is None and key in (None, "cls"):
            classes = 1 + max((tar.highest_class for tar in self._tars if tar.highest_class is not None), default=-1)
        if not classes:
            raise ValueError(f"label_key {key!r} needs num_classes (or label_kind: number)")
        return {name: Label("class", classes)}


def _take(file: Any, offset: int, size: int, name: str) -> bytes:
    file.seek(offset)
    data = bytearray()
    while len(data) < size and (block := file.read(size - len(data))):
        data += block
    if len(data) < size:
        raise SampleError(f"{name}: the tar has become shorter since it was indexed")
    return bytes(data)


def _text(file: Any, offset: int, size: int, what: str) -> Any:
    """What a member says: the content of a json member, else text without blanks around it."""
    if size > _MAX_TEXT:
        raise SampleError(f"{what} has {size} bytes; up to {_MAX_TEXT} are read as text")
    data = _take(file, offset, size, what)
    try:
        return json.loads(data) if what.endswith(".json") else data.decode().strip()
    except ValueError as error:
        raise SampleError(f"{what} cannot be read: {error}") from error


def _field(fields: dict[str, Any], key: str) -> Any:
    """The text of a member, or a field of the json member (json:a.b); None when there is none."""
    if not key.startswith(_JSON):
        return fields.get(key)
    value = fields.get("json")
    for part in key.removeprefix(_JSON).split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
