"""Which formula a stored position table follows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from jepa_hub.nn.positions import Grid, SinCosPositions


@dataclass(frozen=True)
class TableFormula:
    """A sine-cosine table: its grid (T, H, W), axis order and power split; fields as in `JEPAConfig`."""

    grid: Grid
    position_axes: str
    uniform_power: bool = False

    def table(self, dim: int) -> Tensor:
        """[1, T*H*W, dim] float32, as upstream stores it."""
        positions = SinCosPositions(
            dim, axes=self.position_axes, uniform_power=self.uniform_power, base_grid=None, resize="recompute"
        )
        return positions(self.grid, torch.device("cpu"))[None]  # [1, N, D]


def find_formula(table: Tensor) -> TableFormula | None:
    """The formula of a stored table [1, N, D], found by comparing every factorisation of N; None if none fits.

    Raises:
        ValueError: several grids fit, which only degenerate tables allow.
    """
    if table.ndim != 3 or table.shape[0] != 1:
        raise ValueError(f"a position table is [1, tokens, width], got {tuple(table.shape)}")
    _, tokens, dim = table.shape
    fitting = [formula for formula in _candidates(tokens, dim) if fits(table, formula)]
    if len({formula.grid for formula in fitting}) > 1:
        grids = ", ".join("x".join(map(str, formula.grid)) for formula in fitting)
        raise ValueError(f"the position table fits several grids ({grids}); give image_size= and num_frames=")
    return fitting[0] if fitting else None


def fits(table: Tensor, formula: TableFormula) -> bool:
    """Whether the stored table is that formula, to the rounding of its dtype."""
    tolerance = 1e-5 if table.dtype in (torch.float32, torch.float64) else 8e-3
    made = formula.table(table.shape[-1])
    return made.shape == table.shape and bool((made - table.float()).abs().max() <= tolerance)


def _candidates(tokens: int, dim: int) -> Iterator[TableFormula]:
    """Every grid of so many tokens: images in both axis orders, clips with and without uniform power."""
    for time in range(1, tokens + 1):
        if tokens % time:
            continue
        area = tokens // time
        for height in range(1, area + 1):
            if area % height:
                continue
            grid = (time, height, area // height)
            if time == 1 and dim % 4 == 0:
                yield TableFormula(grid, "column_row")
                yield TableFormula(grid, "row_column")
            if time > 1:
                yield TableFormula(grid, "time_row_column", True)
                if dim % 8 == 0:
                    yield TableFormula(grid, "time_row_column", False)
