"""Mask samplers of the JEPA family: multi-block 2D (I-JEPA) and 3D (V-JEPA, V-JEPA 2), tube, random, future.

A sampler is built once and called with the sample ids of a batch: `sampler(samples, seed=0, step=7) -> list[Masks]`,
one Masks per group. Every sampler has two modes.

corrected (default): the mask of a sample depends on (seed, sample, step) alone, so it is the same in any batch and on
    any number of workers. Block sizes and lengths depend on (seed, step) and come from a list of at most eight,
    `lengths`, so compiled code is reused; all groups go through their lists together, so a whole step has at most
    eight shapes too. Surplus tokens are dropped at random.
faithful: what the upstream code does, faults included, each marked `# Upstream:`; for comparisons and reproductions.
    Deterministic in (seed, step, samples).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from jepa_hub.masking.blocks import (
    BlockLayout,
    BlockPlan,
    Blocks,
    Sides,
    batch_corners,
    clipped_sides,
    distinct_lengths,
    fitting_sides,
    plan_all,
    smaller_sides,
)
from jepa_hub.masking.draws import (
    DESIGN,
    ORDER,
    Lengths,
    MaskSampler,
    Span,
    check_span,
    check_whole,
    choose,
    first,
    keyed,
    keyed_order,
    keyed_pick,
    upstream_uniforms,
    within,
)
from jepa_hub.masks import Masks, frame_masks

logger = logging.getLogger(__name__)

_PROBES = [i / 256 for i in range(257)]  # where the settings of faithful mode are tried out
_MOST_TRIES = 1000


@dataclass(frozen=True, kw_only=True)
class MultiBlock2D(MaskSampler):
    """I-JEPA: target blocks, each predicted alone, from a large context block without them. One group, M = num_targets.

    The defaults are those of every published I-JEPA and FlexPredict configuration.

    Args:
        grid: (H, W) or (1, H, W) in tokens.
        mode: "corrected" or "faithful".
        num_targets: target blocks M per sample; they may overlap each other.
        target_scale: share of the grid that a target block covers, a number or (low, high).
        target_aspect: height / width of a target block.
        context_scale: share of the grid that the context block covers; 1.0 makes all but the targets context (IWM).
        context_aspect: height / width of the context block.
        min_keep: a context has more tokens than this; so have target blocks in faithful mode.

    Raises:
        ValueError: a setting is out of its range, or no context of more than min_keep tokens is left.

    Source: arXiv:2301.08243, sec. 3.
    """

    num_targets: int = 4
    target_scale: Span = (0.15, 0.2)
    target_aspect: Span = (0.75, 1.5)
    context_scale: Span = (0.85, 1.0)
    context_aspect: Span = 1.0
    min_keep: int = 10
    _plans: tuple[BlockPlan, ...] = field(init=False, repr=False, compare=False, default=())

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grid_size[0] != 1:
            raise ValueError(
                f"multi_block_2d needs an image grid (H, W), got {self.grid}; for (T, H, W) use multi_block_3d"
            )
        check_whole("num_targets", self.num_targets, 1)
        check_whole("min_keep", self.min_keep, 0)
        for name in ("target_scale", "context_scale", "target_aspect", "context_aspect"):
            self._set(**{name: check_span(name, getattr(self, name), most=1 if name.endswith("scale") else math.inf)})
        if self.mode == "faithful":
            self._check_upstream_sizes()
        else:
            layouts = [self._layout(fitting_sides, *row) for row in DESIGN]
            self._set(_plans=plan_all(layouts, "multi_block_2d", self.min_keep + 1))

    @property
    def lengths(self) -> tuple[Lengths, ...]:
        return (distinct_lengths(self._plans),)

    def _layout(self, sides: Sides, *u: float) -> BlockLayout:
        """Blocks for u = (target scale, target aspect, context scale, context aspect), each in [0, 1]."""
        grid = self.grid_size
        target = sides("target_scale", grid, within(self.target_scale, u[0]), within(self.target_aspect, u[1]))
        context = sides("context_scale", grid, within(self.context_scale, u[2]), within(self.context_aspect, u[3]))
        return BlockLayout(grid, self.num_targets, (1, *target), (1, *context))

    def _corrected(self, keys: Tensor, shared: Tensor) -> list[Masks]:
        plan = self._plans[int(keyed_pick(shared, len(self._plans)))]
        corners, context, _ = plan.draw(keys)
        order = keyed_order(keyed(keys, ORDER), self.num_tokens)
        return [Masks(choose(context, plan.context_length, order), plan.layout.tokens(corners))]

    def _check_upstream_sizes(self) -> None:
        _, height, width = self.grid_size
        if min(height, width) < 2:
            raise ValueError(
                f"faithful blocks are smaller than the grid on both sides: {height} x {width} is too small"
            )
        layouts = [self._layout(smaller_sides, u, u, u, u) for u in _PROBES]
        areas = {
            "target": min(math.prod(layout.block) for layout in layouts),
            "context": min(math.prod(layout.context or ()) for layout in layouts),
        }
        for name, area in areas.items():
            if area <= self.min_keep:  # upstream would try for ever
                raise ValueError(
                    f"faithful {name} blocks need more than min_keep = {self.min_keep} tokens, and {name}_scale gives "
                    f"as few as {area} on a {height} x {width} grid: lower min_keep or use a larger grid"
                )

    def _faithful(self, batch_size: int, step: int, generator: torch.Generator) -> list[Masks]:
        # Upstream: one uniform number sets scale and aspect alike, so the larger a target block the taller it is.
        u, v = upstream_uniforms(step, 2)
        layout = self._layout(smaller_sides, u, u, v, v)
        # Upstream: the bound is exclusive, so no block ever reaches the last row or column.
        room = layout.room(inclusive=False).clamp(min=1)
        corners = batch_corners(batch_size, room, generator)
        context, _ = layout.split(corners)
        failures = 0
        while len(rows := (context.sum(1) <= self.min_keep).nonzero()[:, 0]):
            failures += 1
            if failures > 20 * self.num_targets + 20:
                raise ValueError(f"context blocks of {layout.context} never exceed min_keep = {self.min_keep} tokens")
            # Upstream: after 20 failures the context may overlap the last target block, after 40 the last two, ...
            overlapped = min(failures // 20, self.num_targets)
            if failures % 20 == 0:
                text = "step %d: %d contexts kept at most %d tokens and may now overlap %d of their targets"
                logger.warning(text, step, len(rows), self.min_keep, overlapped)
            corners[rows, -1] = batch_corners(len(rows), room, generator)[:, -1]
            context[rows] = layout.split(corners[rows], self.num_targets - overlapped)[0]
        # Upstream: contexts are cut to the shortest of the batch from the end, so the bottom right is lost.
        return [Masks(first(context, int(context.sum(1).min())), layout.tokens(corners))]


@dataclass(frozen=True, kw_only=True)
class MultiBlock3D(MaskSampler):
    """V-JEPA and V-JEPA 2: the union of blocks is predicted from all the rest. One group per entry of `blocks`, M = 1.

    Args:
        grid: (T, H, W) in tokens.
        mode: "corrected" or "faithful".
        blocks: one Blocks, or a mapping of its fields, per group; the default is that of all published configurations,
            short-range (8 blocks of 15 %) and long-range (2 blocks of 70 %) masks.
        predict: "blocks", or "all" tokens, the visible ones too: for image world models, whose targets differ from
            what is seen everywhere (arXiv:2403.00504). Corrected mode only.

    Raises:
        ValueError: a setting is unknown or out of its range, or the blocks leave no context.

    Source: arXiv:2404.08471, sec. 3.2.
    """

    blocks: Sequence[Blocks | Mapping[str, Any]] = (Blocks(), Blocks(num_blocks=2, spatial_scale=0.7))
    predict: str = "blocks"
    _groups: tuple[Blocks, ...] = field(init=False, repr=False, compare=False, default=())
    _plans: tuple[tuple[BlockPlan, ...], ...] = field(init=False, repr=False, compare=False, default=())

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.blocks, Sequence) or not all(isinstance(b, (Blocks, Mapping)) for b in self.blocks):
            raise ValueError(f"blocks must be a list of Blocks or mappings, one per group, got {self.blocks!r}")
        known = [setting.name for setting in fields(Blocks)]
        if unknown := sorted({str(name) for b in self.blocks if isinstance(b, Mapping) for name in b} - set(known)):
            raise ValueError(f"blocks has no setting {', '.join(unknown)}; it has {', '.join(known)}")
        groups = tuple(b if isinstance(b, Blocks) else Blocks(**b) for b in self.blocks)
        if not groups:
            raise ValueError("blocks is empty: give at least one group")
        if self.predict not in ("blocks", "all") or (self.predict == "all" and self.mode == "faithful"):
            raise ValueError(
                f'predict is "blocks", or "all" in corrected mode, got {self.predict!r} in {self.mode} mode'
            )
        self._set(blocks=groups, _groups=groups)
        if self.mode == "faithful":
            probes = [(group, u, v) for group in groups for u in (0, 1) for v in _PROBES]
            if any(
                group.layout(clipped_sides, self.grid_size, u, v, u).block == self.grid_size for group, u, v in probes
            ):
                raise ValueError(f"blocks of the whole {self.grid_size} grid leave no context: lower spatial_scale")
        else:
            self._set(_plans=tuple(self._plan(number, group) for number, group in enumerate(groups)))

    def _plan(self, number: int, group: Blocks) -> tuple[BlockPlan, ...]:
        # Turning the columns gives each group its own aspects, while one draw still fixes the sizes of the whole step.
        turn = number % len(DESIGN[0])
        layouts = [group.layout(fitting_sides, self.grid_size, *row[turn:], *row[:turn]) for row in DESIGN]
        return plan_all(layouts, f"multi_block_3d, group {number}", 1, group.max_keep)

    @property
    def lengths(self) -> tuple[Lengths, ...]:
        found = tuple(distinct_lengths(plans) for plans in self._plans) or ((),) * len(self._groups)
        if self.predict == "blocks":
            return found
        return tuple(tuple(sorted({(context, self.num_tokens) for context, _ in each})) for each in found)

    def _corrected(self, keys: Tensor, shared: Tensor) -> list[Masks]:
        masks = []
        for group, plans in enumerate(self._plans):
            plan = plans[int(keyed_pick(shared, len(plans)))]
            own = keyed(keys, group)
            _, context, target = plan.draw(own)
            order = keyed_order(keyed(own, ORDER), self.num_tokens)
            if self.predict == "all":
                predicted = torch.arange(self.num_tokens).repeat(len(keys), 1, 1)  # [B, 1, N]
            else:
                predicted = choose(target, plan.target_length, order).unsqueeze(1)  # [B, 1, T]
            masks.append(Masks(choose(context, plan.context_length, order), predicted, group))
        return masks

    def _faithful(self, batch_size: int, step: int, generator: torch.Generator) -> list[Masks]:
        masks = []
        for group, blocks in enumerate(self._groups):
            # Upstream: each group's generator starts from the same counter, so all groups share one aspect.
            temporal, scale, aspect = upstream_uniforms(step, 3)
            layout = blocks.layout(clipped_sides, self.grid_size, scale, aspect, temporal)
            context, target = layout.split(batch_corners(batch_size, layout.room(), generator))
            tries = 0
            while len(rows := (~context.any(1)).nonzero()[:, 0]):
                tries += 1
                if tries > _MOST_TRIES:
                    raise ValueError(f"{_MOST_TRIES} draws left no context: use fewer or smaller blocks than {blocks}")
                context[rows], target[rows] = layout.split(batch_corners(len(rows), layout.room(), generator))
            # Upstream: both are cut to the shortest of the batch from the end, so the latest frames are lost.
            length = min(int(context.sum(1).min()), blocks.max_keep or self.num_tokens)
            predicted = first(target, int(target.sum(1).min())).unsqueeze(1)  # [B, 1, T]
            masks.append(Masks(first(context, length), predicted, group))
        return masks


@dataclass(frozen=True, kw_only=True)
class Random(MaskSampler):
    """Tokens chosen one by one are predicted from the rest. One group, M = 1.

    Args:
        grid: (T, H, W) or (H, W) in tokens.
        mode: "corrected" or "faithful".
        ratio: share that is predicted, a number or (low, high); the default is that of upstream I-JEPA's unused one.

    Raises:
        ValueError: the ratio is not in (0, 1], or leaves nothing to see or to predict.
    """

    ratio: Span = (0.4, 0.6)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(ratio=check_span("ratio", self.ratio, most=1))
        for kept in (self._kept(0), self._kept(1)):
            if not 1 <= kept < self._places:
                raise ValueError(
                    f"ratio {self.ratio} keeps {kept} of {self._places} places of a {self.grid} grid as context: "
                    "context and target need at least one each"
                )

    @property
    def _places(self) -> int:
        """How many things there are to choose from."""
        return self.num_tokens

    def _kept(self, u: float) -> int:
        if self.mode == "faithful":
            return int(self._places * (1 - within(self.ratio, u)))
        return self._places - round(self._places * within(self.ratio, u))

    @property
    def lengths(self) -> tuple[Lengths, ...]:
        if self.mode == "faithful" and self._kept(0) != self._kept(1):
            return ((),)
        each = self.num_tokens // self._places
        return (
            tuple(sorted({(n * each, self.num_tokens - n * each) for n in (self._kept(row[0]) for row in DESIGN)})),
        )

    def _corrected(self, keys: Tensor, shared: Tensor) -> list[Masks]:
        count = self._kept(DESIGN[int(keyed_pick(shared, len(DESIGN)))][0])
        left = torch.ones(len(keys), self._places, dtype=torch.bool)
        context = choose(left, count, keyed_order(keyed(keys, ORDER), self._places))
        return self._masks(context, first(left.scatter_(1, context, False), self._places - count))

    def _faithful(self, batch_size: int, step: int, generator: torch.Generator) -> list[Masks]:
        # Upstream: each sample is a permutation cut in two, left in that order; the cut is the same for the batch.
        count = self._kept(*upstream_uniforms(step, 1))
        order = torch.rand(batch_size, self._places, generator=generator, dtype=torch.float64).argsort(dim=1)
        return self._masks(order[:, :count], order[:, count:])

    def _masks(self, context: Tensor, target: Tensor) -> list[Masks]:
        return [Masks(context, target.unsqueeze(1))]  # [B, C], [B, 1, T]


@dataclass(frozen=True, kw_only=True)
class Tube(Random):
    """Places chosen in the image plane are predicted, in all time steps, from the rest. One group, M = 1.

    Args:
        grid: (T, H, W) or (H, W) in tokens.
        mode: "corrected" or "faithful".
        ratio: share that is predicted; no value is published for V-JEPA, the default is VideoMAE's.

    Raises:
        ValueError: the ratio is not in (0, 1], or leaves nothing to see or to predict.

    Source: arXiv:2203.12602, sec. 3.3.
    """

    ratio: Span = 0.9

    @property
    def _places(self) -> int:
        return self.grid_size[1] * self.grid_size[2]

    def _masks(self, context: Tensor, target: Tensor) -> list[Masks]:
        steps = torch.arange(self.grid_size[0]).unsqueeze(-1) * self._places  # [T, 1]
        context, target = ((part.unsqueeze(1) + steps).flatten(1) for part in (context, target))  # [B, T*K]
        return super()._masks(context, target)


@dataclass(frozen=True, kw_only=True)
class Future(MaskSampler):
    """The first frames predict all later ones; the samples of a step share one mask. One group, M = 1.

    Args:
        grid: (T, H, W) in tokens.
        mode: "corrected" or "faithful".
        context_frames: the number of frames seen, or up to eight such numbers, one of which is drawn at each step
            (faithful: in turn, as the published evaluation does). The default is that of IntPhys and GRASP, for clips
            of 16 frames.
        tubelet_size: frames per token.

    Raises:
        ValueError: a number of frames does not fill whole tubelets, or leaves nothing to see or to predict.

    Source: arXiv:2502.11831.
    """

    context_frames: int | Sequence[int] = (2, 4, 6, 8, 10)
    tubelet_size: int = 2
    _choices: tuple[int, ...] = field(init=False, repr=False, compare=False, default=())

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("tubelet_size", self.tubelet_size, 1)
        given = self.context_frames
        choices = tuple(given) if isinstance(given, Sequence) else (given,)
        if not 1 <= len(choices) <= len(DESIGN):
            raise ValueError(f"context_frames must be one to {len(DESIGN)} numbers, got {given!r}")
        fitting = list(range(self.tubelet_size, self.num_frames, self.tubelet_size))
        if wrong := [frames for frames in choices if frames not in fitting]:
            raise ValueError(
                f"context_frames {wrong} cannot split a clip of {self.num_frames} frames (grid {self.grid}, tubelets "
                f"of {self.tubelet_size}); possible here: {fitting}"
            )
        self._set(context_frames=choices, _choices=choices)

    @property
    def num_frames(self) -> int:
        """Frames of the clip."""
        return self.grid_size[0] * self.tubelet_size

    @property
    def lengths(self) -> tuple[Lengths, ...]:
        seen = [self.num_tokens * frames // self.num_frames for frames in sorted(set(self._choices))]
        return (tuple((n, self.num_tokens - n) for n in seen),)

    def _masks(self, frames: int, batch_size: int) -> list[Masks]:
        seen, predicted = range(frames), range(frames, self.num_frames)
        return [frame_masks(seen, predicted, self.grid_size, self.tubelet_size, batch_size)]

    def _corrected(self, keys: Tensor, shared: Tensor) -> list[Masks]:
        return self._masks(self._choices[int(keyed_pick(shared, len(self._choices)))], len(keys))

    def _faithful(self, batch_size: int, step: int, generator: torch.Generator) -> list[Masks]:
        return self._masks(self._choices[step % len(self._choices)], batch_size)


MASKS: dict[str, type[MaskSampler]] = {
    "multi_block_2d": MultiBlock2D,
    "multi_block_3d": MultiBlock3D,
    "tube": Tube,
    "random": Random,
    "future": Future,
}
