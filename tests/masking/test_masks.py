"""Masks: the data class, the samplers in both modes against the published statistics, and the audit."""

from __future__ import annotations

import builtins
import logging
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from jepa_hub.masking.audit import audit, coverage
from jepa_hub.masking.blocks import ATTEMPTS, BlockLayout, BlockPlan, Blocks
from jepa_hub.masking.draws import DESIGN, MaskSampler, choose, keyed, keyed_bits, keyed_integers, keyed_order
from jepa_hub.masking.samplers import MASKS, Future, MultiBlock2D, MultiBlock3D, Random, Tube
from jepa_hub.masks import Masks, frame_masks, gather_tokens

GRIDS: dict[str, tuple[int, ...]] = {
    "multi_block_2d": (14, 14),
    "multi_block_3d": (8, 8, 8),
    "tube": (4, 6, 6),
    "random": (4, 6, 6),
    "future": (8, 4, 4),
}
MODES = ("corrected", "faithful")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build(name: str, mode: str = "corrected", **settings: Any) -> MaskSampler:
    return MASKS[name](**{"grid": GRIDS[name], "mode": mode, **settings})


def some_masks(group: int = 0) -> Masks:
    return Masks(torch.tensor([[0, 1], [2, 3]]), torch.tensor([[[4, 5], [6, 7]], [[5, 6], [8, 9]]]), group)


def lengths_of(sampler: MaskSampler, batch_size: int, num_batches: int, group: int = 0) -> Tensor:
    """Context and target length of each batch, float [num_batches, 2]."""
    rows = []
    for step in range(num_batches):
        masks = sampler(range(batch_size * step, batch_size * (step + 1)), seed=0, step=step)[group]
        rows.append([masks.context.shape[1], masks.target.shape[2]])
    return torch.tensor(rows).float()


# --- Masks and gather_tokens ---


def test_masks_move_and_keep_their_group() -> None:
    moved = some_masks(group=1).to("meta", non_blocking=True)
    assert moved.context.device.type == moved.target.device.type == "meta" and moved.group == 1


def test_masks_pin_both_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self + 100)  # pinning needs a GPU driver
    pinned = some_masks(group=1).pin_memory()
    assert pinned.context.min() == 100 and pinned.target.min() == 104 and pinned.group == 1


@pytest.mark.parametrize(
    ("context", "target", "group", "error", "says"),
    [
        ([[0]], torch.tensor([[[1]]]), 0, TypeError, "context must be an int64 tensor"),
        (torch.tensor([[0]]), torch.tensor([[[1]]]).numpy(), 0, TypeError, "target must be an int64 tensor"),
        (torch.tensor([[0]]), torch.tensor([[[1]]]).int(), 0, ValueError, "int64"),
        (torch.tensor([[0]]), torch.tensor([[1]]), 0, ValueError, r"\[B, M, T\]"),
        (torch.tensor([0]), torch.tensor([[[1]]]), 0, ValueError, r"\[B, C\]"),
        (torch.tensor([[0], [1]]), torch.tensor([[[1]]]), 0, ValueError, "one row per sample"),
        (torch.tensor([[0]]), torch.tensor([[[1]]]), -1, ValueError, "group"),
        (torch.tensor([[0]]), torch.tensor([[[1]]]), "long", TypeError, "group"),
    ],
)
def test_masks_refuse_what_is_no_mask(context: Any, target: Any, group: Any, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        Masks(context, target, group)


@pytest.mark.parametrize(
    ("context", "target", "says"),
    [
        ([[0, 9]], [[[1, 2]]], r"context\[0, 1\] is token 9.*0 to 8"),
        ([[0, 1]], [[[2, -1]]], r"target\[0, 0, 1\] is token -1"),
        ([[3, 0, 3]], [[[1, 2]]], r"context\[0\] holds token 3 more than once"),
        ([[0, 3]], [[[1, 2], [5, 5]]], r"target\[0, 1\] holds token 5 more than once"),
        ([[0, 3], [0, 4]], [[[1, 2]], [[1, 4]]], "token 4 of row 1 is context and target"),
        ([[]], [[[1, 2]]], "context is empty"),
    ],
)
def test_validate_names_the_first_fault(context: list, target: list, says: str) -> None:
    masks = Masks(torch.tensor(context, dtype=torch.int64), torch.tensor(target))
    with pytest.raises(ValueError, match=says):
        masks.validate(9)


def test_validate_allows_targets_that_share_tokens() -> None:
    some_masks().validate(10)
    assert set(some_masks().target[0, 0].tolist()) & set(some_masks().target[1, 0].tolist()) == {5}


def test_gather_tokens_is_the_naive_loop_and_differentiable() -> None:
    tokens = torch.randn(3, 7, 4, dtype=torch.float64, requires_grad=True)
    index = torch.stack([torch.randperm(7)[:5] for _ in range(3)])
    naive = torch.stack([torch.stack([tokens[b, i] for i in index[b].tolist()]) for b in range(3)])
    assert torch.equal(gather_tokens(tokens, index), naive)
    weight = torch.randn(3, 5, 4, dtype=torch.float64)
    (expected,) = torch.autograd.grad((naive * weight).sum(), tokens)
    (got,) = torch.autograd.grad((gather_tokens(tokens, index) * weight).sum(), tokens)
    assert torch.equal(got, expected)


@pytest.mark.parametrize(
    ("tokens", "index", "says"),
    [
        (torch.zeros(2, 5), torch.zeros(2, 3).long(), r"tokens \[B, N, D\]"),
        (torch.zeros(2, 5, 1), torch.zeros(3, 3).long(), "same B"),
        (torch.zeros(2, 5, 1), torch.zeros(2, 1, 3).long(), r"flatten\(1\)"),
        (torch.zeros(2, 5, 1), torch.zeros(2, 3).int(), "int64"),
    ],
)
def test_gather_tokens_refuses_wrong_shapes(tokens: Tensor, index: Tensor, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        gather_tokens(tokens, index)


class Gatherer(torch.nn.Module):
    def forward(self, tokens: Tensor, masks: Masks) -> tuple[Tensor, Tensor]:
        target = gather_tokens(tokens, masks.target.flatten(1)).unflatten(1, masks.target.shape[1:])  # [B, M, T, D]
        return gather_tokens(tokens, masks.context), target


def test_masks_go_through_pickle_and_pytree() -> None:
    leaves, spec = pytree.tree_flatten({"masks": [some_masks(group=1)]})
    for copy in (pickle.loads(pickle.dumps(some_masks(group=1))), pytree.tree_unflatten(leaves, spec)["masks"][0]):
        assert torch.equal(copy.context, some_masks().context) and torch.equal(copy.target, some_masks().target)
        assert copy.group == 1
    shapes = pytree.tree_map(lambda leaf: getattr(leaf, "shape", leaf), some_masks())  # leaves of other kinds are fine
    assert tuple(shapes.context) == (2, 2)


def test_masks_go_through_export_and_compile() -> None:
    tokens = torch.randn(2, 10, 3)
    batch, length = torch.export.Dim("batch", max=64), torch.export.Dim("length")
    shapes = ({0: batch}, [{0: batch, 1: length}, {0: batch}, None])
    program = torch.export.export(Gatherer(), (tokens, some_masks()), dynamic_shapes=shapes)
    other = Masks(torch.tensor([[0, 1, 2]] * 3), torch.tensor([[[4, 5], [6, 7]]] * 3))
    more = torch.randn(3, 10, 3)
    compiled = torch.compile(Gatherer(), fullgraph=True, backend="eager")
    for run in (program.module(), compiled):
        for got, expected in zip(run(more, other), Gatherer()(more, other), strict=True):
            assert torch.equal(got, expected)
    operations = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "aten.gather.default" in operations and not any("index" in name for name in operations)


# --- frame_masks ---


def test_frame_masks_are_whole_time_steps() -> None:
    masks = frame_masks(range(4), [6, 7, 4, 5], grid=(4, 2, 3), tubelet_size=2, batch_size=2, group=1)
    masks.validate(24)
    assert masks.context.tolist() == [list(range(12))] * 2 and masks.target.tolist() == [[list(range(12, 24))]] * 2
    assert masks.group == 1


@pytest.mark.parametrize(
    ("context", "target", "error", "says"),
    [
        (range(3), range(4, 8), ValueError, r"context_frames must fill whole tubelets.*add \[3\]"),
        (range(4), range(5, 8), ValueError, r"target_frames must fill whole tubelets.*add \[4\]"),
        (range(4), range(6, 10), ValueError, r"\[8, 9\].*frames 0 to 7"),
        (range(-2, 2), range(6, 8), ValueError, r"\[-2, -1\]"),
        (range(6), range(4, 8), ValueError, r"frames \[4, 5\] are in context_frames and in target_frames"),
        ([0, 1, 1], range(4, 8), ValueError, "more than once"),
        ([], range(4, 8), ValueError, "empty"),
        (4, range(4, 8), TypeError, r"range\(0, 8\)"),
        ([0.0, 1.0], range(4, 8), TypeError, "frame numbers"),
    ],
)
def test_frame_masks_refuse_bad_frames(context: Any, target: Any, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        frame_masks(context, target, grid=(4, 2, 2), tubelet_size=2, batch_size=1)


def test_frame_masks_refuse_bad_sizes() -> None:
    with pytest.raises(ValueError, match="tubelet_size"):
        frame_masks([0], [1], (2, 2, 2), tubelet_size=0, batch_size=1)
    with pytest.raises(ValueError, match="batch_size"):
        frame_masks([0], [1], (2, 2, 2), tubelet_size=1, batch_size=0)


# --- keyed draws ---


def test_keyed_bits_are_splitmix64() -> None:
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]  # seed 1234567
    assert [bits % 2**64 for bits in keyed_bits(torch.tensor(1234567), 4).tolist()] == published


def test_keys_differ_and_stay_the_same_for_ever() -> None:
    keys = [keyed(0), keyed(0, 0), keyed(0, 1), keyed(1, 0), keyed(-1), keyed(2**63), keyed(10**30)]
    assert len({int(key) for key in keys}) == len(keys)
    assert torch.equal(keyed(5, torch.tensor([7, 8]), 9), torch.stack([keyed(5, 7, 9), keyed(5, 8, 9)]))
    assert int(keyed(1, 2, 3)) == -3459936354030841973  # another value would change every mask of every run


def test_keyed_integers_are_uniform() -> None:
    draws = keyed_integers(keyed(3, torch.arange(6000)), torch.tensor([6, 1]))
    share = torch.bincount(draws[:, 0], minlength=6) / 6000
    assert (share - 1 / 6).abs().max() < 0.02 and draws[:, 1].max() == 0


def test_choose_is_uniform_over_the_candidates() -> None:
    candidates = torch.zeros(4000, 12, dtype=torch.bool)
    candidates[:, 2:10] = True
    chosen = choose(candidates, 3, keyed_order(keyed(1, torch.arange(4000)), 12))
    share = torch.bincount(chosen.flatten(), minlength=12) / 4000
    assert torch.equal(share[[0, 1, 10, 11]], torch.zeros(4)) and (share[2:10] - 3 / 8).abs().max() < 0.04
    assert (chosen.diff(dim=1) > 0).all()


def test_design_draws_every_setting_evenly_and_without_correlation() -> None:
    design = torch.tensor(DESIGN).double()  # [8, 4]
    assert all(column.sort().values.tolist() == [(2 * i + 1) / 16 for i in range(8)] for column in design.T)
    assert torch.allclose(torch.corrcoef(design.T), torch.eye(4).double(), atol=1e-12)


# --- all samplers ---


def test_registry() -> None:
    assert list(MASKS) == list(GRIDS)
    assert all(issubclass(sampler, MaskSampler) for sampler in MASKS.values())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MASKS)
def test_masks_are_valid_deterministic_and_change_with_the_step(name: str, mode: str) -> None:
    sampler = build(name, mode)
    seen = set()
    for step in range(6):
        masks = sampler(range(9), seed=1, step=step)
        again = pickle.loads(pickle.dumps(sampler))(list(range(9)), seed=1, step=step)
        for group, (one, other) in enumerate(zip(masks, again, strict=True)):
            one.validate(sampler.num_tokens)
            assert one.context.shape[0] == 9 and one.group == group
            assert torch.equal(one.context, other.context) and torch.equal(one.target, other.target)
            seen.add((group, tuple(one.context[0].tolist())))
    assert len(seen) > 3 * len(masks)


@pytest.mark.parametrize("name", MASKS)
def test_a_sample_has_its_mask_in_any_batch(name: str) -> None:
    sampler = build(name)
    samples = [7, 3, 2**40, 3, 0, 11, 5]
    whole = sampler(samples, seed=4, step=2)
    for place in ([0], [6, 2], [4, 3, 1]):
        for large, small in zip(whole, sampler([samples[i] for i in place], seed=4, step=2), strict=True):
            assert torch.equal(large.context[place], small.context)
            assert torch.equal(large.target[place], small.target)


@pytest.mark.parametrize("name", ["multi_block_2d", "multi_block_3d", "tube", "random"])
def test_seed_sample_and_step_each_matter(name: str) -> None:
    sampler = build(name)

    def used(sample: int, seed: int, step: int) -> tuple:
        return tuple(tuple(m.context.flatten().tolist()) for m in sampler([sample], seed=seed, step=step))

    assert len({used(0, 0, 0), used(1, 0, 0), used(0, 1, 0), used(0, 0, 1)}) == 4


@pytest.mark.parametrize("name", MASKS)
def test_lengths_come_from_a_short_list(name: str) -> None:
    sampler = build(name)
    together = set()
    for step in range(60):
        masks = sampler([step, 1], seed=0, step=step)
        drawn = [(m.context.shape[1], m.target.shape[2]) for m in masks]
        assert all(pair in listed for pair, listed in zip(drawn, sampler.lengths, strict=True))
        together.add(tuple(drawn))
    assert all(1 <= len(listed) <= 8 for listed in sampler.lengths) and len(together) <= 8
    for group, listed in enumerate(sampler.lengths):
        assert {drawn[group] for drawn in together} == set(listed)


@pytest.mark.parametrize("name", MASKS)
def test_faithful_masks_depend_on_the_batch(name: str) -> None:
    sampler = build(name, "faithful")
    one, two = sampler(range(8), seed=0, step=3), sampler(range(8, 16), seed=0, step=3)
    if name == "future":
        assert torch.equal(one[0].context, two[0].context)
    else:
        assert one[0].context.shape != two[0].context.shape or not torch.equal(one[0].context, two[0].context)


@pytest.mark.parametrize(
    ("samples", "seed", "step", "error"),
    [
        ([], 0, 0, ValueError),
        ([1], 0, -1, ValueError),
        ([1.5], 0, 0, TypeError),
        (["a"], 0, 0, TypeError),
        (3, 0, 0, TypeError),
        ([1], 0.5, 0, TypeError),
    ],
)
def test_bad_calls(samples: Any, seed: Any, step: Any, error: type) -> None:
    with pytest.raises(error, match="sample"):
        build("random")(samples, seed=seed, step=step)


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("random", {"mode": "upstream"}, "corrected"),
        ("random", {"grid": (4,)}, "grid must be"),
        ("random", {"grid": (0, 4)}, "grid must be"),
        ("random", {"ratio": 0}, "ratio"),
        ("random", {"ratio": (0.6, 0.4)}, "ratio"),
        ("random", {"ratio": 1.0}, "context"),
        ("random", {"ratio": "half"}, "pair"),
        ("tube", {"grid": (8, 2, 2), "ratio": 0.01}, "at least one"),
        ("tube", {"ratio": 1.5}, "<= 1"),
        ("future", {"grid": (4, 4, 4)}, r"\[8, 10\].*possible here: \[2, 4, 6\]"),
        ("future", {"context_frames": 3}, "cannot split"),
        ("future", {"context_frames": ()}, "one to 8"),
        ("future", {"tubelet_size": 0}, "tubelet_size"),
        ("multi_block_2d", {"grid": (2, 14, 14)}, "multi_block_3d"),
        ("multi_block_2d", {"grid": (1, 1)}, "grid is too small"),
        ("multi_block_2d", {"target_scale": (0.1, 1.2)}, "target_scale.*<= 1"),
        ("multi_block_2d", {"target_scale": 0.0}, "target_scale"),
        ("multi_block_2d", {"context_scale": (0.0, 1.0)}, "context_scale"),
        ("multi_block_2d", {"target_aspect": (1.5, 0.75)}, "target_aspect"),
        ("multi_block_2d", {"target_aspect": float("inf")}, "target_aspect"),
        ("multi_block_2d", {"num_targets": 0}, "num_targets"),
        ("multi_block_2d", {"num_targets": True}, "num_targets"),
        ("multi_block_2d", {"min_keep": -1}, "min_keep"),
        ("multi_block_2d", {"min_keep": 190}, "191 are needed"),
        ("multi_block_2d", {"grid": (4, 4)}, "smaller min_keep"),
        ("multi_block_2d", {"mode": "faithful", "grid": (8, 8)}, "min_keep = 10.*as few as 9"),
        ("multi_block_2d", {"mode": "faithful", "grid": (1, 20)}, "too small"),
        ("multi_block_3d", {"grid": (8, 2, 2)}, "grid is too small"),
        ("multi_block_3d", {"blocks": []}, "empty"),
        ("multi_block_3d", {"blocks": {"num_blocks": 2}}, "list of Blocks"),
        ("multi_block_3d", {"blocks": [{"num_block": 2}]}, "no setting num_block; it has num_blocks"),
        ("multi_block_3d", {"blocks": [{"spatial_scale": 1.01}]}, "spatial_scale"),
        ("multi_block_3d", {"blocks": [{"num_blocks": 0}]}, "num_blocks"),
        ("multi_block_3d", {"blocks": [{"max_keep": 0}]}, "max_keep"),
        ("multi_block_3d", {"blocks": [{"spatial_scale": 1.0, "aspect": 1.0}]}, "context"),
        ("multi_block_3d", {"blocks": [{"spatial_scale": 1.0, "aspect": 1.0}], "mode": "faithful"}, "leave no context"),
    ],
)
def test_bad_settings(name: str, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build(name, **settings)


def test_unknown_setting_is_named() -> None:
    with pytest.raises(TypeError, match="target_scales"):
        build("multi_block_2d", target_scales=0.1)


def test_settings_from_yaml_and_replace() -> None:
    sampler = MultiBlock2D(grid=[14, 14], target_scale=[0.15, 0.2])  # type: ignore[arg-type]  # YAML has lists
    assert sampler == MultiBlock2D(grid=(1, 14, 14)) and hash(sampler) == hash(MultiBlock2D(grid=(1, 14, 14)))
    assert replace(sampler, mode="faithful").lengths == ((),)
    mapping = MultiBlock3D(grid=(4, 8, 8), blocks=[{"num_blocks": 2, "spatial_scale": 0.7}])
    assert mapping == MultiBlock3D(grid=(4, 8, 8), blocks=[Blocks(num_blocks=2, spatial_scale=0.7)])


# --- multi-block 2D ---


def test_2d_targets_are_equal_rectangles_of_the_asked_size() -> None:
    sampler = MultiBlock2D(grid=(16, 20), num_targets=3)
    for step in range(5):
        for block in sampler([5, 6], seed=0, step=step)[0].target.flatten(0, 1):
            rows, columns = (block // 20).unique(), (block % 20).unique()
            assert torch.equal(block, (rows[:, None] * 20 + columns).flatten())
            assert len(rows) == rows[-1] - rows[0] + 1 and len(columns) == columns[-1] - columns[0] + 1
            assert 0.12 < len(block) / 320 < 0.23 and 0.65 < len(rows) / len(columns) < 1.7


def sides_over_steps(mode: str) -> tuple[Tensor, Tensor]:
    """Area and height / width of the target blocks of many steps on a fine grid."""
    sampler = MultiBlock2D(grid=(48, 48), mode=mode)
    blocks = [sampler([0], seed=0, step=step)[0].target[0, 0] for step in range(120)]
    height, width = (torch.tensor([len(f(block).unique()) for block in blocks]).double() for f in (rows_48, columns_48))
    return height * width, height / width


def rows_48(block: Tensor) -> Tensor:
    return block // 48


def columns_48(block: Tensor) -> Tensor:
    return block % 48


def test_2d_scale_and_aspect_are_tied_upstream_and_free_when_corrected() -> None:
    assert torch.corrcoef(torch.stack(sides_over_steps("faithful")))[0, 1] > 0.95
    assert torch.corrcoef(torch.stack(sides_over_steps("corrected")))[0, 1].abs() < 0.15


def test_2d_coverage_is_symmetric_when_corrected_and_loses_the_edge_upstream() -> None:
    corrected = coverage(MultiBlock2D(grid=(14, 14)), num_batches=64).groups[0]
    for share in (corrected.context[0], corrected.target[0]):
        assert (share - share.flip(0)).abs().max() < 0.06 and (share - share.flip(1)).abs().max() < 0.06
        assert (share.sum(1) - share.sum(1).flip(0)).abs().max() < 0.25
        assert share[-1].min() > 0.02 and share[:, -1].min() > 0.02
    faithful = coverage(MultiBlock2D(grid=(14, 14), mode="faithful"), num_batches=32).groups[0]
    assert faithful.either[0, -1].max() == 0 and faithful.either[0, :, -1].max() == 0
    by_row = faithful.context[0].mean(1)  # 0.75 -> 0.00 from top to bottom at batch 64
    assert by_row[0] == pytest.approx(0.75, abs=0.03) and by_row[-2] < 0.06
    assert corrected.context_length.mean > faithful.context_length.mean + 15


@pytest.mark.parametrize(
    ("side", "context", "context_range", "target", "target_range"),
    [
        (14, 57, (39, 72), 33, (30, 40)),
        (16, 78, (52, 96), 44, (35, 54)),
        (28, 248, (172, 324), 138, (108, 154)),
    ],
)
def test_2d_faithful_lengths_are_those_of_upstream(
    side: int, context: int, context_range: tuple, target: int, target_range: tuple
) -> None:
    lengths = lengths_of(MultiBlock2D(grid=(side, side), mode="faithful"), batch_size=32, num_batches=60)
    mean, low, high = lengths.mean(0), lengths.amin(0), lengths.amax(0)
    assert mean[0] == pytest.approx(context, rel=0.05) and mean[1] == pytest.approx(target, rel=0.03)
    assert low[0] == pytest.approx(context_range[0], rel=0.15) and high[0] == pytest.approx(context_range[1], rel=0.12)
    assert low[1] >= target_range[0] and high[1] <= target_range[1]


def test_2d_faithful_context_is_cut_at_the_bottom() -> None:
    sampler = MultiBlock2D(grid=(14, 14), mode="faithful")
    context = torch.cat([sampler(range(32), seed=0, step=s)[0].context.flatten() for s in range(60)])
    assert (context < 98).double().mean() == pytest.approx(0.72, abs=0.03)
    alone = torch.tensor([sampler([s], seed=0, step=s)[0].context.shape[1] for s in range(150)]).double()
    assert alone.mean() == pytest.approx(82, abs=3)  # nothing to cut in a batch of one


def test_2d_faithful_keeps_strictly_more_than_min_keep() -> None:
    sampler = MultiBlock2D(grid=(6, 6), mode="faithful", num_targets=8, min_keep=3)
    lengths = lengths_of(sampler, batch_size=64, num_batches=20)
    assert lengths[:, 0].min() == 4


def test_2d_faithful_lets_context_overlap_targets_after_20_failures(caplog: pytest.LogCaptureFixture) -> None:
    sampler = MultiBlock2D(grid=(8, 8), target_scale=0.5, mode="faithful")
    with caplog.at_level(logging.WARNING, logger="jepa_hub.masking.samplers"):
        masks = sampler(range(16), seed=0, step=0)[0]
    assert "may now overlap 1 of their targets" in caplog.messages[0] and masks.context.shape[1] > 10
    with pytest.raises(ValueError, match="context and target"):
        masks.validate(64)


def test_2d_full_context_is_all_but_the_targets() -> None:
    sampler = MultiBlock2D(grid=(8, 32), context_scale=1.0)  # IWM; not square, so a square block would not do
    masks = sampler(range(64), seed=0, step=0)[0]
    masks.validate(256)
    assert masks.context.flatten().unique().numel() == 256


def test_3d_predicts_the_visible_tokens_too_where_asked() -> None:
    blocks = [Blocks(num_blocks=4, spatial_scale=(0.15, 0.2))]
    usual = MultiBlock3D(grid=(1, 14, 14), blocks=blocks)
    everywhere = MultiBlock3D(grid=(1, 14, 14), blocks=blocks, predict="all")
    for step in range(3):
        hidden, whole = usual(range(5), seed=0, step=step)[0], everywhere(range(5), seed=0, step=step)[0]
        assert torch.equal(whole.context, hidden.context) and whole.target.tolist() == [[list(range(196))]] * 5
        assert (whole.context.shape[1], 196) in everywhere.lengths[0]
        whole.validate(196, overlap=True)
        with pytest.raises(ValueError, match="would see its answer"):
            whole.validate(196)
    assert len(everywhere.lengths[0]) <= 8
    for wrong in ({"predict": "none"}, {"predict": "all", "mode": "faithful"}):
        with pytest.raises(ValueError, match='predict is "blocks"'):
            MultiBlock3D(grid=(1, 14, 14), blocks=blocks, **wrong)


def test_a_rare_context_is_found_or_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, spared = [], []
    corners, spare = BlockLayout.corners, BlockPlan._spare

    def count_corners(self: BlockLayout, keys: Tensor) -> Tensor:
        drawn.append(len(keys))
        return corners(self, keys)

    def count_spares(self: BlockPlan, keys: Tensor) -> Tensor:
        spared.append(len(keys))
        return spare(self, keys)

    sampler = MultiBlock2D(grid=(14, 14), min_keep=110)  # about one draw in a hundred
    monkeypatch.setattr(BlockLayout, "corners", count_corners)
    monkeypatch.setattr(BlockPlan, "_spare", count_spares)
    masks = sampler(range(200), seed=0, step=1)[0]
    masks.validate(196)
    assert masks.context.shape[1] == 111
    assert len(drawn) == ATTEMPTS and drawn[0] == 200 and 0 < spared[0] <= drawn[-1]  # bounded, then the last resort
    assert torch.equal(masks.context[13], sampler([13], seed=0, step=1)[0].context[0])
    share = coverage(sampler, num_batches=20).groups[0].context[0]
    assert (share.sum(1) - share.sum(1).flip(0)).abs().max() < 0.15 * share.sum(1).max()


# --- multi-block 3D ---


def test_3d_has_one_group_per_entry() -> None:
    sampler = MultiBlock3D(
        grid=(4, 8, 8), blocks=[Blocks(), Blocks(num_blocks=2, spatial_scale=0.7), Blocks(max_keep=9)]
    )
    masks = sampler(range(3), seed=0, step=0)
    assert [m.group for m in masks] == [0, 1, 2] and len(sampler.lengths) == 3
    assert all(m.target.shape[1] == 1 for m in masks) and masks[2].context.shape[1] == 9


def test_3d_groups_are_drawn_apart() -> None:
    same = Blocks(aspect=1.0)
    one, two = MultiBlock3D(grid=(4, 8, 8), blocks=[same, same])(range(4), seed=0, step=0)
    assert one.target.shape == two.target.shape and not torch.equal(one.target, two.target)


@pytest.mark.parametrize("mode", MODES)
def test_3d_settings_in_time(mode: str) -> None:
    blocks = [Blocks(num_blocks=1, temporal_scale=0.5), Blocks(max_temporal_keep=0.5)]
    short, early = MultiBlock3D(grid=(8, 8, 8), blocks=blocks, mode=mode)(range(50), seed=0, step=0)
    assert all(len((row // 64).unique()) <= 4 for row in short.target[:, 0])
    assert (short.target // 64).max() == 7  # blocks reach the last step
    assert (early.context // 64).max() == 3 and (early.target // 64).max() == 7


def test_3d_coverage_is_symmetric_in_space_and_time() -> None:
    for group in coverage(MultiBlock3D(grid=(4, 8, 8)), num_batches=40, batch_size=128).groups:
        for share in (group.context, group.target):
            for axis in range(3):
                profile = share.mean([other for other in range(3) if other != axis])
                assert (profile - profile.flip(0)).abs().max() < 0.03
            assert share[-1].max() > 0 and share[:, -1].max() > 0 and share[:, :, -1].max() > 0
            in_time = share.mean((1, 2))
            assert in_time.max() - in_time.min() < 0.01


@pytest.mark.parametrize(
    ("group", "context", "target", "in_time"),
    [
        (0, 375, 751, [0.163, 0.163, 0.163, 0.163, 0.158, 0.122, 0.055, 0.014]),
        (1, 110, 1103, [0.144, 0.144, 0.144, 0.144, 0.144, 0.144, 0.104, 0.035]),
    ],
)
def test_3d_faithful_statistics_are_those_of_upstream(group: int, context: int, target: int, in_time: list) -> None:
    sampler = MultiBlock3D(grid=(8, 14, 14), mode="faithful")
    masks = [sampler(range(24), seed=0, step=step)[group] for step in range(60)]
    assert sum(m.context.shape[1] for m in masks) / 60 == pytest.approx(context, rel=0.1)
    assert sum(m.target.shape[2] for m in masks) / 60 == pytest.approx(target, rel=0.03)
    steps = torch.cat([m.target.flatten() for m in masks]) // 196
    assert torch.allclose(torch.bincount(steps) / len(steps), torch.tensor(in_time), atol=0.012)
    seen = torch.bincount(torch.cat([m.context.flatten() for m in masks]) // 196, minlength=8)
    assert seen[0] / seen.sum() == pytest.approx([0.20, 0.34][group], abs=0.03) and seen[-1] / seen.sum() < 0.03


def test_3d_faithful_at_256_pixels() -> None:
    sampler = MultiBlock3D(grid=(8, 16, 16), mode="faithful")
    shares = [lengths_of(sampler, 24, 60, group).mean(0) / 2048 for group in (0, 1)]
    assert shares[0].tolist() == pytest.approx([0.248, 0.472], abs=0.02)
    assert shares[1].tolist() == pytest.approx([0.065, 0.696], abs=0.02)


def test_3d_corrected_keeps_more_than_upstream() -> None:
    corrected, faithful = (MultiBlock3D(grid=(8, 14, 14), mode=mode) for mode in MODES)
    for group in (0, 1):
        kept, upstream = (lengths_of(sampler, 24, 16, group).mean(0) for sampler in (corrected, faithful))
        assert (kept > 1.01 * upstream).all()


# --- tube, random, future ---


@pytest.mark.parametrize("mode", MODES)
def test_tube_is_the_same_at_all_times(mode: str) -> None:
    masks = Tube(grid=(3, 5, 4), ratio=0.75, mode=mode)(range(4), seed=0, step=0)[0]
    assert masks.context.shape == (4, 15) and masks.target.shape == (4, 1, 45)
    places = masks.context.view(4, 3, 5) - torch.arange(3)[:, None] * 20
    assert torch.equal(places, places[:, :1].expand(-1, 3, -1)) and places.max() < 20


def test_random_and_tube_cover_evenly() -> None:
    for sampler in (
        Random(grid=(6, 6), ratio=0.5),
        Random(grid=(6, 6), ratio=0.5, mode="faithful"),
        Tube(grid=(2, 6, 6)),
    ):
        group = coverage(sampler, num_batches=32).groups[0]
        assert (group.context - group.context.mean()).abs().max() < 0.06 and torch.equal(
            group.either, torch.ones_like(group.either)
        )


def test_random_ratio_spans_its_range() -> None:
    lengths = Random(grid=(10, 10)).lengths[0]
    assert len(lengths) == 8 and lengths[0] == (41, 59) and lengths[-1] == (59, 41)
    assert Random(grid=(10, 10), mode="faithful").lengths == ((),)
    assert Random(grid=(10, 10), ratio=0.9, mode="faithful").lengths[0] == ((9, 91),)  # upstream rounds 9.999... down
    assert Random(grid=(10, 10), ratio=0.9).lengths[0] == ((10, 90),)


def test_future_shows_the_first_frames() -> None:
    sampler = Future(grid=(8, 2, 2))
    assert sampler.lengths == (tuple((4 * n, 4 * (8 - n)) for n in (1, 2, 3, 4, 5)),)
    masks = sampler(range(3), seed=0, step=0)[0]
    assert (masks.context.max(1).values + 1 == masks.target.amin((1, 2))).all()
    turns = [Future(grid=(8, 2, 2), mode="faithful")([0], seed=0, step=s)[0].context.shape[1] for s in range(6)]
    assert turns == [4, 8, 12, 16, 20, 4]
    assert Future(grid=(4, 2, 2), context_frames=3, tubelet_size=1).lengths == (((12, 4),),)


# --- audit ---


def test_coverage_counts_tokens() -> None:
    group = coverage(Future(grid=(4, 2, 2), context_frames=4), num_batches=2, batch_size=3).groups[0]
    assert group.context[:2].min() == 1 and group.context[2:].max() == 0 and group.target[2:].min() == 1
    assert group.context_length == (8, 8, 8) and str(group.target_length) == "8" and group.num_targets == 1
    with pytest.raises(ValueError, match="num_batches"):
        coverage(Future(grid=(4, 2, 2), context_frames=4), num_batches=0)


def test_audit_draws_both_modes_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "masks.png"
    both = audit("multi_block_2d", (14, 14), path, num_batches=4, batch_size=16, num_targets=2)
    assert list(both) == ["faithful", "corrected"] and both["faithful"].groups[0].either[0, -1].max() == 0
    width, height = png_size(path)
    alone = both["corrected"].plot(tmp_path / "one.png")
    assert png_size(alone)[1] == height and png_size(alone)[0] < 0.7 * width


def test_audit_draws_one_map_per_time_step(tmp_path: Path) -> None:
    one = audit("tube", (2, 6, 6), tmp_path / "short.png", num_batches=1, batch_size=4)
    coverage(Tube(grid=(9, 6, 6)), num_batches=1, batch_size=4).plot(tmp_path / "long.png")
    assert one["corrected"].sampler.grid_size == (2, 6, 6)
    assert png_size(tmp_path / "long.png")[1] > png_size(tmp_path / "short.png")[1]  # a second line of maps


def png_size(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


def test_audit_errors_are_clear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="there are multi_block_2d"):
        audit("blocks", (4, 4), tmp_path / "x.png")
    with pytest.raises(OSError, match="nowhere"):
        audit("random", (4, 4), tmp_path / "nowhere" / "x.png", num_batches=1)
    real = builtins.__import__

    def without_matplotlib(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        audit("random", (4, 4), tmp_path / "x.png", num_batches=1)
