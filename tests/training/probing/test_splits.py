"""Which samples train, choose and test: disjoint for any source, size and seed (1 s)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from training.data.registry import SOURCES
from training.probing.splits import make_splits, share_of

SIZES = {"train": 20, "validation": 10, "test": 15}
HERE = "tests.training.probing.probe_sources"


@pytest.fixture(autouse=True)
def _sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "squares", f"{HERE}:Squares")
    monkeypatch.setitem(SOURCES, "split_squares", f"{HERE}:SplitSquares")
    monkeypatch.setitem(SOURCES, "two_splits", f"{HERE}:TwoSplits")
    monkeypatch.setitem(SOURCES, "any_split", f"{HERE}:AnySplit")


def test_shares_cover_every_sample_once_and_do_not_depend_on_sizes() -> None:
    shares = {split: share_of(2000, split) for split in SIZES}
    assert torch.cat(list(shares.values())).sort().values.tolist() == list(range(2000))
    for split, part in (("train", 0.7), ("validation", 0.15), ("test", 0.15)):
        assert len(shares[split]) / 2000 == pytest.approx(part, abs=0.03)
    for split in SIZES:  # a sample keeps its split when the source grows
        longer = share_of(2500, split)
        assert torch.equal(longer[longer < 2000], shares[split])


@pytest.mark.parametrize("seeds", [(0,), (0, 1), (5, 6, 7)])
def test_the_three_splits_never_meet(seeds: tuple[int, ...]) -> None:
    splits = make_splits("squares", {"length": 300}, SIZES, seeds)
    used = [set(part.indices) for part in splits.parts.values()]
    assert not (used[0] & used[1] or used[0] & used[2] or used[1] & used[2])
    assert [len(splits.parts[split].indices) for split in ("validation", "test")] == [10, 15]
    assert set().union(*splits.draws.values()) == used[0] and splits.how == "subset"
    assert all(len(set(drawn)) == 20 for drawn in splits.draws.values())
    other = make_splits("squares", {"length": 300}, {"train": 50, "validation": 30, "test": 30}, (9,))
    assert not used[2] & set(other.parts["train"].indices) and not used[0] & set(other.parts["test"].indices)


def test_seeds_draw_different_samples_and_the_same_ones_again() -> None:
    first, again = (make_splits("squares", {"length": 300}, SIZES, (0, 1)) for _ in range(2))
    assert first.draws == again.draws and first.draws[0] != first.draws[1]
    assert first.parts["test"].indices == make_splits("squares", {"length": 300}, SIZES, (1,)).parts["test"].indices


def test_a_small_source_is_drawn_with_repeats_and_said() -> None:
    splits = make_splits("squares", {"length": 100}, {**SIZES, "train": 60, "test": 40}, (0, 1))
    assert splits.how == "bootstrap" and all(len(set(drawn)) < len(drawn) == 60 for drawn in splits.draws.values())
    assert splits.notes == [f"test: 40 samples asked for, squares has {splits.available['test']}"]
    whole = make_splits("squares", {"length": 100}, {**SIZES, "train": 90}, (0,))
    assert whole.how == "all" and whole.draws[0] == share_of(100, "train").tolist()


def test_a_sources_own_splits_are_used_and_no_more_is_drawn_than_read() -> None:
    splits = make_splits("split_squares", {}, SIZES, (0, 1))
    assert [len(part.source) for part in splits.parts.values()] == [40, 10, 15]
    assert [part.source.settings.split for part in splits.parts.values()] == ["train", "validation", "test"]  # type: ignore[attr-defined]
    first = [part.source.read(0, 0).pixels for part in splits.parts.values()]
    assert not torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])
    given = make_splits("split_squares", {"num_samples": 30}, SIZES, (0,))
    assert [len(part.source) for part in given.parts.values()] == [30, 30, 30]
    with pytest.raises(ValueError, match="leave split='test' out"):
        make_splits("split_squares", {"split": "test"}, SIZES, (0,))


def test_a_missing_validation_split_comes_from_training_samples() -> None:
    parts = make_splits("two_splits", {}, {**SIZES, "train": 200}, (0,)).parts
    assert parts["validation"].source is parts["train"].source is not parts["test"].source
    assert len(parts["train"].indices) == 200 - len(share_of(200, "validation"))
    assert not set(parts["train"].indices) & set(parts["validation"].indices)


def test_splits_of_any_name_are_chosen_by_the_user_and_divided() -> None:
    splits = make_splits("any_split", {"split": "train[:10%]"}, SIZES, (0,))
    assert len({id(part.source) for part in splits.parts.values()}) == 1
    assert splits.parts["test"].source.settings.split == "train[:10%]"  # type: ignore[attr-defined]
    used = [index for part in splits.parts.values() for index in part.indices]
    assert len(used) == len(set(used)) == 45


@pytest.mark.parametrize(
    ("name", "settings", "sizes", "seeds", "said"),
    [
        ("squares", {"lenght": 3}, {}, (0,), r"source squares: lenght: .* \(did you mean 'length'\?\)"),
        ("squares", {"length": "many"}, {}, (0,), "source squares: length: "),
        ("squares", {"length": 1}, {}, (0,), "split of squares holds no samples"),
        ("squares", {}, {"test": 0}, (0,), "the test split needs at least 1 sample; got 0"),
        ("squares", {}, {}, (1, 1), "seeds are one or more different whole numbers"),
        ("circles", {}, {}, (0,), "unknown source 'circles'"),
    ],
)
def test_bad_requests_are_named(
    name: str, settings: dict[str, Any], sizes: dict[str, int], seeds: tuple[int, ...], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        make_splits(name, settings, {**SIZES, **sizes}, seeds)
