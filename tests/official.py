"""Official-layout checkpoints made again from the goldens' seeds, and tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from jepa_hub.convert.tables import TableFormula
from jepa_hub.nn.positions import rotary_frequencies

GOLDENS = Path(__file__).parent / "goldens"


def golden(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A golden's description and its tensors."""
    return json.loads((GOLDENS / f"{name}.json").read_text()), load_file(GOLDENS / f"{name}.safetensors")


def official_checkpoint(name: str) -> dict[str, Any]:
    """The checkpoint a golden was computed from, in the official layout; weights are drawn from the golden's seeds."""
    networks = _networks(name)
    networks.pop("classifier", None)
    return {**networks, "epoch": 1, "lr": np.float64(1e-3)}


def official_probe(name: str) -> dict[str, Any]:
    """The probe of a golden, in the layout of the evaluation files."""
    return {"classifier": _networks(name)["classifier"], "epoch": 20}


def _networks(name: str) -> dict[str, dict[str, Tensor]]:
    spec, tensors = golden(name)
    prefix = spec.get("prefix", "module.")
    return {
        network: {prefix + key: value for key, value in _part(part, spec["arch"], tensors).items()}
        for network, part in spec["parts"].items()
    }


def _part(part: dict[str, Any], arch: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    rng = np.random.default_rng(part["seed"])
    state: dict[str, Tensor] = {}
    for key in sorted(part["filled"]):
        values = rng.standard_normal(part["filled"][key]).astype(np.float32) * np.float32(0.05)
        if values.ndim == 1 and key.endswith("weight"):
            values = 1 + values
        state[key] = torch.from_numpy(values)
    for key, shape in part.get("sincos", {}).items():
        stored = tensors.get(key.split(".")[-1])
        state[key] = stored if stored is not None else _image_table(arch, shape)
    for key, shape in part.get("rope_freqs", {}).items():
        stored = tensors["rope_freqs"]
        axis = arch["predictor_dim" if "predictor" in key else "dim"] // arch["heads"] // 3
        formula = rotary_frequencies(axis, axis, torch.zeros((), dtype=torch.float64)).float()
        state[key] = stored if list(stored.shape) == shape else formula
    return state


def _image_table(arch: dict[str, Any], shape: list[int]) -> Tensor:
    """The StoP golden stores no table; it is that of I-JEPA, which its own golden checks."""
    side = arch["img"] // arch["patch"]
    return TableFormula((1, side, side), "column_row").table(shape[-1])


def write_official(path: Path, name: str) -> Path:
    """`torch.save` of `official_checkpoint(name)`."""
    torch.save(official_checkpoint(name), path)
    return path


def predicting() -> list[str]:
    """Families that predict masked tokens."""
    from jepa_hub.models.registry import MODELS, model_class

    return [family for family in MODELS if "predictor" in model_class(family).networks]


def tiny_config(family: str, **settings: Any) -> Any:
    """A configuration of a few thousand parameters."""
    from jepa_hub.models.registry import model_class

    defaults: dict[str, Any] = {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 96,
        "patch_size": 8,
        "image_size": 32,
        "predictor_hidden_size": 24,
        "predictor_num_hidden_layers": 1,
        "predictor_num_attention_heads": 2,
        "predictor_intermediate_size": 48,
    }
    config_class = model_class(family).config_class
    if family == "paws":
        sizes: dict[str, Any] = {"block": "basic", "stem": "small", "depths": [1, 1, 1], "base_width": 12}
        return config_class(**{**sizes, "projection_size": 32, "image_size": 32, **settings})
    if family == "llip":
        defaults = {name: value for name, value in defaults.items() if not name.startswith("predictor_")}
        defaults |= {"embed_size": 16, "num_mixture_tokens": 3, "num_mixing_heads": 2, "mixing_temperature": 1.0}
        defaults |= {"text_hidden_size": 24, "text_num_hidden_layers": 1, "text_num_attention_heads": 2}
        defaults |= {"vocab_size": 40, "context_length": 9, "end_token_id": 3, "tokenizer": None}
        return config_class(**{**defaults, **settings})
    if config_class().tubelet_size > 1:
        defaults["num_frames"] = 8
    return config_class(**{**defaults, **settings})


def tiny_model(family: str, seed: int = 0, **settings: Any) -> Any:
    """A random model whose three networks all differ, biases and mask tokens included."""
    from jepa_hub.models.registry import model_class

    torch.manual_seed(seed)
    model = model_class(family)(tiny_config(family, **settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def tiny_pixels(family: str, batch: int = 2, seed: int = 1, **settings: Any) -> Tensor:
    """Random pixels of the size that `tiny_config(family)` names."""
    config = tiny_config(family, **settings)
    shape = (batch, 3, config.num_frames, config.image_size, config.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
