"""The tab Few labels, without gradio."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import torch

from demos.library import Known, Library
from demos.tabs import few_labels as tab


@pytest.fixture(scope="module")
def shelf() -> Library:
    return Library()


@pytest.fixture(scope="module")
def board(shelf: Library) -> tab.Board:
    return tab.Boards().get(shelf.get("paws-tiny-scenes"))


def test_what_is_labelled_is_not_what_is_classified() -> None:
    pool, test = tab.pictures()
    assert len(pool) == 24 and len(test) == 40 and not {each.path for each in pool} & {each.path for each in test}
    assert set(Counter(each.colour for each in pool).values()) == {tab.EACH}
    assert len(tab.classes("colour")) == 8 and len(tab.classes("shape")) == 4
    with pytest.raises(ValueError, match="colour or shape"):
        tab.classes("size")


def test_one_label_of_each_colour_is_enough(board: tab.Board) -> None:
    given = tab.first_of_each("colour", 1)
    assert sorted(given.values()) == tab.classes("colour")
    found = tab.answer(board, given, "colour")
    assert found.accuracy > 0.9 and len(found.labels) == 40
    assert all(0.125 <= share <= 1 for share in found.shares)


def test_it_is_the_models_own_classifier(shelf: Library, board: tab.Board) -> None:
    loaded = shelf.get("paws-tiny-scenes")
    given = tab.first_of_each("shape", 2)
    pool, test = tab.pictures()
    wanted = loaded.model.classify(
        loaded.processor([each.path for each in test]),
        loaded.processor([pool[number].path for number in given]),
        list(given.values()),
        top=1,
    )
    found = tab.classify(board, given, board.test)
    assert [label for label, _ in found] == [row[0] for row in wanted.labels]
    assert [share for _, share in found] == pytest.approx(wanted.probabilities[:, 0].tolist(), abs=1e-5)


def test_a_wrong_label_is_believed(board: tab.Board) -> None:
    right = tab.first_of_each("colour", 1)
    number = next(each for each, label in right.items() if label == "brown")
    found = tab.answer(board, right | {number: "blue"}, "colour")
    brown = [place for place, each in enumerate(tab.pictures()[1]) if each.colour == "brown"]
    assert brown and all(found.labels[place] == "blue" and not found.right[place] for place in brown)
    assert found.accuracy < tab.answer(board, right, "colour").accuracy


def test_other_models_can_be_tried(shelf: Library) -> None:
    board = tab.Boards().get(shelf.get("llip-tiny-scenes"))
    assert torch.allclose(board.pool.mean(0), torch.zeros(board.pool.shape[1]), atol=1e-5)
    assert tab.answer(board, tab.first_of_each("colour", 1), "colour").accuracy > 0.5
    assert tab.usable(Known("a", "llip", ("encoder",), False, "shipped"))
    assert not tab.usable(Known("a", "vjepa", ("encoder",), True, "shipped"))


def test_what_is_shown_says_what_was_found(board: tab.Board) -> None:
    given = tab.first_of_each("colour", 1)
    found = tab.answer(board, given, "colour")
    assert [caption for _, caption in tab.labelled(given)].count("?") == 16
    captions = [caption for _, caption in tab.results(found)]
    assert sum(each.startswith("✓") for each in captions) == sum(found.right)
    text = tab.summary(board, given, found, "colour")
    assert f"**{found.accuracy:.0%} of 40 other pictures right** by colour, from 8 labels; guessing gets 12%" in text
    html = tab.curve([(1, 0.25), (8, 1.0)], 0.125)
    places = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', html)
    assert len(places) == 2 and float(places[0][1]) > float(places[1][1]) and float(places[0][0]) < float(places[1][0])


def test_what_cannot_be_is_answered(board: tab.Board) -> None:
    with pytest.raises(ValueError, match="label a picture first"):
        tab.classify(board, {}, board.test)
    with pytest.raises(ValueError, match="0 to 23"):
        tab.classify(board, {24: "red"}, board.test)
