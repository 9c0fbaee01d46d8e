"""What every source keeps: reading is a pure function of (index, key), and an epoch is a permutation."""

from __future__ import annotations

import os
import pickle

import torch

from training.data.source import Sample, Source, check_pixels


def same(one: Sample, other: Sample) -> bool:
    rest = [(sample.index, sample.labels, sample.captions, sample.details) for sample in (one, other)]
    return torch.equal(one.pixels, other.pixels) and rest[0] == rest[1]


def check_source(source: Source) -> None:
    """Assert the contract on a source of which every sample can be read."""
    count = len(source)
    orders = [source.order(seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for order in orders:
        assert order.dtype == torch.int64
        assert sorted(order.tolist()) == list(range(count))
    assert count < 4 or len({tuple(order.tolist()) for order in orders}) == 3
    opened = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    workers = [pickle.loads(pickle.dumps(source)) for _ in range(2)]
    assert torch.equal(workers[0].order(0, 1), orders[1])
    seen = []
    for rank, worker in enumerate(workers):  # as two workers share an epoch
        for index in orders[0][rank::2].tolist():
            sample = worker.read(index, 7)
            assert sample.index == index
            assert set(sample.labels) == set(source.labels)
            check_pixels(sample.pixels, source.kind, "sample")
            assert same(sample, source.read(index, 7))
            seen.append(index)
    assert sorted(seen) == list(range(count))
    if opened:
        assert len(os.listdir("/proc/self/fd")) <= opened + 2, "a source holds files open"
