"""Models and exported folders on the Hub: weights, card, preprocessing, metrics and exported files."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from export import checking
from export.files import FOLDERS
from export.to_onnx import to_onnx
from jepa_hub import hub
from jepa_hub.catalog import CHECKPOINTS
from jepa_hub.models.base import JEPAModel

DESCRIBING = ("config.json", "preprocessor_config.json", "video_preprocessor_config.json")


def push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload exported model",
) -> Any:
    """Upload the exported files of a folder; weights and card that are there stay, and so does a configuration.

    Args:
        folder: as `to_onnx` or `to_aoti` wrote it.
        repo_id: "owner/name"; made if it does not exist.
        private, token, revision, commit_message: as in huggingface_hub.

    Returns:
        huggingface_hub's CommitInfo.

    Raises:
        ValueError: nothing is exported in this folder.
        OSError: the Hub cannot be reached or refuses.
    """
    path = Path(folder)
    kinds = [name for name in FOLDERS.values() if (path / name).is_dir()]
    if not kinds:
        raise ValueError(
            f"{folder} holds no {', '.join(f'{name}/' for name in FOLDERS.values())}: export a model first"
        )
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None and not revision.startswith("refs/"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    missing = [name for name in DESCRIBING if not api.file_exists(repo_id, name, revision=revision)]
    return api.upload_folder(
        repo_id=repo_id,
        folder_path=str(path),
        allow_patterns=[*(f"{kind}/model*" for kind in kinds), *(f"{kind}/verify*" for kind in kinds), *missing],
        commit_message=commit_message,
        revision=revision,
    )


def shipped_names() -> list[str]:
    """Catalog names of the models that ship with the package."""
    return [name for name, row in CHECKPOINTS.items() if row.source.startswith("package:")]


def publish(
    name: str,
    repo_id: str,
    *,
    precisions: Sequence[str] = ("fp32",),
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> list[str]:
    """Upload a model with all that belongs to it; the names of the files.

    Everything is written and checked first: a model of which one exported file fails is not uploaded at all. A card
    that is on the Hub already stays.

    Args:
        name: catalog name, Hub id, folder or official file of a model (not a probe).
        repo_id: "owner/name"; made if it does not exist.
        precisions: of the ONNX files; none for weights alone.
        private, token, revision: as in huggingface_hub.
        tell: is told what is being done.

    Raises:
        ValueError: a probe, or an exported file that is not the model.
        OSError: the Hub cannot be reached or refuses.
    """
    model, processor = checking.load(name, None, tell)
    if not isinstance(model, JEPAModel):
        raise ValueError(f"{name} is a probe: upload it with Probe.push_to_hub; `push` takes models")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / repo_id.split("/")[-1]
        _stage(name, repo_id, processor, folder)
        for precision in precisions:
            scales = checking.calibration(model, processor, (), precision, False)
            chosen: dict[str, Any] = {"precision": precision, "processor": processor, "calibration": scales}
            written = to_onnx(model, folder, progress=tell, **chosen)
            if not checking.check(model, processor, written, tell=tell):
                raise ValueError(f"{name}: an exported file ({precision}) is not the model; nothing was uploaded")
        stored = JEPAModel.from_pretrained(folder, dtype="auto")
        settings: dict[str, Any] = {"private": private, "token": token, "revision": revision}
        stored.save_pretrained(folder, push_to_hub=True, repo_id=repo_id, **settings)
        if precisions:
            push(folder, repo_id, **settings)
    return sorted(HfApi(token=token).list_repo_files(repo_id, revision=revision))


def _stage(name: str, repo_id: str, processor: Any, folder: Path) -> None:
    """A folder with the model as it is stored, whose card names its new place."""
    place = Path(hub.locate(name).name)
    if place.is_dir():
        shutil.copytree(place, folder, ignore=shutil.ignore_patterns(*FOLDERS.values()))
    else:
        JEPAModel.from_pretrained(name, dtype="auto").save_pretrained(folder, repo_id=repo_id)
        if processor is not None:
            processor.save_pretrained(folder)
    readme = folder / "README.md"
    if readme.is_file():
        here, there = (f'from_pretrained("{each}")' for each in (Path(name).name, repo_id))
        readme.write_text(readme.read_text(encoding="utf-8").replace(here, there), encoding="utf-8")
