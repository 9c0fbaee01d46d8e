"""A finished run on the Hub: what comes back is what was trained, with a card that says how."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from jepa_hub.models.base import JEPAModel
from jepa_hub.processing import JEPAProcessor
from tests.hub_store import Hub
from training.config import Settings
from training.loop import Run
from training.publish import push


def test_a_pushed_run_comes_back_identical(hub: Hub, settings_of: Callable[..., Settings], tmp_path: Path) -> None:
    run = Run(settings_of())
    final = run.train()
    push(final, "me/tiny-run")
    model = JEPAModel.from_pretrained("me/tiny-run")
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mine = run.bare_method.model.eval().encode(pixels).tokens
    assert torch.equal(model.encode(pixels).tokens, mine)
    assert JEPAProcessor.from_pretrained("me/tiny-run").image_size == 32
    card = hub.files("me/tiny-run")["README.md"].decode()
    assert "license: apache-2.0" in card and "name: multi_block_2d" in card and "| loss |" in card
    push(final, "me/tiny-run")
    assert hub.files("me/tiny-run")["README.md"].decode() == card
