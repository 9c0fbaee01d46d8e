"""Which tokens are seen and which are predicted: `Masks`, `gather_tokens`, `frame_masks`.

Tokens are numbered row-major over the (t, row, column) grid. Masks are drawn at random in `jepa_hub.masking.samplers`.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Masks:
    """Context and target tokens of a batch, as indices into the row-major (t, row, column) grid; rectangular.

    Args:
        context: int64 [B, C], the tokens that the context encoder sees.
        target: int64 [B, M, T], the tokens of M predictions; each of the M is predicted on its own.
        group: which learned mask token the predictor uses (V-JEPA: 0 short-range, 1 long-range); a tensor int64 [1]
            where it is an input of an exported graph.

    Raises:
        TypeError: context or target is a list or an array instead of a tensor, or group is not an integer.
        ValueError: a tensor is not int64, has the wrong number of axes, or the batch sizes differ.
    """

    context: Tensor
    target: Tensor
    group: int | Tensor = 0

    def __post_init__(self) -> None:
        for name, ndim, shape in (("context", 2, "[B, C]"), ("target", 3, "[B, M, T]")):
            index = getattr(self, name)
            if not isinstance(index, Tensor):
                # torch.export and tree_map rebuild a Masks from leaves of any kind: refuse only what users mix up.
                if isinstance(index, list) or hasattr(index, "__array__"):
                    raise TypeError(
                        f"{name} must be an int64 tensor {shape}, got {type(index).__name__}: wrap it in torch.tensor"
                    )
                return
            if index.dtype != torch.int64:
                raise ValueError(f"{name} must be int64 (token indices), got {index.dtype}: convert with .long()")
            if index.ndim != ndim:
                raise ValueError(f"{name} must be {shape}, got shape {tuple(index.shape)}")
        if self.context.shape[0] != self.target.shape[0]:
            raise ValueError(
                f"context has {self.context.shape[0]} rows, target {self.target.shape[0]}: both need one row per sample"
            )
        if isinstance(self.group, (bool, float, str)):
            raise TypeError(f"group must be an integer, got {self.group!r}")
        if isinstance(self.group, int) and self.group < 0:
            raise ValueError(f"group must be 0 or more, got {self.group}")

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> Masks:
        """The same masks on another device."""
        return Masks(
            self.context.to(device, non_blocking=non_blocking),
            self.target.to(device, non_blocking=non_blocking),
            self.group,
        )

    def pin_memory(self) -> Masks:
        """The same masks in page-locked memory; DataLoader(pin_memory=True) calls this."""
        return Masks(self.context.pin_memory(), self.target.pin_memory(), self.group)

    def validate(self, num_tokens: int, *, overlap: bool = False) -> None:
        """Return if these masks fit a grid of `num_tokens` tokens and hide every target from the context.

        Costs a pass over the masks (and a wait for the device), so the training loop does not call it.

        Args:
            num_tokens: of the grid.
            overlap: a token may be context and target (image world models predict another picture than they see).

        Raises:
            ValueError: a row is empty, an index is out of range or twice in its row, or a token is both context and
                target; the message names the first one.
        """
        for name, index in (("context", self.context), ("target", self.target)):
            if index.numel() == 0:
                raise ValueError(f"{name} is empty (shape {tuple(index.shape)}): every sample needs at least one token")
            outside = ((index < 0) | (index >= num_tokens)).nonzero()
            if len(outside):
                at = outside[0].tolist()
                raise ValueError(
                    f"{name}{at} is token {int(index[tuple(at)])}, but the grid has tokens 0 to {num_tokens - 1}"
                )
            ordered = index.sort(dim=-1).values
            twice = (ordered[..., 1:] == ordered[..., :-1]).nonzero()
            if len(twice):
                at = twice[0].tolist()
                raise ValueError(f"{name}{at[:-1]} holds token {int(ordered[tuple(at)])} more than once")
        if overlap:
            return
        flat = self.target.flatten(1)  # [B, M*T]
        seen = torch.zeros(flat.shape[0], num_tokens, dtype=torch.bool, device=flat.device).scatter_(
            1, self.context, True
        )
        leaked = seen.gather(1, flat).nonzero()  # [B, M*T] -> [L, 2]
        if len(leaked):
            row, place = leaked[0].tolist()
            raise ValueError(
                f"token {int(flat[row, place])} of row {row} is context and target: the prediction would see its answer"
            )


# accelerate, torch.export and pytree look into registered dataclasses only.
torch.export.register_dataclass(Masks, serialized_type_name="jepa_hub.masks.Masks")


def gather_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """The tokens at `index`, row by row.

    Args:
        tokens: [B, N, D].
        index: int64 [B, K], each in 0..N-1.

    Returns:
        [B, K, D]; gradients flow into `tokens`.

    Raises:
        ValueError: the shapes do not fit each other, or index is not int64.
    """
    if tokens.ndim != 3 or index.ndim != 2 or tokens.shape[0] != index.shape[0]:
        raise ValueError(
            f"expected tokens [B, N, D] and index [B, K], same B; got {tuple(tokens.shape)} and {tuple(index.shape)}"
            + ("; flatten the targets first: masks.target.flatten(1)" if index.ndim == 3 else "")
        )
    if index.dtype != torch.int64:
        raise ValueError(f"index must be int64, got {index.dtype}: convert with .long()")
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))  # [B, K, D]


def frame_masks(
    context_frames: Iterable[int],
    target_frames: Iterable[int],
    grid: tuple[int, int, int],
    tubelet_size: int,
    batch_size: int,
    group: int = 0,
    device: torch.device | str | None = None,
) -> Masks:
    """Masks that show whole frames and predict whole frames, the same for every sample.

    Args:
        context_frames: frames to see, for example range(0, 8). The tokens come in time order, whatever the order given.
        target_frames: frames to predict.
        grid: (T, H, W) in tokens; the clip has T * tubelet_size frames.
        tubelet_size: frames per token.
        batch_size: number of samples B.
        group: which mask token.
        device: where the indices go.

    Returns:
        context [B, C], target [B, 1, T].

    Raises:
        TypeError: the frames are not integers, or a single number stands where a range is meant.
        ValueError: frames are missing, doubled, out of range, fill part of a tubelet, or are both seen and predicted.
    """
    steps, height, width = check_grid(grid)
    for name, value in (("tubelet_size", tubelet_size), ("batch_size", batch_size)):
        if operator.index(value) < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}")
    seen = _whole_tubelets("context_frames", context_frames, steps, tubelet_size)
    predicted = _whole_tubelets("target_frames", target_frames, steps, tubelet_size)
    both = sorted(set(seen) & set(predicted))
    if both:
        frames = [step * tubelet_size + i for step in both for i in range(tubelet_size)]
        raise ValueError(
            f"frames {frames} are in context_frames and in target_frames: the prediction would see its answer"
        )
    tokens = torch.arange(steps * height * width, device=device).view(steps, height * width)
    context, target = tokens[seen].reshape(1, -1), tokens[predicted].reshape(1, 1, -1)  # [1, C], [1, 1, T]
    return Masks(context.repeat(batch_size, 1), target.repeat(batch_size, 1, 1), group)  # [B, C], [B, 1, T]


def _whole_tubelets(name: str, frames: Iterable[int], steps: int, tubelet_size: int) -> list[int]:
    """The time steps of the grid that `frames` fill, in order."""
    try:
        numbers = [operator.index(frame) for frame in frames]
    except TypeError:
        raise TypeError(f"{name} must be frame numbers such as range(0, 8) or [0, 1], got {frames!r}") from None
    if not numbers:
        raise ValueError(f"{name} is empty: name at least the {tubelet_size} frame(s) of one tubelet")
    num_frames = steps * tubelet_size
    outside = [frame for frame in numbers if not 0 <= frame < num_frames]
    if outside:
        raise ValueError(f"{name} has {outside[:8]}, but the clip has frames 0 to {num_frames - 1}")
    present = set(numbers)
    if len(present) < len(numbers):
        raise ValueError(f"{name} names a frame more than once: {numbers}")
    touched = sorted({frame // tubelet_size for frame in numbers})
    missing = sorted({step * tubelet_size + i for step in touched for i in range(tubelet_size)} - present)
    if missing:
        raise ValueError(
            f"{name} must fill whole tubelets of {tubelet_size} frames (0-{tubelet_size - 1}, {tubelet_size}-"
            f"{2 * tubelet_size - 1}, ...): add {missing[:8]} or drop their neighbours"
        )
    return touched


def check_grid(grid: Iterable[int]) -> tuple[int, int, int]:
    """(T, H, W) from (T, H, W) or (H, W), in tokens.

    Raises:
        TypeError: not two or three integers.
        ValueError: another number of axes, or an axis shorter than 1.
    """
    try:
        axes = tuple(operator.index(axis) for axis in grid)
    except TypeError:
        raise TypeError(f"grid must be (T, H, W) or (H, W) in whole tokens, got {grid!r}") from None
    if len(axes) not in (2, 3) or min(axes) < 1:
        raise ValueError(f"grid must be (T, H, W) or (H, W) in tokens, each 1 or more, got {axes}")
    steps, height, width = axes if len(axes) == 3 else (1, *axes)
    return steps, height, width
