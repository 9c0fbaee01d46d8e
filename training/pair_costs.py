"""FLOPs of methods that compare pictures with texts: both towers, and a mixture for every pair.

Texts are counted at their full length, and causal attention in full, as a kernel without shortcuts computes it.
"""

from __future__ import annotations

import math

import torch

from jepa_hub.models.llip import LlipModel
from jepa_hub.models.llip_config import LlipConfig
from training.config import Settings
from training.flops import FlopCount, block_flops, last_block_flops


def step_flops(settings: Settings, config: LlipConfig, devices: int = 1) -> FlopCount:
    """FLOPs of one sample of a training step: its picture, its texts, and its pairs with the texts of all workers.

    Args:
        settings: of the run.
        config: of its model.
        devices: workers, each with a batch of its own.
    """
    captions = settings.data.captions.per_sample if settings.data.captions else 1
    embedding, vision = vision_flops(config)
    text = captions * text_flops(config)
    own, pair = mixing_flops(config)
    if settings.method.own.get("query") == "own":
        own, pair = own + pair - 2 * config.embed_size, 2.0 * config.embed_size
    pairs = pair * captions * settings.data.batch_size * devices
    forward = {"encoder": embedding + vision, "text": text, "mixing": own + pairs}
    backward = {"encoder": embedding + 2 * vision, "text": 2 * text, "mixing": 2 * (own + pairs)}
    again = pairs if config.mixing == "text" else 0.0  # chunks are recomputed always
    return FlopCount(forward, backward, again + (vision + text if settings.run.activation_checkpointing else 0.0))


def vision_flops(config: LlipConfig) -> tuple[float, float]:
    """Forward FLOPs of (patch embedding, blocks) of one picture."""
    assert config.base_grid is not None  # training needs image_size
    patches = math.prod(config.base_grid)
    embedding = 2 * patches * config.num_channels * config.patch_size**2 * config.hidden_size
    tokens, spec = patches + config.num_mixture_tokens, config.encoder_spec
    leaving = tokens if config.mix_patches else config.num_mixture_tokens
    blocks = (config.num_hidden_layers - 1) * block_flops(spec, tokens)
    last = block_flops(spec, tokens) if config.mix_patches else last_block_flops(spec, tokens, leaving)
    return float(embedding), blocks + last


def text_flops(config: LlipConfig) -> float:
    """Forward FLOPs of one text."""
    heads = 2 if config.mixing == "text" else 1
    blocks = config.text_num_hidden_layers * block_flops(config.text_spec, config.context_length)
    return blocks + 2 * heads * config.text_hidden_size * config.embed_size


def mixing_flops(config: LlipConfig) -> tuple[float, float]:
    """Forward FLOPs of (keys, values and the text-free vector of a picture, one pair)."""
    size, tokens = config.embed_size, _mixed_tokens(config)
    project = 2 * tokens * config.hidden_size * size
    if config.mixing != "text":
        return float(project), 2.0 * size
    return float(2 * project + 2 * size**2), float(4 * tokens * size + 2 * size**2 + 2 * size)


def _mixed_tokens(config: LlipConfig) -> int:
    patches = math.prod(config.base_grid) if config.mix_patches and config.base_grid else 0
    return 1 if config.mixing == "first" else config.num_mixture_tokens + patches


def count_parameters(config: LlipConfig) -> dict[str, int]:
    """Parameters of both towers and of the mixing; nothing is allocated."""
    with torch.device("meta"):
        model = LlipModel(config)
    return {name: sum(each.numel() for each in child.parameters()) for name, child in model.named_children()}
