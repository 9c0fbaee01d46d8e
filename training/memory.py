"""Memory of a training step per device: weights, gradients, optimizer, target encoder and activations, in bytes.

State, in float32: weights and gradients of what is trained, the optimizer's moments (AdamW 2, LARS 1), the target
encoder. Under bf16 and fp16 autocast trained weights also have a copy in half precision until backward is done.
    DDP      all of it on every device, and buckets as large as the gradients
    FSDP2    all of it divided by the devices, and two blocks with their gradients whole, each block being wrapped
Activations that a block keeps for backward, with n tokens, width D, MLP width H and h bytes per number in products:
    8 n D              inputs of the two norms, in float32
    + n h (6 D + 2 H)  outputs of the norms, queries, keys, values, what attention gives; both sides of the activation
    + n h 2 D          rotary positions: queries and keys once more, turned     (SwiGLU: 4 H for 2 H)
The last block of a predictor keeps all n of its first norm, keys and values, and of the rest only the targets.
With activation checkpointing each block keeps its input, n h D, and one block at a time all of the above. Attention is
fused: no scores are kept. Left out: CUDA's context, workspaces and gaps of the allocator, one to three GiB together.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from jepa_hub.models.config import JEPAConfig
from jepa_hub.nn.block import BlockSpec
from training.config import OptimSettings
from training.flops import Draws, Group, count_parameters

FLOAT = 4  # bytes of float32
NUMBER = {"fp16": 2, "bf16": 2, "fp32": 4, "fp64": 8}  # bytes of a number in matrix products, by run.precision


class Memory(NamedTuple):
    """Bytes on one device."""

    weights: float
    gradients: float
    moments: float
    target_encoder: float
    half_copies: float
    communication: float
    activations: float

    @property
    def total(self) -> float:
        """All together."""
        return sum(self)


def step_memory(
    config: JEPAConfig,
    optim: OptimSettings,
    precision: str,
    activations: float,
    *,
    devices: int = 1,
    sharded: bool = False,
) -> Memory:
    """Memory of one device.

    Args:
        config: of the model.
        optim: its name says how many moments there are.
        precision: as in run.precision.
        activations: bytes of all samples of one pass, see `activation_bytes`.
        devices: how many share the work.
        sharded: FSDP2 instead of DDP.
    """
    counts = count_parameters(config)
    target = counts.pop("target_encoder", 0)
    trained = sum(counts.values())
    size = max(FLOAT, NUMBER[precision])
    half = NUMBER[precision] if NUMBER[precision] < FLOAT else 0
    parts = devices if sharded else 1
    if devices == 1:
        communication = 0.0
    elif sharded:
        communication = 2.0 * 2 * NUMBER[precision] * _block_parameters(config.encoder_spec)
    else:
        communication = float(size * trained)
    return Memory(
        weights=size * trained / parts,
        gradients=size * trained / parts,
        moments=size * trained * (2 if optim.name == "adamw" else 1) / parts,
        target_encoder=size * target / parts,
        # FSDP2 casts while it gathers, and frees the copy after each block
        half_copies=0.0 if sharded and devices > 1 else float(half * trained),
        communication=communication,
        activations=activations,
    )


def activation_bytes(config: JEPAConfig, draws: Draws, precision: str, *, checkpointing: bool = False) -> float:
    """Bytes that one sample takes at the peak of a step, for the longest masks of `draws`."""
    kept = max(kept_bytes(config, groups, precision, checkpointing=checkpointing) for groups in draws)
    grid = config.base_grid or (1, 1, 1)
    tokens, values = math.prod(grid), config.num_channels * config.tubelet_size * config.patch_size**2
    pixels = tokens * values * (FLOAT + 1)  # normalised, and the uint8 crops they come from
    if "target_encoder" not in config.networks:
        return kept + pixels + FLOAT * tokens * config.prediction_size
    spec, number = config.encoder_spec, NUMBER[precision]
    targets = FLOAT * tokens * spec.dim
    # The target encoder keeps nothing, but its widest block exists for a moment, before anything else does.
    passing = tokens * (2 * FLOAT * spec.dim + 2 * number * (spec.dim + spec.mlp_hidden))
    return pixels + max(kept + targets, passing)


def kept_bytes(config: JEPAConfig, groups: tuple[Group, ...], precision: str, *, checkpointing: bool = False) -> float:
    """Bytes that one sample keeps for the backward pass."""
    number = NUMBER[precision]
    rotary = config.position_type.startswith("rotary_")
    total, widest = 0.0, 0.0
    for context, targets, target in groups:
        ends = context * (number * config.num_channels * config.tubelet_size * config.patch_size**2)  # patches
        ends += context * config.hidden_size * (FLOAT + number)  # last norm, and what the predictor reads
        ends += targets * target * config.predictor_hidden_size * (FLOAT + number)
        ends += targets * target * config.prediction_size * 2 * FLOAT  # both sides of the distance
        total += ends
        for spec, depth, tokens in (
            (config.encoder_spec, config.num_hidden_layers, context),
            (config.predictor_spec, config.predictor_num_hidden_layers, targets * (context + target)),
        ):
            whole = _block_bytes(spec, tokens, number, rotary)
            widest = max(widest, whole)
            total += depth * (tokens * number * spec.dim if checkpointing else whole)
        if not checkpointing:
            total -= _not_kept_last(config.predictor_spec, targets * context, number, rotary)
    return total + (widest if checkpointing else 0.0)


def _block_bytes(spec: BlockSpec, tokens: int, number: int, rotary: bool) -> float:
    hidden = (4 if spec.hidden_act == "swiglu" else 2) * spec.mlp_hidden
    return tokens * (2.0 * max(FLOAT, number) * spec.dim + number * ((8 if rotary else 6) * spec.dim + hidden))


def _not_kept_last(spec: BlockSpec, context: int, number: int, rotary: bool) -> float:
    """What the last block of a predictor does not keep of its context tokens."""
    hidden = (4 if spec.hidden_act == "swiglu" else 2) * spec.mlp_hidden
    return context * (max(FLOAT, number) * spec.dim + number * ((4 if rotary else 3) * spec.dim + hidden))


def _block_parameters(spec: BlockSpec) -> int:
    matrices = 3 if spec.hidden_act == "swiglu" else 2
    return 4 * spec.dim**2 + matrices * spec.dim * spec.mlp_hidden
