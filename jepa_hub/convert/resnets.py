"""Checkpoints of the PAWS and SuNCEt code: `{"encoder": {...}}` with torchvision's names, `fc.*` and `pred.*` heads.

Pure renames: `fc` is the projection head, or, in fine-tuned files, the first layer of it and a classifier; `pred` is
the prediction head. The architecture follows from the shapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from jepa_hub.convert.meta import Converted

FAMILY = "paws"
_HEADS = {"fc.": "projection.", "pred.": "prediction."}


def recognises(checkpoint: Mapping[str, Any]) -> bool:
    """Whether this is a file of that code: its encoder is a residual network."""
    encoder = checkpoint.get("encoder")
    return isinstance(encoder, Mapping) and any(key.endswith("layer1.0.conv1.weight") for key in encoder)


def read(checkpoint: Mapping[str, Any], family: str | None, settings: Mapping[str, Any]) -> Converted:
    """Our configuration and tensors of an official checkpoint.

    Args:
        checkpoint: what `torch.load` returned.
        family: the family the user or the catalog names, or None.
        settings: configuration that wins over what is inferred.

    Raises:
        ValueError: another family is asked for.
    """
    if family not in (None, FAMILY):
        raise ValueError(f"this is a {FAMILY} checkpoint (a residual network), not {family}")
    stored = {key.removeprefix("module."): tensor for key, tensor in checkpoint["encoder"].items()}
    config = infer(stored)
    heads = dict(_HEADS)
    if config["num_classes"]:
        heads["fc."] = "classifier."
    tensors = {_rename(name, heads): tensor for name, tensor in stored.items()}
    return Converted(FAMILY, config | dict(settings), tensors)


def infer(stored: Mapping[str, Tensor]) -> dict[str, Any]:
    """Settings that names and shapes tell."""
    wide, bottleneck = "conv1.bias" in stored, "layer1.0.conv3.weight" in stored
    stages: dict[int, int] = {}
    for name in stored:
        found = re.match(r"layer(\d+)\.(\d+)\.", name)
        if found:
            stage, block = int(found[1]), int(found[2])
            stages[stage] = max(stages.get(stage, 0), block + 1)
    config: dict[str, Any] = {
        "block": "wide" if wide else "bottleneck" if bottleneck else "basic",
        "depths": [stages[stage] for stage in sorted(stages)],
        "base_width": stored["layer1.0.conv1.weight"].shape[0],
        "stem": "imagenet" if stored["conv1.weight"].shape[-1] == 7 else "small",
        "num_channels": stored["conv1.weight"].shape[1],
        "image_size": 224 if stored["conv1.weight"].shape[-1] == 7 else 32,
        "prediction": "pred.fc1.weight" in stored,
        "projection_size": 0,
        "networks": ["encoder"],
        "num_classes": 0,
    }
    if "fc.fc1.weight" in stored:
        config["projection_hidden_size"] = stored["fc.fc1.weight"].shape[0]
        if "fc.fc3.weight" in stored:
            config["projection_size"] = stored["fc.fc3.weight"].shape[0]
        elif "fc.bn1.weight" in stored:  # fine-tuned: fc1 and bn1 are kept, fc2 gives classes
            config["num_classes"] = stored["fc.fc2.weight"].shape[0]
        else:
            config |= {"projection_size": stored["fc.fc2.weight"].shape[0], "projection_layers": 2}
    return config


def write(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """An official checkpoint's networks from our tensors; the inverse of `read`.

    Raises:
        ValueError: there are a projection head and a classifier, which share their names upstream.
    """
    parts = {name.split(".")[0] for name in tensors}
    if {"projection", "classifier"} <= parts:
        raise ValueError("the official layout holds a projection head or a classifier, not both; drop one")
    back = {"encoder.": "", "projection.": "fc.", "classifier.": "fc.", "prediction.": "pred."}
    official = {}
    for name, tensor in tensors.items():
        part = next(ours for ours in back if name.startswith(ours))
        official["module." + back[part] + name.removeprefix(part)] = tensor
    return {"encoder": official}


def _rename(name: str, heads: Mapping[str, str]) -> str:
    for old, new in heads.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return "encoder." + name
