"""Data sets of the Hugging Face Hub or on disk, through the datasets library: pictures, or videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jepa_hub.media.sources import is_url
from training.data.clip_window import WindowSettings, read_window
from training.data.decoding import read_image
from training.data.source import Label, Sample, SampleError, Source

_FILES = ("string", "large_string", "binary", "large_binary")  # columns with the paths or the bytes of files


class HuggingFaceSettings(WindowSettings):
    """Which data set, and what its columns are.

    Attributes:
        path: a folder of `save_to_disk`, or whatever `datasets.load_dataset` takes: a Hub id, a folder, "parquet", ...
        name: of the configuration, where a data set has several.
        split: such as train, or train[:10%].
        revision: of a data set on the Hub.
        image, video: the column to decode; None takes the only column of that type. A column of texts holds paths, one
            of bytes holds files.
        labels: columns with labels: class labels, whole numbers 0, 1, ... (classes), or floating numbers; None takes
            the columns of class labels.
        captions: columns with texts, or lists of texts.
        folder: what relative paths count from.
        frames, frame_step, fps: the clip to cut out of each video.
    """

    path: str
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    image: str | None = None
    video: str | None = None
    labels: tuple[str, ...] | None = None
    captions: tuple[str, ...] = ()
    folder: str = "."


class HuggingFace(Source):
    """Rows of a data set of the datasets library, read from its files on disk.

    Args:
        settings: see HuggingFaceSettings.

    Raises:
        ImportError: datasets is not installed.
        ValueError: it cannot be loaded, is empty, or its columns do not fit.
    """

    Settings = HuggingFaceSettings

    def __init__(self, settings: HuggingFaceSettings) -> None:
        self.settings = settings
        data = _load(settings)
        if not len(data):
            raise ValueError(f"{settings.path} has no row in its split {settings.split}")
        self.kind, self._column = _media_column(data.features, settings)
        missing = [name for name in (*(settings.labels or ()), *settings.captions) if name not in data.features]
        if missing:
            raise ValueError(f"{settings.path} has no column {missing[0]!r}; it has {', '.join(data.features)}")
        self._labels = _find_labels(data, settings)
        data = data.with_format(None).select_columns(
            list(dict.fromkeys([self._column, *self._labels, *settings.captions]))
        )
        feature = data.features[self._column]
        if hasattr(feature, "decode"):  # decoded here, within limits, and as all other sources do
            data = data.cast_column(self._column, type(feature)(decode=False))
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    @property
    def labels(self) -> dict[str, Label]:
        """What the label columns hold, by name."""
        return self._labels

    def label_values(self, name: str) -> Tensor:
        """A column of labels [N], read without the pictures."""
        return torch.tensor(self._data.select_columns([name])[:][name])

    def read(self, index: int, key: int) -> Sample:
        """Row `index`; `key` decides which window of a video is taken."""
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        row = self._data[index]
        what = f"{self.settings.path}, row {index}"
        item, path = self._media(row[self._column], what)
        what = f"{what} ({path})" if path else what
        pixels = read_image(item, what) if self.kind == "image" else read_window(item, self.settings, key, what)
        labels: dict[str, int | float] = {}
        for name, spec in self._labels.items():
            value = row[name]
            if value is None or (spec.num_classes and not 0 <= value < spec.num_classes):
                raise SampleError(f"{what}: {value!r} in column {name} is no {spec.kind} label")
            labels[name] = value
        captions: list[str] = []
        for name in self.settings.captions:
            texts = row[name] if isinstance(row[name], list) else [row[name]]
            captions += [str(text) for text in texts if text]
        return Sample(index, pixels, labels, tuple(captions), {"row": index, "path": path})

    def _media(self, value: Any, what: str) -> tuple[Path | bytes, str]:
        """The bytes or path of a cell, and what its file is called."""
        data, name = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (None, value)
        if isinstance(name, bytes):
            data, name = name, None
        if data is not None:
            return data, name or ""
        if not name:
            raise SampleError(f"{what}: column {self._column} is empty")
        if is_url(name):
            raise SampleError(f"{what}: {name} is an address; download the files first")
        return Path(self.settings.folder).expanduser() / name, name


def _load(settings: HuggingFaceSettings) -> Any:
    """The data set, map-style."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError("the source huggingface needs datasets: pip install 'jepa-hub[train]'") from error
    folder = Path(settings.path).expanduser()
    saved = any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))
    try:
        if not saved:
            return datasets.load_dataset(
                str(folder) if folder.exists() else settings.path,
                settings.name,
                split=settings.split,
                revision=settings.revision,
            )
        data = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, LookupError) as error:  # OSError: also of the Hub and of being offline
        raise ValueError(
            f"{settings.path} (split {settings.split}) cannot be loaded: {error}. Expected a folder of save_to_disk,"
            " or what load_dataset finds on this machine; a data set of the Hub is downloaded by a first run online"
        ) from error
    if isinstance(data, dict):
        if settings.split not in data:
            raise ValueError(f"{settings.path} has no split {settings.split!r}; it has {', '.join(data)}")
        data = data[settings.split]
    return data


def _media_column(features: Any, settings: HuggingFaceSettings) -> tuple[Any, str]:
    """The kind of the samples, and the column to decode."""
    import datasets

    types = {"image": datasets.Image, "clip": datasets.Video}
    asked = {"image": settings.image, "clip": settings.video}
    named = [(kind, column) for kind, column in asked.items() if column is not None]
    if len(named) > 1:
        raise ValueError(f"give image ({settings.image!r}) or video ({settings.video!r}), not both")
    columns = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
    if not named:
        found = [(kind, name) for kind, of in types.items() for name in features if isinstance(features[name], of)]
        if len(found) != 1:
            count = f"{len(found)} columns" if found else "no column"
            raise ValueError(
                f"{settings.path} has {count} of pictures or videos, so say which with image or video: {columns}"
            )
        return found[0]
    kind, column = named[0]
    if column not in features:
        raise ValueError(f"{settings.path} has no column {column!r}; it has {columns}")
    if not isinstance(features[column], types[kind]) and getattr(features[column], "dtype", "") not in _FILES:
        raise ValueError(f"column {column!r} of {settings.path} holds no {kind}s and no files; it has {columns}")
    return kind, column


def _find_labels(data: Any, settings: HuggingFaceSettings) -> dict[str, Label]:
    import datasets

    labels: dict[str, Label] = {}
    for name, feature in data.features.items():
        if name not in settings.labels if settings.labels is not None else not isinstance(feature, datasets.ClassLabel):
            continue
        dtype = str(getattr(feature, "dtype", type(feature).__name__))
        if dtype.startswith("float"):
            labels[name] = Label("number")
            continue
        if not dtype.startswith(("int", "uint")):
            raise ValueError(
                f"column {name!r} of {settings.path} is {dtype}, no label: a label is a class label, a whole number or"
                f" a floating number (texts become one by data.class_encode_column({name!r}))"
            )
        low, high = _range(data, name)
        if low < 0:  # -1 is how splits without labels are published
            if settings.labels is not None:
                raise ValueError(f"column {name!r} of {settings.path} has classes from {low} on; they start at 0")
            continue
        names = tuple(getattr(feature, "names", None) or ())
        labels[name] = Label("class", getattr(feature, "num_classes", None) or high + 1, names)
    return labels


def _range(data: Any, column: str) -> tuple[int, int]:
    """Lowest and highest value of a column of whole numbers; (-1, -1) when all are missing."""
    import pyarrow.compute

    found = pyarrow.compute.min_max(data.data.column(column)).as_py()
    return (-1, -1) if found["min"] is None else (found["min"], found["max"])
