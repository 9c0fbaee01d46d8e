"""Properties that hold for any size: masks of every sampler, positions, and the frames that sampling takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from jepa_hub.masking.samplers import MASKS
from jepa_hub.masks import Masks, frame_masks, gather_tokens
from jepa_hub.media.clips import Clip
from jepa_hub.nn.positions import RotaryPositions, SinCosPositions, resize_table
from jepa_hub.processing import JEPAProcessor

few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
sides = st.integers(1, 9)
LAYOUTS = ("tiled", "interleaved")


# Masks ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["faithful", "corrected"])
@pytest.mark.parametrize("name", MASKS)
@few
@given(height=st.integers(4, 20), width=st.integers(4, 20), steps=st.integers(2, 8), seed=st.integers(0, 2**40),
       first=st.integers(0, 10**6), size=st.integers(1, 5), step=st.integers(0, 10**6))  # fmt: skip
def test_masks_of_any_grid(
    name: str, mode: str, height: int, width: int, steps: int, seed: int, first: int, size: int, step: int
) -> None:
    """Within the grid, without doubles, nothing both seen and predicted, and the same when asked again."""
    video = name not in ("multi_block_2d",)
    grid = (steps, height, width) if video else (1, height, width)
    own: dict[str, Any] = {"context_frames": (2,)} if name == "future" else {}
    try:
        sampler: Any = MASKS[name](grid=grid, mode=mode, **own)
    except ValueError as error:  # a grid too small for its blocks is refused in words
        assert min(height, width) <= 8 and "grid" in str(error)
        return
    samples = list(range(first, first + size))
    drawn = sampler(samples, seed=seed, step=step)
    overlap = name == "multi_block_2d" and mode == "faithful"  # upstream gives up on tiny grids
    for masks in drawn:
        assert len(masks.context) == size
        masks.validate(grid[0] * height * width, overlap=overlap)
    again = sampler(samples, seed=seed, step=step)
    for one, two in zip(drawn, again, strict=True):
        assert torch.equal(one.context, two.context) and torch.equal(one.target, two.target)
    if mode == "corrected":  # a sample's mask does not depend on who else is in the batch
        alone = sampler(samples[-1:], seed=seed, step=step)
        for one, two in zip(drawn, alone, strict=True):
            assert torch.equal(one.context[-1:], two.context) and torch.equal(one.target[-1:], two.target)


@few
@given(steps=st.integers(2, 8), height=sides, width=sides, tubelet=st.integers(1, 3), data=st.data())
def test_frames_are_shown_or_predicted_whole(
    steps: int, height: int, width: int, tubelet: int, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(steps)))
    cut = data.draw(st.integers(1, steps - 1))
    seen, predicted = order[:cut], order[cut:]
    frames = lambda chosen: [step * tubelet + i for step in chosen for i in range(tubelet)]  # noqa: E731
    masks = frame_masks(frames(seen), frames(predicted), (steps, height, width), tubelet, 2)
    masks.validate(steps * height * width)
    assert {int(token) // (height * width) for token in masks.context[0]} == set(seen)
    both = torch.cat([masks.context, masks.target[:, 0]], dim=1).sort(dim=1).values
    assert torch.equal(both, torch.arange(steps * height * width).repeat(2, 1))


@few
@given(tokens=st.integers(2, 30), count=st.integers(1, 30), data=st.data())
def test_gathering_is_indexing(tokens: int, count: int, data: st.DataObject) -> None:
    index = torch.tensor([data.draw(st.lists(st.integers(0, tokens - 1), min_size=count, max_size=count))])
    values = torch.randn(1, tokens, 3)
    assert torch.equal(gather_tokens(values, index)[0], values[0, index[0]])


@given(context=st.lists(st.integers(-3, 12), max_size=6), target=st.lists(st.integers(-3, 12), max_size=6))
def test_masks_are_refused_exactly_when_they_are_wrong(context: list[int], target: list[int]) -> None:
    masks = Masks(torch.tensor([context], dtype=torch.int64), torch.tensor([[target]], dtype=torch.int64))
    good = bool(context and target) and all(0 <= token < 10 for token in context + target)
    good = good and len(set(context)) == len(context) and len(set(target)) == len(target)
    good = good and not set(context) & set(target)
    if good:
        masks.validate(10)
    else:
        with pytest.raises(ValueError, match=r"token|empty|once|seen"):
            masks.validate(10)


# Positions ------------------------------------------------------------------------------------------------------------
@few
@given(steps=st.integers(1, 5), height=sides, width=sides, axes=st.sampled_from(["time_row_column", "column_row"]))
def test_each_place_has_a_position_of_its_own(steps: int, height: int, width: int, axes: str) -> None:
    """Any two tokens of a grid differ, and a token keeps its position when the grid grows at the far end."""
    grid = (steps if axes == "time_row_column" else 1, height, width)
    larger = (grid[0] + (axes == "time_row_column"), height + 2, width + 1)
    layer: Any = SinCosPositions(48, axes=axes, uniform_power=False, base_grid=grid, resize="recompute")
    cpu = torch.device("cpu")
    table, grown = layer(grid, cpu), layer(larger, cpu)
    apart = torch.cdist(table.double(), table.double()) + torch.eye(len(table))
    assert apart.min() > 1e-4
    inside = grown.unflatten(0, larger)[: grid[0], :height, :width].flatten(0, 2)
    assert torch.equal(inside, table)


@few
@given(steps=st.integers(1, 4), height=sides, width=sides, layout=st.sampled_from(LAYOUTS))
def test_rotary_positions_follow_the_place_and_not_the_grid(steps: int, height: int, width: int, layout: str) -> None:
    """Cos and sin of one angle, and a token keeps them when the grid grows at the far end."""
    positions, cpu = RotaryPositions(24, layout=layout), torch.device("cpu")
    small, large = positions((steps, height, width), cpu), positions((steps + 1, height + 2, width + 1), cpu)
    assert torch.allclose(small.cos**2 + small.sin**2, torch.ones(()), atol=1e-5)
    for one, two in ((small.cos, large.cos), (small.sin, large.sin)):
        inside = two.unflatten(0, (steps + 1, height + 2, width + 1))[:steps, :height, :width].flatten(0, 2)
        assert torch.allclose(inside, one, atol=1e-6)
    chosen = torch.tensor([[0, 0], [steps * height * width - 1, 0]])
    assert torch.equal(small.select(chosen).cos[1, 0], small.cos[-1])


@few
@given(height=sides, width=sides)
def test_a_table_resized_to_its_own_size_stays(height: int, width: int) -> None:
    table = torch.randn(height * width, 5)
    assert torch.allclose(resize_table(table, (1, height, width), (1, height, width)), table, atol=1e-5)


# Sampling -------------------------------------------------------------------------------------------------------------
@few
@given(total=st.integers(1, 60), count=st.integers(1, 20), tubelet=st.integers(1, 3))
def test_chosen_frames_are_in_order_and_in_the_clip(total: int, count: int, tubelet: int) -> None:
    clip = Clip(
        torch.arange(total, dtype=torch.uint8)[:, None, None, None].repeat(1, 3, 8, 8),
        torch.arange(total, dtype=torch.float64) / 8,
    )
    processor = JEPAProcessor(aspect="native", mean=(0.0,) * 3, std=(1.0,) * 3, rescale=1.0, tubelet_size=tubelet)
    wanted = count - count % tubelet
    assume(wanted)
    if wanted > total:
        with pytest.raises(ValueError, match=str(total)):
            processor(clip, num_frames=wanted)
        return
    taken = processor(clip, num_frames=wanted)
    numbers = taken.pixel_values[0, 0, :, 0, 0].round().tolist()
    assert len(numbers) == wanted and numbers == sorted(numbers) and numbers[0] >= 0 and numbers[-1] < total
    assert taken.frame_times is not None and taken.frame_times[0].tolist() == [number / 8 for number in numbers]
    assert len(set(numbers)) == wanted
