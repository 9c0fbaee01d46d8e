"""Shipping a small model: half precision, whole or not at all, within the budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from jepa_hub.models.base import JEPAModel
from training import ship
from training.config import Settings
from training.loop import Run


def test_a_shipped_model_is_small_and_the_same(
    settings_of: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = Run(settings_of()).train()
    weights = tmp_path / "weights"
    folder = ship.ship(final, "ijepa-tiny-patterns", weights)
    model, original = JEPAModel.from_pretrained(folder), JEPAModel.from_pretrained(final)
    assert model.dtype == torch.float32 and sorted(path.name for path in weights.iterdir()) == ["ijepa-tiny-patterns"]
    small, large = ((each / "model.safetensors").stat().st_size for each in (folder, final))
    assert small < 0.6 * large
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.allclose(model.encode(pixels).tokens, original.encode(pixels).tokens, atol=2e-2)
    card = (folder / "README.md").read_text()
    assert "ijepa-tiny-patterns" in card and "license: apache-2.0" in card and (folder / "settings.yaml").is_file()
    monkeypatch.setattr(ship, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match=r"has .* bytes \(most 1,000\)"):
        ship.ship(final, "another", weights)
    assert sorted(path.name for path in weights.iterdir()) == ["ijepa-tiny-patterns"]
