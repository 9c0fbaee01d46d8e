"""The tab Features, without gradio."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from demos.examples import clip, scenes
from demos.library import Known, Library, _shipped
from demos.tabs import features as tab
from demos.tabs import few_labels, prediction
from demos.tabs.features import Options
from jepa_hub.inspection import similarity
from jepa_hub.media.video import probe_video


@pytest.fixture(scope="module")
def shelf() -> Library:
    return Library()


def test_pictures_side_by_side(shelf: Library) -> None:
    paths = [path for path, _ in scenes()[:3]]
    seen = tab.look(shelf.get("ijepa-tiny-scenes"), paths)
    assert seen.features.grid_size == (1, 16, 16) and seen.num_cells == 3 and not seen.is_video
    sheets = tab.draw(seen)
    assert list(sheets) == ["Input", "Colours (PCA)", "Groups (k-means)", "Attention"]
    assert {len(sheet.cells) for sheet in sheets.values()} == {3}
    assert len({cell.size for sheet in sheets.values() for cell in sheet.cells}) == 1
    colours = np.asarray(sheets["Colours (PCA)"].cells[0])
    assert colours.std() > 20
    assert tab.show(seen, sheets) is None
    text = tab.summary(seen, 0.5)
    assert "16 x 16 tokens each of 128 numbers, from 128 pixels, in 0.50 s" in text


def test_a_click_finds_its_token_and_lights_up_what_is_alike(shelf: Library) -> None:
    seen = tab.look(shelf.get("ijepa-tiny-scenes"), [path for path, _ in scenes()[:2]])
    sheet = tab.draw(seen)["Input"]
    width, height = sheet.cells[0].size
    x, y = width + 6 + width * (5.5 / 16), height * (12.5 / 16)  # in the second picture
    token = tab.token_at(seen, sheet, x, y)
    assert token == (1, 0, 12, 5)
    assert tab.token_at(seen, sheet, width + 2, 5) is None  # between the two
    warm = tab.draw(seen, Options(token=token))["Similarity"]
    expected = similarity(seen.features, token)
    brightness = [np.asarray(cell.convert("L")).astype(float) for cell in warm.cells]
    best, worst = expected[0].flatten().argmax().item(), expected[0].flatten().argmin().item()
    side = width // 16
    means = [
        brightness[0][
            side * (place // 16) : side * (place // 16 + 1), side * (place % 16) : side * (place % 16 + 1)
        ].mean()
        for place in (best, worst)
    ]
    assert means[0] > means[1] + 30


def test_a_film_has_one_time(shelf: Library, tmp_path: Path) -> None:
    path = clip("continuity/passing/0000", 0, tmp_path).given
    seen = tab.look(shelf.get("vjepa-tiny-worlds"), path)
    assert seen.features.grid_size == (8, 8, 8) and seen.is_video and seen.num_cells == 8
    sheets = tab.draw(seen, Options(token=(0, 3, 4, 4), layer=0, head=1))
    film = tab.show(seen, sheets)
    assert film is not None and [each.title for each in film.films] == list(tab.VIEWS)
    assert film.seconds == pytest.approx([0.0625 + 0.25 * step for step in range(8)])
    content = film.to_html()
    assert content.count("data:image/jpeg") == 5
    cells = [np.asarray(cell) for cell in sheets["Colours (PCA)"].cells]
    assert any((cells[0] != other).any() for other in cells[1:])


def test_a_film_through_a_model_of_images(shelf: Library, tmp_path: Path) -> None:
    path = clip("continuity/passing/0000", 0, tmp_path).given
    seen = tab.look(shelf.get("ijepa-tiny-scenes"), path, num_frames=6)
    assert seen.features.grid_size == (6, 16, 16) and seen.frames.shape[:2] == (1, 6)
    alone = seen.loaded.model.encode(seen.inputs.pixel_values[:, :, 4])
    assert torch.allclose(seen.features.grid[0, 4], alone.grid[0, 0], atol=1e-5)
    assert "Attention" in tab.draw(seen, Options(token=(0, 5, 1, 1)))


def test_heads_layers_and_groups_change_what_they_should(shelf: Library, picture: str) -> None:
    seen = tab.look(shelf.get("ijepa-tiny-scenes"), picture, side=8)
    base = tab.draw(seen, Options(layer=3))
    for options in (Options(layer=0), Options(layer=3, head=2), Options(layer=3, token=(0, 0, 1, 1))):
        other = tab.draw(seen, options)
        assert other["Attention"].picture.tobytes() != base["Attention"].picture.tobytes()
        assert other["Colours (PCA)"].picture.tobytes() == base["Colours (PCA)"].picture.tobytes()
    few, many = tab.draw(seen, Options(groups=2)), tab.draw(seen, Options(groups=9))
    assert few["Groups (k-means)"].picture.tobytes() != many["Groups (k-means)"].picture.tobytes()
    with pytest.raises(ValueError, match=r"heads 0 \.\. 3"):
        tab.draw(seen, Options(head=4))
    with pytest.raises(ValueError, match=r"blocks 0 \.\. 3"):
        tab.draw(seen, Options(layer=9))


@pytest.mark.parametrize("known", _shipped(), ids=lambda known: known.name)
def test_every_shipped_model_is_of_use(shelf: Library, picture: str, known: Known) -> None:
    """Each tab that offers a model can use it."""
    loaded = shelf.get(known.name)
    sheets = tab.draw(tab.look(loaded, picture), Options(token=(0, 0, 1, 1)))
    assert {"Input", "Colours (PCA)", "Groups (k-means)", "Similarity"} <= set(sheets)
    if prediction.can_predict(known):
        ready = prediction.prepare(loaded, [picture])
        assert prediction.guess(ready, prediction.cells_of(ready, "centre")).predicted.isfinite().all()
    if few_labels.usable(known):
        board = few_labels.Boards().get(loaded)
        assert few_labels.answer(board, few_labels.first_of_each("colour", 1), "colour").labels
    assert (known.is_video, known.family) == (loaded.is_video, loaded.family)


def test_a_model_without_attention_has_no_such_view(shelf: Library, picture: str) -> None:
    seen = tab.look(shelf.get("paws-tiny-scenes"), picture)
    assert seen.layers == 0 and "Attention" not in tab.draw(seen, Options(token=(0, 0, 1, 1)))


def test_downloads_hold_what_was_seen(shelf: Library, tmp_path: Path) -> None:
    path = clip("support/open_seen/0000", 0, tmp_path).given
    seen = tab.look(shelf.get("vjepa-tiny-worlds"), path)
    files = [Path(each) for each in tab.downloads(seen, tmp_path / "out")]
    assert [each.name for each in files] == ["pca.png", "pca.mp4", "features.safetensors"]
    assert probe_video(files[1]).num_frames == 16
    with safe_open(str(files[2]), "pt") as stored:
        assert torch.equal(stored.get_tensor("tokens"), seen.features.tokens)
        assert (
            stored.get_tensor("grid_size").tolist() == [8, 8, 8] and stored.metadata()["model"] == "vjepa-tiny-worlds"
        )


def test_bad_input_is_answered(shelf: Library, picture: str) -> None:
    loaded = shelf.get("ijepa-tiny-scenes")
    with pytest.raises(ValueError, match="tokens per side"):
        tab.look(loaded, picture, side=500)
    with pytest.raises(ValueError, match="choose"):
        tab.look(loaded, None)


def test_the_player_carries_what_it_is_given() -> None:
    from PIL import Image

    from demos.player import Curve, Film, Show

    frames = [Image.new("RGB", (8, 6), (number, 0, 0)) for number in range(10)]
    html = Show(
        [Film("a <b>", frames)], range(10), [Curve("c", [0, 1], [1.0, float("nan")])], [(2.0, "here")]
    ).to_html()
    assert "<b>" not in html  # titles cannot break out
    from html import unescape

    content = json.loads(unescape(html.split('data-show="')[1].split('"')[0]))
    assert content["curves"][0]["points"] == [[0, 1.0], [1, None]] and content["marks"] == [[2.0, "here"]]
    assert content["films"][0]["size"] == [8, 6] and content["columns"] == 8
    with pytest.raises(ValueError, match="as many frames"):
        Show([Film("a", frames)], [0.0]).to_html()
