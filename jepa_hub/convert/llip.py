"""Checkpoints of the Llip code, which has open_clip's names: `{"epoch": ..., "state_dict": {...}}`, or bare tensors.

Renames and reshapes: the patch convolution is a matrix, the position table is that of the mixture tokens followed by
that of the patches, and matrices that multiply from the right are kept as `Linear` weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from jepa_hub.convert.meta import Converted

FAMILY = "llip"
# Widths of the published towers -> attention heads; those of H/14 and G/14 are not of width 64.
HEADS = {768: 12, 1024: 16, 1280: 16, 1664: 16}
TEXT_HEAD_WIDTH = 64
# tau is no tensor: 1 for L/14, 5 for the others, by the width of the vision tower.
TEMPERATURES = {1024: 1.0}
_BLOCK = {
    "attn.in_proj_weight": "attn.qkv.weight",
    "attn.in_proj_bias": "attn.qkv.bias",
    "attn.out_proj.": "attn.proj.",
    "ln_1.": "norm1.",
    "ln_2.": "norm2.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}
_NAMES = {
    "visual.class_embedding": "encoder.mixture_tokens",
    "visual.ln_pre.": "encoder.norm_pre.",
    "visual.ln_post.": "encoder.norm.",
    "token_embedding.": "text.encoder.embedding.",
    "positional_embedding": "text.encoder.positions",
    "ln_final.": "text.encoder.norm.",
    "Q_norm.": "text.query_norm.",
    "K_norm.": "mixing.key_norm.",
    "V_norm.": "mixing.value_norm.",
    "k_proj": "mixing.key_proj",
    "v_proj": "mixing.value_proj",
}
_TRANSPOSED = {
    "text_projection": "text.target.weight",
    "q_proj": "text.query.weight",
    "pred.out_proj": "mixing.output.weight",
}
_NUMBERS = {"logit_scale": "mixing.logit_scale", "logit_bias": "mixing.logit_bias"}
_BLOCKS = {"visual.transformer.resblocks.": "encoder.blocks.", "transformer.resblocks.": "text.encoder.blocks."}


def recognises(checkpoint: Mapping[str, Any]) -> bool:
    """Whether this is a file of that code: mixture tokens with matrices of their own."""
    names = _state(checkpoint)
    return "visual.class_embedding" in names and "k_proj" in names


def _state(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    stored = checkpoint.get("state_dict", checkpoint)
    if not isinstance(stored, Mapping):
        return {}
    plain = {str(key).removeprefix("_orig_mod.").removeprefix("module."): value for key, value in stored.items()}
    if "out_proj" in plain:  # Upstream: earlier files hold the mixing's matrix under this name
        plain["pred.out_proj"] = plain.pop("out_proj")
    return plain


def read(checkpoint: Mapping[str, Any], family: str | None, settings: Mapping[str, Any]) -> Converted:
    """Our configuration and tensors of an official checkpoint.

    Args:
        checkpoint: what `torch.load` returned.
        family: the family the user or the catalog names, or None.
        settings: configuration that wins over what is inferred.

    Raises:
        ValueError: another family is asked for, or the number of heads is unknown.
    """
    if family not in (None, FAMILY):
        raise ValueError(f"this is a {FAMILY} checkpoint (mixture tokens and a text tower), not {family}")
    stored = _state(checkpoint)
    config = infer(stored) | dict(settings)
    if config.get("num_attention_heads") is None:
        raise ValueError(f"heads of width {config['hidden_size']} are unknown; give num_attention_heads=")
    return Converted(FAMILY, config, {name: tensor for each in stored.items() for name, tensor in _ours(*each, config)})


def infer(stored: Mapping[str, Tensor]) -> dict[str, Any]:
    """Settings that names and shapes tell, and the published ones that they do not."""
    tokens, width = stored["visual.class_embedding"].reshape(-1, stored["visual.ln_pre.weight"].shape[0]).shape
    patch = stored["visual.conv1.weight"].shape[-1]
    side = math.isqrt(stored["visual.positional_embedding"].shape[0] - tokens)
    text_width = stored["ln_final.weight"].shape[0]
    return {
        "hidden_size": width,
        "num_hidden_layers": _depth(stored, "visual.transformer.resblocks."),
        "num_attention_heads": HEADS.get(width),
        "intermediate_size": stored["visual.transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        "num_channels": stored["visual.conv1.weight"].shape[1],
        "patch_size": patch,
        "image_size": side * patch,
        "num_mixture_tokens": tokens,
        "mix_patches": stored["k_proj"].shape[0] > tokens,
        "embed_size": stored["k_proj"].shape[2],
        "mixing_norm": "K_norm.weight" in stored,
        "mixing_temperature": TEMPERATURES.get(width, 5.0),
        "text_hidden_size": text_width,
        "text_num_hidden_layers": _depth(stored, "transformer.resblocks."),
        "text_num_attention_heads": max(1, text_width // TEXT_HEAD_WIDTH),
        "text_intermediate_size": stored["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        "vocab_size": stored["token_embedding.weight"].shape[0],
        "context_length": stored["positional_embedding"].shape[0],
        "end_token_id": stored["token_embedding.weight"].shape[0] - 1,  # the highest number ends a text
        "networks": ["encoder"],
    }


def _depth(stored: Mapping[str, Any], prefix: str) -> int:
    return 1 + max(int(name.removeprefix(prefix).split(".")[0]) for name in stored if name.startswith(prefix))


def _ours(name: str, tensor: Tensor, config: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
    """The tensors under our names that one of theirs becomes."""
    if name == "visual.conv1.weight":
        return [("encoder.patch_embed.proj.weight", tensor.flatten(1))]  # [D, C*p*p]
    if name == "visual.positional_embedding":
        count = config["num_mixture_tokens"]
        return [("encoder.mixture_positions", tensor[:count]), ("encoder.positions.table", tensor[count:])]
    if name == "visual.class_embedding":
        return [("encoder.mixture_tokens", tensor.reshape(-1, config["hidden_size"]))]
    if name in _TRANSPOSED:
        return [(_TRANSPOSED[name], tensor.t())]
    if name in _NUMBERS:
        return [(_NUMBERS[name], tensor.reshape(1))]
    for theirs, ours in _BLOCKS.items():
        if name.startswith(theirs):
            number, part = name.removeprefix(theirs).split(".", 1)
            return [(f"{ours}{number}.{_renamed(part, _BLOCK)}", tensor)]
    return [(_renamed(name, _NAMES), tensor)]


def _renamed(name: str, names: Mapping[str, str]) -> str:
    for theirs, ours in names.items():
        if name == theirs or (theirs.endswith(".") and name.startswith(theirs)):
            return ours + name.removeprefix(theirs)
    return name


def write(config: Any, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """An official checkpoint from our tensors; the inverse of `read`.

    Raises:
        ValueError: the official code has no such model.
    """
    if config.mixing != "text" or config.position_type != "learned":
        raise ValueError("the official layout is that of models which mix by text and have learned positions")
    official: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name == "encoder.patch_embed.proj.weight":
            shape = (-1, config.num_channels, config.patch_size, config.patch_size)
            official["visual.conv1.weight"] = tensor.reshape(shape)
        elif name == "encoder.mixture_positions":
            table = torch.cat([tensor, tensors["encoder.positions.table"]])
            official["visual.positional_embedding"] = table
        elif name != "encoder.positions.table":
            official[_theirs(name)] = _inverse(name, tensor)
    return {"state_dict": {f"module.{name}": tensor for name, tensor in official.items()}}


def _theirs(name: str) -> str:
    for names in (_TRANSPOSED, _NUMBERS):
        for theirs, ours in names.items():
            if name == ours:
                return theirs
    for theirs, ours in _BLOCKS.items():
        if name.startswith(ours):
            number, part = re.split(r"\.", name.removeprefix(ours), maxsplit=1)
            return f"{theirs}{number}.{_renamed(part, {ours: theirs for theirs, ours in _BLOCK.items()})}"
    return _renamed(name, {ours: theirs for theirs, ours in _NAMES.items()})


def _inverse(name: str, tensor: Tensor) -> Tensor:
    if name in _TRANSPOSED.values():
        return tensor.t().contiguous()
    return tensor.reshape(()) if name in _NUMBERS.values() else tensor
