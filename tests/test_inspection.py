"""Similarity, segments and attention, against plain formulas and on pictures whose answer is known."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from jepa_hub.features import Features
from jepa_hub.inspection import attention, has_attention, segments, similarity
from jepa_hub.models.base import JEPAModel
from jepa_hub.models.registry import MODELS
from jepa_hub.patch_bank import PatchBank, as_patches
from tests.official import tiny_model, tiny_pixels


def features(batch: int = 2, grid: tuple[int, int, int] = (2, 3, 4), dim: int = 8) -> Features:
    torch.manual_seed(0)
    return Features(torch.randn(batch, grid[0] * grid[1] * grid[2], dim) + 5, grid)


def test_similarity_is_the_cosine_to_the_chosen_token() -> None:
    given = features()
    found = similarity(given, (1, 0, 2, 3), centre=False)
    chosen = given.grid[1, 0, 2, 3]
    assert found.shape == (2, 2, 3, 4) and found[1, 0, 2, 3] == pytest.approx(1)
    other = given.grid[0, 1, 1, 2]
    assert found[0, 1, 1, 2] == pytest.approx(float(other @ chosen / other.norm() / chosen.norm()), abs=1e-6)
    assert found.min() > 0.8  # the common part hides the differences ...
    centred = similarity(given, (1, 0, 2, 3))
    assert centred.min() < -0.3 and centred[1, 0, 2, 3] == pytest.approx(1)  # ... and without it they show


def test_similarity_leaves_padding_out() -> None:
    given = features(batch=1)
    valid = torch.ones(1, 24, dtype=torch.bool)
    valid[0, 12:] = False
    tokens = given.tokens.clone()
    tokens[0, 12:] = 1e4
    marked = Features(tokens, given.grid_size, valid=valid)
    part = Features(tokens[:, :12], (1, 3, 4))
    assert torch.allclose(similarity(marked, (0, 0, 1, 1))[:, :1], similarity(part, (0, 0, 1, 1)), atol=1e-5)
    with pytest.raises(ValueError, match="only padding"):
        similarity(marked, (0, 1, 0, 0))


@pytest.mark.parametrize("token", [(2, 0, 0, 0), (0, 2, 0, 0), (0, 0, 3, 0), (0, 0, 0, -1), (0, 0)])
def test_a_token_outside_is_refused(token: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="token"):
        similarity(features(), token)


def test_segments_find_groups_that_are_there_and_share_them() -> None:
    torch.manual_seed(0)
    centres = 10 * torch.eye(3, 8)
    first, second = torch.tensor([0, 0, 0, 1, 0, 2, 0, 1]), torch.tensor([2, 0, 1, 0, 0, 0, 0, 0])
    several = [Features(centres[rows][None] + 0.1 * torch.randn(1, 8, 8), (1, 2, 4)) for rows in (first, second)]
    found = segments(several, 3)
    assert [each.shape for each in found] == [(1, 1, 2, 4)] * 2
    flat = torch.cat([each.flatten() for each in found])
    truth = torch.cat([first, second])
    assert all(len(flat[truth == group].unique()) == 1 for group in range(3)) and len(flat.unique()) == 3
    assert (flat[truth == 0] == 0).all()  # the largest comes first
    assert torch.equal(torch.cat([each.flatten() for each in segments(several, 3)]), flat)


def test_segments_mark_padding_and_refuse_what_cannot_be() -> None:
    given = features(batch=1)
    valid = torch.ones(1, 24, dtype=torch.bool)
    valid[0, 5] = False
    assert (
        segments(Features(given.tokens, given.grid_size, valid=valid), 3)[0].flatten() == -1
    ).nonzero().tolist() == [[5]]
    for count in (1, 25):
        with pytest.raises(ValueError, match="groups"):
            segments(given, count)
    with pytest.raises(ValueError, match="one width"):
        segments([given, features(dim=4)], 2)


def test_segments_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(ImportError, match=r"jepa-hub\[demo\]"):
        segments(features(), 2)


@pytest.mark.parametrize("family", ["ijepa", "vjepa", "vjepa2"])
def test_attention_is_what_the_layer_used(family: str) -> None:
    """The weights times the values, through the projection, give the layer's output: also with rotary positions."""
    model = tiny_model(family)
    frames = 1 if family == "ijepa" else 4
    pixels = torch.randn(2, 3, frames, 32, 32)
    block = model.feature_encoder.blocks[-1]
    seen: dict[str, Any] = {}
    hook = block.attn.register_forward_hook(
        lambda module, given, out: seen.update(x=given[0], rotary=given[1], out=out)
    )
    features = model.encode(pixels)
    hook.remove()
    weights = block.attn.weights(seen["x"], seen["rotary"])  # [B, H, N, N]
    assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-5)
    value = block.attn.qkv(seen["x"]).unflatten(-1, (3, block.attn.num_heads, -1))[:, :, 2].transpose(1, 2)
    rebuilt = block.attn.proj((weights @ value).transpose(1, 2).flatten(2))
    assert torch.allclose(rebuilt, seen["out"], atol=1e-5)

    grid = features.grid_size
    token = (grid[0] - 1, 1, 0)
    index = (token[0] * grid[1] + 1) * grid[2]
    found = attention(model, pixels, layer=-1, token=token)
    assert found.shape == (2, block.attn.num_heads, *grid)
    assert torch.allclose(found.flatten(2), weights[:, :, index], atol=1e-6)
    everyone = attention(model, pixels, layer=-1)
    assert torch.allclose(everyone.flatten(2), weights.mean(2), atol=1e-6)
    first = attention(model, pixels, layer=0, token=token)
    assert not torch.allclose(first, found)


@pytest.mark.parametrize("layer", [0, 1])
def test_attention_keeps_to_the_windows_and_leaves_the_class_token_out(layer: int) -> None:
    model = tiny_model("pit", attention_window=3)
    pixels = tiny_pixels("pit", attention_window=3)
    grid = model.encode(pixels).grid_size
    assert model.feature_encoder.class_token is not None and min(grid[1:]) >= 4
    near = attention(model, pixels, layer=layer, token=(0, 0, 0))[:, :, 0]  # [B, heads, H, W]
    assert (near[..., :2, :2] > 0).all()
    assert (near[..., 2:, :] == 0).all() and (near[..., :, 2:] == 0).all()
    assert (near.sum((-1, -2)) < 1).all()
    block = model.feature_encoder.blocks[layer]
    seen: dict[str, Any] = {}
    hook = block.attn.register_forward_hook(lambda module, given, out: seen.update(x=given[0], mask=given[3], out=out))
    model.encode(pixels)
    hook.remove()
    weights = block.attn.weights(seen["x"], mask=seen["mask"])  # [B, heads, 1+N, 1+N]
    value = block.attn.qkv(seen["x"]).unflatten(-1, (3, block.attn.num_heads, -1))[:, :, 2].transpose(1, 2)
    rebuilt = block.attn.proj((weights @ value).transpose(1, 2).flatten(2))
    assert torch.allclose(rebuilt, seen["out"], atol=1e-5)
    assert torch.allclose(near.flatten(2), weights[:, :, 1, 1:], atol=1e-6)
    everyone = attention(model, pixels, layer=layer)
    assert torch.allclose(everyone.flatten(2), weights[:, :, 1:, 1:].mean(2), atol=1e-6)


@pytest.mark.parametrize("family", sorted(MODELS))
def test_attention_of_every_family_or_a_clear_no(family: str) -> None:
    model, pixels = tiny_model(family), tiny_pixels(family)
    if has_attention(model):
        found = attention(model, pixels)
        assert found.shape[2:] == model.encode(pixels).grid_size and bool((found >= 0).all())
        assert torch.all(found.flatten(2).sum(-1) < 1 + 1e-4)
    else:
        assert family in ("paws", "dit")
        with pytest.raises(ValueError, match="no plain transformer"):
            attention(model, pixels)


def test_attention_says_what_is_wrong() -> None:
    model = tiny_model("ijepa")
    pixels = torch.randn(1, 3, 32, 32)
    with pytest.raises(ValueError, match=r"blocks 0 \.\. "):
        attention(model, pixels, layer=99)
    with pytest.raises(ValueError, match="not on the grid"):
        attention(model, pixels, token=(0, 99, 0))
    with pytest.raises(ValueError, match="no plain transformer"):
        attention(tiny_model("paws"), torch.randn(1, 3, 32, 32))


def test_patches_are_those_of_the_tokens() -> None:
    pixels = torch.arange(2 * 3 * 4 * 8 * 6, dtype=torch.float32).view(2, 3, 4, 8, 6)
    patches = as_patches(pixels, 2, 2)  # grid 2 x 4 x 3
    assert patches.shape == (2, 24, 3, 2, 2, 2)
    assert torch.equal(patches[1, (1 * 4 + 2) * 3 + 1], pixels[1, :, 2:4, 4:6, 2:4])
    with pytest.raises(ValueError, match="do not divide"):
        as_patches(pixels, 3, 2)


def test_a_still_picture_is_painted_by_a_model_of_clips() -> None:
    model = tiny_model("vjepa")
    pixels = torch.randn(3, 1, 32, 32)
    bank = PatchBank.of(model, pixels[None])
    tokens = model.prediction_targets(pixels[None].expand(-1, -1, model.config.tubelet_size, -1, -1))[0]
    painted = bank.paint(pixels, torch.arange(len(tokens)), tokens)
    assert painted.shape == pixels.shape and torch.allclose(painted, pixels)


def test_a_bank_paints_a_picture_back_from_its_own_tokens() -> None:
    """Of true tokens the nearest patches are the true ones, so that the painted picture is the picture."""
    model = JEPAModel.from_pretrained("ijepa-tiny-scenes")
    torch.manual_seed(0)
    pixels = torch.randn(3, 3, 1, 64, 64)
    bank = PatchBank.of(model, pixels)
    assert bank.tokens.shape[0] == bank.patches.shape[0] == 3 * 64
    where = torch.tensor([0, 9, 63])
    blank = pixels[1].clone()
    for index in where.tolist():
        row, column = 8 * (index // 8), 8 * (index % 8)
        blank[:, :, row : row + 8, column : column + 8] = 0
    assert not torch.equal(blank, pixels[1])
    painted = bank.paint(blank, where, model.prediction_targets(pixels[1:2])[0, where])
    assert torch.equal(painted, pixels[1])
    numbers, alike = bank.nearest(bank.tokens[5:7])
    assert numbers.tolist() == [5, 6] and torch.allclose(alike, torch.ones(2), atol=1e-5)
    with pytest.raises(ValueError, match="expected tokens"):
        bank.nearest(torch.randn(2, 7))
