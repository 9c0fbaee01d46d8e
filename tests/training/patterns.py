"""A source for tests: gratings whose orientation is the label, drawn in a millisecond, as pictures or clips."""

from __future__ import annotations

import math
from typing import Any

import torch

from jepa_hub.masking.draws import keyed
from training.data.source import Label, Sample, SampleError, Source, SourceSettings
from training.data.views import uniforms

CLASSES = 4


class PatternsSettings(SourceSettings):
    """num_samples pictures of size pixels, or clips where frames is more than 1; `broken` samples cannot be read."""

    num_samples: int = 64
    size: int = 32
    frames: int = 1
    split: str = "train"
    broken: tuple[int, ...] = ()


class Patterns(Source):
    """Gratings."""

    Settings = PatternsSettings

    def __init__(self, settings: PatternsSettings) -> None:
        self.settings = settings
        self.kind = "clip" if settings.frames > 1 else "image"

    def __len__(self) -> int:
        return self.settings.num_samples

    @property
    def labels(self) -> dict[str, Label]:
        return {"angle": Label("class", CLASSES), "phase": Label("number", unit="turns")}

    def read(self, index: int, key: int) -> Sample:
        if index in self.settings.broken:
            raise SampleError(f"pattern {index}: broken for the test")
        split = {"train": 0, "validation": 1, "test": 2}[self.settings.split]
        draws = uniforms(keyed(split, torch.tensor([index])), 3)[0].tolist()
        angle, phase = index % CLASSES, draws[0]
        axis = torch.arange(self.settings.size) / self.settings.size
        rows, columns = torch.meshgrid(axis, axis, indexing="ij")
        turn = math.pi * angle / CLASSES
        wave = math.cos(turn) * rows + math.sin(turn) * columns
        shift = phase + torch.arange(self.settings.frames)[:, None, None] / 16
        grey = 0.5 + 0.5 * torch.sin(2 * math.pi * (3 * wave + shift))  # [F, H, W]
        tint = torch.tensor([1.0, 0.5 + 0.5 * draws[1], 0.5 + 0.5 * draws[2]])
        pixels = (255 * grey[None] * tint[:, None, None, None]).to(torch.uint8)  # [3, F, H, W]
        pixels = pixels if self.kind == "clip" else pixels[:, 0]
        return Sample(index, pixels, {"angle": angle, "phase": phase})


def recipe(out: Any, **changes: Any) -> dict[str, Any]:
    """The smallest complete recipe as a plain tree; `changes` are dotted names with __ for the dots."""
    tree: dict[str, Any] = {
        "model": {
            "name": "ijepa",
            "image_size": 32,
            "patch_size": 8,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "predictor_hidden_size": 16,
            "predictor_num_hidden_layers": 1,
            "licence": "apache-2.0",
        },
        "method": {"name": "jepa", "momentum": [0.9, 1.0]},
        "masks": {"name": "multi_block_2d", "min_keep": 2, "num_targets": 2},
        "data": {"source": {"name": "patterns"}, "batch_size": 8},
        "optim": {"lr": 1e-3, "warmup_steps": 2},
        "run": {"steps": 6, "out": str(out), "log_every": 2, "save_every": 2, "threads": 1},
        "watch": {"collapse": "off"},
    }
    for name, value in changes.items():
        *parents, last = name.split("__")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return tree
