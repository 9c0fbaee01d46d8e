"""From a path to rows: a model with its processor, reading windows of files and encoding them in batches."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from jepa_hub import catalog, describe
from jepa_hub.embedding.store import FileInfo, Row
from jepa_hub.media.clips import Clip, MediaError, Sampling
from jepa_hub.media.sources import open_source, still_image
from jepa_hub.media.video import probe_video, read_clip
from jepa_hub.models.base import JEPAModel
from jepa_hub.models.inputs import windows
from jepa_hub.processing import JEPAProcessor

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".ogv", ".3gp")
READ_BYTES = 1 << 28  # decoded frames that one read of a long video may hold
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Settings:
    """How to embed; everything that changes a number is compared when a run goes on."""

    model: str
    tokens: bool = False
    batch_size: int = 8
    num_workers: int = 2
    num_frames: int | None = None  # of one window; None: the model's clip length
    fps: float | None = None  # None: the model's rate
    stride_frames: int | None = None  # between the starts of windows; None: num_frames
    device: str = "auto"
    dtype: str = "float32"
    stored_dtype: str = "float32"
    preprocessing: str = "official"  # or "as_stored"
    image_size: int | None = None  # None: the model's
    revision: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype {self.dtype!r}: choose one of {', '.join(DTYPES)}")
        if self.stored_dtype not in ("float32", "float16"):
            raise ValueError(f"stored dtype {self.stored_dtype!r}: choose float32 or float16")
        if self.preprocessing not in ("official", "as_stored"):
            raise ValueError(f"preprocessing {self.preprocessing!r}: choose official or as_stored")


@dataclass(frozen=True)
class Unit:
    """One image or window, ready to be encoded."""

    info: FileInfo
    window: int
    num_windows: int
    size: tuple[int, int]
    pixels: Tensor  # [1, 3, F, H, W]
    times: Tensor | None  # float64 [F]


@dataclass(frozen=True)
class Bad:
    """A file, or one window of it, that could not be embedded."""

    info: FileInfo
    error: Exception
    window: int | None = None


class Embedder:
    """A model with its processor: turns a path into pixels, and pixels into rows."""

    def __init__(self, model: Any, processor: Any, settings: Settings) -> None:
        self.model = model
        self.processor = processor
        self.settings = settings
        self.dtype = DTYPES[settings.dtype]
        config = model.config
        takes_clips = config.tubelet_size > 1 or (config.num_frames or 1) > 1
        self.num_frames = settings.num_frames or processor.num_frames or config.num_frames or 1
        self.stride_frames = settings.stride_frames or self.num_frames
        # An image model sees one frame of every second; a model of clips that knows no rate sees every frame.
        self.fps = settings.fps or processor.fps or (None if takes_clips else 1.0)
        self.frame_step = None if self.fps else processor.frame_step
        windows(self.num_frames, self.num_frames, self.stride_frames, config.tubelet_size)  # refuses what cannot be

    @classmethod
    def load(cls, settings: Settings) -> Embedder:
        """The model and processor of `settings.model`; only the network that gives features is loaded."""
        name, revision = settings.model, settings.revision
        device = choose_device(settings.device)
        model = JEPAModel.from_pretrained(name, networks=_feature_network(name), revision=revision)
        mode: Literal["official", "as_stored"] = "official" if settings.preprocessing == "official" else "as_stored"
        overrides: dict[str, Any] = {} if settings.image_size is None else {"image_size": settings.image_size}
        processor = JEPAProcessor.from_pretrained(name, preprocessing=mode, revision=revision, **overrides)
        return cls(model.to(device, DTYPES[settings.dtype]).eval(), processor, settings)

    def comparable(self) -> dict[str, Any]:
        """All that changes the numbers, as JSON values."""
        return {
            "model": self.settings.model,
            "revision": self.settings.revision,
            "weights": fingerprint(self.model.feature_encoder),
            "preprocessing": dataclasses.asdict(self.processor),
            "num_frames": self.num_frames,
            "fps": self.fps,
            "frame_step": self.frame_step,
            "stride_frames": self.stride_frames,
            "tokens": self.settings.tokens,
            "dtype": self.settings.dtype,
            "stored_dtype": self.settings.stored_dtype,
        }

    def metadata(self) -> dict[str, Any]:
        """What a reader of the vectors must know."""
        config = self.model.config
        network = "encoder" if self.model.target_encoder is None else "target_encoder"
        return {
            "model": self.settings.model,
            "licence": config.licence or "not stated",
            "family": config.model_type,
            "network": network,
            "library_version": config.library_version or "",
        }

    def plan(self, info: FileInfo, skip: Iterable[int] = ()) -> Iterator[Callable[[], list[Unit]]]:
        """Reads that together give every window of a file, but those to skip."""
        size = _image_size(info.name)
        if size is not None:
            yield functools.partial(self._read_image, info, size)
            return
        try:
            video = probe_video(info.name)
        except MediaError as error:
            if info.name.lower().endswith(VIDEO_SUFFIXES):
                raise
            raise MediaError(f"{info.name} is neither a readable image nor an animation") from error
        fps = self.fps or video.fps / (self.frame_step or 1)
        # A sample is taken where a frame is on screen; half a millisecond is what containers round by.
        samples = max(1, math.ceil((video.duration - 5e-4) * fps))
        length = min(self.num_frames, samples)
        starts = windows(samples, self.num_frames, self.stride_frames, self.model.config.tubelet_size)
        done = set(skip)
        todo = [(index, start) for index, start in enumerate(starts) if index not in done]
        frame_bytes = 3 * video.width * video.height
        together = max(1, min(self.settings.batch_size, READ_BYTES // (frame_bytes * length)))
        for first in range(0, len(todo), together):
            chosen = todo[first : first + together]
            read = functools.partial(self._read_windows, info, (video.height, video.width), chosen, len(starts))
            yield functools.partial(read, length, fps)

    def _read_image(self, info: FileInfo, size: tuple[int, int]) -> list[Unit]:
        return [Unit(info, 0, 1, size, self.processor(info.name).pixel_values, None)]

    def _read_windows(
        self, info: FileInfo, size: tuple[int, int], chosen: list[tuple[int, int]], count: int, length: int, fps: float
    ) -> list[Unit]:
        # Whole tubelets: the last moment of a short clip is repeated.
        moments = [*range(length), *[length - 1] * (-length % self.model.config.tubelet_size)]
        clip = read_clip(info.name, Sampling(times=[(start + i) / fps for _, start in chosen for i in moments]))
        units = []
        for place, (window, _) in enumerate(chosen):
            rows = slice(place * len(moments), (place + 1) * len(moments))
            part = Clip(clip.frames[rows], clip.times[rows], fps)
            units.append(Unit(info, window, count, size, self.processor(part).pixel_values, part.times))
        return units

    def encode(self, units: Sequence[Unit]) -> list[Row | Bad]:
        """Rows of units whose pixels have one shape."""
        pixels = torch.cat([unit.pixels for unit in units]).to(self.model.device, self.dtype)  # [B, 3, F, H, W]
        try:
            features = self.model.encode(pixels)
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"{pixels.device} ran out of memory with {len(units)} inputs of {tuple(pixels.shape[1:])} at once; run "
                "again with a smaller --batch-size (what is done is kept)"
            ) from error
        features = features.to(dtype=torch.float32)
        pooled = features.pooled  # [B, D]
        tokens = features.tokens if self.settings.tokens else None
        stored = DTYPES[self.settings.stored_dtype]
        rows: list[Row | Bad] = []
        for index, unit in enumerate(units):
            if not pooled[index].isfinite().all():
                rows.append(Bad(unit.info, ValueError("its features are not finite in this dtype"), unit.window))
                continue
            times = None if unit.times is None else unit.times.unflatten(0, (features.grid_size[0], -1)).mean(dim=-1)
            rows.append(
                Row(
                    unit.info,
                    unit.window,
                    unit.num_windows,
                    unit.size,
                    features.grid_size,
                    None if times is None else times.numpy(),
                    pooled[index].to(stored).cpu().numpy(),
                    None if tokens is None else tokens[index].to(stored).cpu().numpy(),
                )
            )
        return rows


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is the first of CUDA, MPS and CPU that is there.

    Raises:
        ValueError: no such device, or not on this machine.
    """
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind in has if has[kind]))
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device {name!r} is not known; write auto, cpu, cuda, cuda:1 or mps") from error
    if not has.get(device.type, True):
        raise ValueError(f"device {name!r}: this machine has none that torch can use (see `jepa-hub doctor`)")
    return device


def _image_size(path: str) -> tuple[int, int] | None:
    """(height, width) of a still image; None for a video."""
    if path.lower().endswith(VIDEO_SUFFIXES):
        return None
    with open_source(path) as source:
        image = still_image(source)
        return None if image is None else (image.height, image.width)


def fingerprint(network: torch.nn.Module) -> str:
    """A short hash of a network: names, shapes and 64 values of every tensor."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        flat = tensor.detach().flatten()
        sample = flat[:: max(1, len(flat) // 64)].float().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()[:16]


def _feature_network(name: str) -> tuple[str, ...] | None:
    """The one network that gives features, where that is known before loading; None loads what there is."""
    path = Path(name).expanduser()
    networks: Sequence[str] | None = None
    if path.is_dir() and (path / "config.json").is_file():
        networks = describe.folder_data(path)["networks"]
    elif not path.exists():
        row = catalog.find(name)
        networks = row.networks if row else None
    for network in ("target_encoder", "encoder"):
        if networks and network in networks:
            return (network,)
    return None
