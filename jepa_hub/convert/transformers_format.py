"""The transformers formats of I-JEPA (`ijepa`) and V-JEPA 2 (`vjepa2`), to ours and back.

Both hold one encoder; V-JEPA 2 also its predictor. Source: transformers 5.23, models/ijepa and models/vjepa2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from jepa_hub.convert.meta import Converted
from jepa_hub.convert.tables import TableFormula, find_formula

MODEL_TYPES = ("ijepa", "vjepa2")

# transformers' name -> ours, tried in order. The first set is transformers 5's in-memory layout, the second that of
# the files on the Hub (4.x), which 5.x still writes.
_IJEPA_RULES = (
    (r"embeddings\.patch_embeddings\.projection\.(.+)", r"patch_embed.proj.\1"),
    (r"(?:encoder\.layer|layers)\.(\d+)\.layernorm_before\.(.+)", r"blocks.\1.norm1.\2"),
    (r"(?:encoder\.layer|layers)\.(\d+)\.layernorm_after\.(.+)", r"blocks.\1.norm2.\2"),
    (r"layers\.(\d+)\.attention\.([qkv])_proj\.(.+)", r"blocks.\1.attn.\2.\3"),
    (r"layers\.(\d+)\.attention\.o_proj\.(.+)", r"blocks.\1.attn.proj.\2"),
    (r"layers\.(\d+)\.mlp\.(fc[12]\..+)", r"blocks.\1.mlp.\2"),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.([qkv])[a-z]+\.(.+)", r"blocks.\1.attn.\2.\3"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(.+)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.(.+)", r"blocks.\1.mlp.fc1.\2"),
    (r"encoder\.layer\.(\d+)\.output\.dense\.(.+)", r"blocks.\1.mlp.fc2.\2"),
    (r"layernorm\.(.+)", r"norm.\1"),
)
_VJEPA2_LAYER_RULES = (
    (r"layer\.(\d+)\.attention\.([qkv])[a-z]+\.(.+)", r"blocks.\1.attn.\2.\3"),
    (r"layer\.(\d+)\.attention\.proj\.(.+)", r"blocks.\1.attn.proj.\2"),
    (r"layer\.(\d+)\.((?:norm[12]|mlp\.fc[12])\..+)", r"blocks.\1.\2"),
    (r"layernorm\.(.+)", r"norm.\1"),
)
_VJEPA2_ENCODER_RULES = ((r"embeddings\.patch_embeddings\.proj\.(.+)", r"patch_embed.proj.\1"), *_VJEPA2_LAYER_RULES)
_VJEPA2_PREDICTOR_RULES = (
    (r"embeddings\.predictor_embeddings\.(.+)", r"embed.\1"),
    (r"embeddings\.mask_tokens", r"mask_tokens"),
    (r"proj\.(.+)", r"proj.\1"),
    *_VJEPA2_LAYER_RULES,
)
# Heads of classification repositories; the backbone is loaded without them.
DROPPED = {
    r"classifier\..+": "classification head: Probe.from_pretrained reads it",
    r"pooler\..+": "attentive pooler: Probe.from_pretrained reads it",
    r"embeddings\.mask_token": "a stand-in for patches inside transformers' encoder, which no JEPA uses",
}


def read(config: Mapping[str, Any], tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Converted:
    """Our configuration and tensors of a transformers checkpoint.

    Raises:
        ValueError: a setting this package does not implement (another activation, non-square patches).
    """
    model_type = config["model_type"]
    if model_type == "ijepa":
        return _read_ijepa(config, tensors, settings)
    if model_type == "vjepa2":
        return _read_vjepa2(config, tensors, settings)
    raise ValueError(f"model type {model_type!r} is not one of {', '.join(MODEL_TYPES)}")


def _read_ijepa(config: Mapping[str, Any], tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Converted:
    full: dict[str, Any] = {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    }
    full |= {"layer_norm_eps": 1e-12, "image_size": 224, "patch_size": 16, "num_channels": 3, "qkv_bias": True}
    full |= {key: value for key, value in config.items() if key in full}
    _check_activation(config)
    ours = {**full, "patch_size": _square(full["patch_size"], "patch_size"), "networks": ["encoder"]}
    ours |= {"hidden_act": "gelu", "tubelet_size": 1, "num_frames": 1}
    plain = {name.removeprefix("ijepa."): tensor for name, tensor in tensors.items()}
    table = plain.pop("embeddings.position_embeddings")  # [1, N, D]
    formula = find_formula(table)
    named = _rename_all(plain, _IJEPA_RULES, "encoder.")
    if formula is not None:
        ours |= {"position_type": "sincos", "position_axes": formula.position_axes}
    else:  # transformers trains its table, so one that fits no formula is a learned one
        ours["position_type"] = "learned"
        named["encoder.positions.table"] = table[0]  # [N, D]
    return Converted("ijepa", {**ours, **settings}, named)


def _read_vjepa2(config: Mapping[str, Any], tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> Converted:
    full: dict[str, Any] = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "in_chans": 3}
    full |= {"patch_size": 16, "crop_size": 256, "frames_per_clip": 64, "tubelet_size": 2, "mlp_ratio": 4.0}
    full |= {"layer_norm_eps": 1e-6, "qkv_bias": True, "pred_hidden_size": 384, "pred_num_attention_heads": 12}
    full |= {"pred_num_hidden_layers": 12, "pred_num_mask_tokens": 10, "pred_mlp_ratio": 4.0}
    full |= {"pred_zero_init_mask_tokens": True}
    full |= {key: value for key, value in config.items() if key in full}
    _check_activation(config)
    plain = {name.removeprefix("vjepa2."): tensor for name, tensor in tensors.items()}
    networks = [name for name in ("encoder", "predictor") if any(key.startswith(f"{name}.") for key in plain)]
    ours = {
        "hidden_size": full["hidden_size"],
        "num_hidden_layers": full["num_hidden_layers"],
        "num_attention_heads": full["num_attention_heads"],
        "intermediate_size": int(full["hidden_size"] * full["mlp_ratio"]),
        "hidden_act": "gelu",
        "qkv_bias": full["qkv_bias"],
        "layer_norm_eps": full["layer_norm_eps"],
        "num_channels": full["in_chans"],
        "patch_size": _square(full["patch_size"], "patch_size"),
        "tubelet_size": full["tubelet_size"],
        "image_size": full["crop_size"],
        "num_frames": full["frames_per_clip"],
        "position_type": "rotary_tiled",
        "predictor_hidden_size": full["pred_hidden_size"],
        "predictor_num_hidden_layers": full["pred_num_hidden_layers"],
        "predictor_num_attention_heads": full["pred_num_attention_heads"],
        "predictor_intermediate_size": int(full["pred_hidden_size"] * full["pred_mlp_ratio"]),
        "num_mask_tokens": full["pred_num_mask_tokens"],
        "zero_init_mask_tokens": full["pred_zero_init_mask_tokens"],
        "networks": networks,
    }
    rules = {"encoder": _VJEPA2_ENCODER_RULES, "predictor": _VJEPA2_PREDICTOR_RULES}
    named: dict[str, Tensor] = {}
    rest = dict(plain)
    for network in networks:
        part = {key.removeprefix(f"{network}."): rest.pop(key) for key in plain if key.startswith(f"{network}.")}
        named |= _rename_all(part, rules[network], f"{network}.")
    named |= {name: tensor for name, tensor in rest.items() if not _dropped(name)}
    if "predictor.mask_tokens" in named:
        named["predictor.mask_tokens"] = named["predictor.mask_tokens"].flatten(1, 2)  # [G, 1, P]
    return Converted("vjepa2", {**ours, **settings}, named)


def write_ijepa(config: Any, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Transformers' config.json and tensors of one encoder (our names without the network's prefix).

    Raises:
        ValueError: transformers' IJepaModel cannot express this model.
    """
    _check_writable(config, tensors, "I-JEPA", "ijepa")
    written = {
        "model_type": "ijepa",
        "architectures": ["IJepaModel"],
        "hidden_act": "gelu",
        **{key: getattr(config, key) for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")},
        **{key: getattr(config, key) for key in ("intermediate_size", "layer_norm_eps", "qkv_bias", "num_channels")},
        **{key: getattr(config, key) for key in ("image_size", "patch_size", "initializer_range")},
    }
    rules = [
        (r"blocks\.(\d+)\.norm1\.(.+)", r"encoder.layer.\1.layernorm_before.\2"),
        (r"blocks\.(\d+)\.norm2\.(.+)", r"encoder.layer.\1.layernorm_after.\2"),
        (r"blocks\.(\d+)\.attn\.q\.(.+)", r"encoder.layer.\1.attention.attention.query.\2"),
        (r"blocks\.(\d+)\.attn\.k\.(.+)", r"encoder.layer.\1.attention.attention.key.\2"),
        (r"blocks\.(\d+)\.attn\.v\.(.+)", r"encoder.layer.\1.attention.attention.value.\2"),
        (r"blocks\.(\d+)\.attn\.proj\.(.+)", r"encoder.layer.\1.attention.output.dense.\2"),
        (r"blocks\.(\d+)\.mlp\.fc1\.(.+)", r"encoder.layer.\1.intermediate.dense.\2"),
        (r"blocks\.(\d+)\.mlp\.fc2\.(.+)", r"encoder.layer.\1.output.dense.\2"),
        (r"norm\.(.+)", r"layernorm.\1"),
        (r"patch_embed\.proj\.(.+)", r"embeddings.patch_embeddings.projection.\1"),
    ]
    named = _write_all(tensors, rules, "", config, image=True)
    if config.position_type == "learned":
        table = tensors["positions.table"][None]
    else:
        assert config.base_grid is not None
        table = TableFormula(config.base_grid, config.position_axes).table(config.hidden_size)
    named["embeddings.position_embeddings"] = table  # [1, N, D]
    return written, named


def write_vjepa2(
    config: Any, encoder: Mapping[str, Tensor], predictor: Mapping[str, Tensor]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Transformers' config.json and tensors of an encoder and a predictor.

    Raises:
        ValueError: transformers' VJEPA2Model cannot express this model.
    """
    _check_writable(config, encoder, "V-JEPA 2", "vjepa2")
    if not isinstance(config.image_size, int) or config.num_frames is None:
        raise ValueError("transformers' VJEPA2Config needs a square image_size and num_frames; load with both given")
    written = {
        "model_type": "vjepa2",
        "architectures": ["VJEPA2Model"],
        "hidden_act": "gelu",
        **{key: getattr(config, key) for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")},
        **{key: getattr(config, key) for key in ("layer_norm_eps", "qkv_bias", "patch_size", "tubelet_size")},
        "crop_size": config.image_size,
        "frames_per_clip": config.num_frames,
        "in_chans": config.num_channels,
        "mlp_ratio": config.intermediate_size / config.hidden_size,
        "initializer_range": config.initializer_range,
        "pred_hidden_size": config.predictor_hidden_size,
        "pred_num_hidden_layers": config.predictor_num_hidden_layers,
        "pred_num_attention_heads": config.predictor_num_attention_heads,
        "pred_mlp_ratio": config.predictor_intermediate_size / config.predictor_hidden_size,
        "pred_num_mask_tokens": config.num_mask_tokens,
        "pred_zero_init_mask_tokens": config.zero_init_mask_tokens,
    }
    layers = [
        (r"blocks\.(\d+)\.attn\.q\.(.+)", r"layer.\1.attention.query.\2"),
        (r"blocks\.(\d+)\.attn\.k\.(.+)", r"layer.\1.attention.key.\2"),
        (r"blocks\.(\d+)\.attn\.v\.(.+)", r"layer.\1.attention.value.\2"),
        (r"blocks\.(\d+)\.attn\.proj\.(.+)", r"layer.\1.attention.proj.\2"),
        (r"blocks\.(\d+)\.(.+)", r"layer.\1.\2"),
        (r"norm\.(.+)", r"layernorm.\1"),
    ]
    outer = [(r"patch_embed\.proj\.(.+)", r"embeddings.patch_embeddings.proj.\1")]
    named = _write_all(encoder, [*outer, *layers], "encoder.", config, image=False)
    inner = [
        (r"embed\.(.+)", r"embeddings.predictor_embeddings.\1"),
        (r"mask_tokens", r"embeddings.mask_tokens"),
        (r"proj\.(.+)", r"proj.\1"),
    ]
    named |= _write_all(predictor, [*inner, *layers], "predictor.", config, image=False)
    name = "predictor.embeddings.mask_tokens"
    named[name] = named[name].unsqueeze(2)  # [G, 1, 1, P]
    return written, named


def _rename_all(tensors: Mapping[str, Tensor], rules: Iterable[tuple[str, str]], prefix: str) -> dict[str, Tensor]:
    """Tensors under our names with queries, keys and values joined; unknown names are kept for the strict load."""
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if _dropped(name):
            continue
        named[prefix + _first_match(name, rules)] = tensor
    for name in [name for name in named if ".attn.q." in name]:
        thirds = [name.replace(".attn.q.", f".attn.{which}.") for which in "qkv"]
        if all(third in named for third in thirds):
            named[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat(
                [named.pop(third) for third in thirds]
            )  # [3D, ..]
    weight = f"{prefix}patch_embed.proj.weight"
    if weight in named:
        named[weight] = named[weight].flatten(1)  # [D, C*t*p*p]
    return named


def _write_all(
    tensors: Mapping[str, Tensor], rules: Iterable[tuple[str, str]], prefix: str, config: Any, *, image: bool
) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name == "positions.table":
            continue
        if name == "patch_embed.proj.weight":
            depth = () if image else (config.tubelet_size,)
            tensor = tensor.unflatten(1, (config.num_channels, *depth, config.patch_size, config.patch_size))
        if ".attn.qkv." in name:
            for which, third in zip("qkv", tensor.chunk(3), strict=True):
                one = _first_match(name.replace(".attn.qkv.", f".attn.{which}."), rules)
                named[prefix + one] = third.clone()  # safetensors refuses parts of a shared storage
            continue
        named[prefix + _first_match(name, rules)] = tensor
    return named


def _first_match(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    return name


def _dropped(name: str) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in DROPPED)


def _square(size: Any, name: str) -> int:
    values = [size] if isinstance(size, int) else list(size)
    if len(set(values)) != 1:
        raise ValueError(f"{name} {size} is not square, which is not supported")
    return int(values[0])


def _check_activation(config: Mapping[str, Any]) -> None:
    if config.get("hidden_act", "gelu") != "gelu":
        raise ValueError(f"hidden_act {config['hidden_act']!r} is not supported: the published models use 'gelu'")


def _check_writable(config: Any, tensors: Mapping[str, Tensor], what: str, family: str) -> None:
    if config.model_type != f"jepa_hub_{family}" or config.hidden_act != "gelu":
        raise ValueError(f"transformers has only {what} with GELU, not {config.model_type} with {config.hidden_act}")
    if not tensors:
        raise ValueError("there is no encoder to write")
