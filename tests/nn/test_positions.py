"""Position tables against naive formulas, at any size, and what a resize does."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from jepa_hub.nn.attention import rotate
from jepa_hub.nn.positions import RotaryPositions, SinCosPositions, resize_table, rotary_3d
from tests.official import tiny_model

CPU = torch.device("cpu")
GRIDS = [(1, 4, 4), (1, 3, 7), (4, 4, 4), (5, 3, 7), (8, 14, 14)]


def naive_sincos_axis(dim: int, position: int) -> list[float]:
    half = dim // 2
    angles = [position * 10000 ** (-i / half) for i in range(half)]
    return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]


def naive_sincos(dim: int, grid: tuple[int, int, int], axes: str, uniform: bool) -> Tensor:
    rows = []
    for t, r, c in np.ndindex(*grid):
        if axes == "column_row":
            row = naive_sincos_axis(dim // 2, c) + naive_sincos_axis(dim // 2, r)
        elif axes == "row_column":
            row = naive_sincos_axis(dim // 2, r) + naive_sincos_axis(dim // 2, c)
        else:
            time, space = (2 * math.ceil(dim / 6),) * 2 if uniform else (dim // 2, dim // 4)
            row = naive_sincos_axis(time, t) + naive_sincos_axis(space, r) + naive_sincos_axis(space, c)
        rows.append(row[:dim])
    return torch.tensor(rows)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("axes", "uniform"), [("column_row", False), ("row_column", False)])
def test_sincos_2d(grid: tuple[int, int, int], axes: str, uniform: bool) -> None:
    positions = SinCosPositions(32, axes=axes, uniform_power=uniform, base_grid=None, resize="recompute")
    if grid[0] > 1:
        with pytest.raises(ValueError, match="time steps"):
            positions(grid, CPU)
    else:
        assert torch.allclose(positions(grid, CPU), naive_sincos(32, grid, axes, uniform), atol=1e-6)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("dim", "uniform"), [(48, True), (48, False), (40, True)])
def test_sincos_3d(grid: tuple[int, int, int], dim: int, uniform: bool) -> None:
    positions = SinCosPositions(dim, axes="time_row_column", uniform_power=uniform, base_grid=None, resize="recompute")
    assert torch.allclose(positions(grid, CPU), naive_sincos(dim, grid, "time_row_column", uniform), atol=1e-6)


def naive_rotate(x: Tensor, grid: tuple[int, int, int], layout: str) -> Tensor:
    """Channel by channel, as the two code bases define it."""
    head_dim = x.shape[-1]
    width = 2 * ((head_dim // 3) // 2) if layout == "tiled" else head_dim // 3
    half = width // 2
    out = x.double().clone()
    for token, where in enumerate(np.ndindex(*grid)):
        for axis, position in enumerate(where):
            for pair in range(half):
                first = axis * width + 2 * pair
                a, b = x[..., token, first].double(), x[..., token, first + 1].double()
                if layout == "tiled":
                    low, high = (2 * pair) % half, (2 * pair + 1) % half
                    angles = [position * 10000 ** (-index / half) for index in (low, high)]
                else:
                    angles = [position * 10000 ** (-2 * pair / width)] * 2
                out[..., token, first] = a * math.cos(angles[0]) - b * math.sin(angles[0])
                out[..., token, first + 1] = b * math.cos(angles[1]) + a * math.sin(angles[1])
    return out.float()


@pytest.mark.parametrize("grid", [(1, 4, 4), (3, 2, 5)])
@pytest.mark.parametrize("layout", ["tiled", "interleaved"])
@pytest.mark.parametrize("head_dim", [24, 32, 64, 80, 26])
def test_rotary(grid: tuple[int, int, int], layout: str, head_dim: int) -> None:
    tokens = math.prod(grid)
    x = torch.randn(2, tokens, 3, head_dim, generator=torch.Generator().manual_seed(0))  # [B, N, H, d]
    turned = rotate(x, RotaryPositions(head_dim, layout=layout)(grid, CPU))
    expected = naive_rotate(x.transpose(1, 2), grid, layout).transpose(1, 2)
    assert torch.allclose(turned, expected, atol=2e-6)
    if layout == "interleaved":  # a true rotation keeps lengths; V-JEPA 2's tiled one does not, and must not be mended
        assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), atol=1e-5)


def test_rotary_of_chosen_tokens_is_that_of_all() -> None:
    table = RotaryPositions(32, layout="tiled")((2, 3, 4), CPU)
    index = torch.tensor([[5, 0, 23], [1, 1, 7]])
    chosen = table.select(index)
    assert torch.equal(chosen.cos[1, 2], table.cos[7]) and torch.equal(chosen.sin[0, 1], table.sin[0])


def test_tables_do_not_depend_on_where_they_were_first_made() -> None:
    with torch.inference_mode():
        SinCosPositions(16, axes="column_row", uniform_power=False, base_grid=None, resize="recompute")((1, 9, 9), CPU)
    table = SinCosPositions(16, axes="column_row", uniform_power=False, base_grid=None, resize="recompute")(
        (1, 9, 9), CPU
    )
    assert not table.is_inference() and table.dtype == torch.float32
    scale = torch.ones(16, requires_grad=True)
    (table * scale).sum().backward()  # an inference tensor in the cache would raise here
    assert scale.grad is not None


def test_compiled_formula_is_the_eager_one() -> None:
    in_graph = rotary_3d(32, (4, 5, 6), layout="tiled", like=torch.zeros(()))
    eager = RotaryPositions(32, layout="tiled")((4, 5, 6), CPU)
    assert torch.allclose(in_graph.cos, eager.cos, atol=1e-5) and torch.allclose(in_graph.sin, eager.sin, atol=1e-5)


def test_interpolation_keeps_corners_and_identity() -> None:
    table = torch.arange(4 * 3 * 3 * 2, dtype=torch.float32).view(-1, 2)
    assert resize_table(table, (4, 3, 3), (4, 3, 3)) is table
    assert resize_table(table, (4, 3, 3), (8, 6, 6)).shape == (8 * 36, 2)
    flat = resize_table(torch.ones(16, 2), (1, 4, 4), (1, 5, 9))
    assert torch.allclose(flat, torch.ones(45, 2), atol=1e-6)


@pytest.mark.parametrize("family", ["ijepa", "vjepa", "vjepa2"])
@pytest.mark.parametrize("size", [(32, 32), (24, 56), (72, 40)])
def test_models_at_any_size_use_the_true_grid(family: str, size: tuple[int, int]) -> None:
    """A model made for another size gives the same features as one made for this size."""
    there, here = tiny_model(family), tiny_model(family, image_size=list(size))
    pixels = torch.randn(1, 3, 1 if family == "ijepa" else 6, *size)
    grid = (1 if family == "ijepa" else 3, size[0] // 8, size[1] // 8)
    features = there.encode(pixels)
    assert features.grid_size == grid and features.grid.shape == (1, *grid, 48)
    assert torch.equal(features.tokens, here.encode(pixels).tokens)
    where = there.target_encoder.positions(grid, CPU)
    if family == "vjepa2":
        probe = torch.ones(1, math.prod(grid), 1, 24)
        expected = naive_rotate(probe.transpose(1, 2), grid, "tiled").transpose(1, 2)
        assert torch.allclose(rotate(probe, where), expected, atol=1e-5)
    else:
        axes = "column_row" if family == "ijepa" else "time_row_column"
        assert torch.allclose(where, naive_sincos(48, grid, axes, family == "vjepa"), atol=1e-6)


def test_interpolate_is_upstreams_rule() -> None:
    model = tiny_model("vjepa", position_resize="interpolate")
    where = model.target_encoder.positions((4, 6, 6), CPU)
    base = naive_sincos(48, (4, 4, 4), "time_row_column", True)
    volume = base.view(1, 4, 4, 4, 48).permute(0, 4, 1, 2, 3)
    expected = torch.nn.functional.interpolate(volume, scale_factor=(1.0, 1.5, 1.5), mode="trilinear")
    assert torch.allclose(where, expected.permute(0, 2, 3, 4, 1).reshape(-1, 48), atol=1e-5)
