"""Where tokens are: sine-cosine tables, rotary tables and learned tables on a T x H x W grid of tokens.

Token order is row-major (t, row, column). Tables are float32 and made for the grid at hand; none is a buffer, because
a bfloat16 model would round it and `from_pretrained` would leave a non-persistent one uninitialised.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Grid = tuple[int, int, int]
Formula = Callable[[Tensor], Tensor] | Callable[[Tensor], "Rotary"]
MAX_PERIOD = 10000.0


class Rotary(NamedTuple):
    """Tables that turn queries and keys: `x * cos + swapped(x) * sin`, both float32.

    `cos` and `sin` are [N, head_dim] or, for chosen tokens, [B, N, head_dim]; `sin` carries the sign of the swap.
    `partner` is None when channel 2i pairs with 2i + 1, else the int64 [head_dim] index of each channel's partner.
    """

    cos: Tensor
    sin: Tensor
    partner: Tensor | None = None

    def last(self, count: int) -> Rotary:
        """The rows of the last `count` tokens."""
        return Rotary(self.cos[..., -count:, :], self.sin[..., -count:, :], self.partner)

    def select(self, index: Tensor) -> Rotary:
        """The rows of tokens `index` [B, K]."""
        return Rotary(self.cos[index], self.sin[index], self.partner)  # [B, K, head_dim]


def sincos_1d(dim: int, positions: Tensor) -> Tensor:
    """Sine then cosine of integer positions, [N, dim] in the dtype of `positions`. Source: arXiv:1706.03762, 3.5."""
    if dim % 2:
        raise ValueError(f"a sine-cosine table needs an even width, got {dim}")
    half = dim // 2
    exponents = torch.arange(half, dtype=positions.dtype, device=positions.device) / half
    angles = positions[:, None] * MAX_PERIOD**-exponents  # [N, dim/2]
    return torch.cat([angles.sin(), angles.cos()], dim=1)  # [N, dim]


def sincos_2d(dim: int, height: int, width: int, *, column_first: bool, like: Tensor) -> Tensor:
    """2D table [height * width, dim]; `column_first` is I-JEPA's (and MAE's) channel order, False is V-JEPA's."""
    _check_width(dim, 4, "2D sine-cosine")
    rows = sincos_1d(dim // 2, _arange(height, like))[:, None].expand(-1, width, -1)  # [H, W, D/2]
    columns = sincos_1d(dim // 2, _arange(width, like))[None].expand(height, -1, -1)  # [H, W, D/2]
    parts = [columns, rows] if column_first else [rows, columns]
    return torch.cat(parts, dim=-1).flatten(0, 1)  # [H*W, D]


def sincos_3d(dim: int, grid: Grid, *, uniform_power: bool, like: Tensor) -> Tensor:
    """3D table [T * H * W, dim], channels ordered [time | row | column].

    `uniform_power` gives each axis ceil(dim / 6) * 2 channels and cuts the result to `dim`; without it time takes half
    of the channels and the two spatial axes a quarter each.
    """
    if uniform_power:
        time_dim = space_dim = math.ceil(dim / 6) * 2
    else:
        _check_width(dim, 8, "3D sine-cosine")
        time_dim, space_dim = dim // 2, dim // 4
    t, h, w = grid
    time = sincos_1d(time_dim, _arange(t, like))[:, None, None].expand(-1, h, w, -1)
    rows = sincos_1d(space_dim, _arange(h, like))[None, :, None].expand(t, -1, w, -1)
    columns = sincos_1d(space_dim, _arange(w, like))[None, None].expand(t, h, -1, -1)
    return torch.cat([time, rows, columns], dim=-1)[..., :dim].flatten(0, 2)  # [T*H*W, D]


def resize_table(table: Tensor, source: Grid, target: Grid) -> Tensor:
    """Table [T*H*W, D] of grid `source` interpolated to grid `target`: bicubic for images, trilinear for clips."""
    if source == target:
        return table
    t, h, w = source
    volume = table.float().reshape(t, h, w, -1).permute(3, 0, 1, 2)[None]  # [1, D, T, H, W]
    if source[0] == target[0] == 1:
        image = F.interpolate(volume[:, :, 0], size=target[1:], mode="bicubic", align_corners=False)
        volume = image[:, :, None]  # [1, D, 1, H, W]
    else:
        volume = F.interpolate(volume, size=target, mode="trilinear", align_corners=False)
    return volume[0].permute(1, 2, 3, 0).flatten(0, 2)  # [T*H*W, D]


def rotary_frequencies(width: int, exponent_width: int, like: Tensor) -> Tensor:
    """[width // 2] angular frequencies MAX_PERIOD ** (-2 j / exponent_width)."""
    steps = torch.arange(width // 2, dtype=like.dtype, device=like.device)
    return MAX_PERIOD ** (-2 * steps / exponent_width)


def rotary_3d(head_dim: int, grid: Grid, *, layout: str, like: Tensor) -> Rotary:
    """Rotary tables of one head, channels ordered [time | row | column | unrotated].

    `layout="tiled"` is V-JEPA 2's: each axis is 2 * ((head_dim // 3) // 2) wide and its frequencies are tiled
    (w0 .. wm, w0 .. wm) although neighbouring channels pair up, so a pair mixes two angles and norms are not kept.
    The published weights were trained so: it must not be mended. `layout="interleaved"` is that of the
    intuitive-physics models: axes head_dim // 3 wide, one frequency per pair, a true rotation.
    Source: arXiv:2506.09985, sec. 2.1; arXiv:2502.11831, appendix.
    """
    width = head_dim // 3
    rotated = 2 * (width // 2)
    stride = rotated if layout == "tiled" else width
    omega = rotary_frequencies(rotated, stride, like)
    if layout == "tiled":  # Upstream: tiled although pairs are adjacent; the weights depend on it
        omega = torch.cat([omega, omega])  # [rotated]
    else:
        omega = torch.stack([omega, omega], dim=1).flatten()  # [rotated]
    sign = torch.tensor([-1.0, 1.0], dtype=like.dtype, device=like.device).repeat(rotated // 2)
    t, h, w = grid
    axes = [
        _arange(t, like)[:, None, None].expand(t, h, w),
        _arange(h, like)[None, :, None].expand(t, h, w),
        _arange(w, like)[None, None].expand(t, h, w),
    ]
    tokens = t * h * w
    cos, sin = [], []
    for position in axes:
        angles = position.reshape(tokens, 1) * omega  # [N, rotated]
        cos += [angles.cos(), like.new_ones(tokens, stride - rotated)]
        sin += [angles.sin() * sign, like.new_zeros(tokens, stride - rotated)]
    rest = head_dim - 3 * stride
    table_cos = torch.cat([*cos, like.new_ones(tokens, rest)], dim=1)  # [N, head_dim]
    table_sin = torch.cat([*sin, like.new_zeros(tokens, rest)], dim=1)  # [N, head_dim]
    return Rotary(table_cos, table_sin, _partner(head_dim, stride, rotated, like.device))


def _partner(head_dim: int, stride: int, rotated: int, device: torch.device) -> Tensor | None:
    """Index of each channel's partner, or None when all pairs are (2i, 2i + 1)."""
    if stride % 2 == 0:
        return None
    index = list(range(head_dim))
    for start in range(0, 3 * stride, stride):
        for channel in range(start, start + rotated, 2):
            index[channel], index[channel + 1] = channel + 1, channel
    return torch.tensor(index, device=device)


def _arange(count: int, like: Tensor) -> Tensor:
    return torch.arange(count, dtype=like.dtype, device=like.device)


def _check_width(dim: int, multiple: int, what: str) -> None:
    if dim % multiple:
        raise ValueError(f"{what} positions need a width divisible by {multiple}, got {dim}")


@functools.lru_cache(maxsize=64)
def _cached(make: Formula, device: torch.device) -> Tensor | Rotary:
    # Inference tensors could not be used in a later training step, so the cache never holds one.
    with torch.inference_mode(False), torch.no_grad():
        made = make(torch.zeros((), dtype=torch.float64))  # float64: exact angles, then one rounding
        return _convert(made, device)


def _convert(made: Tensor | Rotary, device: torch.device) -> Tensor | Rotary:
    if isinstance(made, Rotary):
        partner = None if made.partner is None else made.partner.to(device)
        return Rotary(made.cos.float().to(device), made.sin.float().to(device), partner)
    return made.float().to(device)


def _table(make: Formula, device: torch.device) -> Tensor | Rotary:
    """The table of `make`, cached in eager mode; made in the graph while compiling, so that sizes stay dynamic."""
    if torch.compiler.is_compiling():
        return make(torch.zeros((), dtype=torch.float32, device=device))
    return _cached(make, device)


class SinCosPositions(nn.Module):
    """Additive sine-cosine positions.

    Args:
        dim: channels D.
        axes: "column_row" (I-JEPA, 2D), "row_column" (2D), "time_row_column" (V-JEPA, 3D).
        uniform_power: for 3D, equal channels for the three axes.
        base_grid: grid the weights were trained on; needed by `resize="interpolate"` only.
        resize: "recompute" (the formula on the true grid) or "interpolate" (upstream V-JEPA's rule).
    """

    def __init__(self, dim: int, *, axes: str, uniform_power: bool, base_grid: Grid | None, resize: str) -> None:
        super().__init__()
        self.dim, self.axes, self.uniform_power = dim, axes, uniform_power
        self.base_grid, self.resize = base_grid, resize

    def forward(self, grid: Grid, device: torch.device) -> Tensor:
        """[T*H*W, D] float32."""
        if self.resize == "interpolate" and self.base_grid is not None and grid != self.base_grid:
            return resize_table(self._formula(self.base_grid, device), self.base_grid, grid)
        return self._formula(grid, device)

    def _formula(self, grid: Grid, device: torch.device) -> Tensor:
        make = _SinCos(self.dim, self.axes, self.uniform_power, grid)
        table = _table(make, device)
        assert isinstance(table, Tensor)
        return table


class RotaryPositions(nn.Module):
    """Rotary positions of heads of width `head_dim`; `layout` as in `rotary_3d`."""

    def __init__(self, head_dim: int, *, layout: str) -> None:
        super().__init__()
        self.head_dim, self.layout = head_dim, layout

    def forward(self, grid: Grid, device: torch.device) -> Rotary:
        """Tables [T*H*W, head_dim] float32."""
        table = _table(_RotaryFormula(self.head_dim, self.layout, grid), device)
        assert isinstance(table, Rotary)
        return table


class LearnedPositions(nn.Module):
    """Additive learned positions of `base_grid`, interpolated to any other grid."""

    def __init__(self, dim: int, *, base_grid: Grid) -> None:
        super().__init__()
        self.base_grid = base_grid
        self.table = nn.Parameter(torch.zeros(math.prod(base_grid), dim))

    def forward(self, grid: Grid, device: torch.device) -> Tensor:
        """[T*H*W, D]."""
        return resize_table(self.table, self.base_grid, grid)


class NoPositions(nn.Module):
    """No positions at all: a set of tokens."""

    def forward(self, grid: Grid, device: torch.device) -> None:
        """None."""
        return None


@dataclass(frozen=True)
class _SinCos:
    """A hashable formula, so that equal tables share one cache entry."""

    dim: int
    axes: str
    uniform_power: bool
    grid: Grid

    def __call__(self, like: Tensor) -> Tensor:
        if self.axes == "time_row_column":
            return sincos_3d(self.dim, self.grid, uniform_power=self.uniform_power, like=like)
        if self.grid[0] != 1:
            raise ValueError(f"2D positions cannot place {self.grid[0]} time steps; use axes='time_row_column'")
        column_first = self.axes == "column_row"
        return sincos_2d(self.dim, self.grid[1], self.grid[2], column_first=column_first, like=like)


@dataclass(frozen=True)
class _RotaryFormula:
    head_dim: int
    layout: str
    grid: Grid

    def __call__(self, like: Tensor) -> Rotary:
        return rotary_3d(self.head_dim, self.grid, layout=self.layout, like=like)
