"""Batches: pure functions of step and rank, the same samples for any number of workers, and honest bad data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from jepa_hub.masking.samplers import MultiBlock2D
from tests.training.patterns import Patterns, PatternsSettings
from training.config import DataSettings, Named, ViewSettings
from training.data.batches import BadDataError, BadSamples, BatchReader, Layout, batches
from training.data.shards import Shards, write_shards

SAMPLER = MultiBlock2D(grid=(4, 4), num_targets=2, min_keep=2)


def reader(layout: Layout, num_samples: int = 40, **settings: Any) -> BatchReader:
    source = Patterns(PatternsSettings(num_samples=num_samples))
    data = DataSettings(source=Named(name="patterns"), batch_size=layout.batch_size, **settings)
    return BatchReader(source, data, SAMPLER, (32, 32), 7, layout)


def test_an_epoch_holds_every_sample_once_and_epochs_differ() -> None:
    each = reader(Layout(8))
    epochs = [[index for number in range(5) for index in each.samples_of(5 * epoch + number)] for epoch in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(40)) and epochs[0] != epochs[1]


@pytest.mark.parametrize(("world", "accumulation"), [(2, 1), (1, 2), (2, 2), (4, 1)])
def test_any_number_of_workers_and_passes_shares_out_the_same_step(world: int, accumulation: int) -> None:
    whole = reader(Layout(8))
    parts = [reader(Layout(8 // world // accumulation, accumulation, rank, world)) for rank in range(world)]
    for step in (0, 3, 6):
        dealt = [
            index
            for turn in range(accumulation)
            for part in parts
            for index in part.samples_of(step * accumulation + turn)
        ]
        assert dealt == whole.samples_of(step)


def test_crops_and_masks_of_a_sample_do_not_depend_on_its_batch() -> None:
    whole, half = reader(Layout(8))[2], reader(Layout(4, rank=1, world=2))[2]
    assert torch.equal(whole["index"][4:], half["index"])
    assert torch.equal(whole["crops"][4:], half["crops"])
    assert torch.equal(whole["masks"][0].context[4:], half["masks"][0].context)
    assert torch.equal(whole["labels"]["angle"][4:], half["labels"]["angle"])
    assert whole["crops"].dtype == torch.uint8 and whole["crops"].shape == (8, 3, 1, 32, 32)


def test_a_step_in_the_middle_is_what_it_would_have_been() -> None:
    settings: dict[str, Any] = {"views": ViewSettings(crop_scale=(0.3, 1.0))}
    straight = list(batches(reader(Layout(8), **settings), 0, 7, pin_memory=False))
    later = list(batches(reader(Layout(8), **settings), 5, 7, pin_memory=False))
    assert len(straight) == 7 and len(later) == 2
    assert all(torch.equal(one["crops"], two["crops"]) for one, two in zip(straight[5:], later, strict=True))


def test_too_few_samples_are_refused_with_the_numbers() -> None:
    with pytest.raises(ValueError, match=r"holds 40 samples, one step needs 64 \(batch 16 x accumulation 2 x workers"):
        reader(Layout(16, 2, 0, 2))


def test_a_broken_sample_is_replaced_the_same_way_each_time() -> None:
    def broken() -> BatchReader:
        each = reader(Layout(8))
        each.source = Patterns(PatternsSettings(num_samples=40, broken=tuple(range(0, 40, 5))))
        return each

    first, second = broken()[1], broken()[1]
    assert torch.equal(first["index"], second["index"]) and first["bad"] == second["bad"] != []
    assert not {int(index) for index in first["index"]} & set(range(0, 40, 5))
    everything = reader(Layout(8))
    everything.source = Patterns(PatternsSettings(num_samples=40, broken=tuple(range(40))))
    with pytest.raises(BadDataError, match="10 samples in a row could not be read"):
        everything[0]


def test_the_share_of_bad_samples_is_bounded() -> None:
    few = BadSamples(0.01)
    few.add(1000, ["a"] * 10)
    with pytest.raises(BadDataError, match=r"11 of 1000 samples could not be read, more than data\.max_bad=0\.01"):
        few.add(0, ["b"])


def test_shards_on_two_workers_give_each_sample_once(tmp_path: Path) -> None:
    patterns = Patterns(PatternsSettings(num_samples=40))
    samples = (patterns.read(index, 0) for index in range(40))
    write_shards(tmp_path / "set", samples, kind="image", labels=patterns.labels, total=40, samples_per_shard=7)
    source = Shards(Shards.Settings(root=str(tmp_path / "set")))
    data = DataSettings(source=Named(name="shards"), batch_size=4)
    readers = [BatchReader(source, data, SAMPLER, (32, 32), 7, Layout(4, 1, rank, 2)) for rank in range(2)]
    dealt = [each[number] for each in readers for number in range(5)]
    assert sorted(int(index) for batch in dealt for index in batch["index"]) == list(range(40))
    for batch in dealt:
        assert torch.equal(batch["labels"]["angle"], batch["index"] % 4)
