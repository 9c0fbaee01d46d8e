"""int8: the products become integers, what it would harm stays float32, and a hopeless model is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

from export import quantise, samples
from export.runtime import OnnxJEPAModel
from export.to_onnx import to_onnx
from jepa_hub.models.base import JEPAModel
from tests.official import tiny_model


def calibration(model: Any) -> Any:
    return lambda graph: [
        samples.graph_inputs(graph, samples.pixels(model.config, None, batch=2, seed=5), model.config)
    ]


def products(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_model(path).graph.node)


@pytest.mark.parametrize("precision", ["int8", pytest.param("int8_static", marks=pytest.mark.slow)])
def test_a_shipped_model_in_int8(precision: str, tmp_path: Path) -> None:
    model = JEPAModel.from_pretrained("ijepa-tiny-scenes", networks=("target_encoder",))
    (written,) = to_onnx(model, tmp_path, precision=precision, calibration=calibration(model))
    kinds = products(written.path)
    assert kinds["MatMulInteger"] + kinds["QuantizeLinear"] >= 17  # patches and four products of four blocks
    pixels = samples.pixels(model.config, None, batch=4)
    got, wanted = OnnxJEPAModel.from_pretrained(tmp_path, precision=precision).encode(pixels), model.encode(pixels)
    cosines = torch.nn.functional.cosine_similarity(got.tokens, wanted.tokens, dim=-1)
    assert cosines.mean() >= 0.999 and not torch.equal(got.tokens, wanted.tokens)
    assert sorted(path.name for path in (tmp_path / "onnx").iterdir()) == [f"model_{precision}.onnx"]  # no leftovers


def with_an_outlier() -> Any:
    """One channel of one product is so large that the others vanish in eight bits."""
    model = tiny_model("ijepa", num_hidden_layers=4, networks=["encoder"])
    with torch.no_grad():
        block = model.encoder.blocks[2]
        block.mlp.fc1.bias[0] = 3000.0
        block.mlp.fc2.weight[:, 0] = 0.0  # in float32 it does nothing at all
        block.mlp.fc2.weight.mul_(30)
    return model


@pytest.mark.slow
def test_what_int8_harms_stays_float32(tmp_path: Path) -> None:
    model = with_an_outlier()
    said: list[str] = []
    chosen: dict[str, Any] = {"precision": "int8", "graphs": ["features"]}
    to_onnx(model, tmp_path, calibration=calibration(model), progress=said.append, **chosen)
    assert any("looking for the products" in each for each in said)
    pixels = samples.pixels(model.config, None, batch=2)
    wanted = model.encode(pixels).tokens
    got = OnnxJEPAModel.from_pretrained(tmp_path, precision="int8").encode(pixels).tokens
    assert torch.nn.functional.cosine_similarity(got, wanted, dim=-1).mean() > 0.999
    to_onnx(model, tmp_path / "blind", **chosen)  # without inputs nothing can be measured, and it shows
    blind = OnnxJEPAModel.from_pretrained(tmp_path / "blind", precision="int8").encode(pixels).tokens
    assert torch.nn.functional.cosine_similarity(blind, wanted, dim=-1).mean() < 0.999


def test_a_hopeless_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantise, "MOST_LEFT", 0.0)
    model = with_an_outlier()
    with pytest.raises(ValueError, match="this model needs fp16"):
        to_onnx(model, tmp_path, precision="int8", graphs=["features"], calibration=calibration(model))
    assert not list((tmp_path / "onnx").iterdir())  # a refused file is not left to be used
