"""torch.hub finds the entry points of a clone, and they give what from_pretrained gives."""

from __future__ import annotations

import importlib

import pytest
import torch

from jepa_hub.models.base import JEPAModel
from jepa_hub.processing import JEPAProcessor
from tests.hub_server import ROOT, run_python
from tests.official import tiny_pixels

CLONE = str(ROOT)


def test_the_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(CLONE)
    entries = torch.hub._load_entry_from_hubconf(importlib.import_module("hubconf"), "jepa_model")
    assert "from_pretrained" in str(entries.__doc__)
    with pytest.raises(RuntimeError, match="jepa_modle"):
        torch.hub.load(CLONE, "jepa_modle", "ijepa-tiny-scenes", source="local")


def test_the_same_model_and_processor() -> None:
    found = torch.hub.load(CLONE, "jepa_model", "ijepa-tiny-scenes", source="local")
    pixels = tiny_pixels("ijepa")
    assert torch.equal(
        found.encode(pixels).tokens, JEPAModel.from_pretrained("ijepa-tiny-scenes").encode(pixels).tokens
    )
    processor = torch.hub.load(CLONE, "jepa_processor", "ijepa-tiny-scenes", source="local", image_size=32)
    assert processor == JEPAProcessor.from_pretrained("ijepa-tiny-scenes", image_size=32)
    with pytest.raises(FileNotFoundError, match="did you mean ijepa-tiny-scenes"):
        torch.hub.load(CLONE, "jepa_model", "ijepa-tiny-scnes", source="local")


def test_importing_it_imports_nothing_heavy() -> None:
    code = f"import sys; sys.path[:0] = [{CLONE!r}]; import hubconf; print({{'torch', 'jepa_hub'}} & set(sys.modules))"
    assert run_python(["-c", code]).stdout.strip() == "set()"
