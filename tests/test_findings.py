"""What docs/upstream.md says is wrong in other code is what docs/findings.py finds, and is right in ours."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType

import pytest
import torch

from tests.hub_server import ROOT
from tests.official import tiny_model


@pytest.fixture(scope="module")
def findings() -> ModuleType:
    spec = importlib.util.spec_from_file_location("findings", ROOT / "docs" / "findings.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_transformers(findings: ModuleType) -> None:
    assert findings.prediction_sees_its_target() > 0.01
    assert findings.places_are_mixed_up() == ([0, 1, 2, 3, 0, 1], [0, 0, 0, 0, 1, 1])
    assert "out of bounds" in findings.several_targets_fail()
    assert findings.last_frame_is_dropped() == 2
    assert not findings.pipeline_reads_another_name()
    assert findings.no_mask_token()


def test_masks(findings: ModuleType) -> None:
    faithful, corrected, lost = findings.context_masks_lose_their_end()
    assert faithful[0] > 0.7 and faithful[-1] == 0.0 and 0.2 < lost < 0.35
    assert abs(corrected[0] - corrected[-1]) < 0.05 and min(corrected) > 0.15


def test_ours_does_not(findings: ModuleType) -> None:
    """The same questions to this package: several targets, an odd frame, positions of another size."""
    model = tiny_model("vjepa2")
    clip = findings.clip().transpose(1, 2)
    from jepa_hub.masks import Masks

    masks = Masks(torch.arange(16)[None], torch.arange(16, 40).view(1, 2, 12))
    assert model.predict(clip, masks=masks).shape[:3] == (1, 2, 12)
    with pytest.raises(ValueError, match="5"):
        model.encode(clip[:, :, :5])
    tall = torch.randn(1, 3, 8, 48, 32)
    tall[..., 32:40, :] = tall[..., 0:8, :]
    grid = model.encode(tall).grid
    assert grid.shape[1:4] == (4, 6, 4) and not torch.allclose(grid[:, :, 4], grid[:, :, 0], atol=1e-4)


def test_every_finding_has_a_row(findings: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    findings.main()
    shown = re.findall(r"^(\d)\. (\w+)", capsys.readouterr().out, re.MULTILINE)
    rows = re.findall(r"^\| (\d) \|", (ROOT / "docs" / "upstream.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [number for number, _ in shown] == rows == [str(number) for number in range(1, 8)]
