"""All numbers of a module that workers agree on, as one vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Flat:
    """Parameters (trained or not, so moving averages too) and saved floating-point buffers (BatchNorm's statistics).

    Half-precision tensors are summed in float32, so that no mass is lost to rounding.

    Args:
        module: whose tensors; a tensor that two names share counts once.
        buffers: whether saved buffers belong to it.

    Attributes:
        dtype: of the vector: float64 if any tensor is, else float32.
        device: of the vector.
        count: its length.
    """

    def __init__(self, module: nn.Module, *, buffers: bool = True) -> None:
        saved = module.state_dict(keep_vars=True).keys()
        found: dict[int, Tensor] = {id(each): each for each in module.parameters()}
        if buffers:
            kept = [each for name, each in module.named_buffers() if name in saved and each.is_floating_point()]
            found |= {id(each): each for each in kept}
        self.tensors = list(found.values())
        if not self.tensors:
            raise ValueError(f"{type(module).__name__} holds nothing that workers could agree on")
        self.dtype = torch.float64 if any(each.dtype == torch.float64 for each in self.tensors) else torch.float32
        self.device = self.tensors[0].device
        self.sizes = [each.numel() for each in self.tensors]
        self.count = sum(self.sizes)

    @torch.no_grad()
    def read(self) -> Tensor:
        """The module's numbers as a new vector [count]."""
        return torch.cat([each.detach().reshape(-1).to(self.dtype) for each in self.tensors])

    @torch.no_grad()
    def write(self, vector: Tensor) -> None:
        """Put a vector [count] into the module, in place."""
        parts = vector.split(self.sizes)
        torch._foreach_copy_(
            self.tensors, [part.view(each.shape) for part, each in zip(parts, self.tensors, strict=True)]
        )

    @torch.no_grad()
    def rounded(self, vector: Tensor) -> Tensor:
        """What `read` would give after `write(vector)`: the vector in the tensors' own precision."""
        if all(each.dtype == self.dtype for each in self.tensors):
            return vector
        parts = vector.split(self.sizes)
        return torch.cat([part.to(own.dtype).to(self.dtype) for part, own in zip(parts, self.tensors, strict=True)])
