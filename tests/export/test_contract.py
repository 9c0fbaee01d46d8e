"""Every family exports to ONNX and computes the same at any batch, size and length; AOTInductor too, more slowly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from export.runtime import OnnxJEPAModel
from export.to_onnx import to_onnx
from jepa_hub.models.base import JEPAModel
from jepa_hub.models.registry import MODELS, model_class
from tests.export.exports import assert_same, exportable


@pytest.mark.parametrize("family", MODELS)
def test_onnx_is_the_model(family: str, tmp_path: Path) -> None:
    model = exportable(family)
    written = to_onnx(model, tmp_path)
    assert [each.graph.name for each in written] == [graph.name for graph in model.graphs()]
    exported = OnnxJEPAModel.from_pretrained(tmp_path)
    assert isinstance(exported, model_class(family)) and isinstance(exported, JEPAModel)
    assert_same(model, exported)


POSITIONS: list[tuple[str, dict[str, Any]]] = [
    ("vjepa", {"position_resize": "interpolate"}),
    ("ijepa", {"position_type": "learned"}),
    ("vjepa", {"position_type": "rotary_interleaved", "hidden_act": "swiglu"}),
    ("vjepa2", {"hidden_size": 60}),  # heads of 30: axes of odd width, so partners are looked up
]


@pytest.mark.parametrize(
    ("family", "settings"), [POSITIONS[0], *(pytest.param(*each, marks=pytest.mark.slow) for each in POSITIONS[1:])]
)
def test_positions_follow_the_size_inside_the_graph(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    model = exportable(family, networks=["encoder"], **settings)
    to_onnx(model, tmp_path)
    assert_same(model, OnnxJEPAModel.from_pretrained(tmp_path))
