"""oneDNN's products against torch's: linear layers and attention, their gradients, and when they step aside."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from jepa_hub.nn import attention, onednn
from jepa_hub.nn.linear import Linear, linear
from jepa_hub.nn.onednn import plain_products


@pytest.mark.parametrize("shape", [(70, 12), (2, 50, 12), (2, 3, 25, 12), (7, 12), (12,), (0, 12)])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_torch(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    ours = Linear(12, 9, bias=bias)
    theirs = torch.nn.Linear(12, 9, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(shape, requires_grad=True)
    twin = x.detach().clone().requires_grad_()
    mine, other = ours(x), theirs(twin)
    assert mine.shape == other.shape and torch.allclose(mine, other, atol=1e-6)
    weight = torch.randn_like(other)
    (mine * weight).sum().backward()
    (other * weight).sum().backward()
    assert torch.allclose(x.grad, twin.grad, atol=1e-5)  # type: ignore[arg-type]
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-5)  # type: ignore[arg-type]


def test_frozen_parts_get_no_gradient() -> None:
    layer, x = Linear(4, 3), torch.randn(80, 4, requires_grad=True)
    layer.weight.requires_grad_(False)
    layer(x).sum().backward()
    assert layer.weight.grad is None and layer.bias.grad is not None and x.grad is not None
    layer.requires_grad_(False)
    assert not layer(torch.randn(80, 4)).requires_grad
    with torch.no_grad():
        assert not layer.requires_grad_()(torch.randn(80, 4)).requires_grad


def test_inputs_of_any_layout() -> None:
    x, weight = torch.randn(12, 90).t(), torch.randn(8, 12)[:, ::1]
    assert torch.allclose(linear(x, weight), x @ weight.t(), atol=1e-5)
    wide = torch.randn(8, 40, 12)[:, ::2]
    assert torch.allclose(linear(wide, weight), wide @ weight.t(), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_torchs(dtype: torch.dtype) -> None:
    x, weight = torch.randn(3, 4, dtype=dtype), torch.randn(5, 4, dtype=dtype)
    assert torch.equal(linear(x, weight), F.linear(x, weight))


def test_it_steps_aside_for_whoever_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> torch.Tensor:
        raise AssertionError("oneDNN was called")

    monkeypatch.setattr(onednn, "_product", refuses)
    layer, x = Linear(4, 3), torch.randn(80, 4)
    with plain_products():
        assert layer(x).shape == (80, 3)
    with FlopCounterMode(display=False) as counter:
        layer(x)
    assert counter.get_total_flops() == 2 * 80 * 4 * 3
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert torch.export.export(layer, (x,)).module()(x).shape == (80, 3)
    assert torch.func.vmap(layer)(x[None]).shape == (1, 80, 3)
    if onednn._find_product() is not None:
        with pytest.raises(AssertionError, match="oneDNN was called"):
            layer(x)


def test_without_onednn_it_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "_product", None)
    layer = Linear(4, 3)
    x = torch.randn(80, 4)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


@pytest.mark.parametrize(("queries", "keys"), [(512, 512), (700, 513), (1030, 600)])
def test_attention_by_heads_is_torchs(queries: int, keys: int) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(2, queries, 3, 8), torch.randn(2, keys, 3, 8), torch.randn(2, keys, 3, 8)
    query, key, value = (each.transpose(1, 2) for each in (query, key, value))  # strided, as the layers hand them over
    with torch.no_grad():
        ours = attention.sdpa(torch.nn.Identity(), query, key, value)
    assert torch.allclose(ours, F.scaled_dot_product_attention(query, key, value), atol=1e-6)


def test_attention_by_heads_is_for_inference_over_many_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> torch.Tensor:
        raise AssertionError("by heads")

    monkeypatch.setattr(attention, "_by_heads", refuses)
    many, few = torch.randn(1, 2, 600, 8), torch.randn(1, 2, 100, 8)
    assert attention.sdpa(torch.nn.Identity(), many, many, many).shape == many.shape  # gradients are wanted
    with torch.no_grad():
        assert attention.sdpa(torch.nn.Identity(), few, few, few).shape == few.shape
        assert attention.sdpa(torch.nn.Identity(), few, many, many).shape == few.shape
        if onednn._find_product() is not None:
            with pytest.raises(AssertionError, match="by heads"):
                attention.sdpa(torch.nn.Identity(), many, many, many)
