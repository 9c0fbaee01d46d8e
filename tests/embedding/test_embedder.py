"""Settings, devices and fingerprints; what an Embedder computes is tested in test_embed.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from jepa_hub.embedding.embedder import Settings, choose_device, fingerprint


@pytest.mark.parametrize(
    "wrong",
    [{"dtype": "float8"}, {"stored_dtype": "bfloat16"}, {"preprocessing": "mine"}],
    ids=lambda each: next(iter(each)),
)
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="choose"):
        Settings(model="x", **wrong)


def test_devices() -> None:
    assert choose_device("cpu").type == "cpu" and choose_device("auto").type in {"cpu", "cuda", "mps"}
    with pytest.raises(ValueError, match="not known"):
        choose_device("gpu9")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="doctor"):
            choose_device("cuda")


def test_a_fingerprint_sees_values_and_names() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(300, 5)
    first = fingerprint(layer)
    assert first == fingerprint(layer) and len(first) == 16
    assert fingerprint(torch.nn.Sequential(layer)) != first
    with torch.no_grad():
        layer.bias.add_(1)
    assert fingerprint(layer) != first
