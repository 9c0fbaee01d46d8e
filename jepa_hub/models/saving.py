"""Saving and pushing: our format, Meta's and transformers'; a card that is there is never rewritten."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi

from jepa_hub import catalog, hub
from jepa_hub.card import card
from jepa_hub.convert import llip, meta, resnets, transformers_format
from jepa_hub.processing import JEPAProcessor

MAX_SHARD_SIZE = "5GB"
# What a repository holds beside weights and configuration.
_BESIDE = ("*preprocessor_config.json", "tokenizer*.json", "README.md", "settings.yaml", "metrics.json")
PUSH_ARGUMENTS = {
    "commit_message",
    "commit_description",
    "private",
    "token",
    "revision",
    "branch",
    "create_pr",
    "tags",
    "allow_fewer_networks",
}


def save(
    model: Any,
    folder: str | os.PathLike[str],
    *,
    push_to_hub: bool = False,
    repo_id: str | None = None,
    max_shard_size: int | str = MAX_SHARD_SIZE,
    **settings: Any,
) -> None:
    """Write config.json, safetensors, the preprocessing of catalogued weights and a card, where there is none.

    Args:
        model: a `JEPAModel`.
        folder: where to; made if need be.
        push_to_hub: upload afterwards, to `repo_id` (default: the folder's name).
        max_shard_size: of one safetensors file.
        settings: further arguments of transformers' `save_pretrained`, or of `push` when pushing.
    """
    pushing = {key: settings.pop(key) for key in list(settings) if key in PUSH_ARGUMENTS} if push_to_hub else {}
    path = Path(folder)
    if path.is_file():
        raise ValueError(f"{folder} is a file; save_pretrained writes a folder")
    _write_folder(model, path, repo_id or path.name, max_shard_size, pushing.get("tags"), settings)
    if push_to_hub:
        _upload(model, path, repo_id or path.name, **pushing)


def push(model: Any, repo_id: str, *, max_shard_size: int | str = MAX_SHARD_SIZE, **settings: Any) -> Any:
    """Upload a model to the Hub.

    Args:
        model: a `JEPAModel`.
        repo_id: "owner/name"; made if it does not exist.
        max_shard_size: of one safetensors file.
        settings: commit_message, commit_description, private, token, revision (or branch), create_pr, tags, and
            allow_fewer_networks=True to replace weights there by ones with fewer networks.

    Returns:
        huggingface_hub's CommitInfo.

    Raises:
        ValueError: the repository holds networks that this model lacks, or an argument is unknown.
        OSError: the Hub cannot be reached or refuses.
    """
    unknown = set(settings) - PUSH_ARGUMENTS
    if unknown:
        raise ValueError(f"push_to_hub has no argument {', '.join(sorted(unknown))}; it has {sorted(PUSH_ARGUMENTS)}")
    with tempfile.TemporaryDirectory() as folder:
        _write_folder(model, Path(folder), repo_id, max_shard_size, settings.get("tags"), {})
        return _upload(model, Path(folder), repo_id, **settings)


def _write_folder(
    model: Any,
    folder: Path,
    name: str,
    max_shard_size: int | str,
    tags: list[str] | None,
    settings: dict[str, Any],
) -> None:
    model.write_weights(folder, max_shard_size=max_shard_size, **settings)
    row = catalog.find(model.config.provenance) if model.config.provenance else None
    described = any(
        (folder / file).is_file() for file in ("preprocessor_config.json", "video_preprocessor_config.json")
    )
    if row is not None and not described:
        JEPAProcessor.from_checkpoint(
            row.preprocessing, patch_size=model.config.patch_size, tubelet_size=model.config.tubelet_size
        ).save_pretrained(folder)
    readme = folder / "README.md"
    if not readme.exists():
        readme.write_text(card(model, name, tags), encoding="utf-8")


def _upload(
    model: Any,
    folder: Path,
    repo_id: str,
    *,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    branch: str | None = None,
    create_pr: bool = False,
    tags: list[str] | None = None,
    allow_fewer_networks: bool = False,
) -> Any:
    revision = revision or branch
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None and not revision.startswith("refs/"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    if not allow_fewer_networks:
        _refuse_fewer_networks(model, repo_id, revision, token)
    keep_card = api.file_exists(repo_id, "README.md", revision=revision)
    return api.upload_folder(
        repo_id=repo_id,
        folder_path=str(folder),
        commit_message=commit_message or f"Upload {type(model).__name__}",
        commit_description=commit_description,
        revision=revision,
        create_pr=create_pr,
        allow_patterns=[*_BESIDE, "config.json", "model*.safetensors*"],
        ignore_patterns=["README.md"] if keep_card else None,
        delete_patterns=["model*.safetensors", "model.safetensors.index.json"],  # shards of an earlier push
    )


def _refuse_fewer_networks(model: Any, repo_id: str, revision: str | None, token: str | bool | None) -> None:
    """A push must not lose a network that is already published."""
    access = hub.Access(revision=revision, token=token, force_download=True)
    location = hub.Location("repository", repo_id)
    if hub.fetch(location, "config.json", access) is None:
        return
    lost = set(hub.read_config(location, access).get("networks") or ()) - set(model.config.networks)
    if lost:
        raise ValueError(
            f"{repo_id} holds {', '.join(sorted(lost))}, which this model lacks: pushing would lose it. Push to "
            "another repository or revision, or pass allow_fewer_networks=True"
        )


def save_official(model: Any, path: str | os.PathLike[str]) -> None:
    """Write the layout of Meta's code with `torch.save`; see `JEPAModel.save_official`."""
    target = Path(path)
    if target.is_dir():
        raise ValueError(f"{path} is a folder; the official layout is one file, e.g. model.pth.tar")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    family = model.config.model_type.removeprefix("jepa_hub_")
    if family == resnets.FAMILY:
        parts = resnets.write(tensors)
    else:
        parts = (llip if family == llip.FAMILY else meta).write(model.config, tensors)
    unfinished = target.with_name(f"{target.name}.unfinished-{os.getpid()}")
    try:
        torch.save({**parts, "epoch": 0}, unfinished)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def save_transformers(model: Any, folder: str | os.PathLike[str], *, network: str | None = None) -> None:
    """Write transformers' format; `network` is the encoder to write (default: the one features come from).

    Raises:
        ValueError: transformers has no class for this model, or the network is absent.
    """
    network = network or ("target_encoder" if model.target_encoder is not None else "encoder")
    if network not in ("encoder", "target_encoder") or getattr(model, network) is None:
        raise ValueError(f"network is an encoder of this model ({', '.join(model.config.networks)}), not {network!r}")
    encoder = getattr(model, network).state_dict()
    if model.config.model_type == "jepa_hub_vjepa2":
        if model.predictor is None:
            raise ValueError("transformers' VJEPA2Model needs the predictor too; load it")
        config, tensors = transformers_format.write_vjepa2(model.config, encoder, model.predictor.state_dict())
    else:
        config, tensors = transformers_format.write_ijepa(model.config, encoder)
    config["dtype"] = str(model.dtype).removeprefix("torch.")
    whole = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    hub.write_folder(Path(folder), config, whole)
