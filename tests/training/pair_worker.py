"""Loss and gradients of the method llip over two gloo workers, for comparison with one."""

from __future__ import annotations

from typing import Any

import torch

from tests.training.neighbour_worker import compute

WORDS = ["a", "red", "blue", "green", "cube", "cone", "of", "and", "the", "left", "right", "two"]


def method_of(settings: dict[str, Any], **model: Any) -> Any:
    """A tiny method in double precision, its bias so that no term vanishes."""
    from tests.official import tiny_model
    from training.methods.llip import Llip

    made = tiny_model("llip", **{"tokenizer": "package:captions", "vocab_size": 59, **model})
    with torch.no_grad():
        made.mixing.logit_bias.fill_(-1.0)
    return Llip(made, Llip.Settings(**settings)).double().train()


def batch_of(rank: int | None, captions: int = 1) -> dict[str, Any]:
    """The batch of one of two workers, or (None) the joined one: 2 x 4 pictures with `captions` texts each."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randn(8, 3, 1, 32, 32, generator=draw).double()
    texts = [f"{WORDS[1 + i % 3]} {WORDS[4 + i % 2]} {WORDS[i % len(WORDS)]}" for i in range(8 * captions)]
    ids = torch.arange(1, 8 * captions + 1)
    known = torch.stack([torch.tensor([i * captions + 1, (i * captions + 5) % len(ids) + 1, 0]) for i in range(8)])
    rows = slice(None) if rank is None else slice(4 * rank, 4 * rank + 4)
    chosen = slice(None) if rank is None else slice(4 * captions * rank, 4 * captions * (rank + 1))
    return {"pixels": pixels[rows], "captions": texts[chosen], "caption_ids": ids[chosen], "known_ids": known[rows]}


def work(rank: int, settings: dict[str, Any], model: dict[str, Any], captions: int, out: str) -> None:
    """One of two workers; see `compute`."""
    compute(rank, method_of(settings, **model), batch_of(rank, captions), out)
