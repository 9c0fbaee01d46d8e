"""Memory of a step against the tensors that autograd keeps on tiny models. 3 seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from jepa_hub.models.vjepa2 import VJepa2Config
from training import build, memory
from training.config import OptimSettings, Settings
from training.flops import Draws, Group, count_parameters

WIDE = {
    "model__hidden_size": 256,
    "model__num_attention_heads": 4,
    "model__num_hidden_layers": 3,
    "model__image_size": 64,
    "model__predictor_hidden_size": 128,
    "model__predictor_num_hidden_layers": 3,
}
CLIP = {"model__num_frames": 8, "data__source__frames": 8, "masks": {"name": "multi_block_3d"}}
CASES: dict[str, dict[str, Any]] = {
    "ijepa": {"method": {"name": "jepa", "distance": "smooth_l1"}},
    "swiglu": {"model__hidden_act": "swiglu"},
    "vjepa2": {"model__name": "vjepa2", "model__predictor_num_attention_heads": 4, **CLIP},
    "mae": {"model__name": "mae", "method": {"name": "mae"}, "masks": {"name": "random", "ratio": 0.75}},
}
BATCH = 4


def kept(settings: Settings) -> tuple[float, tuple[Group, ...]]:
    """Bytes per sample that a float32 forward pass keeps, parameters left out, and the lengths of the masks."""
    model = build.build_model(settings)
    method = build.build_method(settings, model).train()
    assert settings.masks is not None
    masks = build.build_masks(settings.masks, model.config)(range(BATCH), seed=0, step=5)
    pixels = torch.randn(BATCH, 3, model.config.num_frames or 1, *build.view_size(model.config))
    seen: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        method({"pixels": pixels, "masks": masks, "labels": {}})
    parameters = {each.untyped_storage().data_ptr() for each in method.parameters()}
    total = sum(each.untyped_storage().nbytes() for key, each in seen.items() if key not in parameters)
    return total / BATCH, tuple(Group(each.context.shape[1], *each.target.shape[1:]) for each in masks)


@pytest.mark.parametrize("case", CASES)
def test_activations_are_what_autograd_keeps(case: str, settings_of: Callable[..., Settings]) -> None:
    settings = settings_of(**WIDE, **CASES[case])
    found, groups = kept(settings)
    assert memory.kept_bytes(build.model_config(settings), groups, "fp32") == pytest.approx(found, rel=0.03)


def test_checkpointing_and_half_precision_keep_less() -> None:
    config = VJepa2Config.of_size("vit_large", num_frames=16)
    draws: Draws = {(Group(581, 1, 1064), Group(194, 1, 1466)): 1.0}
    half = memory.activation_bytes(config, draws, "bf16")
    assert memory.activation_bytes(config, draws, "bf16", checkpointing=True) < half / 4
    assert half < memory.activation_bytes(config, draws, "fp32") < 2 * half


def test_the_longest_masks_count() -> None:
    config = VJepa2Config.of_size("vit_tiny", num_frames=16)
    short, long = (Group(100, 1, 500),), (Group(400, 1, 1000),)
    both = memory.activation_bytes(config, {short: 0.9, long: 0.1}, "bf16")
    assert both == memory.activation_bytes(config, {long: 1.0}, "bf16")


def test_state_of_one_device_and_of_many() -> None:
    config = VJepa2Config.of_size("vit_large")
    optim = OptimSettings(lr=1e-3)
    counts = count_parameters(config)
    trained = counts["encoder"] + counts["predictor"]
    alone = memory.step_memory(config, optim, "fp32", 0.0)
    assert alone.total == 16 * trained + 4 * counts["target_encoder"]  # weights, gradients, two moments; the target
    assert memory.step_memory(config, optim, "bf16", 0.0).total == alone.total + 2 * trained
    ddp = memory.step_memory(config, optim, "fp32", 0.0, devices=8)
    assert ddp.total == alone.total + 4 * trained
    sharded = memory.step_memory(config, optim, "fp32", 0.0, devices=8, sharded=True)
    assert sharded.total - sharded.communication == pytest.approx(alone.total / 8)
    assert 0 < sharded.communication < alone.total / 16
    lars = memory.step_memory(config, OptimSettings(lr=1.0, name="lars"), "fp32", 0.0)
    assert lars.total == alone.total - 4 * trained
