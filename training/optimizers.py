"""Optimizers: AdamW and LARS, their parameter groups, and the schedules that drive them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from training.config import OptimSettings, Settings
from training.schedules import LEARNING_RATES, cosine_between


class LARS(torch.optim.Optimizer):
    """Stochastic gradient descent with layer-wise trust ratios; the learning rate enters the momentum buffer.

    v <- momentum * v - lr * g and p <- p + v, where g = (gradient + weight_decay * p) * trust * |p| / (|gradient| +
    weight_decay * |p|) for parameters of groups with "adapt", and the plain gradient for the rest.
    Source: arXiv:1708.03888; the variant of the official PAWS and SuNCEt code.

    Args:
        groups: parameters, or groups with "params" and, optionally, "weight_decay" and "adapt".
        lr: learning rate.
        momentum, weight_decay, trust: see above.
    """

    def __init__(
        self,
        groups: Iterable[Any],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
    ) -> None:
        if lr < 0 or not 0 <= momentum < 1 or weight_decay < 0 or trust <= 0:
            raise ValueError(f"LARS: lr {lr}, momentum {momentum}, weight_decay {weight_decay}, trust {trust}")
        super().__init__(
            groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": True}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return result

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient = parameter.grad
        assert gradient is not None  # the caller checked
        if group["adapt"]:
            size, slope = parameter.norm(), gradient.norm()
            ratio = group["trust"] * size / (slope + group["weight_decay"] * size + 1e-8)
            # Upstream: no adaptation where either norm is 0. Chosen on the device, without waiting for it.
            ratio = torch.where((size > 0) & (slope > 0), ratio, torch.ones_like(ratio))
            gradient = (gradient + group["weight_decay"] * parameter) * ratio
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer = state["momentum_buffer"]
        buffer.mul_(group["momentum"]).sub_(gradient * group["lr"])
        parameter.add_(buffer)


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Two groups: matrices with weight decay, biases and one-dimensional parameters without.

    "adapt" is LARS's switch; "decay" says whether the weight decay schedule applies.
    """
    trained = [(name, each) for name, each in module.named_parameters() if each.requires_grad]
    plain = [each for name, each in trained if each.ndim <= 1 or name.endswith("bias")]
    known = {id(each) for each in plain}
    decayed = [each for _, each in trained if id(each) not in known]
    return [
        {"params": decayed, "decay": True, "adapt": True},
        {"params": plain, "decay": False, "adapt": False, "weight_decay": 0.0},
    ]


def build_optimizer(module: nn.Module, settings: OptimSettings) -> torch.optim.Optimizer:
    """The optimizer of `settings` over the trained parameters of `module`."""
    groups = parameter_groups(module)
    if settings.name == "lars":
        return LARS(groups, settings.lr, momentum=settings.momentum, trust=settings.trust)
    if settings.name == "sgd":
        return torch.optim.SGD(groups, settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0)
    devices = {each.device.type for group in groups for each in group["params"]}
    fused = devices <= {"cpu", "cuda"}
    for group in groups:
        group.pop("adapt")
    return torch.optim.AdamW(groups, settings.lr, betas=settings.betas, eps=settings.eps, fused=fused)


def schedule(optimizer: torch.optim.Optimizer, settings: Settings, step: int) -> dict[str, float]:
    """Set learning rate and weight decay of `step` (from 0) and return them by name."""
    optim = settings.optim
    lr = LEARNING_RATES[optim.schedule](
        step,
        start=optim.start_lr,
        peak=optim.lr,
        final=optim.final_lr,
        warmup_steps=optim.warmup_steps,
        total_steps=settings.total_steps,
    )
    start, final = optim.weight_decay
    decay = cosine_between(step, start=start, final=final, total_steps=settings.total_steps)
    for group in optimizer.param_groups:
        group["lr"] = lr
        if group["decay"]:
            group["weight_decay"] = decay
    return {"lr": lr, "weight_decay": decay}
