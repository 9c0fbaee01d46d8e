"""Self-attention and cross-attention with one seam, `attend`, through which models choose the kernel."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jepa_hub.nn.linear import Linear, linear
from jepa_hub.nn.onednn import product, usable
from jepa_hub.nn.positions import Rotary

Attend = Callable[..., Tensor]  # (module, query, key, value), and a mask where there is one


CHUNK = 512  # queries at a time: their scores over some thousand keys still fit into a core's cache
LEAST_KEYS = 512  # below, torch's fused kernel is as fast


def sdpa(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of [B, heads, Q, head_dim] over [B, heads, K, head_dim]: torch's fused kernel.

    `mask` is bool [Q, K] or [B, 1, Q, K], True where a query may look.

    On a CPU, without gradients and over many tokens, head by head with oneDNN's products (1.5 x as fast on AMD).
    """
    if getattr(module, "causal", False):
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)
    long = key.shape[-2] >= LEAST_KEYS <= query.shape[-2]
    if long and mask is None and not torch.is_grad_enabled() and usable(query, key, value):
        return _by_heads(query, key, value)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def _by_heads(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    out = torch.empty(*query.shape[:-1], value.shape[-1])  # [B, H, Q, head_dim]
    scale = query.shape[-1] ** -0.5
    for batch in range(query.shape[0]):
        for head in range(query.shape[1]):
            asked, keys = query[batch, head] * scale, key[batch, head].contiguous()  # [Q, head_dim], [K, head_dim]
            values = value[batch, head].t().contiguous()  # [head_dim, K]
            for start in range(0, len(asked), CHUNK):
                weights = product(asked[start : start + CHUNK], keys).softmax(dim=-1)  # [CHUNK, K]
                out[batch, head, start : start + CHUNK] = product(weights, values)
    return out


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Turn queries or keys x [B, N, ..., head_dim] by their positions; computed in float32.

    Raises:
        RuntimeError: the tables are for another number of tokens.
    """
    cos, sin = rotary.cos, rotary.sin
    for _ in range(x.ndim - 3):
        cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)  # [(B,) N, 1.., head_dim]
    full = x.float()
    if rotary.partner is None:
        swapped = full.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)  # channel 2i <-> 2i + 1
    else:
        swapped = full.index_select(-1, rotary.partner)
    # In place where nothing else holds the tensor: the product, and without gradients a copy made for its precision.
    turned = full * cos if x.dtype == full.dtype or torch.is_grad_enabled() else full.mul_(cos)
    return turned.addcmul_(swapped, sin).to(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention over [B, N, D]; queries, keys and values are one matrix product.

    With `causal`, a token attends to itself and to those before it.
    """

    def __init__(self, dim: int, num_heads: int, *, qkv_bias: bool = True, causal: bool = False) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"the width ({dim}) must be divisible by the number of heads ({num_heads})")
        self.num_heads, self.causal = num_heads, causal
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim)
        self.attend: Attend = sdpa

    def forward(
        self, x: Tensor, rotary: Rotary | None = None, last: int | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """[B, N, D] -> [B, N, D]; `rotary` holds tables for the same N tokens.

        With `last`, only the last so many tokens ask: -> [B, last, D]; all N answer. `mask` is bool [N, N] or
        [B, 1, N, N], True where the token of a row may look at that of a column; None lets all look at all.
        """
        allowed = () if mask is None else (mask,)  # kernels that know no mask are called as ever
        if last is not None:
            return self._of_last(x, rotary, last, tuple(each[..., -last:, :] for each in allowed))
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # [B, N, 3, H, D/H]
        query, key, value = qkv.unbind(2)
        if rotary is not None:  # one after the other: in half precision a rotation takes eight times its input
            query, key = rotate(query, rotary), rotate(key, rotary)
        heads = (query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))  # [B, H, N, D/H] each
        out = self.attend(self, *heads, *allowed)  # [B, H, N, D/H]
        return self.proj(out.transpose(1, 2).flatten(2))  # [B, N, D]

    def weights(
        self,
        x: Tensor,
        rotary: Rotary | None = None,
        queries: slice | Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """How much each token takes of every other, [B, H, Q, N], rows that add up to 1; always computed in full.

        Args:
            x: [B, N, D], the layer's input.
            rotary: tables of the same N tokens.
            queries: the tokens that ask, a slice or int64 [Q]; None is all of them.
            mask: as in `forward`.
        """
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # [B, N, 3, H, D/H]
        query_key = qkv[:, :, :2] if rotary is None else rotate(qkv[:, :, :2], rotary)
        query, key = query_key.transpose(1, 3).float().unbind(2)  # [B, H, N, D/H] each
        queries = slice(None) if queries is None else queries
        query = query[:, :, queries]  # [B, H, Q, D/H]
        scores = query @ key.mT * query.shape[-1] ** -0.5  # [B, H, Q, N]
        if self.causal:
            before = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()  # [N, N]
            mask = before if mask is None else mask & before
        if mask is not None:
            scores = scores.masked_fill(~mask[..., queries, :], float("-inf"))
        return scores.softmax(dim=-1)

    def _of_last(self, x: Tensor, rotary: Rotary | None, last: int, allowed: tuple[Tensor, ...]) -> Tensor:
        dim = x.shape[-1]
        weight, bias = self.qkv.weight, self.qkv.bias
        parts = (None, None) if bias is None else (bias[:dim], bias[dim:])
        query = linear(x[:, -last:], weight[:dim], parts[0]).unflatten(-1, (self.num_heads, -1))  # [B, last, H, D/H]
        key_value = linear(x, weight[dim:], parts[1]).unflatten(-1, (2, self.num_heads, -1))  # [B, N, 2, H, D/H]
        key, value = key_value.unbind(2)
        if rotary is not None:
            query, key = rotate(query, rotary.last(last)), rotate(key, rotary)
        heads = (query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        out = self.attend(self, *heads, *allowed)  # [B, H, last, D/H]
        return self.proj(out.transpose(1, 2).flatten(2))  # [B, last, D]


class CrossAttention(nn.Module):
    """Queries [B, Q, D] attend to tokens [B, N, D]; no output projection, as the published probes were trained."""

    def __init__(self, dim: int, num_heads: int, *, qkv_bias: bool = True) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"the width ({dim}) must be divisible by the number of heads ({num_heads})")
        self.num_heads = num_heads
        self.q = Linear(dim, dim, bias=qkv_bias)
        self.kv = Linear(dim, 2 * dim, bias=qkv_bias)
        self.attend: Attend = sdpa

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        """[B, Q, D] and [B, N, D] -> [B, Q, D]."""
        q = self.q(query).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # [B, H, Q, D/H]
        k, v = self.kv(tokens).unflatten(-1, (2, self.num_heads, -1)).unbind(2)  # [B, N, H, D/H]
        out = self.attend(self, q, k.transpose(1, 2), v.transpose(1, 2))  # [B, H, Q, D/H]
        return out.transpose(1, 2).flatten(2)  # [B, Q, D]
