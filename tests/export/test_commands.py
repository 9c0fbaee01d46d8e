"""`jepa-hub export` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from export.commands import app
from export.runtime import OnnxJEPAModel
from jepa_hub.models.base import JEPAModel
from tests.hub_store import Hub
from tests.official import tiny_model, tiny_pixels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model("ijepa", num_hidden_layers=1, networks=["encoder"]).save_pretrained(tmp_path / "my_model")
    return tmp_path / "my_model"


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result.output


def test_int8_beside_the_weights_checked_and_pushed(folder: Path, hub: Hub) -> None:
    said = run(folder, "--precision", "int8", "--push-to-hub", "tester/small")
    assert "passed" in said and "cosine" in said and "pushed to tester/small" in said
    report = json.loads((folder / "onnx" / "verify_int8.json").read_text())
    assert report[0]["passed"] and len(report[0]["comparisons"]) == 4
    assert "onnx/model_int8.onnx" in hub.files("tester/small") and "onnx/verify_int8.json" in hub.files("tester/small")
    pixels, model = tiny_pixels("ijepa"), JEPAModel.from_pretrained(folder)
    got = OnnxJEPAModel.from_pretrained("tester/small", precision="int8").encode(pixels).tokens
    assert torch.nn.functional.cosine_similarity(got, model.encode(pixels).tokens, dim=-1).min() > 0.999


def test_a_file_that_is_not_the_model_exits_non_zero_and_is_not_pushed(
    folder: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from export import verify
    from export.verify import Bounds

    monkeypatch.setitem(verify.BOUNDS, "fp32", Bounds(1.1, 1.1, 0))  # no file reaches these
    said = run(folder, "--push-to-hub", "tester/small", code=1)
    assert "FAILED" in said and "model.onnx was removed" in said
    assert not list((folder / "onnx").glob("model*")) and (folder / "onnx" / "verify_fp32.txt").is_file()
    assert not hub.count("/api/repos/create")


def test_the_trtexec_line(folder: Path) -> None:
    sizes = [f"--range={each}" for each in ("batch=1:8:32", "height=32:64:128", "width=64")]
    said = run(folder, "--to", "tensorrt", "--precision", "fp16", "--show-command", *sizes)
    assert (
        "--stronglyTyped" in said and "--optShapes=pixel_values:8x3x64x64" in said and "half precision emulated" in said
    )


def test_wrong_arguments(folder: Path) -> None:
    for arguments, words in (
        (["--to", "coreml"], "choose one of onnx"),
        (["--precision", "int4"], "precision is one of"),
        (["--precision", "int8_static"], "scaled by pictures"),
        (["--to", "tensorrt", "--precision", "int8"], "TensorRT takes"),
        (["--graph", "logits"], "no graph logits"),
    ):
        result = CliRunner().invoke(app, [str(folder), *arguments])
        assert result.exit_code == 1 and words in str(result.exception), result.output
