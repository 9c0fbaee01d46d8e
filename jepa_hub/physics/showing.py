"""A picture of the simulated worlds: one pair per property, with a model's surprise if there is a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jepa_hub.physics.drawing import pair_sheet
from jepa_hub.physics.surprise import step_means, surprise
from jepa_hub.physics.templates import PROPERTIES
from jepa_hub.physics.worlds import Quadruplet, read_suite


def show_pairs(
    path: str | Path,
    *,
    model: Any = None,
    processor: Any = None,
    properties: Sequence[str] = (),
    variants: Sequence[str] = (),
    number: int = 0,
    context_frames: int = 8,
    suite: Path | None = None,
) -> Path:
    """Where the picture was written: of each property and variant the possible clip above the impossible one.

    Args:
        path: of the picture.
        model, processor: draws the surprise of every time step beside the frames; None draws frames only.
        properties: only these; all by default.
        variants: only these; by default every one that has a screen, or the only one.
        number: of the quadruplet of each variant; an even one shows what is wrong in the first direction, an odd one
            in the second.
        context_frames: that the model sees.
        suite: file of `make_suite`; the one that ships by default.

    Raises:
        ValueError: nothing is left to show.
    """
    several: dict[str, list[Quadruplet]] = {}
    for each in read_suite(suite):
        several.setdefault(each.name.rsplit("/", 1)[0], []).append(each)
    chosen = []
    for name, found in several.items():
        kind, variant = name.split("/")
        usual = not variant.endswith("_seen") or len(PROPERTIES[kind].variants) == 1
        if (variant in variants if variants else usual) and (not properties or kind in properties):
            if number >= len(found):
                raise ValueError(f"{name} has quadruplets 0 to {len(found) - 1}, not {number}")
            chosen.append(found[number])
    if not chosen:
        raise ValueError(f"nothing to show; there are {', '.join(several)}")
    side = number % 2
    pairs = []
    for each in chosen:
        kind, variant, _ = each.name.split("/")
        title = f"{PROPERTIES[kind].title} ({variant.removesuffix('_seen')}): {each.directions[side]}"
        pairs.append((title, each.clips[side], each.clips[side + 2], each.event[side]))
    steps = None if model is None else [_steps(model, processor, each, side, context_frames) for each in chosen]
    return pair_sheet(path, pairs, steps)


def _steps(model: Any, processor: Any, each: Quadruplet, side: int, context_frames: int) -> tuple[Tensor, Tensor]:
    """Surprise of the time steps of the possible and the impossible clip, [T] each."""
    clips = [torch.from_numpy(each.clips[place].copy()).permute(0, 3, 1, 2) for place in (side, side + 2)]
    pixels = processor(clips, layout="FCHW")
    maps = surprise(model, pixels, context_frames=context_frames, per_token=True)  # [2, W, T, H, W]
    means = step_means(maps)[:, 0]
    return means[0], means[1]
