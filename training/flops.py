"""Parameters and FLOPs of a training step, from the configuration and the lengths of masks; peaks of common GPUs.

Model FLOPs: a multiply-add is two operations, and only matrix products count. With n tokens, width D, MLP width H,
depth L, P pixel values per patch, predictor width p and O channels per prediction, forward:

    block        n (8 D^2 + 4 D H) + 4 n^2 D          queries, keys, values, projection, MLP; attention (SwiGLU: 6 D H)
    encoder      2 n P D + L block(n)                 n is the number of tokens kept by the mask, or all
    predictor    2 C D p + M ((L - 1) block(C + T) + last + 2 T p O)   M targets of T tokens, each in a row with the C
                 context tokens; the last block makes keys and values of all C + T tokens and everything else of T

Backward: two products of the same size for each, but one for the patch embedding (pixels need no gradient) and none
for the target encoder. Norms, softmax, positions, the optimizer and the moving average are left out: each is a few
operations per value. What is computed again (activation checkpointing, fused attention) is counted apart, as it trains
nothing. Source: the counting rule of arXiv:2204.02311, app. B.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from jepa_hub.masking.draws import MaskSampler
from jepa_hub.models.config import NETWORKS, JEPAConfig
from jepa_hub.models.registry import MODELS, model_class
from jepa_hub.nn.block import BlockSpec
from training.config import Settings
from training.methods.registry import method_class

STEPS = 256  # whose masks are averaged over: their mean cost is then known to about one per cent


class Group(NamedTuple):
    """Lengths of one group of masks: C context tokens, M targets of T tokens."""

    context: int
    targets: int
    target: int


Draws = Mapping[tuple[Group, ...], float]  # the groups of a step -> how often


@dataclass(frozen=True)
class FlopCount:
    """FLOPs of one sample, by network.

    Attributes:
        forward, backward: of a training step; a network without an entry in `backward` is not trained.
        recomputed: the part of `forward` that activation checkpointing computes again.
    """

    forward: dict[str, float]
    backward: dict[str, float]
    recomputed: float = 0.0

    @property
    def training(self) -> float:
        """Forward and backward of all networks, nothing counted twice: what model FLOPs utilisation means."""
        return sum(self.forward.values()) + sum(self.backward.values())

    @property
    def executed(self) -> float:
        """The same with what is computed again: what the device has to do."""
        return self.training + self.recomputed


# ----------------------------------------------------------------------------------------------- parameters and lengths


def family_class(config: JEPAConfig) -> Any:
    """The model class of a configuration.

    Raises:
        ValueError: no family has this configuration.
    """
    for family in MODELS:
        kind = model_class(family)
        if kind.config_class is type(config):
            return kind
    raise ValueError(f"{type(config).__name__} is the configuration of no family; there are {', '.join(MODELS)}")


def count_parameters(config: JEPAConfig) -> dict[str, int]:
    """Parameters of each network of `config`, by name; nothing is allocated."""
    kind = family_class(config)
    with torch.device("meta"):
        networks = {"encoder": kind.build_encoder(config)}
        if "predictor" in config.networks:
            networks["predictor"] = kind.build_predictor(config)
    counts = {name: sum(each.numel() for each in network.parameters()) for name, network in networks.items()}
    counts["target_encoder"] = counts["encoder"]
    return {name: counts[name] for name in NETWORKS if name in config.networks}


def mask_draws(sampler: MaskSampler, *, batch_size: int = 1, seed: int = 0, steps: int = STEPS) -> Draws:
    """Lengths of the masks of the first steps of a run, and the share of steps that have them.

    Args:
        sampler: of masks.
        batch_size: samples per device; plays a part in faithful mode only, where masks are cut to a batch's shortest.
        seed: of the run.
        steps: to look at.
    """
    samples = range(batch_size if sampler.mode == "faithful" else 1)
    seen = Counter(
        tuple(Group(each.context.shape[1], *each.target.shape[1:]) for each in sampler(samples, seed=seed, step=step))
        for step in range(steps)
    )
    return {groups: count / steps for groups, count in seen.items()}


# ---------------------------------------------------------------------------------------------------------------- FLOPs


def block_flops(spec: BlockSpec, tokens: int) -> float:
    """Forward FLOPs of one block over `tokens` tokens."""
    return _linear_flops(spec, tokens) + 4 * tokens**2 * spec.dim


def last_block_flops(spec: BlockSpec, tokens: int, target: int) -> float:
    """Forward FLOPs of a final block that `tokens` tokens enter and the last `target` leave."""
    keys_values = 4 * tokens * spec.dim**2
    rest = _linear_flops(spec, target) - 4 * target * spec.dim**2
    return keys_values + rest + 4 * tokens * target * spec.dim


def encoder_flops(config: JEPAConfig, tokens: int) -> tuple[float, float]:
    """Forward FLOPs of (patch embedding, blocks) of an encoder that sees `tokens` tokens."""
    values = config.num_channels * config.tubelet_size * config.patch_size**2
    embedding = 2 * tokens * values * config.hidden_size
    blocks = config.num_hidden_layers * block_flops(config.encoder_spec, tokens + config.num_extra_tokens)
    return float(embedding), blocks


def predictor_flops(config: JEPAConfig, group: Group) -> tuple[float, float]:
    """Forward FLOPs of (projections in and out, blocks) of the predictor for one group of masks."""
    width = config.predictor_hidden_size
    projections = 2 * group.context * config.hidden_size * width
    projections += 2 * group.targets * group.target * width * config.prediction_size
    spec, tokens = config.predictor_spec, group.context + group.target
    row = (config.predictor_num_hidden_layers - 1) * block_flops(spec, tokens)
    row += last_block_flops(spec, tokens, group.target)
    return float(projections), group.targets * row


def step_flops(
    config: JEPAConfig,
    method: str,
    sampler: MaskSampler,
    *,
    batch_size: int = 1,
    seed: int = 0,
    checkpointing: bool = False,
) -> FlopCount:
    """FLOPs of one sample in a training step, averaged over the masks of `STEPS` steps.

    Args:
        config: of the model.
        method: name in METHODS; it says which networks take part.
        sampler: of masks.
        batch_size, seed: see `mask_draws`.
        checkpointing: activations of blocks are recomputed in the backward pass.

    Raises:
        ValueError: the method has no predictor, so that these formulas do not describe it.
    """
    return flops_of(config, method, mask_draws(sampler, batch_size=batch_size, seed=seed), checkpointing=checkpointing)


def flops_of(config: JEPAConfig, method: str, draws: Draws, *, checkpointing: bool = False) -> FlopCount:
    """The same from lengths that are known, see `step_flops`."""
    networks = method_class(method).networks
    if "predictor" not in networks:
        raise ValueError(f"FLOPs are known for methods that predict masked tokens; {method} is not one of them")
    grid = config.base_grid
    if grid is None:
        raise ValueError("FLOPs need model.image_size and model.num_frames")
    forward, backward, recomputed = {"encoder": 0.0, "predictor": 0.0}, {"encoder": 0.0, "predictor": 0.0}, 0.0
    for groups, share in draws.items():
        for group in groups:
            embedding, blocks = encoder_flops(config, group.context)
            forward["encoder"] += share * (embedding + blocks)
            backward["encoder"] += share * (embedding + 2 * blocks)
            ends, rows = predictor_flops(config, group)
            forward["predictor"] += share * (ends + rows)
            backward["predictor"] += share * 2 * (ends + rows)
            recomputed += share * _recomputed(config, group)
    if "target_encoder" in networks:
        forward["target_encoder"] = sum(encoder_flops(config, math.prod(grid)))
    return FlopCount(forward, backward, recomputed if checkpointing else 0.0)


def training_flops_per_sample(settings: Settings, config: JEPAConfig, sampler: MaskSampler | None) -> float | None:
    """Model FLOPs of one sample in a training step of a recipe; None where no formula describes the method.

    Args:
        settings: of the run.
        config: of its model.
        sampler: of its masks.
    """
    from training import whole_costs  # which builds on this module

    if settings.method.name in whole_costs.METHODS:
        return whole_costs.step_flops(settings, config).training
    if sampler is None or "predictor" not in method_class(settings.method.name).networks:
        return None
    size, seed = settings.data.batch_size, settings.run.seed
    return step_flops(config, settings.method.name, sampler, batch_size=size, seed=seed).training


def _linear_flops(spec: BlockSpec, tokens: int) -> float:
    matrices = 3 if spec.hidden_act == "swiglu" else 2
    return float(tokens * (8 * spec.dim**2 + 2 * matrices * spec.dim * spec.mlp_hidden))


def _recomputed(config: JEPAConfig, group: Group) -> float:
    """The blocks' forward pass once more, without the last product of each MLP, which nothing in backward needs."""
    spec, narrow, tokens = config.encoder_spec, config.predictor_spec, group.context + group.target
    encoder = block_flops(spec, group.context) - 2 * group.context * spec.dim * spec.mlp_hidden
    row = block_flops(narrow, tokens) - 2 * tokens * narrow.dim * narrow.mlp_hidden
    last = last_block_flops(narrow, tokens, group.target) - 2 * group.target * narrow.dim * narrow.mlp_hidden
    return config.num_hidden_layers * encoder + group.targets * ((config.predictor_num_hidden_layers - 1) * row + last)


# -------------------------------------------------------------------------------------------------------------- devices


class Device(NamedTuple):
    """A GPU: words that its name must hold, dense peaks in TFLOP/s (None: not supported in hardware), memory in GiB.

    fp16 and bf16 are tensor cores with float32 sums; fp32 is without TensorFloat-32, torch's default.
    """

    words: str
    fp16: float | None
    bf16: float | None
    fp32: float | None
    memory: int


# Source: data sheets and architecture papers of NVIDIA and AMD; where a sheet gives the rate with sparsity, half of it.
# The first row whose words are all in the name counts, so narrower names come first.
DEVICES = (
    Device("v100 pcie", 112, None, 14, 16),
    Device("v100", 125, None, 15.7, 16),
    Device("t4", 65, None, 8.1, 16),
    Device("a100", 312, 312, 19.5, 40),
    Device("a30", 165, 165, 10.3, 24),
    Device("a40", 149.7, 149.7, 37.4, 48),
    Device("a10", 125, 125, 31.2, 24),
    Device("a6000", 154.8, 154.8, 38.7, 48),
    Device("h100 pcie", 756.5, 756.5, 51, 80),
    Device("h100 nvl", 835.5, 835.5, 60, 94),
    Device("h100", 989.5, 989.5, 67, 80),
    Device("h200 nvl", 835.5, 835.5, 60, 141),
    Device("h200", 989.5, 989.5, 67, 141),
    Device("gh200", 989.5, 989.5, 67, 96),
    Device("l4", 121, 121, 30.3, 24),
    Device("l40s", 362, 362, 91.6, 48),
    Device("l40", 181, 181, 90.5, 48),
    Device("rtx 6000 ada", 364.2, 364.2, 91.1, 48),
    Device("rtx 3090", 71, 71, 35.6, 24),
    Device("rtx 4090", 165.2, 165.2, 82.6, 24),
    Device("mi300x", 1307.4, 1307.4, 163.4, 192),
)
_OTHER = {"mig", "laptop", "mobile", "d", "ti", "super", "max"}  # parts and cousins of a GPU, with rates of their own


def find_device(name: str) -> Device | None:
    """The GPU of a name such as "a100-80gb" or torch.cuda.get_device_name(); None for one that is not in the table."""
    words = set(re.split(r"[^a-z0-9]+", name.lower().replace("rtx", "rtx ")))
    if words & _OTHER:
        return None
    device = next((each for each in DEVICES if set(each.words.split()) <= words), None)
    sizes = [int(word[:-2]) for word in words if re.fullmatch(r"\d+gb", word)]
    if device is None or not sizes or "gh200" in words:  # the size in the name of a GH200 is that of its CPU's memory
        return device
    return device._replace(memory=sizes[0])


def device_peak(name: str, precision: str) -> float | None:
    """Dense peak in FLOP/s of a GPU, or None where it is not known.

    Args:
        name: see `find_device`.
        precision: as in run.precision.
    """
    device = find_device(name)
    peak = getattr(device, precision, None) if precision in ("fp16", "bf16", "fp32") else None
    return peak * 1e12 if peak else None
