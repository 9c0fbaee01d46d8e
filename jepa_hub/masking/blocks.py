"""Equal blocks of tokens on a grid: sizes and places, what they cover, the lengths that their masks are cut to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jepa_hub.masking.draws import (
    Lengths,
    Size,
    Span,
    check_span,
    check_whole,
    keyed,
    keyed_integers,
    keyed_pick,
    within,
)

Sides = Callable[[str, Size, float, float], tuple[int, int]]

LENGTH_QUANTILE = 0.1  # a common length is one that nine draws in ten reach: longer wastes draws, shorter wastes tokens
MEASURED, SPARES, ATTEMPTS = 512, 64, 8
_MEASURE, _POSITIONS, _SPARE = 11, 12, 13  # purposes, so that no two draws share a key


def rounded_sides(name: str, grid: Size, scale: float, aspect: float) -> tuple[int, int]:
    """(height, width) in tokens of a block of `scale` of the H x W grid with height / width = `aspect`.

    Raises:
        ValueError: the block is thinner than a token; `name` says which setting to change.
    """
    keep = int(grid[1] * grid[2] * scale)
    height, width = round(math.sqrt(keep * aspect)), round(math.sqrt(keep / aspect))
    if min(height, width) < 1:
        raise ValueError(
            f"{name}: {scale:.3g} of a {grid[1]} x {grid[2]} grid at aspect {aspect:.3g} is less than one token: "
            "the grid is too small, or the scale is"
        )
    return height, width


def fitting_sides(name: str, grid: Size, scale: float, aspect: float) -> tuple[int, int]:
    """The same within the grid: a side that would leave it gives its tokens to the other."""
    height, width = rounded_sides(name, grid, scale, aspect)
    area = int(grid[1] * grid[2] * scale)
    if height > grid[1]:
        height, width = grid[1], round(area / grid[1])
    elif width > grid[2]:
        height, width = round(area / grid[2]), grid[2]
    return min(height, grid[1]), min(width, grid[2])


def clipped_sides(name: str, grid: Size, scale: float, aspect: float) -> tuple[int, int]:
    """The same, cut at the grid, which is V-JEPA's rule."""
    height, width = rounded_sides(name, grid, scale, aspect)
    return min(height, grid[1]), min(width, grid[2])


def smaller_sides(name: str, grid: Size, scale: float, aspect: float) -> tuple[int, int]:
    """The same, cut to stay below the grid, which is I-JEPA's rule."""
    height, width = rounded_sides(name, grid, scale, aspect)
    return min(height, grid[1] - 1), min(width, grid[2] - 1)


@dataclass(frozen=True)
class BlockLayout:
    """Equal blocks on a grid, and what may be context: all that no block covers.

    Corners are int64 [B, K, 3], the first (t, row, column) of each block; the context block, if any, comes last.

    Args:
        grid: (T, H, W).
        count: number of blocks.
        block: size of each.
        context: size of a block that the context must lie in; None for no such limit.
        context_steps: the context uses the first so many of the T steps; None for all.
        union: the blocks are predicted together, as one set of tokens; else each on its own.
    """

    grid: Size
    count: int
    block: Size
    context: Size | None = None
    context_steps: int | None = None
    union: bool = False

    def room(self, inclusive: bool = True) -> Tensor:
        """Number of places along each axis, int64 [K, 3]; the last place, at the far edge, counts if `inclusive`."""
        sizes = [self.block] * self.count + ([self.context] if self.context else [])
        return torch.tensor(self.grid) - torch.tensor(sizes) + int(inclusive)  # [K, 3]

    def corners(self, keys: Tensor) -> Tensor:
        """Corners anywhere on the grid, the far edges included: keys [B] -> [B, K, 3]."""
        room = self.room()
        return keyed_integers(keys, room.flatten()).unflatten(-1, room.shape)  # [B, K, 3]

    def covered(self, corners: Tensor, size: Size) -> Tensor:
        """Tokens inside any of the blocks: [B, K, 3] -> bool [B, N]."""
        starts = corners.transpose(0, 2).unsqueeze(-1)  # [3, K, B, 1]
        inside = []
        for start, length, places in zip(starts, size, self.grid, strict=True):
            place = torch.arange(places)
            inside.append((place >= start) & (place < start + length))  # [K, B, places]
        t, row, column = inside
        planes = (t.unsqueeze(-1) & row.unsqueeze(-2)).flatten(2).movedim(0, 2)  # [B, T*H, K]
        return (planes.float() @ column.float().transpose(0, 1) > 0).flatten(1)  # [B, T*H, W] -> [B, N]

    def split(self, corners: Tensor, subtract: int | None = None) -> tuple[Tensor, Tensor]:
        """Possible context and target tokens, bool [B, N] each; only the first `subtract` blocks leave the context."""
        blocks = corners[:, : self.count]
        target = self.covered(blocks, self.block)
        context = ~(target if subtract is None else self.covered(blocks[:, :subtract], self.block))
        if self.context:
            context &= self.covered(corners[:, self.count :], self.context)
        if self.context_steps is not None:
            context[:, self.context_steps * self.grid[1] * self.grid[2] :] = False
        return context, target

    def tokens(self, corners: Tensor) -> Tensor:
        """Tokens of each block, ascending: [B, K, 3] -> int64 [B, count, t*h*w]."""
        numbers = torch.arange(math.prod(self.grid)).view(self.grid)
        inside = numbers[tuple(slice(length) for length in self.block)].flatten()  # [t*h*w]
        stride = torch.tensor([self.grid[1] * self.grid[2], self.grid[2], 1])
        return (corners[:, : self.count] * stride).sum(-1, keepdim=True) + inside  # [B, count, t*h*w]


@dataclass(frozen=True, eq=False)
class BlockPlan:
    """A layout with its common lengths, and spare corners [S, K, 3] that reach them."""

    layout: BlockLayout
    context_length: int
    target_length: int
    spares: Tensor

    @classmethod
    def measure(cls, layout: BlockLayout, name: str, least: int, most: int | None = None) -> BlockPlan:
        """The plan whose lengths nine draws in ten reach; the same in every process.

        Args:
            layout: the blocks.
            name: of the sampler, for the error.
            least: fewest context tokens.
            most: most context tokens; None for no limit.

        Raises:
            ValueError: no draw leaves a context of `least` tokens.
        """
        corners = layout.corners(keyed(_MEASURE, torch.arange(MEASURED)))  # [S, K, 3]
        context, target = (kept.sum(1) for kept in layout.split(corners))  # [S] each
        rank = int(LENGTH_QUANTILE * MEASURED)
        context_length = max(least, int(context.sort().values[rank]))
        if most is not None:
            context_length = min(context_length, most)
        target_length = int(target.sort().values[rank]) if layout.union else math.prod(layout.block)
        spares = corners[(context >= context_length) & (target >= target_length * int(layout.union))][:SPARES]
        if not len(spares):
            raise ValueError(
                f"{name}: {layout.count} blocks of {layout.block} (t, h, w) on a {layout.grid} grid leave "
                f"{int(context.max())} context tokens at most, and {least} are needed: use fewer or smaller blocks, a "
                "larger grid or context, or a smaller min_keep"
            )
        return cls(layout, context_length, target_length, spares)

    def draw(self, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Corners [B, K, 3] and possible context and target tokens, bool [B, N], enough for the common lengths.

        A sample that falls short is drawn again, seven times at most; then it takes one of up to 64 draws found good
        when the sampler was built, mirrored at random (one sample in 10^5 or fewer with the published settings). So
        masks are always valid, and coverage stays symmetric.
        """
        needed = self.target_length if self.layout.union else 0
        corners = self.layout.corners(keyed(keys, _POSITIONS, 0))
        context, target = self.layout.split(corners)
        for attempt in range(1, ATTEMPTS + 1):
            rows = ((context.sum(1) < self.context_length) | (target.sum(1) < needed)).nonzero()[:, 0]
            if not len(rows):
                break
            if attempt < ATTEMPTS:
                corners[rows] = self.layout.corners(keyed(keys[rows], _POSITIONS, attempt))
            else:
                corners[rows] = self._spare(keyed(keys[rows], _SPARE))
            context[rows], target[rows] = self.layout.split(corners[rows])
        return corners, context, target

    def _spare(self, keys: Tensor) -> Tensor:
        corners = self.spares[keyed_pick(keyed(keys, 0), len(self.spares))]  # [B, K, 3]
        sides = torch.tensor([1, 2, 2])  # time keeps its direction, rows and columns are mirrored or not
        mirrored = keyed_integers(keyed(keys, 1), sides).bool().unsqueeze(1)  # [B, 1, 3]
        return torch.where(mirrored, self.layout.room() - 1 - corners, corners)


def plan_all(layouts: Sequence[BlockLayout], name: str, least: int, most: int | None = None) -> tuple[BlockPlan, ...]:
    """One plan per layout; equal layouts are measured once."""
    plans = {layout: BlockPlan.measure(layout, name, least, most) for layout in dict.fromkeys(layouts)}
    return tuple(plans[layout] for layout in layouts)


def distinct_lengths(plans: Sequence[BlockPlan]) -> Lengths:
    """The (context, target) lengths of the plans, each once, ascending."""
    return tuple(sorted({(plan.context_length, plan.target_length) for plan in plans}))


def batch_corners(batch_size: int, room: Tensor, generator: torch.Generator) -> Tensor:
    """Corners below `room` [K, 3] for a whole batch, from one generator: int64 [B, K, 3]."""
    u = torch.rand(batch_size, *room.shape, generator=generator, dtype=torch.float64)
    return (u * room).long()  # [B, K, 3]


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """One group of equal blocks of multi_block_3d; the defaults are V-JEPA's short-range masks.

    Args:
        num_blocks: blocks per sample; they may overlap.
        spatial_scale: share of the H x W grid that a block covers, a number or (low, high).
        aspect: height / width of a block.
        temporal_scale: share of the T steps that a block spans.
        max_temporal_keep: the context lies in the first steps, at most this share of them.
        max_keep: most context tokens; None for no limit.

    Raises:
        ValueError: a setting is out of its range.
    """

    num_blocks: int = 8
    spatial_scale: Span = 0.15
    aspect: Span = (0.75, 1.5)
    temporal_scale: Span = 1.0
    max_temporal_keep: float = 1.0
    max_keep: int | None = None

    def __post_init__(self) -> None:
        check_whole("num_blocks", self.num_blocks, 1)
        if self.max_keep is not None:
            check_whole("max_keep", self.max_keep, 1)
        check_span("max_temporal_keep", self.max_temporal_keep, most=1)
        for name, most in (("spatial_scale", 1), ("aspect", math.inf), ("temporal_scale", 1)):
            object.__setattr__(self, name, check_span(name, getattr(self, name), most))

    def layout(self, sides: Sides, grid: Size, *u: float) -> BlockLayout:
        """The blocks on `grid` for u = (scale, aspect, temporal scale), each in [0, 1]."""
        height, width = sides("spatial_scale", grid, within(self.spatial_scale, u[0]), within(self.aspect, u[1]))
        steps = max(1, int(grid[0] * within(self.temporal_scale, u[2])))
        seen = max(1, int(grid[0] * self.max_temporal_keep))
        return BlockLayout(grid, self.num_blocks, (steps, height, width), context_steps=seen, union=True)
