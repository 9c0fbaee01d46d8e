"""FLOPs of methods that train on whole pictures (PAWS, SuNCEt, fine-tuning), counted by running a layer-exact dry step.

Pictures of one optimizer step: large and small views of every sample, and the views of the support. The forward and
backward passes run on torch's meta device, where products are counted and nothing is computed.
"""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from jepa_hub.models.paws import PAWSConfig, PAWSModel
from training.config import Settings
from training.flops import FlopCount


def pictures_per_step(settings: Settings) -> dict[int, float]:
    """How many pictures of which size (pixels of a side) one worker sees in a pass.

    Raises:
        ValueError: the number of labelled pictures depends on the data: `classes` and `images` are not both given.
    """
    data = settings.data
    size = settings.model.own.get("image_size", 224)
    seen = {size: float(data.num_views * data.batch_size)}
    own = settings.method.own
    if settings.method.name in ("finetune", "supervised") or not own.get("self_supervised", 1.0):
        seen[size] = 0.0 if data.support else float(data.batch_size)
    if data.small_views:
        seen[data.small_views.size] = seen.get(data.small_views.size, 0) + data.small_views.count * data.batch_size
    support = data.support
    if support and support.until and own.get("supervised", 1.0):
        if support.classes is None or support.images is None:
            raise ValueError("costs need data.support.classes and data.support.images: by default the data decide")
        seen[size] += support.until * support.classes * support.images * support.num_views
    return seen


def picture_flops(config: PAWSConfig, size: int) -> tuple[float, float]:
    """FLOPs of one picture of `size` pixels, (forward, backward), heads included; pixels need no gradient."""
    with torch.device("meta"):
        model = PAWSModel(config).train()
        pixels = torch.empty(2, config.num_channels, size, size)
    with FlopCounterMode(display=False) as forward:
        embedded = model.embed(pixels)
        output = embedded.predicted if model.classifier is None else model.classifier(embedded.pooled)
    with FlopCounterMode(display=False) as backward:
        output.sum().backward()
    return forward.get_total_flops() / 2, backward.get_total_flops() / 2


def step_flops(settings: Settings, config: PAWSConfig) -> FlopCount:
    """FLOPs of one unlabelled sample (of fine-tuning: one labelled picture) with its share of all that a step sees."""
    forward = backward = 0.0
    for size, count in pictures_per_step(settings).items():
        each = picture_flops(config, size)
        forward += count * each[0] / settings.data.batch_size
        backward += count * each[1] / settings.data.batch_size
    return FlopCount({"encoder": forward}, {"encoder": backward})
