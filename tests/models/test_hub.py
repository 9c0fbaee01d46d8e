"""Push and pull over HTTP: shards, revisions, offline use, cards that stay, and downloads of official files."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, VJEPA2Config, VJEPA2Model

import jepa_hub.models  # noqa: F401 - registers the Auto classes
from jepa_hub import catalog
from jepa_hub import hub as hub_module
from jepa_hub.models.base import JEPAModel
from jepa_hub.models.ijepa import IJepaModel
from jepa_hub.models.probe import Probe
from tests.hub_store import Hub, Request
from tests.official import official_probe, tiny_model, tiny_pixels, write_official

Offline = Callable[[], AbstractContextManager[list[Request]]]
CARD = "---\nlicense: mit  # a comment that a YAML writer would lose\n---\n\nMine.\n"


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_push_and_pull_sharded_then_offline(hub: Hub, offline: Offline) -> None:
    model = tiny_model("vjepa2")
    model.push_to_hub("me/tiny", max_shard_size="60KB")
    files = hub.files("me/tiny")
    assert len([name for name in files if name.startswith("model-")]) > 2
    assert {"config.json", "model.safetensors.index.json", "README.md"} <= files.keys()
    pulled = JEPAModel.from_pretrained("me/tiny")
    assert type(pulled) is type(model) and same(pulled.state_dict(), model.state_dict())
    assert pulled.config.provenance == "me/tiny"
    with offline() as requests:
        again = JEPAModel.from_pretrained("me/tiny")
        assert same(again.state_dict(), model.state_dict())
        assert same(AutoModel.from_pretrained("me/tiny").state_dict(), model.state_dict())
        with pytest.raises(OSError, match="me/other is not in the cache and downloads are off"):
            JEPAModel.from_pretrained("me/other")
    assert requests == []
    with pytest.raises(OSError, match="not in the cache"):
        JEPAModel.from_pretrained("me/other", local_files_only=True)


def test_stale_shards_are_removed(hub: Hub) -> None:
    tiny_model("ijepa").push_to_hub("me/tiny", max_shard_size="60KB")
    smaller = tiny_model("ijepa", seed=1)
    smaller.push_to_hub("me/tiny")
    weights = [name for name in hub.files("me/tiny") if "safetensors" in name]
    assert weights == ["model.safetensors"]
    assert same(JEPAModel.from_pretrained("me/tiny").state_dict(), smaller.state_dict())


def test_revisions(hub: Hub) -> None:
    first, second = tiny_model("ijepa", seed=1), tiny_model("ijepa", seed=2)
    commit = first.push_to_hub("me/tiny")
    second.push_to_hub("me/tiny", revision="next")
    first.push_to_hub("me/tiny", branch="same")
    assert same(JEPAModel.from_pretrained("me/tiny").state_dict(), first.state_dict())
    assert same(JEPAModel.from_pretrained("me/tiny", revision="next").state_dict(), second.state_dict())
    second.push_to_hub("me/tiny")
    assert same(JEPAModel.from_pretrained("me/tiny", revision=commit.oid).state_dict(), first.state_dict())
    with pytest.raises(OSError, match="no revision 'gone'"):
        JEPAModel.from_pretrained("me/tiny", revision="gone")


def test_a_cache_of_ones_own(hub: Hub, tmp_path: Path, offline: Offline) -> None:
    model = tiny_model("ijepa")
    model.push_to_hub("me/tiny")
    JEPAModel.from_pretrained("me/tiny", cache_dir=tmp_path)
    assert any(tmp_path.rglob("model.safetensors"))
    with offline():
        assert same(JEPAModel.from_pretrained("me/tiny", cache_dir=tmp_path).state_dict(), model.state_dict())


def test_a_subfolder(hub: Hub, tmp_path: Path) -> None:
    model = tiny_model("ijepa")
    model.save_pretrained(tmp_path / "inner")
    hub.add("me/nested", tmp_path)
    assert same(JEPAModel.from_pretrained("me/nested", subfolder="inner").state_dict(), model.state_dict())


@pytest.mark.parametrize("how", ["push", "save", "revision", "pull request"])
def test_a_card_that_is_there_stays_as_it_is(how: str, hub: Hub, tmp_path: Path) -> None:
    hub.add("me/tiny", {"README.md": CARD})
    model = tiny_model("ijepa")
    revision = "main"
    if how == "push":
        model.push_to_hub("me/tiny", tags=["more"])
    elif how == "save":
        model.save_pretrained(tmp_path / "out", push_to_hub=True, repo_id="me/tiny")
    elif how == "revision":
        revision = "next"
        model.push_to_hub("me/tiny", revision=revision)
    else:
        model.push_to_hub("me/tiny", create_pr=True)
        revision = "refs/pr/1"
    files = hub.files("me/tiny", revision)
    assert files["README.md"] == CARD.encode() and "model.safetensors" in files
    # A second push leaves our own card alone too.
    model.save_pretrained(tmp_path / "mine")
    (tmp_path / "mine" / "README.md").write_text(CARD)
    model.save_pretrained(tmp_path / "mine")
    assert (tmp_path / "mine" / "README.md").read_text() == CARD


def test_our_card(hub: Hub) -> None:
    model = tiny_model("vjepa", licence="cc-by-nc-4.0", provenance="vjepa-vitl16")
    model.push_to_hub("me/tiny", tags=["physics"])
    card = hub.files("me/tiny")["README.md"].decode()
    head = card.split("---")[1]
    assert "license: cc-by-nc-4.0" in head and "library_name: jepa_hub" in head and "- physics" in head
    assert 'JEPAModel.from_pretrained("me/tiny")' in card and "vjepa-vitl16" in card and "2404.08471" in card
    stored = json.loads(hub.files("me/tiny")["video_preprocessor_config.json"])
    assert stored["image_mean"] == pytest.approx([0.485, 0.456, 0.406])  # of the catalogued weights


def test_a_card_says_what_the_model_is_for() -> None:
    from jepa_hub.card import card

    made, said = card(tiny_model("dit"), "me/tiny"), card(tiny_model("pit", num_classes=3), "me/tiny")
    assert "model.sample(" in made and "pipeline_tag: unconditional-image-generation" in made
    assert "model.classify(" in said and "model.regress(" not in said and "pipeline_tag: image-classification" in said
    plain = card(tiny_model("ijepa"), "me/tiny")
    assert "- self-supervised-learning" in plain and "pipeline_tag: image-feature-extraction" in plain
    assert "self-supervised" not in made + said


def test_fewer_networks_do_not_replace_more(hub: Hub) -> None:
    model = tiny_model("ijepa")
    model.push_to_hub("me/tiny")
    before = hub.files("me/tiny")
    some = tiny_model("ijepa", networks=["target_encoder"])
    with pytest.raises(ValueError, match="holds encoder, predictor, which this model lacks"):
        some.push_to_hub("me/tiny")
    assert hub.files("me/tiny") == before
    some.push_to_hub("me/tiny", revision="target-only", allow_fewer_networks=True)
    assert JEPAModel.from_pretrained("me/tiny", revision="target-only").config.networks == ["target_encoder"]
    with pytest.raises(ValueError, match="no argument privat"):
        some.push_to_hub("me/tiny", privat=True)


def test_transformers_repositories(hub: Hub, tmp_path: Path) -> None:
    theirs = VJEPA2Model(
        VJEPA2Config(
            patch_size=8, crop_size=32, frames_per_clip=8, hidden_size=48, num_attention_heads=2, num_hidden_layers=2,
            pred_hidden_size=24, pred_num_attention_heads=2, pred_num_hidden_layers=1,
        )
    )  # fmt: skip
    theirs.save_pretrained(tmp_path, max_shard_size="60KB")
    hub.add("facebook/vjepa2-vitl-fpc64-256", tmp_path)
    ours = JEPAModel.from_pretrained("vjepa2-vitl-256-hub")  # by its catalog name
    assert ours.config.networks == ["encoder", "predictor"] and ours.config.licence is not None
    pixels = tiny_pixels("vjepa2")
    with torch.no_grad():
        expected = theirs(pixels.transpose(1, 2), skip_predictor=True).last_hidden_state
    assert (ours.encode(pixels).tokens - expected).abs().max() < 1e-5
    by_id = JEPAModel.from_pretrained("facebook/vjepa2-vitl-fpc64-256")
    assert same(by_id.state_dict(), ours.state_dict())


def test_licence_is_said_once(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_model("ijepa", licence="cc-by-nc-4.0").push_to_hub("me/tiny")
    JEPAModel.from_pretrained("me/tiny")
    JEPAModel.from_pretrained("me/tiny")
    assert capsys.readouterr().err.count("me/tiny: licence cc-by-nc-4.0") == 1


def test_errors_of_the_hub_are_said_in_words(hub: Hub) -> None:
    with pytest.raises(OSError, match="no repository me/nothing on the Hub"):
        JEPAModel.from_pretrained("me/nothing")
    hub.add("me/data", {"notes.txt": "hello"})
    with pytest.raises(OSError, match=r"no config\.json"):
        JEPAModel.from_pretrained("me/data")
    hub.fail("me/closed", status=403, code="GatedRepo")
    with pytest.raises(OSError, match="gated"):
        JEPAModel.from_pretrained("me/closed")
    hub.failures.clear()
    hub.fail("me/broken", status=500)
    with pytest.raises(OSError, match="me/broken"):
        JEPAModel.from_pretrained("me/broken")


def test_auto_config(hub: Hub) -> None:
    tiny_model("vjepa").push_to_hub("me/tiny")
    assert AutoConfig.from_pretrained("me/tiny").position_axes == "time_row_column"


# ------------------------------------------------------------------------------------ official files, by download


@pytest.fixture
def files(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """A web server over a folder: its URL, the folder, the paths that were asked for."""
    folder = tmp_path / "www"
    folder.mkdir()
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: Any) -> None:
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder, asked
    server.shutdown()


def test_an_official_file_is_downloaded_and_converted_once(
    hub: Hub, offline: Offline, files: tuple[str, Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder, asked = files
    path = write_official(folder / "m.pth.tar", "ijepa_tiny_p16")
    row = replace(catalog.CHECKPOINTS["ijepa-vith14-in1k"], source=f"{url}/m.pth.tar", config={})
    monkeypatch.setattr(catalog, "find", lambda name: row if name in (row.name, row.source) else None)
    model = JEPAModel.from_pretrained(row.name)  # the family comes from the row
    assert type(model) is IJepaModel
    assert model.config.licence == "cc-by-nc-4.0" and model.config.provenance == row.name
    assert same(model.state_dict(), IJepaModel.from_pretrained(path).state_dict())
    path.unlink()
    with offline():
        again = JEPAModel.from_pretrained(row.name, networks=("target_encoder",))
    assert again.config.networks == ["target_encoder"] and len(asked) == 1
    again = JEPAModel.from_pretrained(f"{url}/m.pth.tar")
    assert same(again.state_dict(), model.state_dict()) and len(asked) == 1
    kept = list(Path(hub_home()).rglob("official/*/*"))
    assert {each.name for each in kept} == {"config.json", "model.safetensors"}  # the pickle is gone


def hub_home() -> str:
    from huggingface_hub import constants

    return str(Path(constants.HF_HOME) / "jepa_hub")


def test_broken_downloads(hub: Hub, offline: Offline, files: tuple[str, Path, list[str]]) -> None:
    url, folder, _ = files
    with offline(), pytest.raises(OSError, match="downloads are off"):
        JEPAModel.from_pretrained(f"{url}/m.pt")
    with pytest.raises(OSError, match="could not be downloaded"):
        JEPAModel.from_pretrained(f"{url}/nothing.pt")
    (folder / "torn.pt").write_bytes(b"PK\x03\x04")
    with pytest.raises(OSError, match="torn"):
        JEPAModel.from_pretrained(f"{url}/torn.pt")
    write_official(folder / "torn.pt", "vjepa_tiny_p16")
    assert JEPAModel.from_pretrained(f"{url}/torn.pt").config.num_frames == 8  # mended, not stuck


def test_a_wrong_hash_is_refused(files: tuple[str, Path, list[str]], tmp_path: Path) -> None:
    url, folder, _ = files
    write_official(folder / "m.pt", "vjepa_tiny_p16")
    with pytest.raises(OSError, match="not the file the catalog knows"):
        hub_module.download(f"{url}/m.pt", tmp_path / "cache", sha256="0" * 64)
    assert not list((tmp_path / "cache").iterdir())


def test_probe_files(hub: Hub, files: tuple[str, Path, list[str]]) -> None:
    url, folder, asked = files
    torch.save(official_probe("vjepa_tiny_p16"), folder / "probe.pth.tar")
    probe = Probe.from_pretrained(f"{url}/probe.pth.tar")
    with pytest.raises(ValueError, match="no backbone"):
        probe.classify(torch.zeros(1, 3, 8, 64, 64))
    Probe.from_pretrained(f"{url}/probe.pth.tar")
    assert len(asked) == 1
    heads = [official_probe("vjepa_tiny_p16")["classifier"]] * 3
    torch.save({"classifiers": heads}, folder / "many.pt")
    with pytest.raises(ValueError, match="holds 3 heads"):
        Probe.from_pretrained(f"{url}/many.pt")
    assert Probe.from_pretrained(f"{url}/many.pt", head=1).config.hidden_size == 192
