"""Transformer blocks: a final block that gives only its last tokens gives what the whole block gives for them."""

from __future__ import annotations

import pytest
import torch

from jepa_hub.nn.attention import Attention
from jepa_hub.nn.block import Block, BlockSpec
from jepa_hub.nn.positions import Rotary, rotary_3d


@pytest.mark.parametrize("act", ["gelu", "swiglu"])
@pytest.mark.parametrize("layout", [None, "tiled", "interleaved"])
@pytest.mark.parametrize("last", [1, 5, 24])
def test_the_last_tokens_alone_are_those_of_the_whole_block(act: str, layout: str | None, last: int) -> None:
    torch.manual_seed(0)
    block = Block(BlockSpec(dim=48, num_heads=2, mlp_hidden=64, hidden_act=act))
    x = torch.randn(3, 24, 48, requires_grad=True)
    rotary: Rotary | None = None
    if layout:
        table = rotary_3d(24, (2, 3, 4), layout=layout, like=torch.zeros(()))
        rotary = table.select(torch.stack([torch.randperm(24) for _ in range(3)]))  # [B, N, head_dim]
    whole, some = block(x, rotary)[:, -last:], block(x, rotary, last)
    assert some.shape == (3, last, 48) and torch.allclose(some, whole, atol=1e-6)
    gradients = [torch.autograd.grad(each.square().sum(), (x, *block.parameters())) for each in (whole, some)]
    assert all(torch.allclose(one, two, atol=1e-4) for one, two in zip(*gradients, strict=True))


def test_causal_weights_are_those_of_causal_attention() -> None:
    torch.manual_seed(0)
    attention = Attention(48, 2, causal=True)
    x = torch.randn(2, 7, 48)
    weights = attention.weights(x)  # [B, H, N, N]
    assert torch.equal(weights, weights.tril()) and torch.allclose(weights.sum(-1), torch.ones(()))
    value = attention.qkv(x).unflatten(-1, (3, 2, -1))[:, :, 2].transpose(1, 2)  # [B, H, N, D/H]
    out = attention.proj((weights @ value).transpose(1, 2).flatten(2))
    assert torch.allclose(out, attention(x), atol=1e-6)
    assert torch.allclose(attention.weights(x, queries=slice(2, 4)), weights[:, :, 2:4], atol=1e-6)
