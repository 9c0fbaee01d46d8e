"""Checkpoints of Meta's code (ijepa, jepa, jepa-intuitive-physics, vjepa2, StoP), which share one naming scheme.

`{"encoder": {...}, "predictor": {...}, "target_encoder": {...}, ...}`; keys carry `module.` from DDP and, in the video
code bases, `backbone.` from a wrapper. What the tensors cannot tell (the family, heads of unknown widths) is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jepa_hub.convert.tables import TableFormula, find_formula, fits
from jepa_hub.nn.positions import rotary_frequencies

NETWORKS = ("encoder", "predictor", "target_encoder")
# Head counts by width, as published by each code base.
_COMMON_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}
HEADS = {
    "ijepa": _COMMON_HEADS,
    "flexpredict": _COMMON_HEADS,
    "vjepa": _COMMON_HEADS,
    "vjepa2": {**_COMMON_HEADS, 1408: 22},
}
VJEPA2_PREDICTOR_HEADS = 12
VJEPA2_MASK_TOKENS = 10
# Names a load may leave out, each with its reason.
DROPPED = {
    r"(predictor_)?pos_embed": "sine-cosine tables are recomputed; the stored one was compared with the formula",
    r"(predictor_)?blocks\.\d+\.attn\.[dhw]_rotary_emb\.freqs": "rotary frequencies, compared with the formula",
}
_PREDICTOR_NAMES = {
    "predictor_embed.": "embed.",
    "predictor_blocks.": "blocks.",
    "predictor_norm.": "norm.",
    "predictor_proj.": "proj.",
}
_SWIGLU_NAMES = {".mlp.fc1.": ".mlp.gate.", ".mlp.fc2.": ".mlp.up.", ".mlp.fc3.": ".mlp.down."}


@dataclass(frozen=True)
class Converted:
    """Settings of a `JEPAConfig` and tensors under our names."""

    family: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]


def read(checkpoint: Mapping[str, Any], family: str | None, settings: Mapping[str, Any]) -> Converted:
    """Our configuration and tensors of an official checkpoint.

    Args:
        checkpoint: what `torch.load` returned.
        family: the family the user or the catalog names, or None to tell it from the tensors.
        settings: configuration the user or the catalog gives; it wins over what is inferred.

    Raises:
        ValueError: not a JEPA checkpoint, an unsupported one, or something must be asked for by name.
    """
    parts = networks_of(checkpoint)
    family = _family(parts, family)
    config = infer(parts, family, settings)
    tensors = {
        f"{network}.{name}": tensor
        for network, part in parts.items()
        for name, tensor in _to_ours(part, swiglu=config["hidden_act"] == "swiglu").items()
    }
    return Converted(family, config, tensors)


def networks_of(checkpoint: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
    """The networks of a checkpoint, without the prefixes of DDP and of upstream's wrappers.

    Raises:
        ValueError: it holds none, or is a checkpoint of another kind.
    """
    if "classifier" in checkpoint or "classifiers" in checkpoint:
        raise ValueError("this is a probe, not a backbone: use Probe.from_pretrained(file, backbone=model)")
    parts = {name: checkpoint[name] for name in NETWORKS if isinstance(checkpoint.get(name), Mapping)}
    if not parts and any(key.endswith("patch_embed.proj.weight") for key in checkpoint):
        parts = {"encoder": checkpoint}  # a bare encoder, as some users save it
    if not parts:
        raise ValueError(
            f"no 'encoder', 'predictor' or 'target_encoder' among its keys "
            f"({', '.join(map(str, list(checkpoint)[:8]))}); is this a JEPA checkpoint?"
        )
    stripped = {
        network: {key.removeprefix("module.").removeprefix("backbone."): tensor for key, tensor in part.items()}
        for network, part in parts.items()
    }
    predictor = stripped.get("predictor", {})
    if any(key.startswith(("action_encoder", "state_encoder")) for key in predictor):
        raise ValueError(
            "this is V-JEPA 2-AC: its action-conditioned predictor is another network, which jepa_hub does not support;"
            " its encoder is that of vjepa2-vitg-256"
        )
    return stripped


def _family(parts: Mapping[str, Mapping[str, Tensor]], family: str | None) -> str:
    """The family, from the tensors where they tell it."""
    encoder = _any_encoder(parts)
    patch = encoder["patch_embed.proj.weight"]
    mask_tokens = _num_mask_tokens(parts.get("predictor", {}))
    if patch.ndim == 4:
        if family in ("ijepa", "flexpredict"):
            return family
        if family is not None:
            raise ValueError(f"this is an image checkpoint (2D patches), not {family}")
        raise ValueError(
            "I-JEPA and StoP (FlexPredict) files hold the same names and shapes: say which with family='ijepa' or "
            "family='flexpredict', or load with IJepaModel.from_pretrained / FlexPredictModel.from_pretrained"
        )
    if family in ("ijepa", "flexpredict"):
        raise ValueError(f"this is a video checkpoint (3D patches), not {family}")
    if "blocks.0.attn.d_rotary_emb.freqs" in encoder:
        _expect(family, "vjepa", "it stores the rotary frequencies of the intuitive-physics code")
        return "vjepa"
    if "pos_embed" not in encoder:
        _expect(family, "vjepa2", "it stores no position table")
        return "vjepa2"
    if mask_tokens == VJEPA2_MASK_TOKENS:
        _expect(family, "vjepa2", "it has ten mask tokens")
        return "vjepa2"
    if family == "vjepa2":
        raise ValueError(
            "this file stores a position table and has not V-JEPA 2's ten mask tokens, so it cannot be told from "
            "V-JEPA: load it by its catalog name or URL if it is a published V-JEPA 2 file, else with family='vjepa'"
        )
    if mask_tokens is None and family is None:
        raise ValueError(
            "an encoder with a position table and no predictor may be of either video family: give family="
        )
    return "vjepa"


def _expect(given: str | None, found: str, why: str) -> None:
    if given not in (None, found):
        raise ValueError(f"this is a {found} checkpoint ({why}), not {given}")


def infer(parts: Mapping[str, Mapping[str, Tensor]], family: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that shapes and stored tables tell, overridden by `settings`.

    Raises:
        ValueError: the head count of this width is not published, or the position table follows no known formula.
    """
    encoder = _any_encoder(parts)
    patch = encoder["patch_embed.proj.weight"]  # [D, C, (t,) p, p]
    if patch.shape[-1] != patch.shape[-2]:
        raise ValueError(f"patches of {patch.shape[-2]} x {patch.shape[-1]} pixels are not supported")
    width = patch.shape[0]
    config: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": _depth(encoder, "blocks"),
        "intermediate_size": encoder["blocks.0.mlp.fc1.weight"].shape[0],
        "hidden_act": "swiglu" if "blocks.0.mlp.fc3.weight" in encoder else "gelu",
        "qkv_bias": "blocks.0.attn.qkv.bias" in encoder,
        "num_channels": patch.shape[1],
        "patch_size": patch.shape[-1],
        "tubelet_size": patch.shape[2] if patch.ndim == 5 else 1,
        "num_attention_heads": settings.get("num_attention_heads") or _heads(family, width),
        "networks": [name for name in NETWORKS if name in parts],
    }
    if "predictor" in parts:
        config |= _infer_predictor(parts["predictor"], family)
    config |= _infer_positions(parts, family, config, settings)
    return config | dict(settings)


def _infer_predictor(predictor: Mapping[str, Tensor], family: str) -> dict[str, Any]:
    settings = {
        "predictor_hidden_size": predictor["predictor_embed.weight"].shape[0],
        "predictor_num_hidden_layers": _depth(predictor, "predictor_blocks"),
        "predictor_intermediate_size": predictor["predictor_blocks.0.mlp.fc1.weight"].shape[0],
        "num_mask_tokens": _num_mask_tokens(predictor) or 1,
    }
    if family == "vjepa2":
        settings["predictor_num_attention_heads"] = VJEPA2_PREDICTOR_HEADS
    return settings


def _infer_positions(
    parts: Mapping[str, Mapping[str, Tensor]], family: str, config: dict[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    if family == "vjepa2":
        return {"position_type": "rotary_tiled", "image_size": None, "num_frames": None}
    encoder = _any_encoder(parts)
    if "blocks.0.attn.d_rotary_emb.freqs" in encoder:
        _check_frequencies(parts, {**config, **settings})
        return {"position_type": "rotary_interleaved", "image_size": None, "num_frames": None}
    formula = find_formula(encoder["pos_embed"])
    if formula is None:
        raise ValueError(
            f"the stored position table {tuple(encoder['pos_embed'].shape)} follows none of the known sine-cosine "
            "formulas; a table that was trained further is not supported by this loader"
        )
    stored = parts.get("predictor", {}).get("predictor_pos_embed")
    if stored is not None and not fits(stored, formula):
        raise ValueError(f"the predictor's position table is not that of the encoder's grid {formula.grid}")
    patch, tubelet = config["patch_size"], config["tubelet_size"]
    t, h, w = formula.grid
    return {
        "position_type": "sincos",
        "position_resize": "interpolate" if family == "vjepa" else "recompute",  # upstream's rule for V-JEPA
        "position_axes": formula.position_axes,
        "uniform_power": formula.uniform_power,
        "image_size": h * patch if h == w else [h * patch, w * patch],
        "num_frames": t * tubelet,
    }


def _check_frequencies(parts: Mapping[str, Mapping[str, Tensor]], config: dict[str, Any]) -> None:
    """Stored rotary frequencies must be those of the formula, else results would differ without a word."""
    for network, part in parts.items():
        predictor = network == "predictor"
        width = config["predictor_hidden_size"] if predictor else config["hidden_size"]
        heads = (config.get("predictor_num_attention_heads") if predictor else None) or config["num_attention_heads"]
        axis = width // heads // 3
        formula = rotary_frequencies(axis, axis, torch.zeros((), dtype=torch.float64)).float()
        for name, stored in part.items():
            if name.endswith("rotary_emb.freqs") and not (
                stored.shape == formula.shape and torch.allclose(stored.float(), formula, rtol=1e-4)
            ):
                raise ValueError(f"{network}.{name} does not hold the rotary frequencies of {heads} heads")


def _to_ours(part: Mapping[str, Tensor], *, swiglu: bool) -> dict[str, Tensor]:
    """Tensors under our names; unknown ones keep theirs, so that a strict load names them."""
    tensors: dict[str, Tensor] = {}
    tokens = sorted(
        (name for name in part if name.startswith("mask_tokens.")), key=lambda name: int(name.split(".")[1])
    )
    if tokens:
        tensors["mask_tokens"] = torch.cat([part[name] for name in tokens])  # [G, 1, P]
    for name, tensor in part.items():
        if name in tokens or any(re.fullmatch(pattern, name) for pattern in DROPPED):
            continue
        if name == "mask_token":
            tensors["mask_tokens"] = tensor  # [1, 1, P]
        elif name == "patch_embed.proj.weight":
            tensors[name] = tensor.flatten(1)  # [D, C*t*p*p]
        else:
            tensors[_rename(name, _PREDICTOR_NAMES, swiglu)] = tensor
    return tensors


def _rename(name: str, prefixes: Mapping[str, str], swiglu: bool) -> str:
    for old, new in prefixes.items():
        if name.startswith(old):
            name = new + name.removeprefix(old)
            break
    if swiglu:
        for old, new in _SWIGLU_NAMES.items():
            name = name.replace(old, new)
    return name


def write(config: Any, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """An official checkpoint's networks from our configuration and tensors; the inverse of `read`.

    Raises:
        ValueError: upstream has no such layout (learned or no positions, unknown grid).
    """
    prefix = "module." if config.tubelet_size == 1 else "module.backbone."
    parts: dict[str, dict[str, Tensor]] = {}
    for network in config.networks:
        own = {
            name.removeprefix(f"{network}."): tensor
            for name, tensor in tensors.items()
            if name.startswith(f"{network}.")
        }
        official = _to_official(own, config, predictor=network == "predictor")
        parts[network] = {prefix + name: tensor for name, tensor in official.items()}
    return parts


def _to_official(tensors: Mapping[str, Tensor], config: Any, *, predictor: bool) -> dict[str, Tensor]:
    back = {new: old for old, new in _PREDICTOR_NAMES.items()} if predictor else {}
    swiglu = {new: old for old, new in _SWIGLU_NAMES.items()} if config.hidden_act == "swiglu" else {}
    official: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name == "mask_tokens":
            official |= _official_mask_tokens(tensor, image=config.tubelet_size == 1)
            continue
        if name == "patch_embed.proj.weight":
            spatial = (config.patch_size, config.patch_size)
            shape = spatial if config.tubelet_size == 1 else (config.tubelet_size, *spatial)
            tensor = tensor.unflatten(1, (config.num_channels, *shape))  # [D, C, (t,) p, p]
        name = _rename(name, back, swiglu=False)
        for new, old in swiglu.items():
            name = name.replace(new, old)
        official[name] = tensor
    return official | _stored_positions(config, predictor=predictor)


def _official_mask_tokens(tokens: Tensor, *, image: bool) -> dict[str, Tensor]:
    if image:
        return {"mask_token": tokens}
    return {f"mask_tokens.{index}": token[None] for index, token in enumerate(tokens)}


def _stored_positions(config: Any, *, predictor: bool) -> dict[str, Tensor]:
    """The tables or frequencies upstream keeps in its files."""
    prefix = "predictor_" if predictor else ""
    spec = config.predictor_spec if predictor else config.encoder_spec
    if config.position_type == "rotary_tiled":
        return {}
    if config.position_type == "rotary_interleaved":
        axis = spec.head_dim // 3
        frequencies = rotary_frequencies(axis, axis, torch.zeros((), dtype=torch.float64)).float()
        depth = config.predictor_num_hidden_layers if predictor else config.num_hidden_layers
        return {
            f"{prefix}blocks.{index}.attn.{which}_rotary_emb.freqs": frequencies.clone()
            for index in range(depth)
            for which in "dhw"
        }
    if config.position_type != "sincos" or config.base_grid is None:
        raise ValueError(f"Meta's code has no layout for {config.position_type} positions of grid {config.base_grid}")
    formula = TableFormula(config.base_grid, config.position_axes, config.uniform_power)
    return {f"{prefix}pos_embed": formula.table(spec.dim)}


def _any_encoder(parts: Mapping[str, Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    for network in ("target_encoder", "encoder"):
        if network in parts:
            if "patch_embed.proj.weight" not in parts[network] or "blocks.0.mlp.fc1.weight" not in parts[network]:
                raise ValueError(f"its {network} has no patch_embed.proj.weight or no blocks: not a JEPA encoder")
            return parts[network]
    raise ValueError("the checkpoint holds no encoder")


def _heads(family: str, width: int) -> int:
    if width not in HEADS[family]:
        known = ", ".join(map(str, HEADS[family]))
        raise ValueError(
            f"no published {family} model is {width} wide (known: {known}), and tensors do not tell the number of "
            "heads: give num_attention_heads="
        )
    return HEADS[family][width]


def _depth(part: Mapping[str, Tensor], prefix: str) -> int:
    indices = [int(match[1]) for name in part if (match := re.match(rf"{prefix}\.(\d+)\.", name))]
    return max(indices) + 1 if indices else 0


def _num_mask_tokens(predictor: Mapping[str, Tensor]) -> int | None:
    if not predictor:
        return None
    return sum(name == "mask_token" or name.startswith("mask_tokens.") for name in predictor)
