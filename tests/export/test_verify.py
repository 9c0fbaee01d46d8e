"""verify catches what it is for: a changed layer, norms that overflow in half precision; and names the place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from export import checking, precision, samples
from export.prepare import Exported
from export.sessions import OnnxSession
from export.to_onnx import to_onnx
from export.verify import BOUNDS, Report, verify
from tests.export.exports import cases
from tests.official import tiny_model


def features(model: Any, folder: Path, kind: str = "fp32") -> Exported:
    return to_onnx(model, folder, precision=kind, graphs=["features"])[0]


def check(model: Any, written: Exported, rounds: int = 0) -> Report:
    inputs = [samples.graph_inputs(written.graph, pixels, model.config) for pixels in cases(model)]
    session = OnnxSession(written.path, "cpu", emulate_half=written.precision in precision.HALF)
    return verify(written.graph, session, inputs, path=written.path, precision=written.precision, rounds=rounds)


def test_a_faithful_file_passes_and_the_report_says_all(tmp_path: Path) -> None:
    model = tiny_model("ijepa")
    report = check(model, features(model, tmp_path), rounds=5)
    assert report.passed and not report.drift and len(report.comparisons) == 3
    told = json.loads(report.to_json())
    assert told["passed"] and told["ratios"]["latency"] > 0 and told["runs_on"] == ["CPUExecutionProvider"]
    assert told["comparisons"][2]["case"].startswith("5x3x") and told["comparisons"][2]["max_error"] < 1e-4
    assert "passed" in report.text() and "5x3x" in report.text()


def test_one_layer_scaled_is_caught_and_named(tmp_path: Path) -> None:
    model = tiny_model("vjepa2")
    written = features(model, tmp_path)
    file = onnx.load_model(written.path)
    wanted = model.target_encoder.blocks[1].mlp.fc2.bias.detach().numpy()
    (bias,) = [
        each
        for each in file.graph.initializer
        if list(each.dims) == list(wanted.shape) and np.array_equal(onnx.numpy_helper.to_array(each), wanted)
    ]
    bias.CopyFrom(onnx.numpy_helper.from_array(wanted * np.float32(1.5), bias.name))
    onnx.save_model(file, written.path)
    report = check(model, written)
    assert not report.passed
    assert report.culprit is not None and report.culprit.module == "encoder.blocks.1.mlp"
    assert "FAILED" in report.text() and "leaves torch at encoder.blocks.1.mlp" in report.text()
    intact = [each for each in report.drift if ".blocks.0" in each.module]
    assert len(intact) == 5 and all(each.cosine > 0.9999 for each in intact)


def test_a_wrong_mask_token_of_another_group_is_caught(tmp_path: Path) -> None:
    model = tiny_model("vjepa2", num_mask_tokens=2)
    written = to_onnx(model, tmp_path, graphs=["prediction"])
    assert checking.check(model, None, written, tell=lambda text: None)
    with torch.no_grad():
        model.predictor.mask_tokens[1].normal_()
    assert not checking.check(model, None, written, tell=lambda text: None)
    assert not written[0].path.exists()  # what is not the model is removed


class HalfNorm(nn.Module):
    """What a runtime does that is free to choose: the squares of float16 values in float16."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        variance = (centred * centred).mean(dim=-1, keepdim=True)
        return centred / (variance + self.norm.eps).sqrt() * self.norm.weight + self.norm.bias


def with_large_activations() -> Any:
    """As in trained ViTs of size: a few channels of the residual stream are in the hundreds."""
    model = tiny_model("ijepa")
    with torch.no_grad():
        model.target_encoder.patch_embed.proj.bias[::7] += 700
    return model


@pytest.mark.parametrize("kind", ["fp16", pytest.param("bf16", marks=pytest.mark.slow)])
def test_half_precision_keeps_norms_that_would_overflow(kind: str, tmp_path: Path) -> None:
    model = with_large_activations() if kind == "fp16" else tiny_model("ijepa")
    written = features(model, tmp_path, kind)
    report = check(model, written)
    assert report.passed, report.text()
    assert "half precision emulated" in report.runs_on
    stored = {tensor.data_type for tensor in onnx.load_model(written.path).graph.initializer if len(tensor.dims) == 2}
    assert stored == {{"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[kind]}


def test_all_half_norms_overflow_and_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "Float32Norm", HalfNorm)
    model = with_large_activations()
    report = check(model, features(model, tmp_path, "fp16"))
    assert not report.passed
    assert report.comparisons[0].relative > BOUNDS["fp16"].relative
    assert report.culprit is not None and report.culprit.module == "encoder.blocks.0.norm1"


def test_not_finite_never_passes(tmp_path: Path) -> None:
    model = tiny_model("ijepa")
    written = features(model, tmp_path)
    with torch.no_grad():
        model.target_encoder.norm.weight.fill_(float("nan"))  # both sides now differ in being numbers at all
    assert not check(model, written).passed
