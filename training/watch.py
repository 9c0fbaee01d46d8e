"""Watching a run: what it measures, where it writes it, and the guard against collapse and divergence.

Nothing here makes the host wait for the device except at a logged step.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.config import WatchSettings
from training.objectives import rank_me


class DivergedError(RuntimeError):
    """The loss is not finite; the text names the step and the likely cause."""


class CollapsedError(RuntimeError):
    """Features stopped carrying information; the text says what was measured, at which steps, and the likely cause."""


class Meter:
    """Means of 0-d tensors between two logged steps, kept on the device.

    It also remembers the first step whose loss was not finite, without asking the device at each step.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._bad_step: Tensor | None = None

    def add(self, metrics: dict[str, Tensor], step: int) -> None:
        """Take in one pass."""
        for name, value in metrics.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1
        loss = metrics["loss"].detach()
        if self._bad_step is None:
            self._bad_step = torch.full((), -1, dtype=torch.int64, device=loss.device)
        first = ~torch.isfinite(loss) & (self._bad_step < 0)
        self._bad_step = torch.where(first, torch.full_like(self._bad_step, step), self._bad_step)

    def check(self) -> None:
        """Return if every loss so far was finite (waits for the device).

        Raises:
            DivergedError: one was not.
        """
        step = -1 if self._bad_step is None else int(self._bad_step)
        if step >= 0:
            raise DivergedError(
                f"the loss at step {step + 1} is not finite. Likely causes: too high a learning rate or too short a "
                "warm-up, fp16 overflow (use bf16), or broken pixels. No checkpoint holds it: lower optim.lr or set "
                "optim.clip_norm, and start again; the run resumes before it"
            )

    def take(self) -> dict[str, Tensor]:
        """The means, 0-d tensors; the meter starts afresh."""
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means


@torch.no_grad()
def feature_vectors(tokens: Tensor, most: int) -> Tensor:
    """Up to `most` vectors [K, D] spread over samples and places of tokens [B, N, D]."""
    flat = tokens.flatten(0, 1)
    step = max(1, len(flat) // most)
    step += int(step > 1 and math.gcd(step, tokens.shape[1]) == step)  # do not look at the same place of every sample
    return flat[::step][:most].float()


class Guard:
    """Says in plain words when features collapse.

    Args:
        settings: thresholds, and what to do.
    """

    def __init__(self, settings: WatchSettings) -> None:
        self.settings = settings
        self._strikes: list[int] = []

    def measure(self, tokens: Tensor) -> dict[str, float]:
        """Spread and effective rank of tokens [B, N, D]."""
        vectors = feature_vectors(tokens, self.settings.rank_samples)
        centred = vectors - vectors.mean(dim=0)
        scale = vectors.square().mean().sqrt().clamp_min(1e-12)
        return {
            "feature_std": float(centred.square().mean().sqrt() / scale),
            "rank": float(rank_me(centred)),
        }

    def judge(self, step: int, measured: dict[str, float]) -> str | None:
        """A warning in words, or None.

        Raises:
            CollapsedError: `patience` measurements in a row look collapsed and the settings say "stop".
        """
        if self.settings.collapse == "off":
            return None
        flat = measured["feature_std"] < self.settings.min_std
        low = measured["rank"] < self.settings.min_rank
        if not (flat or low):
            self._strikes = []
            return None
        self._strikes.append(step)
        if len(self._strikes) < self.settings.patience:
            return None
        what = f"spread {measured['feature_std']:.3g} (least {self.settings.min_std:g})" if flat else ""
        what += ", " if flat and low else ""
        what += f"effective rank {measured['rank']:.3g} (least {self.settings.min_rank:g})" if low else ""
        text = (
            f"features have collapsed: {what} at steps {', '.join(map(str, self._strikes))}. "
            "Likely causes: momentum too low at the start, learning rate too high or too little warm-up, masks that "
            "leave nothing to predict. Checkpoints up to now are kept; watch.collapse=warn goes on regardless"
        )
        if self.settings.collapse == "stop":
            raise CollapsedError(text)
        self._strikes = []
        return text


class Clock:
    """Throughput and the share of time spent waiting for data, between two logged steps."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.waited = 0.0

    def read(self, samples: int, flops_per_sample: float | None, peak: float | None) -> dict[str, float]:
        """Samples per second, wait share and, where the device's peak is known, model FLOPs utilisation."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        found = {"samples_per_second": samples / seconds, "wait_share": min(1.0, self.waited / seconds)}
        if flops_per_sample and peak:
            found["mfu"] = samples * flops_per_sample / seconds / peak
        self._start, self.waited = time.perf_counter(), 0.0
        return found


class Log:
    """log.jsonl: one line per logged step, flushed as it is written."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()

    def write(self, entry: dict[str, Any]) -> None:
        """Append one entry; numbers that are not finite are written as words, because JSON has none."""
        clean = {
            key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in entry.items()
        }
        self._file.write(json.dumps(clean) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
