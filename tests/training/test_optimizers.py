"""LARS against its plain formula, parameter groups, schedules on real optimizers, and the moving average."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.official import tiny_model
from training.config import OptimSettings, Settings
from training.methods.moving_average import update_average
from training.optimizers import LARS, build_optimizer, parameter_groups, schedule


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))


def test_lars_is_its_formula() -> None:
    module = network()
    optimizer = LARS([{"params": module[0].parameters()}], lr=0.5, weight_decay=0.1, trust=0.01)
    values = [each.detach().clone() for each in module[0].parameters()]
    buffers = [torch.zeros_like(each) for each in values]
    for step in range(3):
        torch.manual_seed(step)
        for each in module[0].parameters():
            each.grad = torch.randn_like(each)
        gradients = [each.grad.clone() for each in module[0].parameters() if each.grad is not None]
        optimizer.step()
        for index, gradient in enumerate(gradients):
            value = values[index]
            trust = 0.01 * value.norm() / (gradient.norm() + 0.1 * value.norm() + 1e-8)
            buffers[index] = 0.9 * buffers[index] - 0.5 * trust * (gradient + 0.1 * value)
            values[index] = value + buffers[index]
    for each, value in zip(module[0].parameters(), values, strict=True):
        assert torch.allclose(each, value, atol=1e-7)


def test_lars_leaves_zero_parameters_unscaled_and_groups_without_adapt_plain() -> None:
    zero, plain = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.ones(3))
    optimizer = LARS([{"params": [zero]}, {"params": [plain], "adapt": False}], lr=1.0, momentum=0.0)
    zero.grad, plain.grad = torch.ones(3), torch.ones(3)
    optimizer.step()
    assert torch.equal(zero, -torch.ones(3)) and torch.equal(plain, torch.zeros(3))
    with pytest.raises(ValueError, match="momentum 1"):
        LARS([zero], lr=1.0, momentum=1.0)


def test_biases_and_norms_have_no_weight_decay_and_mask_tokens_do() -> None:
    model = tiny_model("vjepa")
    model.target_encoder.requires_grad_(False)
    decayed, plain = parameter_groups(model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    with_decay = {names[id(each)] for each in decayed["params"]}
    without = {names[id(each)] for each in plain["params"]}
    assert "predictor.mask_tokens" in with_decay and "encoder.blocks.0.attn.qkv.weight" in with_decay
    assert "encoder.norm.weight" in without and "encoder.blocks.0.attn.qkv.bias" in without
    assert not any(name.startswith("target_encoder") for name in with_decay | without)
    assert with_decay | without == {name for name, each in model.named_parameters() if each.requires_grad}


def test_the_schedule_reaches_every_group(settings_of: object) -> None:
    settings: Settings = settings_of(  # type: ignore[operator]
        optim={"lr": 1e-2, "start_lr": 1e-3, "final_lr": 1e-4, "warmup_steps": 2, "weight_decay": [0.1, 0.3]}
    )
    optimizer = build_optimizer(network(), settings.optim)
    seen = [schedule(optimizer, settings, step) for step in range(settings.run.steps)]
    assert seen[1]["lr"] == pytest.approx(1e-2) and seen[-1]["lr"] == pytest.approx(1e-4)
    assert seen[-1]["weight_decay"] == pytest.approx(0.3)
    decayed, plain = optimizer.param_groups
    assert decayed["lr"] == plain["lr"] == seen[-1]["lr"]
    assert decayed["weight_decay"] == seen[-1]["weight_decay"] and plain["weight_decay"] == 0


@pytest.mark.parametrize("name", ["adamw", "lars"])
def test_optimizers_lower_a_loss(name: str) -> None:
    module = network()
    settings = OptimSettings(name=name, lr=0.05 if name == "adamw" else 1.0, trust=0.1, weight_decay=(0.0, 0.0))  # type: ignore[arg-type]
    optimizer = build_optimizer(module, settings)
    inputs, wanted = torch.randn(32, 4), torch.randn(32, 2)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (module(inputs) - wanted).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_the_moving_average_is_its_formula_and_refuses_an_alias() -> None:
    average, source = network(), network()
    with torch.no_grad():
        for each in source.parameters():
            each.add_(1)
    before = copy.deepcopy(average)
    update_average(average, source, 0.9)
    for old, new, other in zip(before.parameters(), average.parameters(), source.parameters(), strict=True):
        assert torch.allclose(new, 0.9 * old + 0.1 * other, atol=1e-7)
    update_average(average, source, 1.0)
    with pytest.raises(ValueError, match="real copy"):
        update_average(source, source, 0.9)
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\], got 1\.5"):
        update_average(average, source, 1.5)
