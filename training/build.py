"""From settings to objects: model, method, source, masks, optimizer."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from pydantic import BaseModel, ValidationError

from jepa_hub.masking.draws import MaskSampler
from jepa_hub.masking.samplers import MASKS, Future
from jepa_hub.models.base import JEPAModel
from jepa_hub.models.config import NETWORKS, JEPAConfig
from jepa_hub.models.registry import family_of, model_class
from jepa_hub.version import __version__
from training.averaging.registry import averager_class
from training.config import Named, Settings, nearest
from training.data.batches import Layout
from training.data.registry import source_class
from training.data.source import Source
from training.data.support import Support, SupportSampler, labelled_samples
from training.methods.base import Method
from training.methods.registry import method_class


def check_entries(settings: Settings) -> None:
    """Return if every registry entry that the settings name exists and takes its settings.

    Raises:
        ValueError: it does not; the nearest known name is given.
    """
    method = method_class(settings.method.name)
    own_settings(method.Settings, settings.method, "method")
    own_settings(averager_class(settings.averaging.name).Settings, settings.averaging, "averaging")
    own_settings(source_class(settings.data.source.name).Settings, settings.data.source, "data.source")
    if settings.data.support and settings.data.support.source:
        named = settings.data.support.source
        own_settings(source_class(named.name).Settings, named, "data.support.source")
    if settings.probe and settings.probe.source:
        own_settings(source_class(settings.probe.source.name).Settings, settings.probe.source, "probe.source")
    config = model_config(settings)
    method.check(settings)
    if method.needs_masks and settings.masks is None:
        raise ValueError(f"the method {settings.method.name} needs masks: one of {', '.join(MASKS)}")
    if settings.masks is not None:
        build_masks(settings.masks, config)


def own_settings(kind: type[BaseModel], named: Named, where: str) -> Any:
    """The settings of a registry entry from its section.

    Raises:
        ValueError: an unknown or impossible setting.
    """
    try:
        return kind.model_validate(named.own)
    except ValidationError as error:
        said = []
        for each in error.errors():
            key = ".".join(str(part) for part in each["loc"])
            if each["type"] == "extra_forbidden":
                said.append(f"unknown setting {where}.{key}{nearest(key, kind.model_fields)}")
            elif each["type"] == "missing":
                said.append(f"{where}.{key} is missing")
            else:
                said.append(f"{where}.{key}: {each['msg'].removeprefix('Value error, ')} (got {each['input']!r})")
        raise ValueError("; ".join(said)) from None


def model_config(settings: Settings) -> JEPAConfig:
    """The configuration of the model that the settings describe (a checkpoint's own is read by `build_model`).

    Raises:
        ValueError: an unknown family, size or field.
    """
    config_class = model_class(settings.model.name).config_class
    own = settings.model.own
    try:
        return config_class.of_size(settings.model.size, **own) if settings.model.size else config_class(**own)
    except (ValueError, TypeError) as error:
        raise ValueError(f"model: {error}") from None


def build_model(settings: Settings) -> JEPAModel:
    """The model to train, from random weights of run.seed or from model.checkpoint.

    Raises:
        ValueError: the checkpoint is of another family or contradicts the recipe.
    """
    needed = method_class(settings.method.name).networks
    if settings.model.checkpoint is None:
        config = model_config(settings)
        config.networks = [name for name in NETWORKS if name in needed]
        config.provenance = config.provenance or f"jepa_hub {__version__}, trained on {settings.data.source.name}"
        torch.manual_seed(settings.run.seed)
        return model_class(settings.model.name)(config)
    model = JEPAModel.from_pretrained(settings.model.checkpoint, dtype=torch.float32)
    family = family_of(type(model))
    if family != settings.model.name:
        raise ValueError(f"model.checkpoint is of the family {family}, the recipe says {settings.model.name}")
    wanted = dict(settings.model.own)
    if settings.model.size:
        wanted = type(model.config).size_settings(settings.model.size) | wanted
    # A formula gives positions at any size (V-JEPA 2's cooldown trains longer clips); a table fits its own grid only.
    resizable = model.config.position_type != "learned" and model.config.position_resize == "recompute"
    for name in ("image_size", "num_frames") if resizable else ():
        if name in wanted:
            setattr(model.config, name, wanted.pop(name))
    differ = [
        f"{name}: the recipe says {value!r}, the checkpoint {getattr(model.config, name)!r}"
        for name, value in wanted.items()
        if name not in ("licence", "provenance") and getattr(model.config, name, None) != value
    ]
    if differ:
        raise ValueError(f"model.checkpoint {settings.model.checkpoint} does not fit the recipe: {'; '.join(differ)}")
    return model


def build_method(settings: Settings, model: JEPAModel) -> Method:
    """The method around a model."""
    kind = method_class(settings.method.name)
    return kind(model, own_settings(kind.Settings, settings.method, "method"))


def build_masks(named: Named, config: JEPAConfig) -> MaskSampler:
    """The mask sampler for the grid of a model.

    Raises:
        ValueError: an unknown sampler or setting, or masks that do not fit the grid.
    """
    if named.name not in MASKS:
        raise ValueError(f"unknown masks {named.name!r}{nearest(named.name, MASKS)}; there are {', '.join(MASKS)}")
    kind = MASKS[named.name]
    known = [field.name for field in fields(kind) if field.init and field.name != "grid"]
    unknown = [key for key in named.own if key not in known]
    if unknown:
        raise ValueError(f"unknown setting masks.{unknown[0]}{nearest(unknown[0], known)}; it has {', '.join(known)}")
    if config.base_grid is None:
        raise ValueError("masks need model.image_size and model.num_frames")
    own = named.own
    if issubclass(kind, Future):
        own = {"tubelet_size": config.tubelet_size, **own}
    try:
        return kind(grid=config.base_grid, **own)
    except (ValueError, TypeError) as error:
        raise ValueError(f"masks: {error}") from None


def build_source(named: Named, where: str = "data.source") -> Source:
    """The source of samples."""
    kind = source_class(named.name)
    return kind(own_settings(kind.Settings, named, where))


def build_support(settings: Settings, source: Source, layout: Layout) -> Support | None:
    """The labelled samples beside the batches; None for recipes without.

    Raises:
        ValueError: too few labelled samples or classes (with the counts).
    """
    wanted = settings.data.support
    if wanted is None:
        return None
    if wanted.source is not None:
        source = build_source(wanted.source, "data.support.source")
    seed = settings.run.seed
    members = labelled_samples(source, wanted, seed)
    sampler = SupportSampler(members, wanted, seed, layout.rank, layout.world, source)
    return Support(source, sampler, round(wanted.until * settings.total_steps))


def view_size(config: JEPAConfig) -> tuple[int, int]:
    """(height, width) of the views of a model."""
    size = config.view_size
    if size is None:
        raise ValueError("training needs model.image_size")
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def check_fit(source: Source, config: JEPAConfig) -> None:
    """Return if samples of the source have the frames that the model takes.

    Raises:
        ValueError: pictures for a clip model without saying so, or clips of another length.
    """
    frames = source.read(0, 0).pixels.shape[1] if source.kind == "clip" else 1
    if frames != (config.num_frames or frames):
        raise ValueError(
            f"the source gives {'clips of ' + str(frames) + ' frames' if frames > 1 else 'pictures'}, the model takes "
            f"{config.num_frames} frames: set model.num_frames={frames} or the source's frames"
        )
