"""The tab Prediction, without gradio: what is hidden is hidden, and what is shown is what was predicted."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from demos import painter
from demos.examples import clip, scenes
from demos.imagining import Galleries
from demos.library import Known, Library
from demos.tabs import prediction as tab
from jepa_hub.masks import Masks


@pytest.fixture(scope="module")
def shelf() -> Library:
    return Library()


@pytest.fixture(scope="module")
def galleries() -> Galleries:
    return Galleries()


def test_the_guess_is_the_models_own(shelf: Library) -> None:
    ready = tab.prepare(shelf.get("ijepa-tiny-scenes"), [scenes()[9][0]])
    assert ready.grid == (1, 8, 8) and ready.large.shape == (3, 1, 320, 320) and not ready.is_video
    cells = tab.cells_of(ready, "centre")
    assert cells == [row * 8 + column for row in range(2, 6) for column in range(2, 6)]
    found = tab.guess(ready, cells)
    others = [each for each in range(64) if each not in cells]
    masks = Masks(torch.tensor([others]), torch.tensor([[cells]]))
    assert torch.equal(found.predicted, ready.loaded.model.predict(ready.inputs, masks=masks)[0, 0])
    wanted = ready.loaded.model.prediction_targets(ready.inputs.pixel_values)[0][cells]
    assert torch.equal(found.error, (found.predicted - wanted).abs().mean(-1))
    assert 0.5 < found.likeness < 1 and float(found.error.mean()) < 0.7 * found.blind_error
    assert "16 of 64 tokens hidden" in tab.summary(found) and f"{found.likeness:.2f}**" in tab.summary(found)


def test_nothing_hidden_reaches_the_guess(shelf: Library, tmp_path: Path) -> None:
    path = scenes()[9][0]
    array = np.asarray(Image.open(path).convert("RGB")).copy()
    array[:, 112:] = np.random.default_rng(0).integers(0, 255, array[:, 112:].shape)
    other = tmp_path / "noise.png"
    Image.fromarray(array).save(other)
    loaded = shelf.get("ijepa-tiny-scenes")
    first, second = (tab.prepare(loaded, [str(each)]) for each in (path, other))
    # antialiasing mixes the two columns of patches at the border: hide one more
    cells = sorted({*tab.cells_of(first, "right half"), *(row * 8 + 3 for row in range(8))})
    a, b = tab.guess(first, cells), tab.guess(second, cells)
    assert torch.equal(a.predicted, b.predicted) and not torch.equal(a.true, b.true)


def test_a_video_is_predicted_forwards_or_behind_a_mask(shelf: Library, tmp_path: Path) -> None:
    path = clip("solidity/passing/0000", 0, tmp_path).given
    ready = tab.prepare(shelf.get("vjepa-tiny-worlds"), path)
    assert ready.grid == (8, 4, 4) and ready.is_video and ready.tubelet == 2
    later = tab.guess(ready, [], 8)
    assert later.target.tolist() == list(range(64, 128))
    assert torch.equal(
        later.predicted, ready.loaded.model.predict(ready.inputs, context=range(8), target=range(8, 16))[0, 0]
    )
    behind = tab.guess(ready, tab.cells_of(ready, "left half"))
    assert len(behind.target) == 64 and {int(each) % 4 for each in behind.target} == {0, 1}
    for frames in (16, 1):
        with pytest.raises(ValueError, match="2 to 14 can be seen"):
            tab.guess(ready, [], frames)


def test_the_views_show_what_was_predicted(shelf: Library, galleries: Galleries, tmp_path: Path) -> None:
    path = clip("solidity/passing/0000", 0, tmp_path).given
    ready = tab.prepare(shelf.get("vjepa-tiny-worlds"), path)
    found = tab.guess(ready, [], 8)
    bank = galleries.get(ready.loaded, ready.inputs.pixel_values, ready.scale).without(ready.path)
    views = {name: [np.asarray(each.convert("RGB")) for each in cells] for name, cells in tab.draw(found, bank).items()}
    assert list(views) == list(tab.VIEWS) and {len(each) for each in views.values()} == {8}
    for name in ("Seen", "Imagined", "Truth in gallery patches"):
        assert np.array_equal(views[name][3], views["Truth"][3])  # what was seen stays
        assert not np.array_equal(views[name][4], views["Truth"][4])
    assert (views["Seen"][5] == tab.HIDDEN).all()
    assert not np.array_equal(views["True features"][5], views["Predicted features"][5])
    token = 64 + int(found.error.argmax())
    step, row, column = token // 16, token // 4 % 4, token % 4
    heat = views["Error"][step].astype(int).sum(-1)
    side = heat.shape[0] // 4
    assert heat[row * side + 2, column * side + 2] == max(each.astype(int).sum(-1).max() for each in views["Error"][4:])
    film = tab.show(found, tab.draw(found, bank))
    points = film.curves[0].values
    assert np.isnan(points[:4]).all() and points[5] == pytest.approx(float(found.error[16:32].mean()), abs=1e-6)
    assert film.seconds[0] == pytest.approx(0.0625)


def test_the_gallery_leaves_out_what_is_on_the_page(shelf: Library, galleries: Galleries) -> None:
    path = scenes()[9][0]
    ready = tab.prepare(shelf.get("ijepa-tiny-scenes"), [path])
    gallery = galleries.get(ready.loaded, ready.inputs.pixel_values, ready.scale)
    assert gallery is galleries.get(ready.loaded, ready.inputs.pixel_values, ready.scale)
    assert len(gallery.bank.tokens) == 24 * 64
    own = ready.loaded.model.prediction_targets(ready.inputs.pixel_values)[0]
    assert torch.allclose(gallery.bank.nearest(own)[1], torch.ones(64), atol=1e-4)  # it would be found ...
    without = gallery.without(path)
    assert len(without.tokens) == 23 * 64 and float(without.nearest(own)[1].max()) < 0.9999  # ... and is left out
    assert len(gallery.without("/tmp/mine.png").tokens) == 24 * 64


def test_a_still_picture_through_a_model_of_clips_and_one_that_predicts_pixels(
    shelf: Library, galleries: Galleries
) -> None:
    for name in ("vjepa-tiny-worlds", "mae-tiny-worlds"):
        ready = tab.prepare(shelf.get(name), [scenes()[9][0]])
        found = tab.guess(ready, tab.cells_of(ready, "bottom half"))
        bank = galleries.get(ready.loaded, ready.inputs.pixel_values, ready.scale).without(ready.path)
        assert {len(each) for each in tab.draw(found, bank).values()} == {1}


def test_what_cannot_be_is_answered(shelf: Library, film: str) -> None:
    loaded = shelf.get("ijepa-tiny-scenes")
    with pytest.raises(ValueError, match="choose a video model"):
        tab.prepare(loaded, [film])
    with pytest.raises(ValueError, match="one at a time"):
        tab.prepare(loaded, [film, film])
    ready = tab.prepare(loaded, [scenes()[9][0]])
    for cells in ([], list(range(64)), [64], [-1]):
        with pytest.raises(ValueError, match="paint over some"):
            tab.guess(ready, cells)
    with pytest.raises(ValueError, match="no place"):
        tab.cells_of(ready, "everywhere")


def test_which_models_can_be_chosen() -> None:
    networks = ("encoder", "predictor", "target_encoder")
    known = [Known("a", family, networks, False, "shipped") for family in ("ijepa", "iwm")]
    assert [tab.can_predict(each) for each in known] == [True, False]
    assert not tab.can_predict(Known("a", "ijepa", ("encoder",), False, "shipped"))


def test_the_painter_takes_numbers_of_patches_only() -> None:
    html = painter.to_html(Image.new("RGB", (8, 6)), (2, 4), [3])
    content = json.loads(unescape(html.split('data-show="')[1].split('"')[0]))
    assert (content["rows"], content["columns"], content["cells"], content["size"]) == (2, 4, [3], [8, 6])
    assert painter.cells_of({"cells": [0, 7]}, 8) == [0, 7]
    for told in (None, {}, {"cells": "0"}, {"cells": [8]}, {"cells": [-1]}, {"cells": [0.5]}, {"cells": [None]}):
        with pytest.raises(ValueError, match="from 0 to 7"):
            painter.cells_of(told, 8)
