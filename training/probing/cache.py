"""Feature tables on disk, found again by what determines them: weights, source, samples and preprocessing."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from jepa_hub.models.base import JEPAModel
from training.data.source import Label, Source
from training.probing.reading import Reader
from training.probing.tables import FeatureTable

logger = logging.getLogger(__name__)

FORMAT = 1  # raised whenever extraction changes what is stored
_SPOT_CHECKS = 8  # samples read to see that a source still is what it was
_NOT_FEATURES = {"provenance", "licence", "networks", "library_version"}


def weights_hash(encode: Any, name: str | None = None) -> str:
    """A hash of everything that decides the features: weights and settings of a network, or `name` of a function.

    Raises:
        ValueError: a plain function without a name.
    """
    network = encode if isinstance(encode, nn.Module) else getattr(encode, "__self__", None)
    if not isinstance(network, nn.Module):
        if name is None:
            raise ValueError("a function has no weights to tell its results by: give name=, or leave cache out")
        return f"function:{name}"
    digest = hashlib.blake2b(digest_size=16)
    about: dict[str, Any] = {"class": type(network).__qualname__, "name": name}
    about["function"] = "" if isinstance(encode, nn.Module) else encode.__name__
    weights: nn.Module = network
    if isinstance(network, JEPAModel):
        about["config"] = {key: value for key, value in network.config.settings().items() if key not in _NOT_FEATURES}
        if isinstance(encode, JEPAModel):
            weights = network.feature_encoder
    digest.update(json.dumps(about, sort_keys=True, default=str).encode())
    for key, tensor in sorted(weights.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def table_key(source: Source, indices: Sequence[int], extraction: Mapping[str, Any], weights: str) -> str:
    """The name of a table's file.

    A few samples are read and hashed too, because a folder may have changed while its settings did not.
    """
    settings = getattr(source, "settings", None)
    about = {
        "format": FORMAT,
        "source": f"{type(source).__module__}.{type(source).__qualname__}",
        "settings": settings.model_dump(mode="json") if isinstance(settings, BaseModel) else repr(settings),
        "length": len(source),
        "labels": {name: asdict(label) for name, label in source.labels.items()},
        "extraction": dict(extraction),
        "weights": weights,
    }
    digest = hashlib.blake2b(json.dumps(about, sort_keys=True, default=str).encode(), digest_size=16)
    digest.update(torch.tensor(indices).numpy().tobytes())
    step = max(1, len(indices) // _SPOT_CHECKS)
    for index in indices[::step][:_SPOT_CHECKS]:
        digest.update(_spot(source, index))
    return digest.hexdigest()


def _spot(source: Source, index: int) -> bytes:
    reading = Reader(source, [index])[0]
    labels = {} if reading.sample is None else reading.sample.labels
    return json.dumps([reading.content, reading.reason, labels], sort_keys=True, default=str).encode()


def write_table(folder: Path, key: str, table: FeatureTable) -> None:
    """Store a table; the file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{key}.safetensors"
    tensors: dict[str, Tensor] = {"features": table.features.contiguous(), "samples": table.samples}
    tensors |= {f"label.{name}": values for name, values in table.labels.items()}
    if table.indices is not None:
        tensors["indices"] = table.indices
    unfinished = path.with_name(f"{path.name}.unfinished-{os.getpid()}")
    try:
        save_file(tensors, unfinished, metadata={"skipped": json.dumps(table.skipped)})
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_table(folder: Path, key: str, label_info: dict[str, Label]) -> FeatureTable | None:
    """The stored table, or None where there is none; a damaged file is said and counts as none."""
    path = folder / f"{key}.safetensors"
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            skipped = json.loads((file.metadata() or {})["skipped"])
        return FeatureTable(
            features=tensors["features"],
            labels={name: tensors[f"label.{name}"] for name in label_info},
            samples=tensors["samples"],
            label_info=label_info,
            indices=tensors["indices"],
            skipped=tuple(skipped),
        )
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        logger.warning("%s is damaged and will be made again: %s", path, error)
        return None
