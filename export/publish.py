"""Exported folders on the Hub, beside the weights or alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from export.files import FOLDERS

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
