"""encode, predict and forward: shapes, windows, padding, dtypes, kernels, compile, checkpointing, and bad input."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import AutoModel

import jepa_hub.models
from jepa_hub.features import Features
from jepa_hub.masks import Masks
from jepa_hub.models.registry import model_class
from tests.official import predicting, tiny_config, tiny_model, tiny_pixels


def some_masks(family: str, batch: int = 2, num_targets: int = 2) -> Masks:
    t, h, w = tiny_config(family).base_grid
    order = torch.randperm(t * h * w, generator=torch.Generator().manual_seed(0))
    context, rest = order[:6], order[6 : 6 + 4 * num_targets]
    return Masks(context.repeat(batch, 1), rest.view(1, num_targets, 4).repeat(batch, 1, 1))


@pytest.mark.parametrize("family", predicting())
def test_shapes_and_gradients(family: str) -> None:
    model, pixels, masks = tiny_model(family).train(), tiny_pixels(family), some_masks(family)
    out = model(pixels, masks)
    assert out.last_hidden_state.shape == (2, 6, 48) and out.predicted.shape == (2, 2, 4, model.config.prediction_size)
    out.predicted.square().mean().backward()
    for name, parameter in model.named_parameters():
        used = not name.startswith("target_encoder.") and parameter.requires_grad
        unused_token = "mask_tokens" in name and len(parameter) > 1
        assert (parameter.grad is not None) == used, name
        if used and not unused_token:
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("family", predicting())
def test_masked_encoding_of_every_token_is_plain_encoding(family: str) -> None:
    model, pixels = tiny_model(family), tiny_pixels(family)
    everything = torch.arange(model.encode(pixels).tokens.shape[1]).repeat(2, 1)
    with torch.no_grad():
        assert torch.allclose(model.encoder(pixels, everything), model.encoder(pixels), atol=1e-6)
        order = everything.flip(1)
        assert torch.allclose(model.encoder(pixels, order), model.encoder(pixels).flip(1), atol=1e-5)


@pytest.mark.parametrize("family", predicting())
def test_a_sample_does_not_depend_on_the_others_of_its_batch(family: str) -> None:
    model, pixels, masks = tiny_model(family), tiny_pixels(family, batch=3), some_masks(family, batch=3)
    tokens, predicted = model.encode(pixels).tokens, model.predict(pixels, masks=masks)
    others = pixels.clone()
    others[[0, 2]] = 5 * pixels[[2, 0]]
    assert torch.allclose(model.encode(others).tokens[1], tokens[1], atol=1e-5)
    assert torch.allclose(model.predict(others, masks=masks)[1], predicted[1], atol=1e-5)
    assert torch.allclose(model.encode(pixels[1:2]).tokens[0], tokens[1], atol=1e-5)
    alone = model.predict(pixels[1:2], masks=Masks(masks.context[1:2], masks.target[1:2]))
    assert torch.allclose(alone[0], predicted[1], atol=1e-5)
    assert not torch.allclose(model.predict(others, masks=masks)[0], predicted[0], atol=1e-3)


@pytest.mark.parametrize("frozen", ["encoder", "predictor"])
@pytest.mark.parametrize("family", predicting())
def test_a_frozen_network_stays_and_the_other_learns(family: str, frozen: str) -> None:
    model = tiny_model(family).train()
    for network in (getattr(model, frozen), model.target_encoder):  # a pixel predictor has no target encoder
        if network is not None:
            network.requires_grad_(False)
    learning = {name: each for name, each in model.named_parameters() if each.requires_grad}
    assert learning and not any(name.startswith((f"{frozen}.", "target_encoder.")) for name in learning)
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(learning.values(), 0.1)
    model(tiny_pixels(family), some_masks(family)).predicted.square().mean().backward()
    optimizer.step()
    changed = {name for name, each in model.state_dict().items() if not torch.equal(each, before[name])}
    assert changed == set(learning)


@pytest.mark.parametrize("family", predicting())
def test_many_targets_equal_one_at_a_time(family: str) -> None:
    model, pixels, masks = tiny_model(family), tiny_pixels(family), some_masks(family, num_targets=2)
    together = model.predict(pixels, masks=masks)
    for index in range(2):
        alone = model.predict(pixels, masks=Masks(masks.context, masks.target[:, index : index + 1]))
        assert torch.allclose(together[:, index : index + 1], alone, atol=1e-5)


def test_groups_use_their_own_mask_token() -> None:
    model, pixels, masks = tiny_model("vjepa"), tiny_pixels("vjepa"), some_masks("vjepa")
    both = model.predict(pixels, masks=[masks, Masks(masks.context, masks.target, group=1)])
    assert len(both) == 2 and not torch.allclose(both[0], both[1], atol=1e-4)
    with pytest.raises(ValueError, match="group 2"):
        model.predict(pixels, masks=Masks(masks.context, masks.target, group=2))


def test_features_come_from_the_target_encoder_and_say_when_they_do_not(capsys: pytest.CaptureFixture[str]) -> None:
    model, pixels = tiny_model("ijepa"), tiny_pixels("ijepa")
    with torch.no_grad():
        assert torch.equal(model.encode(pixels).tokens, model.target_encoder(pixels))
        assert torch.equal(model(pixels).last_hidden_state, model.target_encoder(pixels))
    one = model_class("ijepa")(tiny_config("ijepa", networks=["encoder"], provenance="somewhere/one-encoder"))
    assert one.target_encoder is None and one.predictor is None
    one.encode(pixels), one.encode(pixels)
    assert capsys.readouterr().err.count("somewhere/one-encoder: no target encoder") == 1


def test_no_network_is_an_alias() -> None:
    model = model_class("vjepa")(tiny_config("vjepa"))
    pairs = zip(model.encoder.parameters(), model.target_encoder.parameters(), strict=True)
    assert all(torch.equal(a, b) and a.data_ptr() != b.data_ptr() for a, b in pairs)  # a copy at the start
    one = model_class("vjepa")(tiny_config("vjepa", networks=["encoder", "predictor"]))
    one.copy_encoder_to_target()
    assert one.config.networks == ["encoder", "predictor", "target_encoder"]
    with torch.no_grad():
        one.encoder.norm.weight.add_(1)
    assert not torch.equal(one.encoder.norm.weight, one.target_encoder.norm.weight)


def test_layers() -> None:
    model, pixels = tiny_model("vjepa2", num_hidden_layers=3), tiny_pixels("vjepa2")
    features = model.encode(pixels, layers=[0, -1, 2])
    assert torch.equal(features.layers[-1], features.tokens) and torch.equal(features.layers[2], features.tokens)
    assert features.layers[0].shape == features.tokens.shape
    assert not torch.allclose(features.layers[0], features.tokens, atol=1e-3)
    with pytest.raises(ValueError, match=r"blocks 0 \.\. 2"):
        model.encode(pixels, layers=[3])


def test_windows_cover_a_long_clip() -> None:
    model = tiny_model("vjepa2")
    clip = torch.randn(2, 3, 22, 32, 32)
    whole = model.encode(clip, window_frames=8, layers=[0])
    assert whole.grid_size == (11, 4, 4) and whole.layers[0].shape == whole.tokens.shape
    first, last = model.encode(clip[:, :, :8]), model.encode(clip[:, :, 14:])
    assert torch.allclose(whole.grid[:, :4], first.grid, atol=1e-6)
    middle = model.encode(clip[:, :, 8:16])
    overlap = (middle.grid[:, 3:] + last.grid[:, :1]) / 2  # frames 14 and 15 are in both
    assert torch.allclose(whole.grid[:, 7:8], overlap, atol=1e-6)
    assert torch.equal(model.encode(clip[:, :, :8], window_frames=8).tokens, first.tokens)
    assert model.encode(clip, window_frames=8, stride_frames=4).grid_size == (11, 4, 4)
    for bad in ({"window_frames": 7}, {"window_frames": 8, "stride_frames": 16}, {"stride_frames": 4}):
        with pytest.raises(ValueError, match="frames"):
            model.encode(clip, **bad)


def test_padding_is_asked_for() -> None:
    model = tiny_model("vjepa2")
    odd = torch.randn(1, 3, 7, 30, 37)
    with pytest.raises(ValueError, match=r"30 x 37 .* patch size 8"):
        model.encode(odd)
    with pytest.raises(ValueError, match=r"7 frames .* tubelet size 2"):
        model.encode(odd[..., :24, :32])
    features = model.encode(odd, pad=True)
    assert features.grid_size == (4, 4, 5) and features.valid.shape == (1, 80)
    # 30 rows: the last patch row is 6/8 real; 37 columns: the last patch column is 5/8 real; both together 15/32.
    valid = features.valid.view(4, 4, 5)
    assert valid[:, :3].all() and valid[:, 3, :4].all() and not valid[:, 3, 4].any()
    weights = features.valid[..., None].float()
    assert torch.allclose(features.pooled, (features.tokens * weights).sum(1) / weights.sum(1))
    assert model.encode(torch.randn(1, 3, 8, 32, 32), pad=True).valid is None


def test_a_still_image_fills_one_tubelet() -> None:
    model = tiny_model("vjepa2")
    still = torch.randn(2, 3, 32, 32)
    assert torch.equal(model.encode(still).tokens, model.encode(still[:, :, None].repeat(1, 1, 2, 1, 1)).tokens)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.full((1, 3, 8, 32, 32), float("nan")), r"sample\(s\) \[0\] hold NaN"),
        (torch.zeros(1, 8, 3, 32, 32), r"permute\(0, 2, 1, 3, 4\)"),
        (torch.zeros(1, 4, 8, 32, 32), "3 channels"),
        (torch.zeros(1, 3, 8, 32, 32, dtype=torch.uint8), "JEPAProcessor"),
        (torch.zeros(3, 32, 32), "pixels must be"),
        (torch.zeros(0, 3, 8, 32, 32), "empty"),
    ],
)
def test_bad_pixels(pixels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_model("vjepa2").encode(pixels)


def test_bad_predictions() -> None:
    model, pixels = tiny_model("vjepa2"), tiny_pixels("vjepa2")
    with pytest.raises(ValueError, match="would see its answer"):
        model.predict(pixels, context=range(6), target=range(4, 8))
    with pytest.raises(ValueError, match="tubelet"):
        model.predict(pixels, context=range(3), target=range(4, 8))
    with pytest.raises(ValueError, match="context= and target="):
        model.predict(pixels, context=range(4))
    with pytest.raises(ValueError, match="not both"):
        model.predict(pixels, context=range(4), masks=some_masks("vjepa2"))
    with pytest.raises(ValueError, match="conditioning"):
        model.predict(pixels, masks=some_masks("vjepa2"), conditioning=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="one time step"):
        tiny_model("ijepa").predict(tiny_pixels("ijepa"), context=[0], target=[0])
    only = model_class("vjepa2")(tiny_config("vjepa2", networks=["target_encoder"]))
    with pytest.raises(ValueError, match="needs the encoder"):
        only.predict(pixels, masks=some_masks("vjepa2"))
    with pytest.raises(TypeError, match="base class"):
        jepa_hub.JEPAModel(tiny_config("ijepa"))


@pytest.mark.parametrize("family", predicting())
def test_kernels_agree(family: str) -> None:
    model, pixels = tiny_model(family), tiny_pixels(family)
    fused = model.encode(pixels).tokens
    model.set_attn_implementation("eager")
    assert torch.allclose(model.encode(pixels).tokens, fused, atol=1e-5)
    twin = copy.deepcopy(model)  # the copy listens to its own configuration
    twin.set_attn_implementation("sdpa")
    assert model.config._attn_implementation == "eager"
    assert twin.feature_encoder.blocks[0].attn.attend.config is twin.config


@pytest.mark.parametrize("family", ["ijepa", "vjepa", "vjepa2", "paws"])
def test_half_precision(family: str) -> None:
    model, pixels = tiny_model(family), tiny_pixels(family)
    full = model.encode(pixels).tokens
    half = model.to(torch.bfloat16).encode(pixels).tokens
    assert half.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(half.float().flatten(), full.flatten(), dim=0) > 0.999


def test_residual_projections_start_smaller_with_depth() -> None:
    """V-JEPA 2's rule: divided by sqrt(2 x layer). transformers once kept it from running."""
    for rescaled in (True, False):
        torch.manual_seed(0)
        model = model_class("vjepa2")(tiny_config("vjepa2", hidden_size=192, rescale_residual=rescaled))
        for index, block in enumerate(model.encoder.blocks, start=1):
            for linear in (block.attn.proj, block.mlp.output):
                expected = 0.02 / (2 * index) ** 0.5 if rescaled else 0.02
                assert linear.weight.std().item() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("family", ["ijepa", "vjepa2"])
def test_activation_checkpointing_changes_nothing(family: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        model, pixels, masks = tiny_model(family).train(), tiny_pixels(family), some_masks(family)
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert model.is_gradient_checkpointing
        model(pixels, masks).predicted.square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.allclose(gradients[0][name], gradients[1][name], atol=1e-6) for name in gradients[0])


@pytest.mark.parametrize("family", ["ijepa", "vjepa2"])
def test_compiles_without_a_break(family: str) -> None:
    model, pixels, masks = tiny_model(family), tiny_pixels(family), some_masks(family)

    def run(pixels: torch.Tensor, context: torch.Tensor, target: torch.Tensor) -> Any:
        return model(pixels, Masks(context, target)).predicted

    with torch.no_grad():
        compiled = torch.compile(run, fullgraph=True, backend="eager")
        expected = run(pixels, masks.context, masks.target)
        assert torch.allclose(compiled(pixels, masks.context, masks.target), expected, atol=1e-5)


def test_features_are_checked() -> None:
    with pytest.raises(ValueError, match="do not fill"):
        Features(torch.zeros(1, 10, 4), (1, 3, 3))
    moved = Features(torch.zeros(1, 9, 4), (1, 3, 3), layers={0: torch.zeros(1, 9, 4)}).to(dtype=torch.float16)
    assert moved.tokens.dtype == moved.layers[0].dtype == torch.float16 and moved.pooled.shape == (1, 4)


def test_auto_classes() -> None:
    config = tiny_config("vjepa2")
    model = AutoModel.from_config(config)
    assert type(model) is model_class("vjepa2")
