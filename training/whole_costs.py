"""FLOPs of methods that see every token (supervised, predictor_finetune, diffusion), by formulas of `training.flops`.

A diffusion transformer has, beside its blocks, products of what is asked for: per picture 12 D^2 in each block, and
2 (256 D + D^2) + 4 D^2 outside of them; its output is the embedding the other way round. The autoencoder of a model of
latents, which is not trained here, is left out.
"""

from __future__ import annotations

import math

from jepa_hub.models.config import JEPAConfig
from jepa_hub.nn.dit import FREQUENCIES
from training.config import Settings
from training.flops import Draws, FlopCount, Group, encoder_flops, predictor_flops
from training.picture_costs import pictures_per_step

METHODS = ("supervised", "predictor_finetune", "diffusion")


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
    if settings.method.name == "diffusion":
        return _diffusion(config, checkpointing=settings.run.activation_checkpointing)
    pictures = sum(pictures_per_step(settings).values()) / settings.data.batch_size
    embedding, blocks = encoder_flops(config, num_tokens(config))
    head = 2.0 * config.hidden_size * (settings.method.own.get("num_classes") or 1)
    backward = {"encoder": embedding + 2 * blocks, "head": 2 * head}
    if settings.method.own.get("train") == "head":
        backward = {"head": head}
    again = settings.run.activation_checkpointing and "encoder" in backward
    recomputed = blocks - _not_recomputed(config) if again else 0.0
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


def _diffusion(config: JEPAConfig, *, checkpointing: bool) -> FlopCount:
    dim = config.hidden_size
    embedding, blocks = encoder_flops(config, num_tokens(config))
    inside = 12.0 * dim**2 * config.num_hidden_layers
    first, second = 2.0 * FREQUENCIES * dim, 2.0 * dim**2  # of the time step
    last = 4.0 * dim**2 + embedding  # modulation and output
    forward = embedding + blocks + inside + first + second + last
    # neither noisy pixels nor the sines of a time step need a gradient
    backward = embedding + first + 2 * (blocks + inside + second + last)
    recomputed = blocks + inside if checkpointing else 0.0  # all of it: gates need what they multiply
    return FlopCount({"encoder": forward}, {"encoder": backward}, recomputed)


def _not_recomputed(config: JEPAConfig) -> float:
    """The last product of each MLP, which nothing in backward needs."""
    tokens = num_tokens(config) + config.num_extra_tokens
    return config.num_hidden_layers * 2.0 * tokens * config.hidden_size * config.encoder_spec.mlp_hidden
