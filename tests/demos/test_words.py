"""The tab Words, without gradio."""

from __future__ import annotations

import re

import pytest
import torch

from demos.examples import solids
from demos.library import Library
from demos.tabs import words as tab
from jepa_hub import zero_shot


@pytest.fixture(scope="module")
def shelf() -> Library:
    return Library()


def test_words_find_the_colour_of_what_is_there(shelf: Library) -> None:
    loaded = shelf.get("llip-tiny-scenes")
    right = [tab.fit(loaded, each.path, tab.COLOURS).names[0] == each.colour for each in solids()[:24]]
    assert sum(right) >= 20  # chance is 3 of 24
    best = tab.fit(loaded, solids()[0].path, "blue, red, green")
    assert best.names[0] == "red" and sum(best.shares) == pytest.approx(1) and best.unknown == ()
    assert list(best.shares) == sorted(best.shares, reverse=True)


def test_the_weights_are_those_of_each_text(shelf: Library) -> None:
    loaded = shelf.get("llip-tiny-scenes")
    best = tab.fit(loaded, solids()[0].path, "blue, red, green", "a {} sphere")
    model = loaded.model
    classes = zero_shot.encode_classes(model, [f"a {each} sphere" for each in best.names])
    wanted = model.mix(model.encode_image(loaded.processor(solids()[0].path)), classes.texts).weights[0]
    assert best.weights is not None and torch.allclose(best.weights, wanted, atol=1e-5)
    assert not torch.allclose(best.weights[0], best.weights[1], atol=0.05)
    table = tab.mixture_table([("<b>", best.weights[0])])
    assert "<b>" not in table and "&lt;b&gt;" in table
    shares = [float(each) for each in re.findall(r"opacity:(\d\.\d+)", table)]
    assert shares == pytest.approx(best.weights[0].flatten().tolist(), abs=1e-3) and len(shares) == 32
    assert table.count("head 4") == 1 + 8


def test_a_text_finds_its_pictures(shelf: Library) -> None:
    loaded = shelf.get("llip-tiny-scenes")
    index = tab.Index()
    gallery = index.get(loaded)
    assert len(gallery) == 24 + 64 == len(tab.gallery_paths()) and index.get(loaded).parts is gallery.parts
    hits = tab.search(loaded, gallery, "a blue object")
    colour = {each.path: each.colour for each in solids()}
    assert [colour.get(each.path, "blue") for each in hits] == ["blue"] * 6
    assert [each.cosine for each in hits] == sorted((each.cosine for each in hits), reverse=True)
    pixels = loaded.processor(hits[2].path)
    wanted = loaded.model.mix(loaded.model.encode_image(pixels), loaded.model.encode_text("a blue object")).weights
    assert hits[2].weights is not None and torch.allclose(hits[2].weights, wanted[0, 0], atol=1e-4)


def test_words_it_never_read_are_named(shelf: Library) -> None:
    loaded = shelf.get("llip-tiny-scenes")
    assert tab.unknown_words(loaded, ["a red zebra,", "A red Cube."]) == ("zebra",)
    assert tab.fit(loaded, solids()[0].path, "zebra, red").unknown == ("zebra",)
    assert "`zebra`" in tab.told(loaded, ("zebra",)) and "never read" not in tab.told(loaded, ())


def test_what_cannot_be_is_answered(shelf: Library, film: str) -> None:
    loaded = shelf.get("llip-tiny-scenes")
    path = solids()[0].path
    assert tab.words_of(" a ,b\nb, c,") == ["a", "b", "c"]
    for words in ("", "red", ",".join(map(str, range(41))), "a, " + "b" * 201):
        with pytest.raises(ValueError, match="2 to 40 words"):
            tab.fit(loaded, path, words)
    with pytest.raises(ValueError, match="template"):
        tab.fit(loaded, path, "a, b", "no place")
    with pytest.raises(ValueError, match="not a video"):
        tab.fit(loaded, film, "a, b")
    for text in (" ", "a" * 201):
        with pytest.raises(ValueError, match="what you look for"):
            tab.search(loaded, tab.Index().get(loaded), text)
