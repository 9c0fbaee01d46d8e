"""Views: what a method sees of a sample. Geometry in the workers, everything else on the device.

Crops happen where samples are read, because pictures differ in size; they travel as uint8. Flips, colours, blur and
normalisation run on whole batches on the device, with kornia where colours change. All draws are keyed by
(seed, sample, step), so they are the same in any batch and on any number of workers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from jepa_hub import photometry
from jepa_hub.masking.draws import keyed, keyed_bits
from jepa_hub.media.resizing import resize
from training.config import PhotometrySettings, ViewSettings

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CROP, COLOUR, PHOTOMETRY, FLICKER = 102, 103, 107, 110  # purposes of keys, so that no two draws of a run share one
BLOTCHES = 4  # of flicker, along each side of a frame
_TRIES = 10
_DRAWS = 2 * _TRIES + 2  # numbers that a crop takes
Box = tuple[int, int, int, int]  # top, left, height, width in pixels


def uniforms(keys: Tensor, count: int) -> Tensor:
    """`count` numbers in [0, 1) per key: [...] -> [..., count] float64."""
    return ((keyed_bits(keys, count) >> 11) & (2**53 - 1)).double() / 2**53


def crop_box(height: int, width: int, settings: ViewSettings, key: Tensor) -> Box:
    """The part of a height x width picture that a view shows.

    Area and aspect are drawn up to ten times until the box fits; then the largest centred box of an allowed aspect is
    taken, as torchvision and V-JEPA do.

    Args:
        height, width: of the picture, pixels.
        settings: crop_scale and crop_aspect.
        key: 0-d int64.
    """
    return _box(height, width, settings, uniforms(key, _DRAWS).tolist())


def _box(height: int, width: int, settings: ViewSettings, draws: list[float]) -> Box:
    low, high = settings.crop_aspect
    if settings.crop_scale is not None:
        for attempt in range(_TRIES):
            scale = settings.crop_scale[0] + draws[2 * attempt] * (settings.crop_scale[1] - settings.crop_scale[0])
            aspect = math.exp(math.log(low) + draws[2 * attempt + 1] * (math.log(high) - math.log(low)))
            area = height * width * scale
            box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < box_width <= width and 0 < box_height <= height:
                top = int(draws[-2] * (height - box_height + 1))
                left = int(draws[-1] * (width - box_width + 1))
                return top, left, box_height, box_width
    aspect = min(max(width / height, low), high) if settings.crop_scale is not None else 1.0
    box_width, box_height = min(width, round(height * aspect)), min(height, round(width / aspect))
    box_width, box_height = max(1, box_width), max(1, box_height)
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def crop(pixels: Tensor, size: tuple[int, int], settings: ViewSettings, key: Tensor) -> Tensor:
    """The view of one sample, uint8 [3, F, height, width]; all frames of a clip share the crop.

    Args:
        pixels: uint8 [3, H, W] or [3, F, H, W].
        size: (height, width) of the view.
        settings: of views.
        key: 0-d int64.
    """
    return crops([pixels], size, settings, key[None])[0]


def crops(pixels: Sequence[Tensor], size: tuple[int, int], settings: ViewSettings, keys: Tensor) -> list[Tensor]:
    """The views of several samples; see `crop`. Drawing for all of them at once is several times faster.

    Args:
        pixels: of each sample.
        size, settings: see `crop`.
        keys: int64 [B].
    """
    draws = uniforms(keys, _DRAWS).tolist()
    return [_crop(each, size, settings, row) for each, row in zip(pixels, draws, strict=True)]


def _crop(pixels: Tensor, size: tuple[int, int], settings: ViewSettings, draws: list[float]) -> Tensor:
    clip = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels  # [3, F, H, W]
    top, left, height, width = _box(clip.shape[2], clip.shape[3], settings, draws)
    part = clip[:, :, top : top + height, left : left + width].transpose(0, 1)  # [F, 3, h, w]
    return resize(part.contiguous(), size, settings.interpolation).transpose(0, 1).contiguous()  # [3, F, height, width]


def blotches(keys: Tensor, frames: int, size: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Soft blotches of light, others in every frame: [B, 1, F, H, W], of standard deviation 1 at their centres.

    Args:
        keys: int64 [B], on the CPU.
        frames: F.
        size: (H, W).
        device: of what is returned; the draws are the same on all.
    """
    draws = uniforms(keys, frames * BLOTCHES**2).clamp(1e-12, 1 - 1e-12)
    coarse = torch.special.ndtri(draws).float().view(-1, frames, BLOTCHES, BLOTCHES)
    return F.interpolate(coarse.to(device), list(size), mode="bilinear", align_corners=True)[:, None]


class DeviceViews:
    """The part of a view that runs on the device: uint8 crops to normalised pixels.

    Args:
        settings: of views.
        seed: of the run.
    """

    def __init__(self, settings: ViewSettings, seed: int) -> None:
        self.settings, self.seed = settings, seed

    def __call__(
        self, crops: Tensor, index: Tensor, step: int, dtype: torch.dtype = torch.float32, view: int = 0
    ) -> Tensor:
        """Normalised pixels [B, 3, F, H, W].

        Args:
            crops: uint8 [B, 3, F, H, W], on the device.
            index: int64 [B], sample numbers, on the CPU.
            step: optimizer step.
            dtype: of the result.
            view: which view of the samples these are; each is drawn on its own.
        """
        key = keyed(self.seed, step, index, COLOUR, view) if view else keyed(self.seed, step, index, COLOUR)
        draws = uniforms(key, 12)  # [B, 12], on the CPU
        pixels = self._flipped(crops.to(dtype) / 255, draws)
        wanted = self.settings
        if wanted.colour_jitter or wanted.grayscale or wanted.blur or wanted.solarize or wanted.equalize:
            pixels = self._colours(pixels, draws.to(crops.device, torch.float32))
        if wanted.flicker:
            keys = keyed(self.seed, step, index, FLICKER, view)
            light = blotches(keys, pixels.shape[2], pixels.shape[3:], pixels.device)
            pixels = (pixels + wanted.flicker * light).clamp(0, 1)
        return normalised(pixels)

    def pair(
        self,
        crops: Tensor,
        index: Tensor,
        step: int,
        settings: PhotometrySettings,
        dtype: torch.dtype = torch.float32,
    ) -> dict[str, Tensor]:
        """Two views that share all geometry: "pixels", the source; "target_pixels"; and their "conditioning" [B, 7].

        Args:
            crops, index, step, dtype: see `__call__`.
            settings: of the colours.
        """
        draws = uniforms(keyed(self.seed, step, index, COLOUR), 12)  # [B, 12]: the same flips as without a second view
        pixels = self._flipped(crops.to(dtype) / 255, draws)
        source, target = photometric_draws(settings, keyed(self.seed, step, index, PHOTOMETRY))  # [B, 7] each
        told = photometry.conditioning(target, source)
        source, target, told = (each.to(crops.device, dtype, non_blocking=True) for each in (source, target, told))
        return {
            "pixels": normalised(photometry.apply(pixels, source)),
            "target_pixels": normalised(photometry.apply(pixels, target)),
            "conditioning": told,
        }

    def _flipped(self, pixels: Tensor, draws: Tensor) -> Tensor:
        if not self.settings.flip:
            return pixels
        chosen = (draws[:, 0] < self.settings.flip).to(pixels.device, non_blocking=True)
        return torch.where(chosen[:, None, None, None, None], pixels.flip(-1), pixels)

    def _colours(self, pixels: Tensor, draws: Tensor) -> Tensor:
        """Brightness, contrast, saturation, hue, grey, blur, solarize, equalize; the same for all frames of a clip."""
        import kornia

        frames = pixels.shape[2]
        flat = pixels.transpose(1, 2).flatten(0, 1)  # [B*F, 3, H, W]

        def each(values: Tensor) -> Tensor:
            return values.repeat_interleave(frames)  # [B*F]

        if self.settings.colour_jitter:
            brightness, contrast, saturation, hue = self.settings.colour_jitter
            signed = 2 * draws[:, 1:5] - 1  # [B, 4] in [-1, 1)
            before = flat
            flat = kornia.enhance.adjust_brightness_accumulative(flat, each(1 + brightness * signed[:, 0]).clamp_min(0))
            flat = kornia.enhance.adjust_contrast_with_mean_subtraction(flat, each(1 + contrast * signed[:, 1]))
            if saturation:
                flat = kornia.enhance.adjust_saturation_with_gray_subtraction(flat, each(1 + saturation * signed[:, 2]))
            if hue:
                flat = kornia.enhance.adjust_hue(flat, each(2 * math.pi * hue * signed[:, 3]))
            if self.settings.jitter < 1:
                flat = torch.where((each(draws[:, 8]) < self.settings.jitter)[:, None, None, None], flat, before)
        if self.settings.grayscale:
            grey = kornia.color.rgb_to_grayscale(flat).expand_as(flat)
            flat = torch.where((each(draws[:, 5]) < self.settings.grayscale)[:, None, None, None], grey, flat)
        if self.settings.blur:
            sigma = 0.1 + 1.9 * each(draws[:, 7])
            side = max(3, int(0.1 * flat.shape[-1]) // 2 * 2 + 1)
            soft = kornia.filters.gaussian_blur2d(flat, (side, side), torch.stack([sigma, sigma], dim=1))
            flat = torch.where((each(draws[:, 6]) < self.settings.blur)[:, None, None, None], soft, flat)
        if self.settings.solarize:
            above = flat >= each(draws[:, 10])[:, None, None, None]
            chosen = (each(draws[:, 9]) < self.settings.solarize)[:, None, None, None]
            flat = torch.where(chosen & above, 1 - flat, flat)
        if self.settings.equalize:
            chosen = each(draws[:, 11]) < self.settings.equalize
            if chosen.any():
                flat = flat.clone()
                flat[chosen] = kornia.enhance.equalize(flat[chosen].clamp(0, 1))
        return flat.unflatten(0, (-1, frames)).transpose(1, 2).to(pixels.dtype)  # [B, 3, F, H, W]


def normalised(pixels: Tensor) -> Tensor:
    """Pixels [B, 3, F, H, W] in [0, 1] with ImageNet's mean and standard deviation taken out."""
    mean, std = (
        torch.tensor(values, dtype=pixels.dtype, device=pixels.device).view(1, 3, 1, 1, 1)
        for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return (pixels - mean) / std


def photometric_draws(settings: PhotometrySettings, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Parameters [B, 7] of source and target, see `jepa_hub.photometry.parameters`.

    Args:
        settings: strengths and probabilities.
        keys: int64 [B].
    """
    draws = uniforms(keys, 14).float()  # [B, 14]
    reach = torch.tensor(settings.colour_jitter)
    tables = []
    for first in (0, 5):
        table = torch.zeros(len(keys), len(photometry.NAMES))
        jittered = draws[:, first, None] < settings.jitter
        table[:, : len(reach)] = torch.where(jittered, (2 * draws[:, first + 1 : first + 5] - 1) * reach, 0.0)
        tables.append(table)
    source, target = tables
    low, high = settings.blur_std
    amounts = {"grayscale": torch.ones(len(keys)), "blur": low + (high - low) * draws[:, 13]}
    for place, name in enumerate(photometry.FLAGS):
        chosen = draws[:, 10 + place] < getattr(settings, name)
        amount = amounts.get(name, torch.ones(len(keys)))
        source[:, photometry.NAMES.index(name)] = torch.where(chosen, amount, 0.0)
    return source, target


def draw_key(seed: int, step: int, index: int, purpose: int) -> Tensor:
    """The 0-d key of one sample's draw."""
    return keyed(seed, step, torch.tensor([index]), purpose)[0]
