"""`jepa-hub push`: all that belongs to a model, in one command; and nothing when a file is not the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from export import publish
from export.commands import push_app
from export.runtime import OnnxJEPAModel
from jepa_hub.catalog import CHECKPOINTS
from jepa_hub.models.base import JEPAModel
from jepa_hub.processing import JEPAProcessor
from tests.hub_server import ROOT
from tests.hub_store import Hub
from tests.official import tiny_model, write_official

SHIPPED = [name for name, row in CHECKPOINTS.items() if row.source.startswith("package:")]


def run(*arguments: object) -> str:
    result = CliRunner().invoke(push_app, [str(each) for each in arguments])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.output


def assert_whole(hub: Hub, name: str, repo_id: str) -> None:
    """The repository holds what the package ships, is that model, and its ONNX files say that they are."""
    files = hub.files(repo_id)
    for path in (ROOT / "jepa_hub" / "weights" / name).iterdir():
        assert path.name in files, path.name
        if path.name in ("settings.yaml", "metrics.json"):
            assert files[path.name] == path.read_bytes()
    card = files["README.md"].decode()
    assert f'JEPAModel.from_pretrained("{repo_id}")' in card and card.startswith("---\nlibrary_name: jepa_hub")
    assert b"/tmp" not in files["config.json"]
    reports = json.loads(files["onnx/verify_fp32.json"])
    assert reports and all(each["passed"] for each in reports) and "onnx/model.onnx" in files
    pushed, ours = JEPAModel.from_pretrained(repo_id), JEPAModel.from_pretrained(name)
    assert type(pushed) is type(ours)
    for key, value in ours.state_dict().items():
        assert torch.equal(pushed.state_dict()[key], value), key
    assert JEPAProcessor.from_pretrained(repo_id) == JEPAProcessor.from_pretrained(name)


def test_one_shipped_model(hub: Hub) -> None:
    said = run("ijepa-tiny-scenes", "me/first")
    assert "passed" in said and "pushed to me/first: " in said and "onnx/model.onnx" in said
    assert_whole(hub, "ijepa-tiny-scenes", "me/first")
    pixels = torch.randn(1, 3, 1, 64, 64)
    got = OnnxJEPAModel.from_pretrained("me/first").encode(pixels).tokens
    assert torch.allclose(got, JEPAModel.from_pretrained("ijepa-tiny-scenes").encode(pixels).tokens, atol=1e-3)


@pytest.mark.slow
def test_every_shipped_model_in_one_command(hub: Hub) -> None:
    run("--shipped", "me")
    for name in SHIPPED:
        assert_whole(hub, name, f"me/{name}")
    assert publish.shipped_names() == SHIPPED


def test_an_official_file_without_onnx(hub: Hub, tmp_path: Path) -> None:
    said = run(write_official(tmp_path / "vitl16.pth.tar", "vjepa_tiny_p16"), "me/official", "--no-onnx", "--private")
    files = hub.files("me/official")
    assert "model.safetensors" in files and "video_preprocessor_config.json" in files and "onnx" not in said
    assert b"me/official" in files["README.md"]


def test_a_file_that_is_not_the_model_uploads_nothing(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from export import verify
    from export.verify import Bounds

    model = tiny_model("ijepa", num_hidden_layers=1, networks=["encoder"])
    model.save_pretrained(tmp_path / "small")
    monkeypatch.setitem(verify.BOUNDS, "fp32", Bounds(1.1, 1.1, 0))  # no file reaches these
    result = CliRunner().invoke(push_app, [str(tmp_path / "small"), "me/small"])
    assert "nothing was uploaded" in str(result.exception)
    assert not hub.count("/api/repos/create")


def test_fewer_networks_do_not_replace_more(hub: Hub, tmp_path: Path) -> None:
    tiny_model("ijepa").save_pretrained(tmp_path / "all")
    tiny_model("ijepa", networks=["encoder"]).save_pretrained(tmp_path / "one")
    run(tmp_path / "all", "me/model", "--no-onnx")
    before = hub.files("me/model")["model.safetensors"]
    result = CliRunner().invoke(push_app, [str(tmp_path / "one"), "me/model", "--no-onnx"])
    assert "which this model lacks" in str(result.exception)
    assert hub.files("me/model")["model.safetensors"] == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "say what to push and where"),
        (["ijepa-tiny-scenes"], "say what to push and where"),
        (["ijepa-tiny-scenes", "me/x", "--shipped", "me"], "say what to push and where"),
        (["--shipped", "me/x"], "an owner is wanted"),
        (["ijepa-tiny-scenes", "me/x", "--precision", "fp12"], "precision is one of"),
        (["ijepa-tiny-scnes", "me/x"], "did you mean ijepa-tiny-scenes"),
    ],
)
def test_wrong_arguments(arguments: list[str], words: str, hub: Hub) -> None:
    result = CliRunner().invoke(push_app, arguments)
    assert result.exit_code != 0 and words in str(result.exception)
    assert not hub.count("/api/repos/create")
