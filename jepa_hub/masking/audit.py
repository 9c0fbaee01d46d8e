"""How often a mask sampler shows and asks for each token, as numbers and as a picture.

`audit("multi_block_2d", (14, 14), "masks.png")` draws the faithful and the corrected sampler side by side.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from jepa_hub.masking.draws import MaskSampler, check_whole
from jepa_hub.masking.samplers import MASKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAPS_PER_LINE = 8  # time steps side by side
IMAGE_INCHES, STEP_INCHES = 2.6, 0.92  # side of a map that stands alone, and of one of several time steps
MARGIN, GAP, HEADER, PANEL_TITLE, PANEL_GAP, STEP_TITLE, BAR = 0.4, 0.1, 1.15, 0.24, 0.3, 0.19, 1.1  # inches
INK, FAINT, NEVER = "#28282e", "#6b6b75", "#d5d5da"


class Length(NamedTuple):
    """Number of tokens per sample over the batches of an audit."""

    mean: float
    least: int
    most: int

    def __str__(self) -> str:
        return f"{self.mean:.0f}" if self.least == self.most else f"{self.mean:.0f} ({self.least} to {self.most})"


@dataclass(frozen=True, eq=False)
class GroupCoverage:
    """How often each token is used by one group of masks; probabilities are float64 [T, H, W]."""

    context: Tensor  # P(token is in the context of a sample)
    target: Tensor  # P(token is in one of its targets)
    either: Tensor  # P(token is in one of them)
    context_length: Length
    target_length: Length  # of one target
    num_targets: int


@dataclass(frozen=True, eq=False)
class Coverage:
    """What a sampler did over `num_batches` batches of `batch_size` samples."""

    sampler: MaskSampler
    num_batches: int
    batch_size: int
    groups: tuple[GroupCoverage, ...]

    def plot(self, path: str | os.PathLike[str]) -> Path:
        """The path of a PNG with a heat map of context and of target per group, and per time step.

        Raises:
            ImportError: matplotlib is missing.
            OSError: the file cannot be written.
        """
        return _draw([self], path)


def coverage(sampler: MaskSampler, *, num_batches: int = 32, batch_size: int = 64, seed: int = 0) -> Coverage:
    """Per group, how often each token is context, target or either, and the lengths of both.

    Args:
        sampler: one of MASKS, built.
        num_batches: number of batches drawn, each with samples and a step of its own.
        batch_size: samples per batch; faithful samplers cut more from larger batches.
        seed: of the draws.

    Raises:
        ValueError: num_batches or batch_size is below 1.
    """
    check_whole("num_batches", num_batches, 1)
    check_whole("batch_size", batch_size, 1)
    counts: list[Tensor] = []  # per group, [3, N]: context, target, either
    sizes: list[list[tuple[int, int]]] = []  # per group and batch
    for step in range(num_batches):
        masks = sampler(range(step * batch_size, (step + 1) * batch_size), seed=seed, step=step)
        if not counts:
            counts = [torch.zeros(3, sampler.num_tokens, dtype=torch.float64) for _ in masks]
            sizes = [[] for _ in masks]
        for group, mask in enumerate(masks):
            used = torch.zeros(2, batch_size, sampler.num_tokens, dtype=torch.bool)
            used[0].scatter_(1, mask.context, True)
            used[1].scatter_(1, mask.target.flatten(1), True)
            counts[group] += torch.stack([used[0], used[1], used[0] | used[1]]).sum(1)  # [3, N]
            sizes[group].append((mask.context.shape[1], mask.target.shape[2]))
    groups = []
    for count, lengths, mask in zip(counts, sizes, masks, strict=True):
        context, target, either = (count / (num_batches * batch_size)).unflatten(1, sampler.grid_size)  # [T, H, W] each
        seen, predicted = (_length(each) for each in zip(*lengths, strict=True))
        groups.append(GroupCoverage(context, target, either, seen, predicted, mask.target.shape[1]))
    return Coverage(sampler, num_batches, batch_size, tuple(groups))


def audit(
    name: str,
    grid: tuple[int, ...],
    path: str | os.PathLike[str],
    *,
    num_batches: int = 32,
    batch_size: int = 64,
    seed: int = 0,
    **settings: Any,
) -> dict[str, Coverage]:
    """Coverage of the sampler `name` in both modes, by mode, drawn side by side into the PNG at `path`.

    Args:
        name: a key of MASKS.
        grid: (T, H, W) or (H, W) in tokens.
        path: where the picture goes.
        num_batches: number of batches drawn.
        batch_size: samples per batch.
        seed: of the draws.
        settings: of the sampler.

    Raises:
        ValueError: the name is unknown, or a setting is out of its range.
        ImportError: matplotlib is missing.
        OSError: the file cannot be written.
    """
    if name not in MASKS:
        raise ValueError(f"unknown mask sampler {name!r}; there are {', '.join(MASKS)}")
    both = {}
    for mode in ("faithful", "corrected"):
        sampler = MASKS[name](grid=grid, mode=mode, **settings)  # type: ignore[arg-type]
        both[mode] = coverage(sampler, num_batches=num_batches, batch_size=batch_size, seed=seed)
    _draw(list(both.values()), path)
    return both


def _length(values: tuple[int, ...]) -> Length:
    return Length(sum(values) / len(values), min(values), max(values))


def _draw(columns: list[Coverage], path: str | os.PathLike[str]) -> Path:
    """One column per coverage, one row per group and kind, one colour scale for all."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib, which comes with jepa-hub: pip install matplotlib") from error
    sampler = columns[0].sampler
    steps, height, width = sampler.grid_size
    side = IMAGE_INCHES if steps == 1 else STEP_INCHES
    map_width, map_height = (side, side * height / width) if height <= width else (side * width / height, side)
    across = min(steps, MAPS_PER_LINE)
    line = map_height + (STEP_TITLE if steps > 1 else 0)
    panel_width = max(across * (map_width + GAP) - GAP, 2.9)
    panel_height = PANEL_TITLE + math.ceil(steps / MAPS_PER_LINE) * (line + GAP) + PANEL_GAP
    rows = 2 * len(columns[0].groups)
    total_width = 2 * MARGIN + len(columns) * panel_width + (len(columns) - 1) * 2 * MARGIN + BAR
    total_height = HEADER + rows * panel_height + MARGIN - PANEL_GAP
    figure = Figure(figsize=(total_width, total_height), facecolor="white")

    def place(left: float, top: float, wide: float, high: float) -> Axes:
        """Axes at inches from the top left corner."""
        bottom = total_height - top - high
        return figure.add_axes((left / total_width, bottom / total_height, wide / total_width, high / total_height))

    def write(left: float, top: float, text: str, **style: Any) -> None:
        figure.text(left / total_width, 1 - top / total_height, text, va="top", **{"color": INK, **style})

    name = next((key for key, value in MASKS.items() if value is type(sampler)), type(sampler).__name__)
    write(MARGIN, 0.22, f"How often {name} uses each token", size=13, weight="bold")
    shape = " x ".join(str(n) for n in sampler.grid_size[steps == 1 :])
    drawn = f"grid {shape}, {columns[0].num_batches} batches of {columns[0].batch_size} samples"
    write(MARGIN, 0.49, drawn, size=9, color=FAINT)
    for column, one in enumerate(columns):
        left = MARGIN + column * (panel_width + 2 * MARGIN)
        write(left, 0.8, one.sampler.mode, size=12, weight="bold")
        for row in range(rows):
            top = HEADER + row * panel_height
            title, values = _panel(one, *divmod(row, 2))
            write(left, top, title, size=9.5)
            for step in range(steps):
                place_left = left + step % MAPS_PER_LINE * (map_width + GAP)
                place_top = top + PANEL_TITLE + step // MAPS_PER_LINE * (line + GAP) + line - map_height
                image = _map(place(place_left, place_top, map_width, map_height), values[step])
                if steps > 1:
                    write(place_left, place_top - 0.17, f"t = {step}", size=7.5, color=FAINT)
    _colour_bar(
        figure, image, place(total_width - BAR, HEADER + PANEL_TITLE, 0.16, min(3.2, total_height - HEADER - 1))
    )
    target = Path(path)
    figure.savefig(target, format="png", dpi=130)
    return target


def _panel(one: Coverage, number: int, kind: int) -> tuple[str, Tensor]:
    """Title and probabilities of the context (kind 0) or target (kind 1) of a group."""
    group, name = one.groups[number], f"group {number}, " if len(one.groups) > 1 else ""
    total = one.sampler.num_tokens
    if kind == 0:
        return f"{name}context: {group.context_length} of {total} tokens", group.context
    if group.num_targets == 1:
        return f"{name}target: {group.target_length} of {total} tokens", group.target
    return f"{name}any of {group.num_targets} targets: {group.target_length} tokens each", group.target


def _map(axes: Axes, values: Tensor) -> Any:
    from matplotlib import colormaps

    colours = colormaps["viridis"].with_extremes(under=NEVER)
    # The scale starts a hair above 0, so that tokens that are never used get a colour of their own.
    image = axes.imshow(values.numpy(), cmap=colours, vmin=1e-9, vmax=1.0, aspect="auto", interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return image


def _colour_bar(figure: Figure, image: Any, axes: Axes) -> None:
    bar = figure.colorbar(image, cax=axes, extend="min", extendfrac=0.06)
    bar.set_ticks([0.0, 0.25, 0.5, 0.75, 1.0], labels=["0", "0.25", "0.5", "0.75", "1"])
    bar.ax.tick_params(labelsize=8, color=FAINT, labelcolor=INK, length=2)
    bar.outline.set_visible(False)  # type: ignore[operator]
    axes.set_title("probability", size=8.5, color=INK, loc="left", pad=8)
    axes.text(0, -0.1, "grey: never", transform=axes.transAxes, size=8, color=FAINT, va="top")
