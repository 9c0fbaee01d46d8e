"""Labelled samples: which they are, which come with a batch, and what is refused (with the counts)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.patterns import Patterns, PatternsSettings
from training.config import DataSettings, Named, SmallViewSettings, SupportSettings, ViewSettings
from training.data.batches import BadDataError, BatchReader, Layout
from training.data.digits import Digits, DigitsSettings
from training.data.support import Support, SupportSampler, labelled_samples

SOURCE = Patterns(PatternsSettings(num_samples=64))  # 16 samples of each of 4 classes


def sampler(rank: int = 0, world: int = 1, **settings: Any) -> SupportSampler:
    wanted = SupportSettings(label="angle", **settings)
    return SupportSampler(labelled_samples(SOURCE, wanted, 3), wanted, 3, rank, world, SOURCE)


def reader(source: Patterns, support: dict[str, Any], **settings: Any) -> BatchReader:
    wanted = SupportSettings(label="angle", **support)
    data = DataSettings(source=Named(name="patterns"), batch_size=8, support=wanted, **settings)
    found = SupportSampler(labelled_samples(SOURCE, wanted, 3), wanted, 3, 0, 1, source)
    return BatchReader(source, data, None, (32, 32), 7, Layout(8), Support(source, found, 5))


def test_labels_are_chosen_by_seed_and_fewer_are_part_of_more() -> None:
    def chosen(run_seed: int, **settings: Any) -> list[set[int]]:
        found = labelled_samples(SOURCE, SupportSettings(label="angle", **settings), run_seed)
        assert all(index % 4 == number for number, members in enumerate(found) for index in members.tolist())
        return [set(members.tolist()) for members in found]

    few, more = chosen(0, per_class=2), chosen(0, per_class=5)
    assert [len(each) for each in few] == [2] * 4 and all(a < b for a, b in zip(few, more, strict=True))
    assert chosen(0, per_class=2) == few != chosen(1, per_class=2)
    assert chosen(9, per_class=2, seed=0) == few  # a seed of its own wins over the run's
    assert [len(each) for each in chosen(0, fraction=0.25)] == [4] * 4
    assert [len(each) for each in chosen(0)] == [16] * 4


def test_a_file_of_numbers(tmp_path: Path) -> None:
    (tmp_path / "labelled.txt").write_text("0\n1\n2\n3\n4\n")
    found = labelled_samples(SOURCE, SupportSettings(label="angle", subset=str(tmp_path / "labelled.txt")), 0)
    assert [sorted(each.tolist()) for each in found] == [[0, 4], [1], [2], [3]]
    (tmp_path / "labelled.txt").write_text("0\n64\n")
    with pytest.raises(ValueError, match=r"0 \.\. 63; it holds '64'"):
        labelled_samples(SOURCE, SupportSettings(label="angle", subset=str(tmp_path / "labelled.txt")), 0)
    with pytest.raises(ValueError, match="one of per_class, fraction and subset"):
        SupportSettings(label="angle", per_class=1, fraction=0.5)


def test_a_batch_holds_distinct_images_of_every_class_image_major() -> None:
    each = sampler(per_class=6, images=3)
    first, second = each.draw(0), each.draw(1)
    assert first.labels.tolist() == [0, 1, 2, 3] * 3 and first.num_classes == 4
    assert len(set(first.samples.tolist())) == 12
    assert (first.samples % 4 == first.classes[first.labels]).all()
    assert set(first.samples.tolist()) != set(second.samples.tolist())
    assert torch.equal(sampler(per_class=6, images=3).draw(1).samples, second.samples)
    assert sampler(per_class=6).images == 6  # all there are, and no index twice


def test_classes_go_round_before_any_comes_again() -> None:
    each = sampler(classes=2, images=1)
    for turn in range(3):
        seen = [number for place in range(2) for number in each.draw(2 * turn + place).classes.tolist()]
        assert sorted(seen) == [0, 1, 2, 3]


def test_workers_share_classes_with_other_images_or_have_classes_of_their_own() -> None:
    shared = [sampler(rank, 2, classes=2, images=3).draw(4) for rank in range(2)]
    whole = sampler(classes=2, images=6).draw(4)
    assert torch.equal(shared[0].classes, shared[1].classes) and torch.equal(shared[0].classes, whole.classes)
    assert torch.equal(torch.cat([each.samples for each in shared]), whole.samples)  # as one worker with twice as many
    assert torch.equal(torch.cat([each.labels for each in shared]), whole.labels)
    unique = [sampler(rank, 2, classes=2, images=3, unique_classes=True).draw(4) for rank in range(2)]
    assert not set(unique[0].classes.tolist()) & set(unique[1].classes.tolist())
    assert [set(each.labels.tolist()) for each in unique] == [{0, 1}, {2, 3}] and unique[0].num_classes == 4


@pytest.mark.parametrize(
    ("settings", "world", "message"),
    [
        ({"per_class": 17}, 1, r"asks for 17 labelled samples.*4 of 4 classes have fewer \(0: 16, 1: 16"),
        ({"per_class": 4, "images": 5}, 1, r"support.images asks for 5.*\(0: 4"),
        ({"per_class": 4, "images": 3}, 2, r"\(3 x 2 workers that share classes\) asks for 6"),
        ({"classes": 5}, 1, "asks for 5 classes, the labels have 4"),
        ({"classes": 3, "unique_classes": True}, 2, "3 classes of their own for each of 2 workers, the labels have 4"),
    ],
)
def test_too_little_is_refused_with_the_counts(settings: dict[str, Any], world: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampler(0, world, **settings)


def test_a_missing_class_or_label_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labelled.txt").write_text("0 1 4 5")
    with pytest.raises(ValueError, match=r"2 of 4 classes have fewer \(2: 0, 3: 0\)"):
        labelled_samples(SOURCE, SupportSettings(label="angle", subset=str(tmp_path / "labelled.txt")), 0)
    for label in ("angel", "phase"):  # no such label, and one that is no class
        with pytest.raises(ValueError, match="class labels of the source: angle"):
            labelled_samples(SOURCE, SupportSettings(label=label), 0)


def test_views_differ_and_the_support_ends_when_told() -> None:
    small = SmallViewSettings(count=2, size=16, crop_scale=(0.1, 0.3))
    views = ViewSettings(crop_scale=(0.3, 1.0))
    each = reader(SOURCE, {"images": 2, "num_views": 2}, num_views=2, small_views=small, views=views)
    batch = each[4]
    shapes = [tuple(crops.shape) for crops in (batch["crops"], *batch["other_crops"])]
    assert shapes == [(8, 3, 1, 32, 32)] * 2 + [(8, 3, 1, 16, 16)] * 2
    assert not torch.equal(batch["crops"], batch["other_crops"][0])
    assert not torch.equal(batch["other_crops"][1], batch["other_crops"][2])
    support = batch["support"]
    assert len(support["crops"]) == 2 and support["crops"][0].shape == (8, 3, 1, 32, 32)
    assert not torch.equal(*support["crops"])
    assert "support" not in each[5]  # until_step
    plain = BatchReader(
        SOURCE, DataSettings(source=Named(name="patterns"), batch_size=8, views=views), None, (32, 32), 7, Layout(8)
    )
    assert torch.equal(plain[4]["crops"], batch["crops"])  # further views change nothing of the first


def test_an_unreadable_labelled_sample_is_replaced_by_one_of_its_class() -> None:
    intact = reader(SOURCE, {"per_class": 4, "images": 2})[0]["support"]
    gone = int(intact["index"][1])
    broken = Patterns(PatternsSettings(num_samples=64, broken=(gone,)))
    batch = reader(broken, {"per_class": 4, "images": 2})[0]
    index = batch["support"]["index"]
    assert (
        gone not in index.tolist()
        and int(index[1]) % 4 == gone % 4
        and any(str(gone) in words for words in batch["bad"])
    )
    assert torch.equal(index[[0, 2, 3]], intact["index"][[0, 2, 3]])
    none = Patterns(PatternsSettings(num_samples=64, broken=tuple(range(0, 64, 4))))
    with pytest.raises(BadDataError, match="no labelled sample of class 0"):
        reader(none, {"per_class": 4, "images": 2}).__getitem__(0)


def test_sources_know_their_labels_without_pixels() -> None:
    digits = Digits(DigitsSettings(size=8))
    values = digits.label_values("digit")
    assert [int(values[index]) for index in (0, 5, 700)] == [
        digits.read(index, 0).labels["digit"] for index in (0, 5, 700)
    ]
    assert len(values) == len(digits)
    assert SOURCE.label_values("angle").tolist() == [index % 4 for index in range(64)]
