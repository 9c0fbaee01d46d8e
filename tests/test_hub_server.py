"""The local test Hub behaves as the real one does, as far as huggingface_hub and transformers can see."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub_server import run_python
from tests.hub_store import Hub, Request

Offline = Callable[[], AbstractContextManager[list[Request]]]
SHARD = bytes(range(256)) * 4096  # 1 MiB


@pytest.fixture
def api(hub: Hub) -> HfApi:
    return HfApi()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    (made / "nested").mkdir(parents=True)
    (made / "config.json").write_text("{}")
    (made / "README.md").write_text("---\ntags: [jepa]\nlibrary_name: jepa_hub\n---\n# A model\n")
    (made / "nested" / "notes.txt").write_text("notes")
    for number in range(3):
        (made / f"model-0000{number}.safetensors").write_bytes(bytes([number]) + SHARD)
    return made


def test_push_and_pull_a_folder(api: HfApi, folder: Path, hub: Hub) -> None:
    url = api.create_repo("tester/model")
    assert url == f"{hub.url}/tester/model"
    pushed = api.upload_folder(repo_id="tester/model", folder_path=folder, commit_message="First")
    local = Path(snapshot_download("tester/model"))
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert sorted(api.list_repo_files("tester/model")) == [".gitattributes", *names]
    assert all((local / name).read_bytes() == (folder / name).read_bytes() for name in names)
    assert local.name == pushed.oid == api.model_info("tester/model").sha
    assert hub.count("/lfs/", "PUT") == 3  # the shards, and nothing else
    assert hub.files("tester/model")["config.json"] == b"{}"


def test_model_info_reads_the_card(api: HfApi, folder: Path, hub: Hub) -> None:
    hub.add("tester/model", folder)
    about = api.model_info("tester/model", files_metadata=True)
    assert about.tags == ["jepa"] and about.library_name == "jepa_hub" and about.siblings is not None
    shard = next(each for each in about.siblings if each.rfilename == "model-00001.safetensors")
    assert shard.size == 1 + len(SHARD) and shard.lfs is not None
    assert shard.lfs.sha256 == hashlib.sha256(b"\1" + SHARD).hexdigest()


def test_an_unchanged_push_makes_no_commit(api: HfApi, folder: Path, hub: Hub) -> None:
    api.create_repo("tester/model")
    first = api.upload_folder(repo_id="tester/model", folder_path=folder)
    hub.requests.clear()
    second = api.upload_folder(repo_id="tester/model", folder_path=folder)
    assert first.oid == second.oid
    assert hub.count("/commit/", "POST") == 0 and hub.count("/lfs/", "PUT") == 0


def test_revisions(api: HfApi, hub: Hub) -> None:
    first = hub.add("tester/model", {"a.txt": "one"}).at("main").oid
    api.create_tag("tester/model", tag="v1")
    api.create_branch("tester/model", branch="draft")
    api.upload_file(path_or_fileobj=b"two", path_in_repo="a.txt", repo_id="tester/model")
    api.upload_file(path_or_fileobj=b"three", path_in_repo="a.txt", repo_id="tester/model", revision="draft")

    def read(revision: str | None) -> str:
        return Path(hf_hub_download("tester/model", "a.txt", revision=revision)).read_text()

    assert [read(each) for each in (None, "v1", "draft", first, first[:8])] == ["two", "one", "three", "one", "one"]
    references = api.list_repo_refs("tester/model")
    assert {each.name for each in references.branches} == {"main", "draft"}
    assert [(each.name, each.target_commit) for each in references.tags] == [("v1", first)]
    assert len(api.list_repo_commits("tester/model")) == 3


def test_pull_request(api: HfApi, hub: Hub) -> None:
    hub.add("tester/model", {"a.txt": "one"})
    pull = api.upload_file(path_or_fileobj=b"two", path_in_repo="a.txt", repo_id="tester/model", create_pr=True)
    assert pull.pr_revision == "refs/pr/1"
    assert Path(hf_hub_download("tester/model", "a.txt")).read_text() == "one"
    assert Path(hf_hub_download("tester/model", "a.txt", revision="refs/pr/1")).read_text() == "two"
    again = api.upload_file(path_or_fileobj=b"3", path_in_repo="b.txt", repo_id="tester/model", revision="refs/pr/1")
    pulls = api.list_repo_refs("tester/model", include_pull_requests=True).pull_requests or []
    assert [(each.ref, each.target_commit) for each in pulls] == [("refs/pr/1", again.oid)]
    assert sorted(hub.files("tester/model", "refs/pr/1")) == ["a.txt", "b.txt"]


def test_tree(api: HfApi, folder: Path, hub: Hub) -> None:
    hub.add("tester/model", folder)
    flat = {entry.path for entry in api.list_repo_tree("tester/model")}
    assert "nested" in flat and "nested/notes.txt" not in flat
    assert [entry.path for entry in api.list_repo_tree("tester/model", "nested")] == ["nested/notes.txt"]
    assert "nested/notes.txt" in {entry.path for entry in api.list_repo_tree("tester/model", recursive=True)}
    assert [entry.path for entry in api.get_paths_info("tester/model", ["config.json", "no.txt"])] == ["config.json"]


def test_delete_files_and_repositories(api: HfApi, folder: Path, hub: Hub) -> None:
    hub.add("tester/model", folder)
    api.delete_folder("nested", "tester/model")
    api.delete_file("config.json", "tester/model")
    assert not {"config.json", "nested/notes.txt"} & set(hub.files("tester/model"))
    api.delete_repo("tester/model")
    assert not api.repo_exists("tester/model")


def test_datasets_are_apart_from_models(api: HfApi, hub: Hub) -> None:
    api.create_repo("tester/thing", repo_type="dataset")
    api.upload_file(path_or_fileobj=SHARD, path_in_repo="x.npy", repo_id="tester/thing", repo_type="dataset")
    assert Path(hf_hub_download("tester/thing", "x.npy", repo_type="dataset")).read_bytes() == SHARD
    assert not api.repo_exists("tester/thing")


def test_missing_things_have_their_errors(api: HfApi, hub: Hub) -> None:
    hub.add("tester/model", {"a.txt": "one"})
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("tester/model", "b.txt")
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download("tester/model", "a.txt", revision="nowhere")
    for name in ("tester/unknown", "no-owner"):
        with pytest.raises(RepositoryNotFoundError):
            hf_hub_download(name, "a.txt")
        with pytest.raises(RepositoryNotFoundError):
            api.model_info(name)


def test_conflicts(api: HfApi, hub: Hub) -> None:
    first = hub.add("tester/model", {"a.txt": "one"}).at("main").oid
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("tester/model")
    api.create_repo("tester/model", exist_ok=True)
    hub.add("tester/model", {"a.txt": "two"})
    with pytest.raises(HfHubHTTPError, match="412"):
        api.upload_file(path_or_fileobj=b"3", path_in_repo="a.txt", repo_id="tester/model", parent_commit=first)
    assert hub.files("tester/model") == {"a.txt": b"two"}


def test_who_may_what(hub: Hub) -> None:
    assert HfApi().whoami()["name"] == "tester"
    hub.add("tester/model", {"a.txt": "one"})
    stranger = HfApi(token=False)
    with pytest.raises(HfHubHTTPError, match="401"):
        stranger.create_repo("tester/other")
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        HfApi(token="hf_wrong").whoami()
    HfApi().update_repo_settings("tester/model", visibility="private")
    with pytest.raises(RepositoryNotFoundError):
        stranger.hf_hub_download("tester/model", "a.txt")
    HfApi().update_repo_settings("tester/model", visibility="public", gated="manual")
    for token in (None, False):
        with pytest.raises(GatedRepoError):
            HfApi(token=token).hf_hub_download("tester/model", "a.txt")


def test_simulated_failures_end(hub: Hub) -> None:
    hub.add("tester/model", {"a.txt": "one"})
    hub.fail("/resolve/", 503)
    with pytest.raises((HfHubHTTPError, LocalEntryNotFoundError)):
        hf_hub_download("tester/model", "a.txt")
    hub.failures.clear()
    hub.fail("/resolve/", 503, times=2)  # the client tries again, without waiting here
    assert Path(hf_hub_download("tester/model", "a.txt")).read_text() == "one"
    assert hub.failures[0].times == 0


def test_a_dropped_download_is_resumed(hub: Hub) -> None:
    hub.add("tester/model", {"model.safetensors": SHARD})
    hub.drop("model.safetensors", after_bytes=700_000)
    assert Path(hf_hub_download("tester/model", "model.safetensors")).read_bytes() == SHARD
    assert hub.count("model.safetensors", "GET") == 2


def test_offline_makes_no_request(hub: Hub, offline: Offline) -> None:
    hub.add("tester/model", {"a.txt": "one"})
    online = hf_hub_download("tester/model", "a.txt")
    seen = len(hub.requests)
    with offline() as requests:
        assert hf_hub_download("tester/model", "a.txt") == online
        with pytest.raises(LocalEntryNotFoundError):
            hf_hub_download("tester/model", "b.txt")
    assert requests == [] and len(hub.requests) == seen
    assert Path(hf_hub_download("tester/model", "a.txt")).read_text() == "one"


def test_offline_counts_and_refuses_what_comes_all_the_same(hub: Hub, offline: Offline) -> None:
    code = f"import urllib.request; urllib.request.urlopen('{hub.url}/api/whoami-v2')"
    with offline() as requests:
        assert "503" in run_python(["-c", code]).stderr
    assert [(each.method, each.path) for each in requests] == [("GET", "/api/whoami-v2")]


DOWNLOAD = "from huggingface_hub import hf_hub_download as get; print(open(get('tester/model', 'a.txt')).read())"


def test_subprocesses_share_hub_and_cache(hub: Hub) -> None:
    hub.add("tester/model", {"a.txt": "one"})
    assert "LocalEntryNotFoundError" in run_python(["-c", DOWNLOAD], offline=True).stderr
    assert run_python(["-c", DOWNLOAD]).stdout == "one\n"
    hub.requests.clear()
    assert run_python(["-c", DOWNLOAD], offline=True).stdout == "one\n"
    assert hub.requests == []


def test_without_the_fixture_nothing_is_reachable() -> None:
    with pytest.raises(LocalEntryNotFoundError):
        hf_hub_download("tester/never", "a.txt")


def test_transformers_round_trip(hub: Hub, offline: Offline) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModel, ViTConfig, ViTModel

    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = ViTModel(ViTConfig(image_size=16, patch_size=8, **size)).eval()
    model.push_to_hub("tester/vit", max_shard_size="20KB")
    assert "model.safetensors.index.json" in hub.files("tester/vit")
    loaded = AutoModel.from_pretrained("tester/vit").eval()
    pixels = torch.ones(1, 3, 16, 16)
    assert torch.equal(loaded(pixels).last_hidden_state, model(pixels).last_hidden_state)
    with offline() as requests:
        again = AutoModel.from_pretrained("tester/vit")
    assert requests == []
    assert all(torch.equal(one, other) for one, other in zip(again.parameters(), model.parameters(), strict=True))
