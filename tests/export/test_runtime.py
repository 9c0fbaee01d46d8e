"""The runtime: layers, windows, probes, the Hub, and what it refuses."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from export import files
from export.publish import push
from export.runtime import OnnxJEPAModel
from export.sessions import OnnxSession
from export.to_onnx import to_onnx
from jepa_hub.features import Features
from jepa_hub.models.base import JEPAModel
from jepa_hub.models.probe import Probe, ProbeConfig
from jepa_hub.processing import JEPAProcessor
from tests.hub_store import Hub
from tests.official import tiny_model, tiny_pixels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip model, with two of its blocks among the outputs, and its large tensors in a file of their own."""
    target = tmp_path_factory.mktemp("exported")
    to_onnx(clip_model(), target, graphs=["features"], layers=[0, -1], external_data_above=1000)
    return target


def assert_close(got: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(got, wanted, atol=2e-5, rtol=1e-5)


def clip_model() -> Any:
    return tiny_model("vjepa2", num_hidden_layers=2)


def test_layers_windows_padding_and_stills(folder: Path) -> None:
    model, exported = clip_model(), OnnxJEPAModel.from_pretrained(folder)
    pixels = tiny_pixels("vjepa2")
    wanted, got = model.encode(pixels, layers=[0, -1]), exported.encode(pixels, layers=[0, -1])
    for layer in (0, -1):
        assert_close(got.layers[layer], wanted.layers[layer])
    choices: list[dict[str, Any]] = [{"window_frames": 4, "stride_frames": 2}, {"pad": True}]
    for settings in choices:
        clip = pixels if "pad" not in settings else pixels[:, :, :7, :30, :25]
        assert_close(exported.encode(clip, **settings).tokens, model.encode(clip, **settings).tokens)
    still = pixels[:, :, :1]
    assert_close(exported.encode(still).tokens, model.encode(still).tokens)
    assert not list(exported.parameters())  # whoever asks a parameter for its device would get "meta"
    assert exported.providers == ["CPUExecutionProvider"] and str(exported.device) == "cpu"


def test_errors_are_for_people(folder: Path, tmp_path: Path) -> None:
    exported, pixels = OnnxJEPAModel.from_pretrained(folder), tiny_pixels("vjepa2")
    with pytest.raises(ValueError, match=r"blocks \[1\].*--layer 1"):
        exported.encode(pixels, layers=[1])
    with pytest.raises(ValueError, match="exported without predictions"):
        exported.predict(pixels, context=range(4), target=range(4, 8))
    with pytest.raises(ValueError, match="would lose frames"):
        exported.encode(pixels[:, :, :7])
    with pytest.raises(ValueError, match="NaN"):
        exported.encode(pixels * float("nan"))
    with pytest.raises(ValueError, match="holds no torch weights"):
        exported.save_pretrained(tmp_path)
    with pytest.raises(OSError, match=r"model_int8\.onnx; write it with `jepa-hub export"):
        OnnxJEPAModel.from_pretrained(folder, precision="int8")
    with pytest.raises(RuntimeError, match="did not give CUDAExecutionProvider"):
        OnnxJEPAModel.from_pretrained(folder, provider="cuda")
    with pytest.raises(ValueError, match="no graph logits"):
        to_onnx(clip_model(), tmp_path, graphs=["logits"])
    with pytest.raises(ValueError, match="another model"):
        to_onnx(tiny_model("ijepa"), folder, graphs=["features"])


def test_two_graphs_never_share_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph of a family's own that is called as a probe's main graph would be `model.onnx`, over the features."""
    model = tiny_model("ijepa", networks=["encoder"])
    (features,) = model.graphs()
    monkeypatch.setattr(type(model), "graphs", lambda self: [features, replace(features, name="logits")])
    with pytest.raises(RuntimeError, match="share a file"):
        to_onnx(model, tmp_path)
    assert not list(tmp_path.rglob("*.onnx"))


def test_the_file_says_what_it_is(folder: Path) -> None:
    told = OnnxSession(folder / "onnx" / "model.onnx").metadata
    assert told["graph"] == "features" and told["precision"] == "fp32" and told["opset"] == 20
    assert told["licence"] == "not stated" and told["config"]["model_type"] == "jepa_hub_vjepa2"
    text = (folder / "onnx" / "model.onnx").read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in text  # no stack traces of the machine that wrote it
    assert (folder / "onnx" / "model.onnx_data").stat().st_size > len(text) / 4


def redirected(folder: Path, tmp_path: Path, location: str) -> Path:
    """A copy of the file whose tensors are said to lie in `location`."""
    model = onnx.load_model(folder / "onnx" / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    target = tmp_path / "repo" / "onnx"
    target.mkdir(parents=True)
    (target.parent / "config.json").write_bytes((folder / "config.json").read_bytes())
    (target / "model.onnx").write_bytes(model.SerializeToString())
    return target


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../secret", "C:\\secret", "..\\secret", ""])
def test_data_outside_the_folder_is_refused(folder: Path, tmp_path: Path, location: str) -> None:
    target = redirected(folder, tmp_path, location)
    (tmp_path / "repo" / "secret").write_bytes(bytes(1 << 20))
    with pytest.raises(OSError, match="outside the folder"):
        OnnxJEPAModel.from_pretrained(target.parent)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_that_leave_the_folder_are_refused(folder: Path, tmp_path: Path) -> None:
    target = redirected(folder, tmp_path, "model.onnx_data")
    (tmp_path / "secret").write_bytes(bytes(1 << 20))
    os.symlink(tmp_path / "secret", target / "model.onnx_data")
    with pytest.raises(OSError, match="link to"):
        OnnxJEPAModel.from_pretrained(target.parent)


def test_data_of_tensors_inside_nodes_is_found(tmp_path: Path) -> None:
    hidden = onnx.helper.make_tensor("hidden", onnx.TensorProto.FLOAT, [1], np.zeros(1, np.float32).tobytes(), raw=True)
    onnx.external_data_helper.set_external_data(hidden, location="../../secret")
    hidden.ClearField("raw_data")
    inner = onnx.helper.make_graph([onnx.helper.make_node("Constant", [], ["c"], value=hidden)], "inner", [], [])
    node = onnx.helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [])).SerializeToString())
    with pytest.raises(OSError, match="'hidden' lies in"):
        files.external_files(path)
    path.write_bytes(b"no model at all" * 99)
    with pytest.raises(OSError, match="torn"):
        files.external_files(path)


def test_round_trip_through_the_hub(folder: Path, hub: Hub, offline: Any) -> None:
    push(folder, "tester/exported")
    names = hub.files("tester/exported")
    assert {"config.json", "onnx/model.onnx", "onnx/model.onnx_data"} <= set(names)
    pixels = tiny_pixels("vjepa2")
    wanted = clip_model().encode(pixels).tokens
    assert_close(OnnxJEPAModel.from_pretrained("tester/exported").encode(pixels).tokens, wanted)
    with offline() as requests:  # and again, without a connection
        OnnxJEPAModel.from_pretrained("tester/exported").encode(pixels)
    assert requests == []


def test_one_repository_serves_both(folder: Path, hub: Hub) -> None:
    model = clip_model()
    model.push_to_hub("tester/both")
    push(folder, "tester/both")
    assert "onnx/model.onnx" in hub.files("tester/both") and "model.safetensors" in hub.files("tester/both")
    pixels = tiny_pixels("vjepa2")
    exported, loaded = OnnxJEPAModel.from_pretrained("tester/both"), JEPAModel.from_pretrained("tester/both")
    assert_close(exported.encode(pixels).tokens, loaded.encode(pixels).tokens)
    loaded.push_to_hub("tester/both")  # new weights keep the exports
    assert "onnx/model.onnx" in hub.files("tester/both")
    with pytest.raises(ValueError, match="machine code"):
        OnnxJEPAModel.from_pretrained("tester/both", file_format="aoti")


@pytest.mark.parametrize("kind", ["attentive", "linear"])
def test_probes(kind: str, tmp_path: Path) -> None:
    backbone = tiny_model("ijepa", num_hidden_layers=1, networks=["encoder"])
    config = ProbeConfig(kind=kind, hidden_size=48, num_attention_heads=2, id2label={0: "cat", 1: "dog", 2: "owl"})
    probe = Probe(config).attach(backbone).eval()
    assert [each.graph.name for each in to_onnx(probe, tmp_path)] == ["logits", "head"]
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "jepa_hub_probe"
    exported = OnnxJEPAModel.from_pretrained(tmp_path)
    pixels = torch.randn(3, 3, 32, 48)
    wanted = probe.classify(pixels, top=2)
    for inputs in (pixels, Features(backbone.encode(pixels).tokens, (1, 4, 6))):
        got = exported.classify(inputs, top=2)
        assert got.labels == wanted.labels
        assert_close(got.probabilities, wanted.probabilities)


def test_preprocessing_travels(tmp_path: Path) -> None:
    processor = JEPAProcessor(image_size=32, patch_size=8)
    to_onnx(tiny_model("ijepa", num_hidden_layers=1), tmp_path, graphs=["features"], processor=processor)
    assert JEPAProcessor.from_pretrained(tmp_path) == processor == OnnxJEPAModel.from_pretrained(tmp_path).processor
