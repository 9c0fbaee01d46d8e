"""The models a tab can choose from, and the few that are kept in memory."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants

from jepa_hub import hub
from jepa_hub.catalog import CHECKPOINTS, find
from jepa_hub.convert import transformers_format
from jepa_hub.models.base import JEPAModel
from jepa_hub.models.registry import MODELS, TYPE_PREFIX, model_class
from jepa_hub.processing import JEPAProcessor

KEPT = 4  # models in memory at once
SHIPPED, CACHED = "shipped", "cached"


@dataclass(frozen=True)
class Known:
    """What is known of a model before it is loaded.

    Attributes:
        name: what `from_pretrained` takes.
        family: of the registry.
        networks: that are stored.
        is_video: whether it was trained on clips.
        origin: SHIPPED or CACHED.
    """

    name: str
    family: str
    networks: tuple[str, ...]
    is_video: bool
    origin: str


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode and its processor."""

    name: str
    model: Any
    processor: JEPAProcessor

    @cached_property
    def family(self) -> str:
        """Of the registry."""
        return str(self.model.config.model_type).removeprefix(TYPE_PREFIX)

    @property
    def is_video(self) -> bool:
        """Whether it was trained on clips."""
        return bool(getattr(self.model.config, "tubelet_size", 1) > 1 or (self.model.config.num_frames or 1) > 1)


Wanted = Callable[[Known], bool]


class Library:
    """Models by name.

    Args:
        locked: only what is listed can be loaded: no other Hub id, no folder of this machine. For servers that
            strangers reach.
    """

    def __init__(self, *, locked: bool = False) -> None:
        self.locked = locked
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()
        self._lock = threading.Lock()

    def known(self) -> list[Known]:
        """What ships with the package, then what the caches hold."""
        return _shipped() + _cached()

    def names(self, wanted: Wanted) -> list[tuple[str, str]]:
        """(what is shown, name) of the models that a tab can use."""
        return [(f"{each.name} ({each.origin})", each.name) for each in self.known() if wanted(each)]

    def get(self, name: str | None) -> Loaded:
        """The model of a name, loaded at first use; the last few stay in memory.

        Raises:
            ValueError: no name, one that is not open here, or weights that do not fit.
            OSError: it cannot be found or reached.
        """
        name = (name or "").strip()
        if not name:
            raise ValueError("choose a model first, or type a Hub id or a folder")
        if self.locked and name not in {each.name for each in self.known()}:
            raise ValueError(f"{name[:80]} is not open here: choose one of the listed models")
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = Loaded(name, JEPAModel.from_pretrained(name), JEPAProcessor.from_pretrained(name))
                while len(self._loaded) > KEPT:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(name)
            return self._loaded[name]


def predicts(known: Known) -> bool:
    """Whether a model predicts masked tokens."""
    return {"encoder", "predictor"} <= set(known.networks)


def predicts_video(known: Known) -> bool:
    """Whether a model predicts later frames of a clip."""
    return predicts(known) and known.is_video


def of_family(*families: str) -> Wanted:
    """Whether a model is of one of these families."""
    return lambda known: known.family in families


def about(loaded: Loaded) -> str:
    """A line on a model: family, encoder, input, licence."""
    config = loaded.model.config
    parameters = sum(each.numel() for each in loaded.model.feature_encoder.parameters())
    size = config.image_size
    frames = f" x {config.num_frames} frames" if loaded.is_video and config.num_frames else ""
    parts = [
        f"**{loaded.name}**",
        f"{loaded.family}, {', '.join(config.networks)}",
        f"encoder of {_short(parameters)} parameters",
        f"trained on {size} pixels{frames}" if size else "",
        f"licence {config.licence}" if config.licence else "",
    ]
    return " · ".join(part for part in parts if part)


def _short(count: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def _shipped() -> list[Known]:
    rows = [row for row in CHECKPOINTS.values() if row.source.startswith("package:")]
    return [
        Known(row.name, row.family, row.networks, bool((row.preprocessing.num_frames or 1) > 1), SHIPPED)
        for row in rows
    ]


def _cached() -> list[Known]:
    """Repositories and converted official files that need no download any more."""
    found = []
    try:
        repositories = huggingface_hub.scan_cache_dir().repos
    except (OSError, huggingface_hub.errors.CacheNotFound):
        repositories = frozenset()
    for repository in sorted(repositories, key=lambda each: each.repo_id):
        if repository.repo_type != "model":
            continue
        files = {file.file_name: file.file_path for revision in repository.revisions for file in revision.files}
        weights = any(name.startswith("model") and name.endswith(".safetensors") for name in files)
        if weights and "config.json" in files:
            found.append(_read(repository.repo_id, files["config.json"]))
    official = Path(constants.HF_HOME) / "jepa_hub" / "official"
    urls = {
        hub.download_folder(row.source, hub.Access()): row.name for row in CHECKPOINTS.values() if ":" in row.source
    }
    for folder in sorted(official.iterdir()) if official.is_dir() else ():
        if (folder / hub.CONFIG_NAME).is_file() and folder in urls:
            found.append(_read(urls[folder], folder / hub.CONFIG_NAME))
    return [each for each in found if each is not None]


def _read(name: str, path: Path) -> Known | None:
    """What a config.json says; None where it is of another package's model."""
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    kind = str(config.get("model_type", "")) if isinstance(config, dict) else ""
    family = kind.removeprefix(TYPE_PREFIX)
    row = find(name)
    if kind.startswith(TYPE_PREFIX) and family in MODELS:
        networks = tuple(config.get("networks") or model_class(family).networks)
        return Known(name, family, networks, (config.get("num_frames") or 1) > 1, CACHED)
    if kind in transformers_format.MODEL_TYPES:
        is_video = "vjepa" in kind
        networks = row.networks if row else ("encoder", "predictor") if is_video else ("encoder",)
        return Known(name, "vjepa2" if is_video else "ijepa", networks, is_video, CACHED)
    return None
