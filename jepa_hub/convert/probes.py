"""Published probes (V-JEPA's and V-JEPA 2's evaluation files, transformers' classification heads) to ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from jepa_hub.convert.meta import HEADS

DROPPED = {
    r"pooler\.cross_attention_block\.xattn\.proj\..+": "stored by V-JEPA's code and not applied since February 2025; "
    "published accuracies are without it",
}
_META_RULES = (
    (r"pooler\.cross_attention_block\.xattn\.(q|kv)\.(.+)", r"pooler.cross.attn.\1.\2"),
    (r"pooler\.cross_attention_block\.((?:norm[12]|mlp\.fc[12])\..+)", r"pooler.cross.\1"),
)
_TRANSFORMERS_RULES = (
    (r"pooler\.self_attention_layers\.(\d+)\.self_attn\.([qkv])_proj\.(.+)", r"pooler.blocks.\1.attn.\2.\3"),
    (r"pooler\.self_attention_layers\.(\d+)\.self_attn\.out_proj\.(.+)", r"pooler.blocks.\1.attn.proj.\2"),
    (r"pooler\.self_attention_layers\.(\d+)\.layer_norm([12])\.(.+)", r"pooler.blocks.\1.norm\2.\3"),
    (r"pooler\.self_attention_layers\.(\d+)\.mlp\.(.+)", r"pooler.blocks.\1.mlp.\2"),
    (r"pooler\.cross_attention_layer\.cross_attn\.([qkv])_proj\.(.+)", r"pooler.cross.attn.\1.\2"),
    (r"pooler\.cross_attention_layer\.layer_norm([12])\.(.+)", r"pooler.cross.norm\1.\2"),
    (r"pooler\.cross_attention_layer\.mlp\.(.+)", r"pooler.cross.mlp.\1"),
    (r"classifier\.(.+)", r"linear.\1"),
)


def read_meta(checkpoint: Mapping[str, Any], head: int | None) -> dict[str, Tensor]:
    """Our tensors of an official probe file, `{"classifier": ...}` or `{"classifiers": [...]}`.

    Raises:
        ValueError: not a probe, several heads and none chosen, or a probe of another kind.
    """
    if "classifier" in checkpoint:
        state = checkpoint["classifier"]
    elif isinstance(checkpoint.get("classifiers"), list) and checkpoint["classifiers"]:
        heads = checkpoint["classifiers"]
        if head is None and len(heads) > 1:
            raise ValueError(
                f"the file holds {len(heads)} heads trained side by side and does not say which is best: give head=0 "
                f".. head={len(heads) - 1}"
            )
        if not -len(heads) <= (head or 0) < len(heads):
            raise ValueError(f"head={head}: the file holds {len(heads)} heads")
        state = heads[head or 0]
    else:
        raise ValueError(f"neither 'classifier' nor 'classifiers' among its keys ({', '.join(map(str, checkpoint))})")
    plain = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if any(name.startswith(("verb_", "noun_", "action_")) for name in plain):
        raise ValueError("this is an EK100 anticipation probe (verb, noun and action heads), which is not supported")
    return {
        _first_match(name, _META_RULES): tensor
        for name, tensor in plain.items()
        if not any(re.fullmatch(pattern, name) for pattern in DROPPED)
    }


def read_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors of the head of a VJEPA2ForVideoClassification; the backbone's are left out."""
    head = {
        _first_match(name, _TRANSFORMERS_RULES): tensor
        for name, tensor in tensors.items()
        if not name.startswith("vjepa2.")
    }
    for name in [name for name in head if ".attn.q." in name]:
        q, k, v = (head.pop(name.replace(".attn.q.", f".attn.{which}.")) for which in "qkv")
        if ".cross." in name:
            head[name] = q
            head[name.replace(".attn.q.", ".attn.kv.")] = torch.cat([k, v])  # [2D, ..]
        else:
            head[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat([q, k, v])  # [3D, ..]
    return head


def infer(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Settings of a `ProbeConfig` that the shapes tell.

    Raises:
        ValueError: the width is not a published one and the number of heads is unknown.
    """
    labels, width = tensors["linear.weight"].shape
    if "pooler.query_tokens" not in tensors:
        return {"kind": "linear", "hidden_size": width, "num_labels": labels}
    blocks = {match[1] for name in tensors if (match := re.match(r"pooler\.blocks\.(\d+)\.", name))}
    return {
        "kind": "attentive",
        "hidden_size": width,
        "num_labels": labels,
        "num_blocks": len(blocks),
        "num_queries": tensors["pooler.query_tokens"].shape[1],
        "intermediate_size": tensors["pooler.cross.mlp.fc1.weight"].shape[0],
        # 16 heads for every published width of both code bases, V-JEPA 2's ViT-g included.
        "num_attention_heads": HEADS["vjepa"].get(width),
    }


def _first_match(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    return name
