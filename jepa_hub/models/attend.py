"""The attention kernel a model's configuration names, looked up at each call."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from jepa_hub.nn.attention import sdpa


class ConfiguredAttention:
    """`Attention.attend` of a model: transformers' kernel named by `config._attn_implementation`.

    A deep copy of a whole model shares the copied config; so `set_attn_implementation` keeps working on the copy.
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        self.config = config

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """[B, heads, Q, head_dim] from queries, keys and values of that layout; `mask` as in `sdpa`.

        Raises:
            ValueError: the kernel knows no masks.
        """
        name = self.config._attn_implementation
        if name in (None, "sdpa"):  # torch's kernel as is: transformers' wrapper would only add copies
            return sdpa(module, query, key, value, mask)
        if mask is not None and "flash" in str(name):
            raise ValueError(f"{name} knows no masks, as local windows need: set_attn_implementation('sdpa')")
        if mask is not None and mask.ndim == 2:
            mask = mask[None, None]  # [1, 1, Q, K]
        kernel = ALL_ATTENTION_FUNCTIONS.get_interface(name, _eager)
        # Without is_causal=False transformers' kernels would mask the future.
        causal = getattr(module, "causal", False)
        out, _ = kernel(module, query, key, value, mask, scaling=query.shape[-1] ** -0.5, is_causal=causal)
        return out.transpose(1, 2)  # [B, N, heads, head_dim] -> [B, heads, N, head_dim]

    def __deepcopy__(self, memo: dict[int, Any]) -> ConfiguredAttention:
        return type(self)(copy.deepcopy(self.config, memo))


def _eager(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, scaling: float, **options: Any
) -> tuple[Tensor, Tensor]:
    """Plain softmax attention, in transformers' calling convention."""
    scores = query @ key.transpose(-1, -2) * scaling  # [B, heads, Q, K]
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    if options.get("is_causal"):
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2), weights
