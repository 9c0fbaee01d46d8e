"""From a name to a model with every tensor in place, or an error that names what does not fit."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from jepa_hub import hub
from jepa_hub.convert import llip, meta, resnets, transformers_format
from jepa_hub.convert.meta import Converted
from jepa_hub.models import registry
from jepa_hub.models.config import NETWORKS, JEPAConfig
from jepa_hub.notices import say_once

# Arguments of transformers' from_pretrained that are handed on as they are.
PASSED_ON = {
    "adapter_kwargs",
    "adapter_name",
    "device_mesh",
    "distributed_config",
    "max_memory",
    "offload_buffers",
    "offload_folder",
    "output_loading_info",
    "proxies",
    "quantization_config",
    "tp_plan",
    "trust_remote_code",
    "use_safetensors",
    "weights_only",
    "_from_auto",
    "_from_pipeline",
}


def load(
    cls: Any,
    name: str | os.PathLike[str],
    *,
    networks: Sequence[str] | None = None,
    family: str | None = None,
    config: JEPAConfig | None = None,
    dtype: torch.dtype | str = torch.float32,
    device_map: Any = None,
    attn_implementation: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    subfolder: str = "",
    **settings: Any,
) -> Any:
    """The model of a Hub id, catalog name, folder, official file (.pth.tar, .pt) or its URL, in eval mode.

    Args:
        cls: JEPAModel, which returns the right family, or a family, which refuses other families' weights.
        networks: which of "encoder", "predictor", "target_encoder" to load; all that are stored by default.
        family: for official files whose tensors do not tell it.
        config: a ready configuration instead of the stored one.
        dtype: of the parameters; "auto" keeps the stored type.
        device_map, attn_implementation, revision, cache_dir, token, local_files_only, force_download, subfolder: as in
            transformers.
        settings: configuration that wins over what is stored or inferred (num_frames=, image_size=, ...), and further
            arguments of transformers' `from_pretrained`.

    Raises:
        ValueError: wrong family, an unknown setting, or tensors that are missing, unexpected or misshapen (all named).
        OSError: nothing is there, it cannot be reached, or it is damaged.
    """
    passed_on = {key: settings.pop(key) for key in list(settings) if key in PASSED_ON}
    if "torch_dtype" in settings:
        dtype = settings.pop("torch_dtype")
    if config is not None:
        given = config.settings()
        networks = networks if networks is not None else given.pop("networks")
        settings = {**given, **settings}
        attn_implementation = attn_implementation or config._attn_implementation
    access = hub.Access(revision, cache_dir, token, local_files_only, force_download, subfolder)
    location = hub.locate(name)
    if location.kind == "url" and location.row is not None and location.row.kind == "probe":
        raise ValueError(
            f"{name} is a probe without a backbone: use Probe.from_pretrained({str(name)!r}, backbone=model)"
        )
    asked = _asked_family(cls, family, location)
    opened = _open(location, access, asked, settings)
    if asked is not None and opened.family != asked:
        raise ValueError(f"{name} holds {opened.family} weights, not {asked}; use JEPAModel.from_pretrained")
    model = registry.model_class(opened.family)
    if registry.family_of(cls) == opened.family:
        model = cls  # a user's own subclass stays what it is
    _refuse_unknown(model.config_class, opened.config)
    whole = _with_provenance(dict(opened.config), location)
    chosen = model.config_class(**{**whole, "networks": _choose(networks, whole, name)})
    wanted = _check(model, chosen, opened.tensors, list(whole["networks"]), location)
    loaded = _load(
        model,
        state_dict=wanted,
        config=chosen,
        dtype=dtype,
        device_map=device_map,
        **({"attn_implementation": attn_implementation} if attn_implementation else {}),
        **passed_on,
    )
    loaded_model = loaded[0] if isinstance(loaded, tuple) else loaded
    loaded_model.config.name_or_path = loaded_model.name_or_path = str(name)
    if chosen.licence:
        say_once(f"{chosen.provenance or name}: licence {chosen.licence}")
    return loaded


def _asked_family(cls: type, family: str | None, location: hub.Location) -> str | None:
    """The family the user or the catalog names, if any."""
    own = registry.family_of(cls)
    if family is not None:
        registry.model_class(family)
        if own is not None and own != family:
            raise ValueError(f"{cls.__name__} loads {own} weights, family={family!r} asks for others")
        return family
    if own is not None:
        return own
    return location.row.family if location.row else None


def _open(location: hub.Location, access: hub.Access, family: str | None, settings: Mapping[str, Any]) -> Converted:
    """Configuration and tensors under our names, whatever the source."""
    if location.kind == "file":
        return _convert(hub.read_official(location.name), location, family, settings)
    if location.kind == "url":
        folder = _converted(location, access, family, settings)
        location = hub.Location("repository", str(folder), location.row)
        access = hub.Access()
    config = hub.read_config(location, access)
    model_type = str(config.get("model_type", ""))
    if model_type in transformers_format.MODEL_TYPES:
        return transformers_format.read(config, hub.read_safetensors(location, access), settings)
    stored_family = model_type.removeprefix(registry.TYPE_PREFIX)
    if not model_type.startswith(registry.TYPE_PREFIX) or stored_family not in registry.MODELS:
        raise ValueError(
            f"{location.name} holds a model of type {model_type or 'unknown'!r}; jepa_hub reads its own types "
            f"({', '.join(registry.TYPE_PREFIX + known for known in registry.MODELS)}) and transformers' "
            f"{' and '.join(transformers_format.MODEL_TYPES)}"
        )
    stored = registry.model_class(stored_family).config_class.from_dict(config)
    return Converted(stored_family, {**stored.settings(), **settings}, hub.read_safetensors(location, access))


def _convert(
    checkpoint: Mapping[str, Any], location: hub.Location, family: str | None, settings: Mapping[str, Any]
) -> Converted:
    """An official checkpoint, with what its catalog row adds."""
    known = dict(location.row.config) if location.row else {}
    try:
        reader = next((each for each in (resnets, llip) if each.recognises(checkpoint)), meta)
        return reader.read(checkpoint, family, {**known, **settings})
    except ValueError as error:
        raise ValueError(f"{location.name}: {error}") from error


def _converted(location: hub.Location, access: hub.Access, family: str | None, settings: Mapping[str, Any]) -> Path:
    """The folder of safetensors made from a downloaded official file; downloaded and converted at first use."""
    folder = hub.download_folder(location.name, access)
    if (folder / hub.CONFIG_NAME).is_file() and not access.force_download:
        return folder
    checkpoint = hub.read_downloaded(location.name, access, location.row.sha256 if location.row else None)
    converted = _convert(checkpoint, location, family, settings)
    config = registry.model_class(converted.family).config_class(**_with_provenance(converted.config, location))
    hub.write_folder(folder, json.loads(config.to_json_string()), converted.tensors)
    (folder / Path(location.name).name).unlink()  # the safetensors hold all of it but the optimizer's state
    return folder


def _with_provenance(config: dict[str, Any], location: hub.Location) -> dict[str, Any]:
    """Licence and origin, where they are known and not stored already."""
    if location.row is not None:
        config.setdefault("licence", None)
        config["licence"] = config["licence"] or location.row.licence
        config["provenance"] = config.get("provenance") or location.row.name
    elif location.kind == "repository" and not Path(location.name).is_dir():
        config["provenance"] = config.get("provenance") or location.name
    return config


def _choose(networks: Sequence[str] | None, config: Mapping[str, Any], name: Any) -> list[str]:
    stored = list(config["networks"])
    if networks is None:
        return stored
    wanted = [networks] if isinstance(networks, str) else list(networks)
    missing = [network for network in wanted if network not in stored]
    if missing or not wanted:
        raise ValueError(
            f"{name} holds {', '.join(stored)}; networks={tuple(wanted)} asks for "
            f"{', '.join(missing) or 'none'} (networks are {', '.join(NETWORKS)})"
        )
    return wanted


def _refuse_unknown(config_class: Any, config: Mapping[str, Any]) -> None:
    """Name a misspelt argument before anything is built from it."""
    known = {field.name for field in fields(config_class)} | PASSED_ON
    for key in config:
        if key not in known:
            close = difflib.get_close_matches(key, [*known, "networks", "family", "dtype", "device_map"], 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"from_pretrained has no argument or setting {key!r}{hint}")


def _check(
    model: Any, config: JEPAConfig, tensors: Mapping[str, Tensor], stored: list[str], location: hub.Location
) -> dict[str, Tensor]:
    """The tensors of the chosen networks, if they are exactly those of the model.

    Raises:
        ValueError: tensors are missing, unexpected or misshapen.
    """
    with torch.device("meta"):
        expected = model(config).state_dict()
    not_asked_for = tuple(f"{network}." for network in stored if network not in config.networks)
    wanted = {key: tensor for key, tensor in tensors.items() if not not_asked_for or not key.startswith(not_asked_for)}
    check_fit(expected, wanted, location.name, model.__name__)
    return wanted


def check_fit(expected: Mapping[str, Tensor], given: Mapping[str, Tensor], name: str, model: str) -> None:
    """Return if the tensors are exactly those a model expects.

    Raises:
        ValueError: tensors are missing, unexpected or misshapen; they are named.
    """
    missing = sorted(set(expected) - set(given))
    unexpected = sorted(set(given) - set(expected))
    misshapen = [
        f"{key} is {tuple(tensor.shape)}, the configuration needs {tuple(expected[key].shape)}"
        for key, tensor in given.items()
        if key in expected and tensor.shape != expected[key].shape
    ]
    problems = [
        f"{len(names)} {what}: {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
        if names
    ]
    if problems:
        raise ValueError(f"{name}: the tensors do not fit {model}; nothing was loaded. " + "; ".join(problems))


def _load(model: Any, **settings: Any) -> Any:
    """Transformers' loader, which places, casts and dispatches the tensors."""
    report = settings.pop("output_loading_info", False)
    try:
        loaded, info = model.from_pretrained(None, output_loading_info=True, **settings)
    except SafetensorError as error:
        raise OSError(f"a weight file is torn ({error}); download or write it again") from error
    left = {kind: names for kind, names in info.items() if names}
    if left:  # _check saw to it; a quantiser or adapter that changes the layout must not pass unnoticed
        raise ValueError(f"transformers did not load every tensor: {left}")
    return (loaded, info) if report else loaded
