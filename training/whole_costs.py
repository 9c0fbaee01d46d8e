"""FLOPs of methods that see every token (supervised, predictor_finetune), by the formulas of `training.flops`."""

from __future__ import annotations

import math

from jepa_hub.models.config import JEPAConfig
from training.config import Settings
from training.flops import Draws, FlopCount, Group, encoder_flops, predictor_flops
from training.picture_costs import pictures_per_step

METHODS = ("supervised", "predictor_finetune")


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
    if settings.method.name == "predictor_finetune":
        return tuned_flops(settings, config)
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


def tuned_flops(settings: Settings, config: JEPAConfig) -> FlopCount:
    """FLOPs of one labelled picture in a step of predictor fine-tuning, without heads; tasks share the encoder."""
    tokens, tasks, train = num_tokens(config), len(settings.method.own["tasks"]), settings.method.own.get("train")
    embedding, blocks = encoder_flops(config, tokens)
    forward = {"target_encoder": embedding + blocks}
    backward = {"target_encoder": embedding + 2 * blocks} if train in ("encoder", "all") else {}
    if train != "encoder":
        forward["predictor"] = tasks * sum(predictor_flops(config, Group(tokens + 1, 1, tokens)))  # and a task token
        backward["predictor"] = 2 * forward["predictor"]
    return FlopCount(forward, backward, 0.0)


def draws(settings: Settings, config: JEPAConfig) -> Draws:
    """Every token as context, for the formulas of memory: of no target, or, through a predictor, of all of them."""
    tokens = num_tokens(config)
    if settings.method.name == "predictor_finetune":
        return {tuple([Group(tokens, 1, tokens)] * len(settings.method.own["tasks"])): 1.0}
    return {(Group(tokens + config.num_extra_tokens, 0, 0),): 1.0}
