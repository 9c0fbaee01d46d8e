"""What a model computes, as functions of tensors that can be traced: one file each after export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jepa_hub.masks import Masks


@dataclass(frozen=True)
class Graph:
    """One function of a model.

    Attributes:
        name: "features" (pixels to tokens), "prediction" (pixels and masks to predicted tokens), "logits" (pixels to
            classes), "head" (tokens to classes), or a name of the family's own.
        module: its forward takes the inputs in order and returns a tuple in the order of `outputs`.
        inputs: example inputs by name. Sizes of the free axes are above 1 and differ from each other where they can.
        free_axes: input -> axis -> name of that axis; all other axes are fixed.
        outputs: names of what comes back.
    """

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    free_axes: dict[str, dict[int, str]]
    outputs: tuple[str, ...]


def of_model(model: Any, layers: Sequence[int] = ()) -> list[Graph]:
    """Features of the encoder they come from; predictions where there are a context encoder and a predictor."""
    pixels, axes = example_pixels(model.config)
    found = []
    if model.encoder is not None or model.target_encoder is not None:
        names = ("tokens", *(layer_name(layer) for layer in layers))
        module = _Features(model.feature_encoder, layers)
        found.append(Graph("features", module, {"pixel_values": pixels}, {"pixel_values": axes}, names))
    if model.encoder is not None and model.predictor is not None:
        inputs = {"pixel_values": pixels, **example_masks()}
        free = {"pixel_values": axes, "context": {0: "batch", 1: "seen"}}
        free["target"] = {0: "batch", 1: "targets", 2: "asked"}
        if model.config.num_mask_tokens > 1:
            inputs["group"] = torch.zeros(1, dtype=torch.int64)
            free["group"] = {}
        if model.config.conditioning_size:
            inputs["conditioning"] = torch.randn(len(pixels), model.config.conditioning_size)
            free["conditioning"] = {0: "batch"}
        found.append(Graph("prediction", _Prediction(model), inputs, free, ("predicted",)))
    return found


def of_probe(probe: Any) -> list[Graph]:
    """The head on tokens, and, where the backbone is there, pixels to logits in one."""
    tokens = torch.randn(2, 6, probe.config.hidden_size)
    head = Graph("head", _Head(probe), {"tokens": tokens}, {"tokens": {0: "batch", 1: "tokens"}}, ("logits",))
    if probe.backbone is None:
        return [head]
    pixels, axes = example_pixels(probe.backbone.config)
    return [Graph("logits", _Logits(probe), {"pixel_values": pixels}, {"pixel_values": axes}, ("logits",)), head]


def layer_name(layer: int) -> str:
    """Name of the output that holds block `layer`: layer_0, layer_last, layer_last_2 ..."""
    if layer >= 0:
        return f"layer_{layer}"
    return "layer_last" if layer == -1 else f"layer_last_{-layer}"


def is_image_model(config: Any) -> bool:
    """Whether graphs of this model take [B, 3, H, W] instead of clips."""
    return config.tubelet_size == 1 and config.num_frames in (None, 1)


def example_pixels(config: Any) -> tuple[Tensor, dict[int, str]]:
    """Pixels of 5 x 6 patches (and two tubelets), and their free axes."""
    height, width = 5 * config.patch_size, 6 * config.patch_size
    if is_image_model(config):
        return torch.randn(2, config.num_channels, height, width), {0: "batch", 2: "height", 3: "width"}
    frames = max(2 * config.tubelet_size, 3)
    frames -= frames % config.tubelet_size
    pixels = torch.randn(2, config.num_channels, frames, height, width)
    return pixels, {0: "batch", 2: "frames", 3: "height", 4: "width"}


def example_masks() -> dict[str, Tensor]:
    """Seven tokens seen, three targets of four tokens, for a batch of two."""
    return {"context": torch.arange(7).repeat(2, 1), "target": torch.arange(8, 20).view(1, 3, 4).repeat(2, 1, 1)}


def _clip(pixels: Tensor) -> Tensor:
    return pixels.unsqueeze(2) if pixels.ndim == 4 else pixels  # [B, 3, F, H, W]


class Method(nn.Module):
    """A method or head of a model as a module; what it returns, alone or in a tuple, are the graph's outputs."""

    def __init__(self, model: nn.Module, name: str) -> None:
        super().__init__()
        self.model, self.name = model, name

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        result = getattr(self.model, self.name)(*inputs)
        return (result,) if isinstance(result, Tensor) else tuple(result)


class _Features(nn.Module):
    def __init__(self, encoder: Any, layers: Sequence[int]) -> None:
        super().__init__()
        self.encoder, self.layers = encoder, tuple(layers)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        if not self.layers:
            return (self.encoder(_clip(pixel_values)),)
        encoder: Any = self.encoder  # a ViTEncoder
        outputs = encoder.forward_layers(_clip(pixel_values), [*self.layers, -1])
        return (outputs[-1], *(outputs[layer] for layer in self.layers))


class _Prediction(nn.Module):
    """Last come the group, where the predictor has several mask tokens, and the conditioning, where it takes any."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder, self.predictor = model.encoder, model.predictor
        self.grouped, self.told = model.config.num_mask_tokens > 1, model.config.conditioning_size > 0

    def forward(self, pixel_values: Tensor, context: Tensor, target: Tensor, *last: Tensor) -> tuple[Tensor]:
        pixels = _clip(pixel_values)
        masks = Masks(context, target, last[0] if self.grouped else 0)
        grid = self.encoder.grid(pixels)
        return (self.predictor(self.encoder(pixels, context), masks, grid, last[-1] if self.told else None),)


class _Head(nn.Module):
    def __init__(self, probe: Any) -> None:
        super().__init__()
        self.pooler, self.linear = probe.pooler, probe.linear

    def forward(self, tokens: Tensor) -> tuple[Tensor]:
        pooled = tokens.mean(dim=1) if self.pooler is None else self.pooler(tokens)[:, 0]  # [B, D]
        return (self.linear(pooled),)


class _Logits(nn.Module):
    def __init__(self, probe: Any) -> None:
        super().__init__()
        layers = probe.config.layers
        self.features = _Features(probe.backbone.feature_encoder, layers)
        self.head = _Head(probe)

    def forward(self, pixel_values: Tensor) -> Any:
        tokens, *layers = self.features(pixel_values)
        return self.head(torch.cat(layers, dim=1) if layers else tokens)
