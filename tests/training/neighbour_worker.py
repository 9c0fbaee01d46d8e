"""Loss and gradients of a method over two gloo workers, for comparison with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def method_of(name: str) -> Any:
    """A tiny method whose batch norms are fixed, so that a sample's embedding does not depend on its batch."""
    from tests.official import tiny_model
    from training.methods.registry import method_class

    kind = method_class(name)
    model = tiny_model("paws", prediction=name == "paws")
    method = kind(model, kind.Settings()).double()
    spread = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(4)).double()
    with torch.no_grad():  # statistics that spread the embeddings out, else no gradient is worth comparing
        for _ in range(60):
            method.train().model.embed(spread)
    return method.eval()


def batch_of(rank: int | None, unique: bool) -> dict[str, Any]:
    """The batch of one of two workers, or (None) the joined one: 2 x 3 samples, 2 x 6 supports in two views."""
    draw = torch.Generator().manual_seed(0)
    samples = [torch.randn(2, 3, 3, 1, 32, 32, generator=draw).double() for _ in range(2)]  # [worker, B, ...] per view
    samples += [torch.randn(2, 3, 3, 1, 16, 16, generator=draw).double() for _ in range(2)]
    support = torch.randn(2, 2, 6, 3, 1, 32, 32, generator=draw).double()  # [worker, view, S, ...]
    labels = torch.tensor([[0, 1, 2] * 2, [3, 4, 5] * 2 if unique else [0, 1, 2] * 2])
    pick = slice(None) if rank is None else slice(rank, rank + 1)
    views = [each[pick].flatten(0, 1) for each in samples]
    pixels = support[pick].transpose(0, 1).flatten(0, 2)  # view by view
    return {
        "pixels": views[0],
        "views": views,
        "labels": {},
        "support": {
            "pixels": pixels,
            "labels": labels[pick].flatten(),
            "classes": torch.arange(3),
            "num_classes": 6 if unique else 3,
            "label": "none",
        },
    }


def gradients(method: nn.Module) -> dict[str, Tensor]:
    """Of every parameter, by name."""
    return {
        name.removeprefix("module."): each.grad for name, each in method.named_parameters() if each.grad is not None
    }


def compute(rank: int, method: nn.Module, batch: dict[str, Any], out: str) -> None:
    """One of two workers; the first writes the mean loss and the gradients that data parallelism made to `out`."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from training.process_group import leave

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}.store", rank=rank, world_size=2)
    parallel = DistributedDataParallel(method)
    loss = parallel(batch)["loss"]
    loss.backward()
    mean = loss.detach().clone()
    dist.all_reduce(mean)
    if rank == 0:
        torch.save({"loss": mean / 2, "gradients": gradients(parallel)}, Path(out))
    del parallel, loss  # the reducer must end before its group does
    leave()


def work(rank: int, name: str, unique: bool, out: str) -> None:
    """One of two workers of the method of a name; see `compute`."""
    compute(rank, method_of(name), batch_of(rank, unique), out)
