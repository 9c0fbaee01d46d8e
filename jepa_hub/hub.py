"""Where weights come from: a folder, a Hub repository, an official file or URL, or this package.

Finds, downloads and reads; knows nothing of architectures. Names are resolved by `locate`.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from huggingface_hub import constants, errors
from safetensors import SafetensorError, safe_open
from torch import Tensor

from jepa_hub import catalog
from jepa_hub.catalog_row import Checkpoint
from jepa_hub.json_files import read_object

OFFICIAL_SUFFIXES = (".pth.tar", ".pth", ".pt", ".ckpt", ".bin")
CONFIG_NAME, WEIGHTS_NAME, INDEX_NAME = "config.json", "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class Access:
    """How to reach the Hub; the words are huggingface_hub's."""

    revision: str | None = None
    cache_dir: str | Path | None = None
    token: str | bool | None = None
    local_files_only: bool = False
    force_download: bool = False
    subfolder: str = ""


@dataclass(frozen=True)
class Location:
    """What a name stands for.

    Attributes:
        kind: "file" (an official checkpoint on disk), "url" (one to be downloaded) or "repository" (folder or Hub id).
        name: the path, URL, folder or Hub id.
        row: the catalog's row, if it has one.
    """

    kind: str
    name: str
    row: Checkpoint | None = None


def locate(name: str | os.PathLike[str]) -> Location:
    """What `name` stands for; nothing is downloaded.

    Raises:
        ValueError: the catalog lists it as not supported; its reason is given.
        FileNotFoundError: it looks like a path, and there is nothing.
    """
    text = os.fspath(name)
    path = Path(text).expanduser()
    if path.is_dir():
        return Location("repository", str(path))
    if path.is_file():
        if path.suffix == ".safetensors":
            raise ValueError(f"{text}: give the folder that holds this file and its config.json")
        _refuse_unsupported(catalog.find(path.name), text)
        return Location("file", str(path))
    row = catalog.find(text)
    _refuse_unsupported(row, text)
    source = row.source if row else text
    if source.startswith("package:"):
        return Location("repository", str(Path(__file__).parent / "weights" / source.removeprefix("package:")), row)
    if source.startswith(("http://", "https://")):
        return Location("url", source, row)
    looks_like_path = text.startswith((".", "/", "~")) or text.count("/") > 1 or text.endswith(OFFICIAL_SUFFIXES)
    if looks_like_path or ("/" not in source and row is None):
        close = catalog.nearest(text)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise FileNotFoundError(
            f"{text!r} is neither a file or folder here, nor a name of the catalog (`jepa-hub list`), nor a Hub id "
            f"'owner/name'{hint}"
        )
    return Location("repository", source, row)


def _refuse_unsupported(row: Checkpoint | None, name: str) -> None:
    if row is not None and row.unsupported:
        raise ValueError(f"{name} is not supported: {row.unsupported}")


def is_offline(access: Access) -> bool:
    """Whether downloads are ruled out, by argument or by HF_HUB_OFFLINE."""
    return access.local_files_only or constants.is_offline_mode()


def cached_file(
    name: str | os.PathLike[str],
    filename: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    subfolder: str = "",
) -> Path | None:
    """Local path of a file of a folder or Hub repository, downloaded if need be; None when it has no such file.

    Raises:
        OSError: the repository or revision is unknown, not open to this token, or cannot be reached.
    """
    text = os.fspath(name)
    if Path(text).is_dir():
        path = Path(text) / subfolder / filename
        return path if path.is_file() else None
    try:
        return Path(
            huggingface_hub.hf_hub_download(
                text,
                filename,
                subfolder=subfolder or None,
                revision=revision,
                cache_dir=cache_dir,
                token=token,
                local_files_only=local_files_only,
                force_download=force_download,
            )
        )
    except errors.LocalEntryNotFoundError as error:
        if _cached_snapshot(text, revision, cache_dir):
            return None  # the repository is in the cache, this file is not
        reason = "downloads are off" if local_files_only or constants.is_offline_mode() else "the Hub cannot be reached"
        raise OSError(f"{text} is not in the cache and {reason}; download it once with a connection") from error
    except errors.EntryNotFoundError:
        return None
    except errors.GatedRepoError as error:
        raise OSError(f"{text} is gated: accept its terms on the Hub and pass token= or run `hf auth login`") from error
    except errors.RevisionNotFoundError as error:
        raise OSError(f"{text} has no revision {revision!r}") from error
    except errors.RepositoryNotFoundError as error:
        close = catalog.nearest(text)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise OSError(f"there is no repository {text} on the Hub, or it is private (pass token=).{hint}") from error
    except errors.HFValidationError as error:
        raise OSError(f"{text!r} is not a Hub id ('owner/name'): {error}") from error
    except errors.HfHubHTTPError as error:
        raise OSError(f"{text}: the Hub answered with an error: {error}") from error


def _cached_snapshot(repo_id: str, revision: str | None, cache_dir: str | Path | None) -> bool:
    found = huggingface_hub.try_to_load_from_cache(
        repo_id, "config.json", cache_dir=str(cache_dir) if cache_dir else None, revision=revision
    )
    return isinstance(found, str)


def read_config(location: Location, access: Access) -> dict[str, Any]:
    """config.json of a folder or Hub repository.

    Raises:
        OSError: there is none, or it is not JSON.
    """
    path = fetch(location, "config.json", access)
    if path is None:
        raise OSError(f"{location.name} has no config.json, so it is not a model of transformers or of jepa_hub")
    return read_object(path)


def fetch(location: Location, filename: str, access: Access) -> Path | None:
    """`cached_file` of a location."""
    return cached_file(location.name, filename, **vars(access))


def read_safetensors(location: Location, access: Access) -> dict[str, Tensor]:
    """All tensors of model.safetensors or of its shards, memory-mapped.

    Raises:
        OSError: there are none, a shard is missing or lies outside the folder, or a file is torn.
    """
    index = fetch(location, INDEX_NAME, access)
    shards = [WEIGHTS_NAME] if index is None else _shards(index)
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        path = fetch(location, shard, access)
        if path is None:
            raise OSError(f"{location.name} has no {shard}; only safetensors weights are read")
        tensors |= read_safetensors_file(path)
    return tensors


def _shards(index: Path) -> list[str]:
    """File names that an index lists: plain ones, so that it cannot lead anywhere else."""
    listed = read_object(index).get("weight_map")
    names = sorted({str(name) for name in listed.values()}) if isinstance(listed, dict) else []
    if not names:
        raise OSError(f"{index} lists no files under weight_map; download or write it again")
    for name in names:
        if any(sign in name for sign in "/\\:") or not name.endswith(".safetensors"):
            raise OSError(f"{index} names {name!r}, which is no safetensors file beside it; refused")
    return names


def read_safetensors_file(path: Path) -> dict[str, Tensor]:
    """Tensors of one file.

    Raises:
        OSError: the file is torn or is not safetensors.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise OSError(f"{path} is torn or is not a safetensors file ({error}); download or write it again") from error


def read_official(path: str | Path) -> dict[str, Any]:
    """A checkpoint of Meta's code, read without running any code of the file.

    Raises:
        OSError: the file is torn, or needs more than tensors and plain values.
    """
    import numpy as np
    from numpy._core.multiarray import scalar  # type: ignore[attr-defined]

    # Upstream's files hold a few numpy scalars (the learning rate); nothing else is let in.
    allowed: list[Any] = [np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType, scalar]
    allowed.append((scalar, "numpy.core.multiarray.scalar"))  # as numpy 1 wrote it
    try:
        with torch.serialization.safe_globals(allowed):
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
    except pickle.UnpicklingError as error:
        raise OSError(
            f"{path} holds more than tensors and plain values, so reading it could run its code; it was refused. "
            f"({str(error).splitlines()[0]})"
        ) from error
    except (RuntimeError, EOFError, zipfile.BadZipFile, ValueError) as error:
        raise OSError(f"{path} is torn or is not a torch checkpoint ({error}); download it again") from error
    if not isinstance(loaded, dict):
        raise OSError(f"{path} holds {type(loaded).__name__}, not a checkpoint")
    return loaded


def download_folder(url: str, access: Access) -> Path:
    """Where what comes from a URL is kept: under `cache_dir`, else the Hub's cache."""
    root = Path(access.cache_dir) if access.cache_dir else Path(constants.HF_HOME) / "jepa_hub"
    return root / "official" / f"{Path(url).name.split('.')[0]}-{hashlib.sha256(url.encode()).hexdigest()[:16]}"


def download_once(url: str, access: Access, sha256: str | None = None) -> Path:
    """The cached file of `url`, downloaded at first use.

    Raises:
        OSError: it is not cached and cannot be downloaded, or it is not the file that was expected.
    """
    folder = download_folder(url, access)
    path = folder / Path(url).name
    if path.is_file() and not access.force_download:
        return path
    if is_offline(access):
        raise OSError(f"{url} has not been downloaded yet and downloads are off; load it once with a connection")
    return download(url, folder, sha256=sha256)


def read_downloaded(url: str, access: Access, sha256: str | None = None) -> dict[str, Any]:
    """The checkpoint of `url`, downloaded at first use; one that cannot be read is thrown away, to be fetched again.

    Raises:
        OSError: as `download_once` and `read_official`.
    """
    path = download_once(url, access, sha256)
    try:
        return read_official(path)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def download(url: str, folder: Path, *, sha256: str | None) -> Path:
    """The file of `url` inside `folder`, with a progress bar; a broken download leaves nothing behind.

    Raises:
        OSError: the server cannot be reached, answers with an error, sends less than announced or another file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / Path(url).name
    try:
        torch.hub.download_url_to_file(url, str(target), hash_prefix=sha256, progress=os.isatty(2))
    except RuntimeError as error:  # torch reports a wrong hash so
        raise OSError(f"{url} is not the file the catalog knows: {error}") from error
    except OSError as error:
        raise OSError(f"{url} could not be downloaded: {error}") from error
    return target


def write_folder(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """config.json and safetensors (5 GB shards) in `folder`; other files there stay, weights of before do not.

    Everything is written beside and moved, the configuration last, so that a torn folder is never
    taken for a whole one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder) as unfinished:
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        huggingface_hub.save_torch_state_dict(whole, unfinished, max_shard_size="5GB", metadata={"format": "pt"})
        (folder / CONFIG_NAME).unlink(missing_ok=True)
        for old in folder.glob("model*.safetensors*"):
            old.unlink()
        for path in Path(unfinished).iterdir():
            path.replace(folder / path.name)
        text = Path(unfinished) / CONFIG_NAME
        text.write_text(json.dumps(dict(config), indent=2, sort_keys=True) + "\n", encoding="utf-8")
        text.replace(folder / CONFIG_NAME)
