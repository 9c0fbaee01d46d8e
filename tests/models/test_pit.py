"""Pixel transformers: indifference to the order of pixels, windows, the scale of positions, heads. 6 seconds."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from export.runtime import OnnxJEPAModel
from export.to_onnx import to_onnx
from jepa_hub.masks import Masks
from jepa_hub.models.base import JEPAModel
from jepa_hub.models.pit import PiTConfig, PiTModel
from jepa_hub.nn.pixels import window_mask
from jepa_hub.nn.positions import LearnedPositions
from tests.official import tiny_config, tiny_model, tiny_pixels

SMALL: dict[str, Any] = {"patch_size": 1, "image_size": 8, "num_classes": 5}


def small(seed: int = 0, **settings: Any) -> PiTModel:
    """A random model of one token per pixel, every part of it away from its start."""
    model = tiny_model("pit", seed=seed, **{**SMALL, **settings})
    assert isinstance(model, PiTModel)
    return model


def table(model: PiTModel) -> Tensor:
    """Its learned positions [N, D]."""
    assert isinstance(model.encoder.positions, LearnedPositions)
    return model.encoder.positions.table


def shuffled(pixels: Tensor, order: Tensor) -> Tensor:
    """Pixel i of the result is pixel order[i] of `pixels`."""
    return pixels.flatten(-2)[..., order].view_as(pixels)


@torch.no_grad()
@pytest.mark.parametrize("pool", ["class", "mean"])
def test_pixels_and_positions_permuted_together_change_nothing(pool: str) -> None:
    """The exact identity behind the paper's claim: at patch size 1 any fixed order of the pixels is as good."""
    model, pixels = small(pool=pool), torch.randn(4, 3, 8, 8)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    twin = copy.deepcopy(model)
    table(twin).copy_(table(model)[order])
    assert (twin.logits(shuffled(pixels, order)) - model.logits(pixels)).abs().max() < 1e-6
    assert torch.allclose(twin.encode(shuffled(pixels, order)).tokens, model.encode(pixels).tokens[:, order], atol=1e-6)
    assert (model.logits(shuffled(pixels, order)) - model.logits(pixels)).abs().max() > 1e-3  # positions matter


@torch.no_grad()
def test_patches_are_not_indifferent() -> None:
    model, pixels = small(patch_size=2), torch.randn(4, 3, 8, 8)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    found = []
    for tokens in (torch.arange(16), torch.randperm(16), torch.randperm(16)):  # no order of the positions undoes it
        twin = copy.deepcopy(model)
        table(twin).copy_(table(model)[tokens])
        found.append((twin.logits(shuffled(pixels, order)) - model.logits(pixels)).abs().max())
    assert min(found) > 1e-3


@torch.no_grad()
def test_windows_are_permuted_with_the_pixels_only_by_symmetries() -> None:
    """Windows bring locality back: an order that tears neighbours apart changes what the model says."""
    model, pixels = small(attention_window=3), torch.randn(2, 3, 8, 8)
    for order, same in (
        (torch.arange(64).view(8, 8).flip(1).flatten(), True),  # a mirror keeps neighbours together
        (torch.randperm(64, generator=torch.Generator().manual_seed(0)), False),
    ):
        twin = copy.deepcopy(model)
        table(twin).copy_(table(model)[order])
        difference = (twin.logits(shuffled(pixels, order)) - model.logits(pixels)).abs().max()
        assert (difference < 1e-6) == same


def test_a_window_is_the_square_around_a_token() -> None:
    mask = window_mask((2, 4, 5), 3)
    places = [(t, r, c) for t in range(2) for r in range(4) for c in range(5)]
    for i, (_, row, column) in enumerate(places):
        for j, (_, other_row, other_column) in enumerate(places):
            assert bool(mask[i, j]) == (abs(row - other_row) <= 1 and abs(column - other_column) <= 1)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_token_sees_its_window_and_nothing_else(attention: str) -> None:
    """One block, no class token: a changed pixel reaches exactly the tokens around it."""
    model = small(attention_window=3, num_hidden_layers=1, pool="mean")
    model.set_attn_implementation(attention)
    pixels = torch.randn(1, 3, 8, 8)
    before = model.encode(pixels).grid[0, 0]
    pixels[..., 2, 3] += 3
    moved = (model.encode(pixels).grid[0, 0] - before).abs().amax(-1) > 1e-6  # [8, 8]
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[1:4, 2:5] = True
    assert torch.equal(moved, expected)


@torch.no_grad()
def test_windows_hold_for_chosen_tokens_and_cover_everything_when_large() -> None:
    model, pixels = small(attention_window=3), torch.randn(2, 3, 8, 8)
    clip = pixels.unsqueeze(2)
    everything = torch.arange(64).flip(0).repeat(2, 1)
    assert torch.allclose(model.encoder(clip, everything), model.encoder(clip).flip(1), atol=1e-5)
    wide, free = small(attention_window=15), small()
    free.load_state_dict(wide.state_dict())
    assert torch.allclose(wide.logits(pixels), free.logits(pixels), atol=1e-6)
    assert not torch.allclose(model.logits(pixels), free.logits(pixels), atol=1e-3)
    masks = Masks(torch.arange(10).repeat(2, 1), torch.arange(20, 30).view(1, 1, 10).repeat(2, 1, 1))
    assert model.predict(pixels, masks=masks).shape == (2, 1, 10, 3)
    model.set_attn_implementation("sdpa")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="knows no masks"):
        model.encode(pixels)


def test_positions_start_at_the_scale_of_the_pixels() -> None:
    """Lesson of a pilot: a table of 0.02 under pixels of deviation 1 is a bag of pixels, and stays one for long."""
    for patch in (1, 2, 4):
        torch.manual_seed(0)
        model = PiTModel(tiny_config("pit", patch_size=patch, image_size=8, hidden_size=96))
        patches = torch.randn(64, 1, 3 * patch**2)
        embedded = model.encoder.patch_embed(patches)
        assert embedded.std().item() == pytest.approx(0.5, rel=0.1)
        assert table(model).std().item() == pytest.approx(0.5, rel=0.1)
    other = PiTModel(tiny_config("pit", embedding_std=1.0, position_std=0.02, image_size=64))
    assert table(other).std().item() == pytest.approx(0.02, rel=0.1)


def test_heads_start_at_zero_and_are_kept(tmp_path: Path) -> None:
    model = small(num_classes=0)
    assert model.classifier is None
    with pytest.raises(ValueError, match="method supervised"):
        model.logits(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="no regressor"):
        model.regress(torch.zeros(1, 3, 8, 8))
    model.start_classifier(3)
    model.start_regressor(2, offset=4.0, scale=2.0)
    pixels = torch.randn(3, 3, 8, 8)
    assert model.classify(pixels).probabilities.allclose(torch.full((3, 3), 1 / 3))
    assert torch.equal(model.regress(pixels), torch.full((3, 2), 4.0))
    assert model.classifier is not None and model.regressor is not None
    with torch.no_grad():
        model.classifier.weight.normal_()
        model.regressor.weight.normal_()
    head = model.classifier
    model.start_classifier(3)
    assert model.classifier is head
    model.config.class_names = ["a", "b", "c"]
    model.save_pretrained(tmp_path)
    again = JEPAModel.from_pretrained(tmp_path)
    assert isinstance(again, PiTModel) and torch.equal(again.regress(pixels), model.regress(pixels))
    found = again.classify(pixels, top=2, batch_size=2)
    assert torch.allclose(found.probabilities, model.logits(pixels).softmax(-1).topk(2).values)
    assert all(len(row) == 2 and set(row) <= {"a", "b", "c"} for row in found.labels)


@torch.no_grad()
@pytest.mark.parametrize("family", ["ijepa", "vjepa2", "mae", "pit"])
def test_heads_go_on_any_vision_transformer(family: str) -> None:
    source, pixels = tiny_model(family), tiny_pixels(family)
    model = PiTModel.from_encoder(source)
    assert list(model.config.networks) == ["encoder"] and model.predictor is None
    assert torch.equal(model.encode(pixels).tokens, source.encode(pixels).tokens)
    assert {id(each) for each in model.parameters()}.isdisjoint({id(each) for each in source.parameters()})
    assert PiTModel.from_encoder(model) is model
    with pytest.raises(ValueError, match="PAWSModel has a ResNet"):
        PiTModel.from_encoder(tiny_model("paws"))


@pytest.mark.parametrize("precision", ["fp32", pytest.param("fp16", marks=pytest.mark.slow)])
def test_exported_heads_give_the_same(precision: str, tmp_path: Path) -> None:
    model = small(num_hidden_layers=1, num_values=2, attention_window=3, networks=["encoder"])
    written = to_onnx(model, tmp_path, precision=precision)
    assert [each.graph.name for each in written] == ["features", "classes", "values"]
    exported = OnnxJEPAModel.from_pretrained(tmp_path, precision=precision)
    tolerance = 1e-4 if precision == "fp32" else 2e-2
    for size in ((3, 3, 8, 8), (1, 3, 6, 11)):  # positions and windows follow the size
        pixels = torch.randn(size)
        torch.testing.assert_close(
            exported.encode(pixels).tokens, model.encode(pixels).tokens, atol=tolerance, rtol=tolerance
        )
        assert exported.classify(pixels).labels == model.classify(pixels).labels
        torch.testing.assert_close(exported.regress(pixels), model.regress(pixels), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pool": "max"}, "pool is one of class, mean"),
        ({"attention_window": 4}, "attention_window is odd"),
        ({"position_type": "rotary_tiled"}, "no rotary position"),
        ({"num_classes": 1}, "2 and more"),
        ({"num_classes": 3, "class_names": ["a"]}, "1 class_names for 3 classes"),
        ({"embedding_std": 0.0}, "must be positive"),
        ({"atention_window": 3}, "did you mean 'attention_window'"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PiTConfig(**settings)


def test_sizes_are_the_published_ones() -> None:
    """Widths, blocks and parameters. Source: arXiv:2406.09415, sec. 4 (T and S); B and L are the usual ones."""
    for size, millions in (("vit_tiny", 5.5), ("vit_small", 21.7), ("vit_base", 85.9), ("vit_large", 303.3)):
        config = PiTConfig.of_size(size, networks=["encoder"], image_size=32)
        with torch.device("meta"):
            count = sum(each.numel() for each in PiTModel(config).parameters())
        assert count / 1e6 == pytest.approx(millions, rel=0.01)
