"""What all mask samplers share: random draws keyed by integers, the base class, checks of settings.

The same keys give the same numbers in any batch, process and order, which is what makes a sample's mask its own.
"""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jepa_hub.masks import Masks, check_grid

Size = tuple[int, int, int]  # (t, h, w) in tokens
Lengths = tuple[tuple[int, int], ...]
Span = float | tuple[float, float]

ORDER, SIZES = 1, 2  # purposes, so that no two draws of a sampler share a key

# Eight draws of four numbers in (0, 1): each number takes the middle of every eighth once, and no two of the four are
# correlated. An orthogonal Latin hypercube; source: Ye, JASA 93 (1998), for 8 runs.
_HALF = ((1, -3, -7, 5), (3, 1, -5, -7), (5, -7, 3, -1), (7, 5, 1, 3))
DESIGN = [[(8 + sign * level) / 16 for level in row] for sign in (1, -1) for row in _HALF]

_WEYL, _MIX_1, _MIX_2 = (value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_INDEX_BITS = 24  # low bits of a random order that hold the token number, so that no two tokens tie


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64 (torch's is arithmetic)."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64 on int64, modulo 2^64. Source: Steele, Lea, Flood, OOPSLA 2014."""
    x = _shift(x, 30).bitwise_xor_(x).mul_(_MIX_1)
    x = _shift(x, 27).bitwise_xor_(x).mul_(_MIX_2)
    return _shift(x, 31).bitwise_xor_(x)


def keyed(*parts: int | Tensor) -> Tensor:
    """One int64 key from integers and int64 tensors, which broadcast; other parts, order or number give another key."""
    state = torch.tensor(len(parts))
    for part in parts:
        if not isinstance(part, Tensor):
            part = torch.tensor((part + 2**63) % 2**64 - 2**63)  # any Python integer, wrapped to 64 bits
        state = _mix((state ^ _mix(part + _WEYL)) + _WEYL)
    return state


def keyed_bits(keys: Tensor, count: int) -> Tensor:
    """`count` random int64 per key: [...] -> [..., count], the SplitMix64 stream started at each key."""
    return _mix(keys.unsqueeze(-1) + torch.arange(1, count + 1) * _WEYL)  # [..., count]


def keyed_integers(keys: Tensor, highs: Tensor) -> Tensor:
    """Uniform integers in 0..highs-1: keys [...] and highs [K] (each below 2^31) give [..., K]."""
    return (_shift(keyed_bits(keys, len(highs)), 33) * highs) >> 31  # [..., K]


def keyed_pick(keys: Tensor, count: int) -> Tensor:
    """One uniform integer in 0..count-1 per key: [...] -> [...]."""
    return keyed_integers(keys, torch.tensor([count])).squeeze(-1)


def keyed_order(keys: Tensor, num_tokens: int) -> Tensor:
    """A random ranking of the tokens: [...] -> [..., num_tokens] int64, 0 or more, without ties."""
    bits = keyed_bits(keys, num_tokens)  # [..., N]
    return (_shift(bits, _INDEX_BITS + 1) << _INDEX_BITS).bitwise_or_(torch.arange(num_tokens))


def choose(candidates: Tensor, count: int, order: Tensor) -> Tensor:
    """The `count` candidates of each row that rank lowest in `order`, in token order.

    Args:
        candidates: bool [B, N] with at least `count` True per row.
        count: how many to keep, 1 or more.
        order: int64 [B, N], from keyed_order.

    Returns:
        int64 [B, count], ascending.
    """
    order = order.masked_fill(~candidates, torch.iinfo(torch.int64).max)
    highest = order.topk(count, dim=1, largest=False, sorted=False).values.amax(dim=1, keepdim=True)  # [B, 1]
    return (order <= highest).nonzero()[:, 1].view(-1, count)  # [B, count]


def first(candidates: Tensor, count: int) -> Tensor:
    """The first `count` candidates of each row, ascending: bool [B, N] -> int64 [B, count]."""
    return (candidates & (candidates.cumsum(1) <= count)).nonzero()[:, 1].view(-1, count)  # [B, count]


@dataclass(frozen=True, kw_only=True)
class MaskSampler(ABC):
    """What all samplers have in common; build one of MASKS.

    Args:
        grid: (T, H, W) or (H, W) in tokens.
        mode: "corrected" or "faithful".
    """

    grid: Size | tuple[int, int]
    mode: str = "corrected"

    def __post_init__(self) -> None:
        self._set(grid=check_grid(self.grid))
        if self.mode not in ("corrected", "faithful"):
            raise ValueError(f'mode must be "corrected" or "faithful", got {self.mode!r}')

    @property
    def grid_size(self) -> Size:
        """(T, H, W) in tokens."""
        return check_grid(self.grid)

    @property
    def num_tokens(self) -> int:
        """Tokens of the grid."""
        return math.prod(self.grid)

    @property
    @abstractmethod
    def lengths(self) -> tuple[Lengths, ...]:
        """Per group, every (context length, target length) that can occur, at most eight.

        Empty for a group whose lengths follow the batch (faithful mode): any length can occur there.
        """

    def __call__(self, samples: Sequence[int], *, seed: int, step: int) -> list[Masks]:
        """The masks of a batch, one Masks per group.

        Args:
            samples: B sample ids.
            seed: of the run.
            step: optimizer step, 0 or more.

        Raises:
            TypeError: the sample ids, seed or step are not integers.
            ValueError: samples is empty or step negative.
        """
        try:
            ids = [operator.index(sample) for sample in samples]
            seed, step = operator.index(seed), operator.index(step)
        except TypeError as error:
            raise TypeError(f"samples, seed and step must be integers: {error}") from None
        if not ids or step < 0:
            raise ValueError(f"expected at least one sample id and a step of 0 or more, got {len(ids)} and step {step}")
        if self.mode == "corrected":
            return self._corrected(keyed(seed, step, torch.tensor(ids)), keyed(seed, step, SIZES))
        # The batch goes into the key because workers that share seed and step must still draw different masks.
        batch = keyed(torch.arange(len(ids)), torch.tensor(ids)).sum()
        return self._faithful(len(ids), step, torch.Generator().manual_seed(int(keyed(seed, step, batch))))

    @abstractmethod
    def _corrected(self, keys: Tensor, shared: Tensor) -> list[Masks]:
        """Masks from one key per sample, keys [B], and one for what the whole step shares, 0-d."""

    @abstractmethod
    def _faithful(self, batch_size: int, step: int, generator: torch.Generator) -> list[Masks]:
        """Masks of a whole batch; `generator` plays upstream's global random state."""

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)


def upstream_uniforms(step: int, count: int) -> list[float]:
    """`count` uniform numbers that all samples of a faithful batch share."""
    # Upstream: they come from a generator seeded with the batch counter; the seed of the run plays no part.
    generator = torch.Generator().manual_seed(step)
    return [float(torch.rand(1, generator=generator)) for _ in range(count)]


def check_span(name: str, value: Any, most: float = math.inf) -> tuple[float, float]:
    """(low, high) with 0 < low <= high <= most, from a pair or a single number.

    Raises:
        ValueError: anything else.
    """
    try:
        low, high = (float(value),) * 2 if isinstance(value, (int, float)) else (float(end) for end in value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number or a pair (low, high), got {value!r}") from None
    if not (0 < low <= high <= most and math.isfinite(high)):
        limit = f" <= {most:g}" if math.isfinite(most) else ""
        raise ValueError(f"{name} must satisfy 0 < low <= high{limit}, got {value!r}")
    return low, high


def check_whole(name: str, value: Any, least: int) -> int:
    """`value` if it is a whole number of `least` or more.

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of {least} or more, got {value!r}")
    return value


def within(span: Any, u: float) -> float:
    """The number at u in [0, 1] of a checked span (low, high)."""
    low, high = span
    return low + u * (high - low)
