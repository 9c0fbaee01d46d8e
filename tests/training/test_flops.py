"""FLOPs and parameters against what torch counts on tiny models. 4 seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from jepa_hub.masking.samplers import MASKS
from jepa_hub.models.registry import MODELS, model_class
from tests.official import tiny_config
from training import build, flops, whole_costs
from training.config import Settings
from training.flops import Group

CLIP = {"model__num_frames": 8, "model__image_size": 64, "data__source__frames": 8}
MASKS_3D = {"masks": {"name": "multi_block_3d"}}
CASES: dict[str, dict[str, Any]] = {
    "ijepa": {},
    "swiglu": {"model__hidden_act": "swiglu"},
    "flexpredict": {"model__name": "flexpredict"},
    "vjepa": {"model__name": "vjepa", **CLIP, **MASKS_3D},
    "vjepa2": {"model__name": "vjepa2", "model__predictor_num_attention_heads": 2, **CLIP, **MASKS_3D},
    "mae": {"model__name": "mae", "method": {"name": "mae"}, "masks": {"name": "random", "ratio": 0.75}},
    "pit": {
        "model__name": "pit",
        "model__patch_size": 4,
        "method": {"name": "mae"},
        "masks": {"name": "random", "ratio": 0.75},
    },
    "mae clips": {
        "model__name": "mae",
        "model__tubelet_size": 2,
        **CLIP,
        "method": {"name": "mae"},
        "masks": {"name": "tube", "ratio": 0.9},
    },
}
BATCH = 3


def counted(settings: Settings, *, checkpointing: bool) -> tuple[float, float, tuple[Group, ...]]:
    """What torch counts per sample: forward, forward and backward; and the lengths of the masks."""
    model = build.build_model(settings)
    method = build.build_method(settings, model).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    assert settings.masks is not None
    masks = build.build_masks(settings.masks, model.config)(range(BATCH), seed=0, step=5)
    pixels = torch.randn(BATCH, 3, model.config.num_frames or 1, *build.view_size(model.config))
    # The plain kernel: fused ones are not all counted, and recompute the scores in backward, which trains nothing.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss = method({"pixels": pixels, "masks": masks, "labels": {}})["loss"]
        forward = counter.get_total_flops()
        loss.backward()
    groups = tuple(Group(each.context.shape[1], *each.target.shape[1:]) for each in masks)
    return forward / BATCH, counter.get_total_flops() / BATCH, groups


@pytest.mark.parametrize("case", CASES)
def test_formulas_give_what_torch_counts(case: str, settings_of: Callable[..., Settings]) -> None:
    settings = settings_of(**CASES[case])
    forward, both, groups = counted(settings, checkpointing=False)
    count = flops.flops_of(build.model_config(settings), settings.method.name, {groups: 1.0})
    assert sum(count.forward.values()) == pytest.approx(forward, rel=0.002)
    assert count.training == pytest.approx(both, rel=0.002)
    assert count.executed == count.training


WHOLE: dict[str, dict[str, Any]] = {
    "all": {"method": {"name": "supervised", "label": "angle", "num_classes": 4}},
    "head": {"method": {"name": "supervised", "label": "angle", "num_classes": 4, "train": "head"}},
    "number": {"method": {"name": "supervised", "label": "phase"}},
    "diffusion": {
        "model__name": "dit",
        "model__num_classes": 4,
        "method": {"name": "diffusion", "label": "angle"},
    },
}


@pytest.mark.parametrize("case", WHOLE)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_formulas_of_whole_pictures_give_what_torch_counts(
    case: str, checkpointing: bool, settings_of: Callable[..., Settings]
) -> None:
    changes = {"model__name": "pit", "model__patch_size": 4, "masks": None, **WHOLE[case]}
    settings = settings_of(run__activation_checkpointing=checkpointing, **changes)
    model = build.build_model(settings)
    method = build.build_method(settings, model).train()
    if checkpointing:
        method.model.activation_checkpointing_enable()
    labels = {"angle": torch.tensor([0, 1, 2]), "phase": torch.rand(3)}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss = method({"pixels": torch.randn(BATCH, 3, 1, 32, 32), "labels": labels})["loss"]
        forward = counter.get_total_flops() / BATCH
        loss.backward()
    count = whole_costs.step_flops(settings, model.config)
    assert sum(count.forward.values()) == pytest.approx(forward, rel=0.002)
    assert count.executed == pytest.approx(counter.get_total_flops() / BATCH, rel=0.002)
    assert flops.training_flops_per_sample(settings, model.config, None) == count.training


@pytest.mark.parametrize("case", ["ijepa", "swiglu", "vjepa2"])
def test_activation_checkpointing_recomputes_the_blocks(case: str, settings_of: Callable[..., Settings]) -> None:
    settings = settings_of(**CASES[case])
    _, both, groups = counted(settings, checkpointing=True)
    count = flops.flops_of(build.model_config(settings), settings.method.name, {groups: 1.0}, checkpointing=True)
    assert count.executed == pytest.approx(both, rel=0.002)
    assert 0 < count.recomputed < sum(count.forward.values())


@pytest.mark.parametrize("family", MODELS)
def test_parameters_are_those_of_the_model(family: str) -> None:
    kind = model_class(family)
    config = tiny_config(family)
    model = kind(config)
    found = flops.count_parameters(config)
    assert list(found) == list(config.networks)
    for name, count in found.items():
        assert count == sum(each.numel() for each in getattr(model, name).parameters()), name


def test_a_configuration_of_no_family_is_named() -> None:
    with pytest.raises(ValueError, match="JEPAConfig is the configuration of no family"):
        flops.count_parameters(model_class("ijepa").config_class.__mro__[1]())


def test_lengths_are_those_of_the_sampler() -> None:
    sampler = MASKS["multi_block_3d"](grid=(4, 10, 10))
    draws = flops.mask_draws(sampler)
    assert sum(draws.values()) == pytest.approx(1)
    for index, allowed in enumerate(sampler.lengths):
        assert {(groups[index].context, groups[index].target) for groups in draws} <= set(allowed)
    assert flops.mask_draws(sampler, batch_size=7) == draws  # corrected masks do not depend on the batch


def test_faithful_contexts_shrink_with_the_batch() -> None:
    sampler = MASKS["multi_block_2d"](grid=(16, 16), mode="faithful")

    def context(batch_size: int) -> float:
        draws = flops.mask_draws(sampler, batch_size=batch_size, steps=32)
        return sum(groups[0].context * share for groups, share in draws.items())

    assert context(64) < context(4) < context(1)


def test_a_mean_weighs_every_draw() -> None:
    config = model_class("ijepa").config_class.of_size("vit_tiny")
    few, many = (Group(20, 4, 10),), (Group(60, 4, 20),)
    each = [flops.flops_of(config, "jepa", {groups: 1.0}).training for groups in (few, many)]
    mixed = flops.flops_of(config, "jepa", {few: 0.25, many: 0.75}).training
    assert mixed == pytest.approx(0.25 * each[0] + 0.75 * each[1])


def test_the_loop_gets_one_number_or_none(
    settings_of: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of()
    config = build.model_config(settings)
    assert settings.masks is not None
    sampler = build.build_masks(settings.masks, config)
    expected = flops.step_flops(config, "jepa", sampler, seed=settings.run.seed).training
    assert flops.training_flops_per_sample(settings, config, sampler) == expected
    assert flops.training_flops_per_sample(settings, config, None) is None
    from training.methods import registry

    monkeypatch.setitem(registry.METHODS, "jepa", "training.methods.base:Method")  # an encoder alone
    assert flops.training_flops_per_sample(settings, config, sampler) is None
    with pytest.raises(ValueError, match="predict masked tokens"):
        flops.step_flops(config, "jepa", sampler)


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", "bf16", 312e12),
        ("a100-40gb", "fp32", 19.5e12),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.5e12),
        ("NVIDIA H100 PCIe", "bf16", 756.5e12),
        ("NVIDIA H200", "fp16", 989.5e12),
        ("Tesla V100-SXM2-32GB", "fp16", 125e12),
        ("Tesla V100-SXM2-32GB", "bf16", None),  # no such units
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2e12),
        ("rtx4090", "bf16", 165.2e12),
        ("NVIDIA L40S", "bf16", 362e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16", None),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", "bf16", None),
        ("NVIDIA A100-SXM4-80GB", "fp64", None),
        ("some other device", "bf16", None),
    ],
)
def test_peaks(name: str, precision: str, peak: float | None) -> None:
    assert flops.device_peak(name, precision) == pytest.approx(peak)


@pytest.mark.parametrize(("name", "gib"), [("a100-80gb", 80), ("a100", 40), ("NVIDIA GH200 480GB", 96), ("cpu", None)])
def test_device_memory(name: str, gib: int | None) -> None:
    device = flops.find_device(name)
    assert (device.memory if device else None) == gib
