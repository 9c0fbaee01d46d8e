"""Real pictures and clips to compare an export on, and to calibrate integers with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from jepa_hub.models.graphs import Graph, is_image_model
from jepa_hub.processing import JEPAProcessor

DEFAULT_SIZE = 224


def frames_of_photo(batch: int, frames: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """Clips uint8 [B, F, H, W, 3] that pan over the photograph which matplotlib brings: real, and always there."""
    from matplotlib import cbook
    from PIL import Image

    where = str(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    with Image.open(where) as image:
        photo = torch.from_numpy(np.array(image.convert("RGB")))  # [600, 512, 3]
    draw = torch.Generator().manual_seed(seed)
    clips = []
    for _ in range(batch):
        window = int(torch.randint(160, 420, (1,), generator=draw))
        space = torch.tensor(photo.shape[:2]) - window
        start, end = (torch.rand(2, generator=draw) * space for _ in range(2))
        steps = [(start + (end - start) * index / max(frames, 2)).long().tolist() for index in range(frames)]
        cut = torch.stack([photo[top : top + window, left : left + window] for top, left in steps])  # [F, w, w, 3]
        small = F.interpolate(cut.permute(0, 3, 1, 2), size=size, mode="bilinear", antialias=True)
        clips.append(small.permute(0, 2, 3, 1))
    return torch.stack(clips).contiguous()


def pixels(
    config: Any,
    processor: JEPAProcessor | None,
    *,
    inputs: Sequence[str | Path] = (),
    batch: int = 2,
    seed: int = 0,
) -> Tensor:
    """Normalised pixels [B, 3, F, h, w] at the model's own size: of `inputs`, else of the photograph.

    Args:
        config: of the model.
        processor: its preprocessing; by default that of ImageNet models at the model's size.
        inputs: images or videos.
        batch: samples, when there are no `inputs`.
        seed: for the photograph.
    """
    size = config.image_size or DEFAULT_SIZE
    image_size = tuple(size) if isinstance(size, (list, tuple)) else size
    known = processor or JEPAProcessor(
        image_size=image_size, patch_size=config.patch_size, tubelet_size=config.tubelet_size
    )
    frames = clip_length(config)
    if inputs:
        count = None if is_image_model(config) else frames
        return torch.cat([known(str(path), num_frames=count).pixel_values for path in inputs])
    source = frames_of_photo(batch, frames, (256, 256), seed)
    return torch.cat([known(clip.numpy() if frames > 1 else clip[0].numpy()).pixel_values for clip in source])


def clip_length(config: Any) -> int:
    """Frames of a clip of this model."""
    return 1 if is_image_model(config) else config.num_frames or 8 * config.tubelet_size


def at_size(pixels: Tensor, config: Any, grid: tuple[int, int, int]) -> Tensor:
    """The same pixels [B, 3, F, H, W] with another number of tokens (T, H, W)."""
    frames = 1 if is_image_model(config) else grid[0] * config.tubelet_size
    size = (frames, grid[1] * config.patch_size, grid[2] * config.patch_size)
    if pixels.shape[2] == 1 and frames > 1:
        pixels = pixels.expand(-1, -1, frames, -1, -1)
    return F.interpolate(pixels, size=size, mode="trilinear", align_corners=False)


def random_masks(batch: int, tokens: int, targets: int, seed: int = 0) -> dict[str, Tensor]:
    """Half of the tokens seen, the rest spread over `targets` predictions, another draw for each sample."""
    draw = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(tokens, generator=draw) for _ in range(batch)])  # [B, N]
    seen = tokens // 2
    asked = (tokens - seen) // targets
    return {
        "context": order[:, :seen],
        "target": order[:, seen : seen + targets * asked].unflatten(1, (targets, asked)),
    }


def graph_inputs(
    graph: Graph, pixels: Tensor, config: Any, *, targets: int = 2, seed: int = 0, group: int = 0
) -> dict[str, Tensor]:
    """What a graph takes, from pixels [B, 3, F, H, W]; what is made from no pixels is the graph's own example."""
    grid = (max(pixels.shape[2] // config.tubelet_size, 1), *(side // config.patch_size for side in pixels.shape[-2:]))
    masks = random_masks(len(pixels), grid[0] * grid[1] * grid[2], targets, seed)
    known = {
        "pixel_values": pixels[:, :, 0] if is_image_model(config) else pixels,
        "group": torch.full((1,), group % config.num_mask_tokens),
        **masks,
    }
    if config.conditioning_size:
        draw = torch.Generator().manual_seed(seed)
        known["conditioning"] = torch.randn(len(pixels), config.conditioning_size, generator=draw)
    return {name: known.get(name, example).contiguous() for name, example in graph.inputs.items()}
