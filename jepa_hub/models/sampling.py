"""Pictures out of noise, by diffusers' schedulers, with classifier-free guidance."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jepa_hub.nn.dit import DiTEncoder

SCHEDULERS = {"ddpm": "DDPMScheduler", "ddim": "DDIMScheduler", "dpm": "DPMSolverMultistepScheduler"}


def build_scheduler(config: Any, name: str = "ddpm") -> Any:
    """The scheduler of a model's noise.

    Args:
        config: a `DiTConfig`.
        name: "ddpm" (the one of training; 1,000 steps), "ddim" or "dpm" (a few dozen).

    Raises:
        ImportError: diffusers is missing.
        ValueError: there is no such scheduler.
    """
    if name not in SCHEDULERS:
        raise ValueError(f"scheduler is one of {', '.join(SCHEDULERS)}, not {name!r}")
    try:
        import diffusers
    except ImportError as error:
        raise ImportError('noise schedules are those of diffusers: pip install "jepa-hub[train]"') from error
    settings = {
        "num_train_timesteps": config.num_train_timesteps,
        "beta_schedule": config.beta_schedule,
        "beta_start": config.beta_start,
        "beta_end": config.beta_end,
        "prediction_type": config.prediction_type,
    }
    if name != "dpm":
        settings["clip_sample"] = not config.is_latent  # pixels lie in -1 .. 1, latents anywhere
    return getattr(diffusers, SCHEDULERS[name])(**settings)


@torch.no_grad()
def sample(
    model: Any,
    labels: Sequence[int | str] | Tensor | None,
    *,
    count: int | None,
    steps: int,
    guidance: float,
    scheduler: str,
    seed: int,
    batch_size: int,
    autoencoder: Any,
    progress: bool,
) -> Tensor:
    """Pictures [B, 3, H, W], 0 to 1, on the CPU.

    Args:
        model: a `DiTModel`; its moving average is used where there is one.
        labels: the class of each picture, by number or name; None makes pictures of any class.
        count: how many pictures, where there are no labels.
        steps: of the scheduler.
        guidance: 1 follows the class as trained, more exaggerates it (classifier-free guidance, arXiv:2207.12598).
        scheduler: see `build_scheduler`.
        seed: of all noise; picture i is the same whatever batch it is made in.
        batch_size: pictures at a time.
        autoencoder: diffusers' AutoencoderKL, for a model of latents.
        progress: show a bar.

    Raises:
        ValueError: an impossible setting, or a class that the model does not know.
    """
    config = model.config
    if (labels is None) == (count is None):
        raise ValueError("give the labels of the pictures, or count= pictures of any class")
    if steps < 1 or steps > config.num_train_timesteps or batch_size < 1 or (count is not None and count < 1):
        raise ValueError(f"steps are 1 .. {config.num_train_timesteps}, count and batch_size 1 or more")
    if labels is None and guidance != 1:
        raise ValueError("guidance needs labels: it exaggerates what sets a class apart from any")
    if config.is_latent and autoencoder is None:
        model.to_pixels(torch.zeros(0))  # says what is missing before an hour of sampling
    if config.image_size is None:
        raise ValueError("this model's configuration does not say image_size")
    classes = None if labels is None else model.class_numbers(labels)
    total = len(classes) if classes is not None else int(count or 0)
    from tqdm import tqdm

    hidden = None if progress and os.environ.get("JEPA_HUB_NO_PROGRESS") != "1" else True
    found = []
    was_training = model.training
    model.eval()
    with tqdm(total=total * steps, desc="sampling", unit="step", disable=hidden, leave=False) as bar:
        for start in range(0, total, batch_size):
            numbers = range(start, min(start + batch_size, total))
            asked = None if classes is None else classes[start : start + batch_size].to(model.device)
            done = _one_batch(model, asked, numbers, build_scheduler(config, scheduler), steps, guidance, seed, bar)
            found.append(model.to_pixels(done, autoencoder).cpu())
    model.train(was_training)
    return torch.cat(found)


def _one_batch(
    model: Any,
    classes: Tensor | None,
    numbers: range,
    schedule: Any,
    steps: int,
    guidance: float,
    seed: int,
    bar: Any,
) -> Tensor:
    """What was diffused [B, C, h, w] of the pictures of some numbers."""
    config, network = model.config, model.feature_encoder
    if not isinstance(network, DiTEncoder):
        raise ValueError("an exported model gives features only: sample from the model that was exported")
    height, width = (config.image_size,) * 2 if isinstance(config.image_size, int) else config.image_size
    draws = [torch.Generator().manual_seed(seed * 1_000_003 + number) for number in numbers]
    shape = (1, config.num_channels, height, width)
    noisy = torch.cat([torch.randn(shape, generator=draw) for draw in draws]).to(model.device)  # [B, C, h, w]
    schedule.set_timesteps(steps)
    noisy = noisy * schedule.init_noise_sigma
    known = schedule.step.__code__.co_varnames
    more: dict[str, Any] = {"generator": draws} if "generator" in known else {}
    if "use_clipped_model_output" in known:
        # Guidance overshoots -1 .. 1. Clipped, the picture no longer goes with the noise that was told with it: the
        # noise is told anew from the clipped picture, or what is left of it grows as steps get smaller.
        more["use_clipped_model_output"] = not config.is_latent
    for time in schedule.timesteps:
        given = schedule.scale_model_input(noisy, time).to(model.dtype)
        said = _guided(network, given, time, classes, guidance).float()
        noisy = schedule.step(said, time, noisy, **more).prev_sample
        bar.update(len(noisy))
    return noisy


def _guided(network: Any, noisy: Tensor, time: Tensor, classes: Tensor | None, guidance: float) -> Tensor:
    times = torch.full((len(noisy),), float(time), device=noisy.device)
    if classes is None or guidance == 1:
        return network.denoise(noisy, times, classes)
    both = torch.cat([classes, torch.full_like(classes, network.num_classes)])
    asked, free = network.denoise(noisy.repeat(2, 1, 1, 1), times.repeat(2), both).chunk(2)
    return free + guidance * (asked - free)
