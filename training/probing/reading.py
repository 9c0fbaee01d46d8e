"""Reading samples for a probe: in worker processes, always the same way, each with a number for its content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.utils.data import Dataset

from training.data.source import Sample, SampleError, Source

READ_KEY = 0  # probing reads a sample the same way each time


@dataclass(frozen=True)
class Reading:
    """A sample as it comes from a worker, or why it could not be read."""

    index: int
    sample: Sample | None = None
    content: int = 0
    reason: str = ""


class Reader(Dataset[Reading]):
    """The samples of a source at `indices`; one that cannot be read comes with its reason."""

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        self.source, self.indices = source, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Reading:
        index = self.indices[position]
        try:
            sample = self.source.read(index, READ_KEY)
        except SampleError as error:
            return Reading(index, reason=str(error))
        return Reading(index, sample, content_of(sample.pixels))


def content_of(pixels: Tensor) -> int:
    """A 63-bit number of pixels uint8 [...]: the same for the same picture or clip, from any source."""
    digest = hashlib.blake2b(repr(tuple(pixels.shape)).encode(), digest_size=8)
    digest.update(pixels.contiguous().numpy().tobytes())
    return int.from_bytes(digest.digest(), "little") >> 1
