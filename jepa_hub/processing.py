"""JEPAProcessor: images and videos in, normalised pixels and frame times out; the same way at training and at use.

No random augmentation here. Decoding is in media.py and video.py, the arithmetic of sizes in resizing.py.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections import UserDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from jepa_hub.catalog_row import Preprocessing
from jepa_hub.media import resizing
from jepa_hub.media.clips import Sampling
from jepa_hub.media.pixels import Frames
from jepa_hub.media.reading import Request, fit_tubelets, read_inputs
from jepa_hub.processor_files import check_names, row_settings, write_settings

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CHUNK_VALUES = 1 << 25  # pixel values turned into floats at a time


class Inputs(UserDict[str, Tensor]):
    """What a processor hands to a model: a mapping whose only key is "pixel_values", so that `model(**inputs)` works.

    Attributes:
        pixel_values: float32 [B, 3, F, H, W], normalised; an image is a clip of one frame.
        frame_times: float64 [B, F] seconds, on the CPU; None for images, and for arrays, which carry no times.
    """

    def __init__(self, data: Mapping[str, Tensor], *, frame_times: Tensor | None = None) -> None:
        if set(data) != {"pixel_values"}:
            raise ValueError(f"Inputs hold pixel_values and nothing else; got {sorted(data)}")
        super().__init__(data)
        self.frame_times = frame_times

    @property
    def pixel_values(self) -> Tensor:
        """Normalised pixels [B, 3, F, H, W]."""
        return self["pixel_values"]

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None, *, non_blocking: bool = False
    ) -> Inputs:
        """The same inputs elsewhere or in another floating type; frame times stay exact, on the CPU.

        Raises:
            TypeError: `dtype` is not a floating type.
        """
        if dtype is not None and not dtype.is_floating_point:
            raise TypeError(f"pixel values are floating numbers; dtype={dtype} would lose them")
        pixels = self.pixel_values.to(device=device, dtype=dtype, non_blocking=non_blocking)
        return type(self)({"pixel_values": pixels}, frame_times=self.frame_times)


@dataclass(frozen=True, kw_only=True)
class JEPAProcessor:
    """Turns images and videos into what a JEPA takes. `from_pretrained` knows the settings of a checkpoint.

    Attributes:
        image_size: side, or (height, width), of what the model gets; None with aspect="native".
        resize: shortest edge before the centre crop; None: what the crop needs.
        aspect: "crop" resizes the shortest edge and cuts the centre; "squash" ignores the shape; "pad" fits all of it
            inside and fills up with the mean colour (0 after normalisation); "native" keeps size and shape (with
            `resize`: the shape only).
        mean, std: per channel, after rescaling.
        rescale: what uint8 levels are multiplied by.
        interpolation: "bilinear" or "bicubic", with antialiasing.
        patch_size: pixels; sizes that are no multiple of it are refused. None: unknown, not checked.
        tubelet_size: frames per token; frame counts that are no multiple of it are refused. 1: an image model.
        num_frames, fps, frame_step: how files are sampled when a call does not say: the first of them that is set.
        multiple: what to do with a native size that is no multiple of the patch: "error", "pad" (right and bottom, with
            the mean colour) or "crop" (the centre).
        crop_rounding: an odd border is split by rounding half to "even" (torchvision, the official code) or "down"
            (transformers); one pixel apart.

    Raises:
        ValueError: settings that contradict each other.
    """

    image_size: int | tuple[int, int] | None = None
    resize: int | None = None
    aspect: resizing.Aspect = "crop"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    rescale: float = 1 / 255
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    patch_size: int | None = None
    tubelet_size: int = 1
    num_frames: int | None = None
    fps: float | None = None
    frame_step: int | None = None
    multiple: Literal["error", "pad", "crop"] = "error"
    crop_rounding: Literal["even", "down"] = "even"

    def __post_init__(self) -> None:
        if isinstance(self.image_size, list):
            object.__setattr__(self, "image_size", tuple(self.image_size))
        for name in ("mean", "std"):
            value: Any = getattr(self, name)
            value = (value,) * 3 if isinstance(value, (int, float)) else value
            object.__setattr__(self, name, tuple(float(each) for each in value))
        _check_settings(self)

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        *,
        preprocessing: Literal["official", "as_stored"] = "official",
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        subfolder: str = "",
        **overrides: Any,
    ) -> JEPAProcessor:
        """The processor of a checkpoint: its stored file, or the catalog's row where it stores none.

        The four facebook/ijepa_* repositories store the defaults of their conversion (square, mean and std 0.5); for
        them "official" gives the authors' preprocessing instead, and "as_stored" the numbers of transformers.

        Args:
            name: catalog name, Hub id, folder, or official file.
            preprocessing: "official" or "as_stored".
            revision, cache_dir, token, local_files_only, subfolder: as in huggingface_hub.
            overrides: attributes of this class. A new image_size scales `resize` with it.

        Raises:
            TypeError: an override that is no attribute.
            ValueError: nothing says how to preprocess, or the stored file asks for steps this class does not have.
            OSError: the repository is unknown or cannot be reached.
        """
        from jepa_hub.processor_lookup import find_settings  # reaches for the Hub: imported where used

        known = [each.name for each in dataclasses.fields(cls)]
        check_names(overrides, known)
        hub = {
            "revision": revision,
            "cache_dir": cache_dir,
            "token": token,
            "local_files_only": local_files_only,
            "subfolder": subfolder,
        }
        return cls(**find_settings(os.fspath(name), preprocessing, hub, overrides, known))

    @classmethod
    def from_checkpoint(
        cls, preprocessing: Preprocessing, patch_size: int | None = None, tubelet_size: int = 1
    ) -> JEPAProcessor:
        """The processor a catalog row describes."""
        return cls(**row_settings(preprocessing), patch_size=patch_size, tubelet_size=tubelet_size)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> Path:
        """Write preprocessor_config.json (image model) or video_preprocessor_config.json (video model); its path.

        `from_pretrained(folder)` gives back an equal processor; transformers' own processors read the same file where
        they can do the same.
        """
        return write_settings(Path(folder), dataclasses.asdict(self))

    def __call__(
        self,
        inputs: Any,
        *,
        num_frames: int | None = None,
        fps: float | None = None,
        stride: int | None = None,
        times: Sequence[float] | None = None,
        start: float = 0.0,
        end: float | None = None,
        odd_frames: Literal["error", "pad", "drop"] = "error",
        layout: str | None = None,
        device: torch.device | str | None = None,
    ) -> Inputs:
        """Normalised pixels of one or several images, or of one or several videos, with the times of their frames.

        What something is, is read from its content. An image is a clip of one frame, also for a video model, which
        repeats it to fill a tubelet; with `num_frames` it is repeated that often here. A video file is sampled by the
        processor's own num_frames, fps or frame_step when the call gives no rule (all frames of a file that has fewer
        than num_frames); frames in memory are taken whole.

        Args:
            inputs: a path, http(s) URL, bytes, binary file, PIL image, array or Clip, or a list of them (all images or
                all videos). Arrays are uint8, uint16 or floating in [0, 1]; images [H, W], [H, W, C], [C, H, W], videos
                [F, H, W, C], [F, C, H, W], with C = 1 to 4. An animated GIF is a video. EXIF orientation is applied,
                transparency is laid over white, 16 bit are scaled.
            num_frames, fps, stride, times: which frames of videos, one of the four; see `video.read_frames`.
            start, end: the span to choose from, in seconds.
            odd_frames: a frame count that is no multiple of tubelet_size, or fewer frames than num_frames: "error",
                "pad" (repeats the last frame, and its time), "drop" (drops the last ones of an incomplete tubelet).
            layout: the axes of arrays by name, such as "CHW", "FHWC" or "BCHW", where the shape is ambiguous.
            device: where to compute, and where the pixels end up.

        Raises:
            TypeError: something that is no image or video, or a number type whose range is unknown.
            MediaError: an unreadable file (a ValueError that names it).
            ValueError: pixels outside [0, 1] or NaN, ambiguous shapes, images mixed with videos, clips of different
                lengths, a size that is no multiple of the patch, an odd frame count.
        """
        if odd_frames not in ("error", "pad", "drop"):
            raise ValueError(f"odd_frames is 'error', 'pad' or 'drop'; got {odd_frames!r}")
        short: Literal["error", "repeat"] = "repeat" if odd_frames == "pad" else "error"
        sampling = Sampling(num_frames, fps, stride, times, start, end, short=short)
        request = Request(
            sampling, self._for_files(start, end), layout, self.tubelet_size == 1 and self.num_frames is None
        )
        loaded = [fit_tubelets(each, self.tubelet_size, odd_frames) for each in read_inputs(inputs, request)]
        lengths = {len(each.levels): each.name for each in loaded}
        if len(lengths) > 1:
            found = ", ".join(f"{name}: {count}" for count, name in sorted(lengths.items()))
            raise ValueError(f"the clips have different numbers of frames ({found}); choose the same with num_frames=")
        pixels = self._stack(loaded, torch.device(device) if device is not None else loaded[0].levels.device)
        if num_frames is not None and not loaded[0].is_video:
            pixels = self._repeat(pixels, num_frames, odd_frames)
        clocks = [each.times for each in loaded if each.times is not None]
        frame_times = torch.stack(clocks) if len(clocks) == len(loaded) else None  # [B, F]
        return Inputs({"pixel_values": pixels}, frame_times=frame_times)

    def _for_files(self, start: float, end: float | None) -> Sampling:
        if self.num_frames is not None:
            return Sampling(num_frames=self.num_frames, start=start, end=end, short="all")
        if self.fps is not None:
            return Sampling(fps=self.fps, start=start, end=end)
        return Sampling(stride=self.frame_step, start=start, end=end)

    def _repeat(self, pixels: Tensor, num_frames: int, odd_frames: str) -> Tensor:
        still = Frames(pixels.new_empty(num_frames, 0), True, f"an image with num_frames={num_frames}")
        count = len(fit_tubelets(still, self.tubelet_size, odd_frames).levels)
        return pixels.repeat(1, 1, count, 1, 1)  # [B, 3, F, H, W]

    def _stack(self, loaded: list[Frames], device: torch.device) -> Tensor:
        """Pixels [B, 3, F, h, w] of inputs of one length; inputs of one size are computed together."""
        plans = [self._plan(each) for each in loaded]
        sizes = {size: each.name for (_, size), each in zip(plans, loaded, strict=True)}
        if len(sizes) > 1:
            found = ", ".join(f"{name}: {size[1]} x {size[0]}" for size, name in sizes.items())
            raise ValueError(
                f"the inputs have different sizes ({found}); give one at a time, or an aspect with image_size"
            )
        count = len(loaded[0].levels)
        pixels = torch.empty(len(loaded), 3, count, *plans[0][1], device=device)  # [B, 3, F, h, w]
        slots = pixels.transpose(1, 2)  # [B, F, 3, h, w]
        groups: dict[tuple[object, ...], list[int]] = {}
        for index, each in enumerate(loaded):
            groups.setdefault((each.levels.shape[-2:], each.levels.dtype, each.levels.device), []).append(index)
        for members in groups.values():
            levels = [loaded[index].levels for index in members]
            together = levels[0] if len(levels) == 1 else torch.cat(levels)  # [K * F, 3, H, W]
            rows = torch.tensor(members).repeat_interleave(count)  # [K * F]
            columns = torch.arange(count).repeat(len(members))  # [K * F]
            done = 0
            for part in self._normalised(together, plans[members[0]][0], device):
                taken = slice(done, done + len(part))
                slots[rows[taken].to(device), columns[taken].to(device)] = part
                done += len(part)
        return pixels

    def _plan(self, frames: Frames) -> tuple[resizing.Geometry, tuple[int, int]]:
        """What happens to these frames, and the size they end up with."""
        size = (frames.levels.shape[-2], frames.levels.shape[-1])
        geometry = resizing.plan(
            size,
            image_size=(self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size,
            resize=self.resize,
            aspect=self.aspect,
            patch_size=self.patch_size,
            multiple=self.multiple,
            crop_rounding=self.crop_rounding,
            name=frames.name,
        )
        return geometry, geometry.final(size)

    def _normalised(self, levels: Tensor, geometry: resizing.Geometry, device: torch.device) -> Iterator[Tensor]:
        """Normalised float32 [f, 3, h, w], a few frames at a time to bound memory."""
        scale = torch.tensor([self.rescale / std for std in self.std], device=device).view(3, 1, 1)
        shift = torch.tensor([mean / std for mean, std in zip(self.mean, self.std, strict=True)], device=device)
        largest = max(math.prod(levels.shape[-2:]), math.prod(geometry.resized or (1,)))
        for chunk in levels.split(max(1, _CHUNK_VALUES // (3 * largest))):
            cut = resizing.apply(chunk.to(device), geometry, self.interpolation)  # [f, 3, h, w]
            cut = cut.to(torch.float32, copy=True).mul_(scale).sub_(shift.view(3, 1, 1))
            yield F.pad(cut, geometry.pad) if geometry.pad else cut

    def to_image(self, pixels: Tensor) -> Tensor:
        """Pixels as uint8 pictures for display, channels last; what `PIL.Image.fromarray` and matplotlib take.

        Args:
            pixels: normalised [3, H, W], [B, 3, H, W] or [B, 3, F, H, W].

        Returns:
            uint8 [H, W, 3], [B, H, W, 3] or [B, F, H, W, 3], on the CPU.

        Raises:
            ValueError: another shape.
        """
        axis = {3: 0, 4: 1, 5: 1}.get(pixels.ndim)
        if axis is None or pixels.shape[axis] != 3:
            raise ValueError(f"pixels are [3, H, W], [B, 3, H, W] or [B, 3, F, H, W]; got {tuple(pixels.shape)}")
        shown = pixels.detach().to("cpu", torch.float32).movedim(axis, -1)  # [..., H, W, 3]
        levels = (shown * torch.tensor(self.std) + torch.tensor(self.mean)) / self.rescale
        return levels.round().clamp(0, 255).to(torch.uint8)


def _check_settings(processor: JEPAProcessor) -> None:
    """Refuse settings that contradict each other, with the way out."""
    choices = {
        "aspect": get_args(resizing.Aspect),
        "interpolation": ("bilinear", "bicubic"),
        "multiple": ("error", "pad", "crop"),
        "crop_rounding": ("even", "down"),
    }
    for name, allowed in choices.items():
        if getattr(processor, name) not in allowed:
            raise ValueError(f"{name} is one of {', '.join(allowed)}; got {getattr(processor, name)!r}")
    for name in ("resize", "patch_size", "tubelet_size", "num_frames", "frame_step"):
        value = getattr(processor, name)
        optional = name != "tubelet_size"
        if not (value is None and optional) and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} is a whole number from 1 on{' or None' * optional}; got {value!r}")
    if processor.fps is not None and not 0 < processor.fps < math.inf:
        raise ValueError(f"fps is a positive number or None; got {processor.fps!r}")
    for name in ("mean", "std"):
        values = getattr(processor, name)
        if len(values) != 3 or not all(math.isfinite(value) for value in values):
            raise ValueError(f"{name} is one number per channel, three in all; got {values}")
    if min(processor.std) <= 0 or not 0 < processor.rescale < math.inf:
        raise ValueError(f"std and rescale must be positive; got {processor.std} and {processor.rescale}")
    if processor.num_frames and processor.num_frames % processor.tubelet_size:
        raise ValueError(f"num_frames={processor.num_frames} is no multiple of tubelet_size={processor.tubelet_size}")
    _check_sizes(processor)


def _check_sizes(processor: JEPAProcessor) -> None:
    size, patch, resize = processor.image_size, processor.patch_size, processor.resize
    if processor.aspect == "native":
        if size is not None:
            raise ValueError(
                "aspect='native' keeps the size of each input: leave image_size out, or choose another aspect"
            )
        if processor.multiple != "error" and patch is None:
            raise ValueError(f"multiple={processor.multiple!r} needs patch_size")
        return
    if size is None:
        raise ValueError(f"aspect={processor.aspect!r} needs image_size, a side or (height, width) in pixels")
    edges: Any = size if isinstance(size, tuple) else (size, size)
    if len(edges) != 2 or not all(isinstance(edge, int) and edge > 0 for edge in edges):
        raise ValueError(f"image_size is a side or (height, width) in pixels; got {size!r}")
    if patch and any(edge % patch for edge in edges):
        below = tuple(max(edge // patch, 1) * patch for edge in edges)
        above = tuple(-(-edge // patch) * patch for edge in edges)
        raise ValueError(
            f"image_size={size} is no multiple of patch_size={patch}: {below} or {above} (height, width) would be"
        )
    if resize is not None:
        if processor.aspect == "pad":
            raise ValueError("aspect='pad' fits the whole input inside image_size: leave resize out")
        if resize < (min(edges) if processor.aspect == "crop" else max(edges)):
            raise ValueError(f"resize={resize} is smaller than the crop, image_size={size}; make it at least as large")
