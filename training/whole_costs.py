"""FLOPs of methods that see every token of a picture (supervised training), by the formulas of `training.flops`."""

from __future__ import annotations

import math

from jepa_hub.models.config import JEPAConfig
from training.config import Settings
from training.flops import Draws, FlopCount, Group, encoder_flops
from training.picture_costs import pictures_per_step

METHODS = ("supervised",)


def num_tokens(config: JEPAConfig) -> int:
    """Tokens of the grid of one sample.

    Raises:
        ValueError: the configuration does not say the size of its input.
    """
    if config.base_grid is None:
        raise ValueError("costs need model.image_size and model.num_frames")
    return math.prod(config.base_grid)


def step_flops(settings: Settings, config: JEPAConfig) -> FlopCount:
    """FLOPs of one sample of the batch in a training step; with a support, of the labelled pictures that go with it."""
    pictures = sum(pictures_per_step(settings).values()) / settings.data.batch_size
    embedding, blocks = encoder_flops(config, num_tokens(config))
    head = 2.0 * config.hidden_size * (settings.method.own.get("num_classes") or 1)
    backward = {"encoder": embedding + 2 * blocks, "head": 2 * head}
    if settings.method.own.get("train") == "head":
        backward = {"head": head}
    recomputed = 0.0
    if settings.run.activation_checkpointing and "encoder" in backward:
        spec, tokens = config.encoder_spec, num_tokens(config) + config.num_extra_tokens
        # the last product of each MLP is needed by nothing in backward
        recomputed = blocks - config.num_hidden_layers * 2.0 * tokens * spec.dim * spec.mlp_hidden
    return FlopCount(
        {"encoder": pictures * (embedding + blocks), "head": pictures * head},
        {name: pictures * value for name, value in backward.items()},
        pictures * recomputed,
    )


def draws(config: JEPAConfig) -> Draws:
    """Every token as the context of no target, for the formulas of memory."""
    return {(Group(num_tokens(config) + config.num_extra_tokens, 0, 0),): 1.0}
