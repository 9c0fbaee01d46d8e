"""Ours against transformers on the same random weights, and conversions that lose no bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import IJepaConfig, IJepaModel, VJEPA2Config, VJEPA2ForVideoClassification, VJEPA2Model

from jepa_hub.masks import Masks
from jepa_hub.models.base import JEPAModel
from jepa_hub.models.probe import Probe
from tests.official import tiny_model, write_official

ATOL = 1e-5
VJEPA2 = {"patch_size": 8, "crop_size": 32, "frames_per_clip": 8, "hidden_size": 48, "num_attention_heads": 2}
VJEPA2 |= {"num_hidden_layers": 2, "pred_hidden_size": 24, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 2}
VJEPA2 |= {"num_pooler_layers": 2, "pred_num_mask_tokens": 3}


def shaken(model: Any) -> Any:
    """The model with every parameter moved off its initial value (zeros and ones hide mistakes)."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def theirs_ijepa() -> Any:
    return shaken(
        IJepaModel(
            IJepaConfig(
                hidden_size=48,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=96,
                image_size=32,
                patch_size=8,
            )
        )
    )


@pytest.fixture(scope="module")
def theirs_vjepa2() -> Any:
    return shaken(VJEPA2Model(VJEPA2Config(**VJEPA2)))


@torch.no_grad()
def test_ijepa_encoder(theirs_ijepa: Any, tmp_path: Path) -> None:
    theirs_ijepa.save_pretrained(tmp_path / "theirs")
    ours = JEPAModel.from_pretrained(tmp_path / "theirs")
    assert ours.config.networks == ["encoder"] and ours.config.layer_norm_eps == 1e-12
    assert ours.config.position_type == "learned"  # a random table follows no formula
    pixels = torch.randn(2, 3, 32, 32)
    expected = theirs_ijepa(pixels).last_hidden_state
    assert (ours.encode(pixels).tokens - expected).abs().max() < ATOL
    larger = torch.randn(1, 3, 48, 40)
    expected = theirs_ijepa(larger, interpolate_pos_encoding=True).last_hidden_state
    assert (ours.encode(larger).tokens - expected).abs().max() < ATOL

    ours.save_transformers(tmp_path / "back")
    back, info = IJepaModel.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert same(back.state_dict(), theirs_ijepa.state_dict())


@torch.no_grad()
def test_vjepa2_encoder_and_predictor(theirs_vjepa2: Any, tmp_path: Path) -> None:
    theirs_vjepa2.save_pretrained(tmp_path / "theirs")
    ours = JEPAModel.from_pretrained(tmp_path / "theirs")
    assert ours.config.networks == ["encoder", "predictor"]
    pixels = torch.randn(2, 3, 8, 32, 32)
    frames_first = pixels.transpose(1, 2)
    expected = theirs_vjepa2(frames_first, skip_predictor=True).last_hidden_state
    assert (ours.encode(pixels).tokens - expected).abs().max() < ATOL

    context, target = torch.arange(0, 20).repeat(2, 1), torch.arange(64, 4, -3)[:15].repeat(2, 1) % 64
    their_prediction = theirs_vjepa2(frames_first, context_mask=[context], target_mask=[target]).predictor_output
    # transformers masks after encoding, so feed our predictor the same (leaking) context; it uses mask token 1.
    leaking = ours.encoder(pixels)[:, :20]
    masks = Masks(context, target[:, None], group=1)
    ours_prediction = ours.predictor(leaking, masks, (4, 4, 4))[:, 0]
    assert (ours_prediction - their_prediction.last_hidden_state).abs().max() < ATOL

    ours.save_transformers(tmp_path / "back")
    back, info = VJEPA2Model.from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert same(back.state_dict(), theirs_vjepa2.state_dict())


@torch.no_grad()
def test_classifier(tmp_path: Path) -> None:
    labels = {0: "push", 1: "pull", 2: "drop"}
    theirs = shaken(VJEPA2ForVideoClassification(VJEPA2Config(**VJEPA2, id2label=labels)))
    theirs.save_pretrained(tmp_path)
    pixels = torch.randn(2, 3, 8, 32, 32)
    expected = theirs(pixels.transpose(1, 2)).logits
    # transformers' own head count and epsilon; Meta's (16 heads, 1e-5) are our default for published widths.
    probe = Probe.from_pretrained(tmp_path, num_attention_heads=2, layer_norm_eps=1e-6)
    assert (probe(probe.backbone.encode(pixels).tokens) - expected).abs().max() < ATOL
    best = probe.classify(pixels, top=2)
    assert best.labels[0][0] == labels[int(expected[0].argmax())]
    assert best.probabilities.shape == (2, 2)
    probe.save_pretrained(tmp_path / "own")
    again = Probe.from_pretrained(tmp_path / "own")
    assert torch.equal(again.classify(pixels, top=3).probabilities, probe.classify(pixels, top=3).probabilities)
    backbone = JEPAModel.from_pretrained(tmp_path)  # the backbone alone, without the head
    assert same(backbone.state_dict(), probe.backbone.state_dict())
    with pytest.raises(ValueError, match="width"):
        Probe.from_pretrained(tmp_path, layer_norm_eps=1e-6)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ijepa_tiny_p16", {"family": "ijepa"}),
        ("vjepa_tiny_p16", {}),
        ("physics_rope_tiny", {}),
    ],
)
def test_official_round_trip_is_bit_equal(name: str, settings: dict[str, str], tmp_path: Path) -> None:
    source = torch.load(write_official(tmp_path / "a.pth.tar", name), weights_only=False)
    model = JEPAModel.from_pretrained(tmp_path / "a.pth.tar", **settings)
    model.save_official(tmp_path / "b.pth.tar")
    written = torch.load(tmp_path / "b.pth.tar", weights_only=True)
    for network in ("encoder", "predictor", "target_encoder"):
        assert source[network].keys() == written[network].keys()
        for key, tensor in source[network].items():
            table = "pos_embed" in key or "freqs" in key  # made again from the formula
            same_bits = torch.equal(tensor, written[network][key])
            assert same_bits or (table and torch.allclose(tensor, written[network][key], atol=1e-6)), key


def test_vjepa2_official_round_trip(tmp_path: Path) -> None:
    model = tiny_model("vjepa2", hidden_size=192, num_attention_heads=3, predictor_num_attention_heads=12)
    model.save_official(tmp_path / "m.pt")
    again = JEPAModel.from_pretrained(tmp_path / "m.pt", image_size=32, num_frames=8)
    assert again.config.model_type == "jepa_hub_vjepa2"
    assert same(model.state_dict(), again.state_dict())
    model.save_transformers(tmp_path / "hf")
    from_transformers = JEPAModel.from_pretrained(tmp_path / "hf")
    assert same(from_transformers.encoder.state_dict(), model.target_encoder.state_dict())
    assert same(from_transformers.predictor.state_dict(), model.predictor.state_dict())


def test_what_transformers_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only I-JEPA"):
        tiny_model("vjepa").save_transformers(tmp_path)
    with pytest.raises(ValueError, match="swiglu"):
        tiny_model("vjepa2", hidden_act="swiglu").save_transformers(tmp_path)
