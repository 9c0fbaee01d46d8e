"""The attentive probe: a learned query reads frozen tokens; several heads are trained on the same batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from jepa_hub.masking.draws import keyed, keyed_order
from jepa_hub.models.probe import Probe, ProbeConfig
from training.probing.results import ProbeResult, report, score
from training.probing.tables import FeatureTable, check_tables
from training.schedules import cosine_between

PROBE_ORDER, PROBE_INIT = 203, 204  # purposes of keys
# Source: arXiv:2506.09985, appendix; 20 heads side by side.
PUBLISHED_GRID = ((5e-3, 3e-3, 1e-3, 3e-4, 1e-4), (0.01, 0.1, 0.4, 0.8))
_CHUNK = 256  # samples scored at a time


@dataclass(frozen=True)
class AttentiveProbe:
    """The head that validation chose, its score on the test samples, and the validation score of every head."""

    probe: Probe
    result: ProbeResult
    grid: list[dict[str, float]]


def attentive_probe(
    train: FeatureTable,
    validation: FeatureTable,
    test: FeatureTable,
    label: str,
    *,
    seed: int = 0,
    epochs: int = 20,
    batch_size: int = 64,
    learning_rates: Sequence[float] = (3e-3, 1e-3, 3e-4),
    weight_decays: Sequence[float] = (0.01, 0.4),
    num_heads: int | None = None,
    num_blocks: int = 0,
    device: torch.device | str = "cpu",
) -> AttentiveProbe:
    """An attentive probe on frozen tokens, and what it scores.

    Every pair of learning rate and weight decay trains a head of its own on the same batches: AdamW, a cosine to 0, no
    warm-up, as published. The head is chosen on validation samples and scored once on test samples, where the official
    code reports the best of its heads on the samples that chose it. Tokens are fixed: there is no augmentation.

    Args:
        train, validation, test: tables of tokens [N, T, D] that share no sample.
        label: a class (cross-entropy, accuracy) or a number (squared error, R2).
        seed: of the initial weights and the order of batches.
        epochs: passes over the training samples.
        batch_size: samples per step.
        learning_rates, weight_decays: the grid; PUBLISHED_GRID holds V-JEPA 2's.
        num_heads: of the attention; 16, or the largest divisor of the width below it.
        num_blocks: self-attention blocks before the query: 0 in V-JEPA, 3 in V-JEPA 2.
        device: where to train; the probe comes back on the CPU.

    Raises:
        ValueError: pooled features instead of tokens; see also `check_tables`.
    """
    if train.features.ndim != 3:
        raise ValueError("an attentive probe reads tokens [N, T, D]: extract_features(..., pooled=False)")
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs and batch_size are 1 or more; got {epochs} and {batch_size}")
    check_tables(train, validation, test, label)
    task = _Task.of(train, label)
    grid = [(lr, decay) for lr in learning_rates for decay in weight_decays]
    config = _config(train, label, num_heads, num_blocks)
    heads = [_new_probe(config, seed).to(device) for _ in grid]
    batches = task.batches(train, label, seed, epochs, batch_size, device)
    _fit(heads, grid, batches, task, epochs * math.ceil(len(train) / batch_size))
    scores = []
    for head in heads:
        head.eval()
        scores.append(next(iter(score(task.predict(head, validation), validation.label(label)).values())))
    best = max(range(len(grid)), key=lambda index: scores[index] if math.isfinite(scores[index]) else -math.inf)
    probe = task.finish(heads[best].cpu())
    result = report(
        "attentive",
        label,
        predicted=replace(task, mean=0.0, std=1.0).predict(probe, test),
        truth=test.label(label),
        train=train.label(label),
        num_classes=None if task.is_number else train.num_classes(label),
        validation=scores[best],
        chosen={"learning_rate": grid[best][0], "weight_decay": grid[best][1], "epochs": epochs},
        num_validation=len(validation),
        seed=seed,
    )
    names = ("learning_rate", "weight_decay", "validation")
    return AttentiveProbe(
        probe, result, [dict(zip(names, (*pair, each), strict=True)) for pair, each in zip(grid, scores, strict=True)]
    )


@dataclass(frozen=True)
class _Task:
    """Classes, or numbers brought to mean 0 and standard deviation 1 while training."""

    is_number: bool
    mean: float = 0.0
    std: float = 1.0

    @classmethod
    def of(cls, train: FeatureTable, label: str) -> _Task:
        values = train.label(label)
        if not values.is_floating_point():
            return cls(False)
        return cls(True, float(values.mean()), float(values.std(correction=0)))

    def loss(self, outputs: Tensor, truth: Tensor) -> Tensor:
        if self.is_number:
            return F.mse_loss(outputs[:, 0], truth)
        return F.cross_entropy(outputs, truth)

    def batches(
        self, train: FeatureTable, label: str, seed: int, epochs: int, batch_size: int, device: torch.device | str
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of all epochs: tokens, and what the heads should say."""
        values = train.label(label)
        truth = ((values - self.mean) / self.std).float() if self.is_number else values
        for epoch in range(epochs):
            order = keyed_order(keyed(seed, PROBE_ORDER, epoch), len(train)).argsort()
            for rows in order.split(batch_size):
                yield train.features[rows].to(device), truth[rows].to(device)

    @torch.no_grad()
    def predict(self, probe: Probe, table: FeatureTable) -> Tensor:
        """Classes, or numbers in the label's unit, [N] on the CPU."""
        outputs = torch.cat([probe(chunk.to(probe.device)).cpu() for chunk in table.features.split(_CHUNK)])
        return outputs[:, 0].double() * self.std + self.mean if self.is_number else outputs.argmax(dim=1)

    @torch.no_grad()
    def finish(self, probe: Probe) -> Probe:
        """The probe with numbers in the label's unit, so that a saved one needs nothing besides."""
        if self.is_number:
            probe.linear.weight.mul_(self.std)
            probe.linear.bias.mul_(self.std).add_(self.mean)
        return probe.eval()


def _config(train: FeatureTable, label: str, num_heads: int | None, num_blocks: int) -> ProbeConfig:
    width = train.features.shape[-1]
    number = train.label(label).is_floating_point()
    count = 1 if number else train.num_classes(label)
    names = train.label_info[label].names if label in train.label_info else ()
    said = [label] if number else [names[index] if index < len(names) else str(index) for index in range(count)]
    return ProbeConfig(
        kind="attentive",
        hidden_size=width,
        num_attention_heads=num_heads or next(heads for heads in range(min(16, width), 0, -1) if width % heads == 0),
        num_blocks=num_blocks,
        id2label=dict(enumerate(said)),
    )


def _new_probe(config: ProbeConfig, seed: int) -> Probe:
    with torch.random.fork_rng(devices=[]):  # transformers initialises from the global generator
        torch.manual_seed(int(keyed(seed, PROBE_INIT)))
        return Probe(config).train()


def _fit(
    heads: list[Probe],
    grid: Sequence[tuple[float, float]],
    batches: Iterable[tuple[Tensor, Tensor]],
    task: _Task,
    total_steps: int,
) -> None:
    """Train all heads side by side; the learning rate follows a cosine to 0."""
    optimizers = [_optimizer(head, decay) for head, (_, decay) in zip(heads, grid, strict=True)]
    for step, (tokens, truth) in enumerate(batches):
        for head, optimizer, (lr, _) in zip(heads, optimizers, grid, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = cosine_between(step - 1, start=lr, final=0.0, total_steps=total_steps)
            optimizer.zero_grad()
            task.loss(head(tokens), truth).backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            optimizer.step()


def _optimizer(head: Probe, decay: float) -> torch.optim.Optimizer:
    """AdamW without decay on biases and norms, as in the official evaluations."""
    matrices = [parameter for parameter in head.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in head.parameters() if parameter.ndim <= 1]
    return torch.optim.AdamW([{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}])
