"""Outputs of the official code on known weights, through the loader a user calls. Bound 1e-4, usually 1e-5."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from jepa_hub.masks import Masks
from jepa_hub.models.base import JEPAModel
from jepa_hub.models.flexpredict import FlexPredictModel
from jepa_hub.models.probe import Probe
from tests.official import golden, official_probe, write_official

ATOL = 1e-4


def close(ours: Tensor, theirs: Tensor) -> bool:
    assert ours.shape == theirs.shape
    return bool((ours - theirs).abs().max() < ATOL)


def image_masks(tensors: dict[str, Tensor]) -> Masks:
    """Upstream lists targets block by block [M, B, T]; ours are [B, M, T]."""
    return Masks(tensors["context_indices"], tensors["target_indices"].transpose(0, 1).contiguous())


def block_major(predicted: Tensor) -> Tensor:
    """[B, M, T, D] -> [M * B, T, D], upstream's order."""
    return predicted.transpose(0, 1).flatten(0, 1)


@torch.no_grad()
def test_ijepa(tmp_path: Path) -> None:
    _, expected = golden("ijepa_tiny_p16")
    model = JEPAModel.from_pretrained(write_official(tmp_path / "m.pth.tar", "ijepa_tiny_p16"), family="ijepa")
    pixels = expected["pixel_values"]
    out = model(pixels, image_masks(expected))
    target = model.encode(pixels).tokens
    assert close(target, expected["target_full"])
    assert close(model.encoder(pixels[:, :, None]), expected["encoder_full"])
    assert close(out.last_hidden_state, expected["encoder_context"])
    assert close(block_major(out.predicted), expected["predicted"])
    wanted = F.layer_norm(target, target.shape[-1:])
    wanted = torch.cat([wanted.gather(1, each[..., None].expand(-1, -1, 192)) for each in expected["target_indices"]])
    assert close(wanted, expected["target"])
    assert close(F.smooth_l1_loss(block_major(out.predicted), wanted)[None], expected["loss"])


@torch.no_grad()
def test_vjepa(tmp_path: Path) -> None:
    _, expected = golden("vjepa_tiny_p16")
    model = JEPAModel.from_pretrained(write_official(tmp_path / "m.pth.tar", "vjepa_tiny_p16"))
    config = model.config
    assert (config.image_size, config.num_frames, config.tubelet_size) == (64, 8, 2)
    assert config.uniform_power and config.position_resize == "interpolate"
    pixels = expected["pixel_values_videos"]
    target = F.layer_norm(model.encode(pixels).tokens, (192,))
    assert close(target, expected["target_normed"])
    assert close(model.encoder(pixels), expected["encoder_full"])
    masks = [
        Masks(expected[f"context_indices_{group}"], expected[f"target_indices_{group}"][:, None], group)
        for group in (0, 1)
    ]
    out = model(pixels, masks)
    losses = []
    for group, mask in enumerate(masks):
        assert close(out.last_hidden_state[group], expected[f"encoder_context_{group}"])
        assert close(out.predicted[group][:, 0], expected[f"predicted_{group}"])
        wanted = target.gather(1, mask.target[:, 0, :, None].expand(-1, -1, 192))
        losses.append((out.predicted[group][:, 0] - wanted).abs().mean())
    assert close(torch.stack(losses).mean()[None], expected["loss"])
    # Upstream interpolates its table at another clip size; that is the default of official V-JEPA files.
    assert close(model.encode(expected["other_size_pixel_values"]).tokens, expected["other_size_encoder_full"])


@torch.no_grad()
def test_vjepa_probe(tmp_path: Path) -> None:
    _, expected = golden("vjepa_tiny_p16")
    torch.save(official_probe("vjepa_tiny_p16"), tmp_path / "probe.pth.tar")
    backbone = JEPAModel.from_pretrained(write_official(tmp_path / "m.pth.tar", "vjepa_tiny_p16"))
    probe = Probe.from_pretrained(tmp_path / "probe.pth.tar", backbone=backbone)
    assert probe.config.num_attention_heads == 3 and probe.config.num_blocks == 0
    pixels = expected["pixel_values_videos"]
    logits = [probe(encoder(pixels)) for encoder in (backbone.encoder, backbone.target_encoder)]
    assert any(close(each, expected["probe_logits"]) for each in logits)
    result = probe.classify(pixels, top=5)
    assert result.probabilities.sum(dim=1).allclose(torch.ones(2), atol=1e-5)
    assert result.labels[0][0].startswith("LABEL_")


@torch.no_grad()
@pytest.mark.parametrize("context", [2, 4, 6])
def test_intuitive_physics(tmp_path: Path, context: int) -> None:
    _, expected = golden("physics_rope_tiny")
    model = JEPAModel.from_pretrained(write_official(tmp_path / "m.pth.tar", "physics_rope_tiny"))
    assert model.config.position_type == "rotary_interleaved"
    window = expected["videos"][:1, :, :8]
    assert close(model.encoder(window), expected["encoder_full_first_window"])
    predicted = model.predict(window, context=range(context), target=range(context, 8))
    assert close(predicted[:, 0], expected[f"predicted_ctx{context}_window0"])
    surprise = _surprise(model, expected["videos"], context)  # [B, W]
    index = [2, 4, 6].index(context)
    assert close(surprise, expected["surprise"][:, index])


def _surprise(model: JEPAModel, videos: Tensor, context: int) -> Tensor:
    """Mean |prediction - normalised target| of 8-frame windows, two frames apart: the published protocol, naively."""
    rows = []
    for start in range(0, videos.shape[2] - 8 + 1, 2):
        window = videos[:, :, start : start + 8]
        target = F.layer_norm(model.encode(window).tokens, (192,))
        predicted = model.predict(window, context=range(context), target=range(context, 8))[:, 0]
        rows.append((predicted - target[:, -predicted.shape[1] :]).abs().mean(dim=(1, 2)))
    return torch.stack(rows, dim=1)


@torch.no_grad()
def test_stop(tmp_path: Path) -> None:
    _, expected = golden("stop_tiny_p16")
    model = FlexPredictModel.from_pretrained(write_official(tmp_path / "m.pth.tar", "stop_tiny_p16"))
    noise = expected["noise"].transpose(0, 1)  # [B, M, T, D]
    model.predictor.query = functools.partial(model.predictor.query, noise=noise)
    out = model(expected["pixel_values"], image_masks(expected))
    assert close(out.last_hidden_state, expected["encoder_context"])
    assert close(block_major(out.predicted), expected["predicted"])
