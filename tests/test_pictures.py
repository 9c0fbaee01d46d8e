"""PCA pictures: the projection, its sharing, and the files written."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from jepa_hub.features import Features
from jepa_hub.pictures import PADDING, pca_components, pca_image, save_pca


def features(*grid: int, batch: int = 1, dim: int = 12, seed: int = 0, times: bool = False) -> Features:
    generator = torch.Generator().manual_seed(seed)
    count = grid[0] * grid[1] * grid[2]
    scale = torch.linspace(3, 0.1, dim)
    tokens = torch.randn(batch, count, dim, generator=generator) * scale
    frame_times = torch.arange(grid[0]).double()[None].expand(batch, -1) / 4 if times else None
    return Features(tokens, (grid[0], grid[1], grid[2]), frame_times)


def array(picture: Image.Image | list[Image.Image]) -> np.ndarray:
    assert isinstance(picture, Image.Image)
    return np.asarray(picture)


def test_directions_are_those_of_numpy() -> None:
    one = features(1, 9, 8)
    tokens = one.tokens[0].double().numpy()
    centred = tokens - tokens.mean(0)
    _, singular, rows = np.linalg.svd(centred, full_matrices=False)
    found = pca_components(one)
    overlap = np.abs((rows[:3] * found.basis.T.double().numpy()).sum(1))
    assert np.allclose(overlap, 1, atol=1e-5)
    assert found.explained == pytest.approx((singular[:3] ** 2).sum() / (singular**2).sum(), abs=1e-6)


@pytest.mark.parametrize("count", [5, 300])  # fewer tokens than dimensions takes another route than more
def test_signs_do_not_depend_on_the_order_of_tokens(count: int) -> None:
    one = features(1, 1, count)
    shuffled = Features(one.tokens[:, torch.randperm(count)], one.grid_size)
    left, right = pca_components(one), pca_components(shuffled)
    assert torch.allclose(left.basis, right.basis, atol=1e-4)
    largest = left.basis.gather(0, left.basis.abs().argmax(0, keepdim=True))
    assert (largest > 0).all()


def test_one_pixel_per_token_in_row_major_order() -> None:
    tokens = torch.zeros(1, 6, 4)
    tokens[0, :, 0] = torch.arange(6.0)
    tokens[0, :, 1] = torch.tensor([0, 1, 0, 1, 0, 1.0])
    picture = array(pca_image(Features(tokens, (1, 2, 3)), size=(3, 2)))
    assert picture.shape == (2, 3, 3)
    red = picture[..., 0].astype(int).reshape(-1)
    assert (np.diff(red) >= 0).all() or (np.diff(red) <= 0).all()  # the first direction is the ramp
    assert (picture[..., 2] == 128).all()  # there is no third direction: grey, not stretched rounding errors


def test_an_outlier_does_not_grey_out_the_rest() -> None:
    one = features(1, 20, 20)
    one.tokens[0, 0] = 1e4
    picture = array(pca_image(one, size=(20, 20))).astype(float)
    assert picture.reshape(-1, 3)[1:].std(0).max() > 30


def test_sizes() -> None:
    one = features(1, 5, 8)
    assert array(pca_image(one)).shape == (80, 128, 3)
    assert array(pca_image(one, size=64)).shape == (40, 64, 3)
    assert array(pca_image(one, size=(10, 20))).shape == (20, 10, 3)


def test_clips_and_batches_are_lists_with_shared_colours() -> None:
    clip = features(3, 4, 5, batch=2)
    pictures = pca_image(clip)
    assert isinstance(pictures, list) and len(pictures) == 6
    components = pca_components(clip)
    second = Features(clip.tokens[1:], clip.grid_size)
    again = pca_image(second, components=components)
    assert isinstance(again, list)
    assert all((array(left) == array(right)).all() for left, right in zip(pictures[3:], again, strict=True))


def test_several_images_of_different_grids_share_their_colours() -> None:
    left, right = features(1, 4, 4, seed=1), features(1, 3, 5, seed=2)
    pictures = pca_image([left, right])
    assert isinstance(pictures, list) and [picture.size for picture in pictures] == [(64, 64), (80, 48)]
    alone = pca_image(left)
    assert (array(alone) != array(pictures[0])).any()


def test_padding_is_grey_and_does_not_count() -> None:
    one = features(1, 4, 4)
    valid = torch.ones(1, 16, dtype=torch.bool)
    valid[0, 12:] = False
    spoilt = one.tokens.clone()
    spoilt[0, 12:] = float("nan")
    picture = array(pca_image(Features(spoilt, one.grid_size, valid=valid), size=(4, 4)))
    assert (picture[3] == PADDING).all() and (picture[:3] != PADDING).any()


def test_features_that_are_all_alike_are_drawn_grey() -> None:
    picture = array(pca_image(Features(torch.ones(1, 4, 8), (1, 2, 2))))
    assert (picture == 128).all()


def test_bfloat16_features_are_drawn() -> None:
    assert array(pca_image(features(1, 4, 4).to(dtype=torch.bfloat16))).shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (Features(torch.full((1, 4, 8), float("nan")), (1, 2, 2)), "NaN"),
        ([features(1, 2, 2, dim=8), features(1, 2, 2, dim=9)], "one width"),
        ([], "one width"),
    ],
)
def test_bad_features_are_refused(bad: Features | list[Features], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pca_image(bad)


def test_components_of_another_model_are_refused() -> None:
    with pytest.raises(ValueError, match="different models"):
        pca_image(features(1, 2, 2, dim=8), components=pca_components(features(1, 2, 2, dim=9)))


def test_sheet_of_an_image_shows_the_input_in_its_colours(tmp_path: Path) -> None:
    pixels = torch.zeros(1, 3, 1, 64, 64)
    pixels[:, 0] = (1 - 0.485) / 0.229  # pure red
    pixels[:, 1:] = (torch.tensor([0.0, 0.0]) - torch.tensor([0.456, 0.406])).div(torch.tensor([0.224, 0.225]))[
        None, :, None, None, None
    ]
    path = save_pca(tmp_path / "pca.png", features(1, 4, 4), {"pixel_values": pixels})
    sheet = np.asarray(Image.open(path))
    red = (sheet == (255, 0, 0)).all(-1)
    assert red.sum() > 300 * 300 and (sheet[0, 0] == 255).all()
    assert [file.name for file in tmp_path.iterdir()] == ["pca.png"]


def test_sheet_of_a_clip_has_a_map_under_every_step(tmp_path: Path) -> None:
    clip = features(10, 4, 4, times=True)
    with_input = Image.open(save_pca(tmp_path / "with.png", clip, torch.zeros(1, 3, 20, 32, 32)))
    maps_only = Image.open(save_pca(tmp_path / "maps.jpg", clip))
    assert with_input.width == maps_only.width  # eight columns, then a second strip
    assert with_input.height > 1.7 * maps_only.height


def test_film_keeps_the_pace_of_the_clip(tmp_path: Path) -> None:
    clip = features(4, 4, 4, times=True)  # a step every quarter of a second, two frames each
    path = save_pca(tmp_path / "pca.mp4", clip, torch.zeros(1, 3, 8, 32, 32))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 8 and len(list(container.decode(stream))) == 8


@pytest.mark.parametrize(
    ("name", "grid", "pixels", "words"),
    [
        ("pca.txt", (1, 2, 2), None, "pictures end in"),
        ("pca.mp4", (1, 2, 2), None, "single moment"),
        ("pca.png", (1, 2, 2), torch.zeros(2, 3, 1, 8, 8), "2 samples"),
        ("pca.png", (1, 2, 2), torch.zeros(1, 4, 8, 8), "B, 3, F, H, W"),
        ("pca.png", (4, 2, 2), torch.zeros(1, 3, 2, 8, 8), "2 frames cannot"),
    ],
)
def test_bad_requests_leave_nothing_behind(
    tmp_path: Path, name: str, grid: tuple[int, int, int], pixels: torch.Tensor | None, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        save_pca(tmp_path / name, features(*grid), pixels)
    assert not list(tmp_path.iterdir())
