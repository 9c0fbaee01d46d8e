"""Files in, labels out: by a few labelled pictures (PAWS), by a fine-tuned classifier, or by a probe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from jepa_hub import hub
from jepa_hub.embedding.files import IMAGE_SUFFIXES, find_files
from jepa_hub.labelled import Labelled, label_files
from jepa_hub.models.base import JEPAModel
from jepa_hub.models.paws import PAWSModel
from jepa_hub.models.pit import PiTModel
from jepa_hub.models.probe import Classification, Probe, ProbeConfig
from jepa_hub.models.support import Support, check_support
from jepa_hub.processing import JEPAProcessor

_LAYOUT = "expected one folder per class with a few pictures in it, such as support/cat/1.jpg"


def load(name: str, *, has_support: bool, device: str, revision: str | None = None) -> tuple[Any, JEPAProcessor]:
    """A PAWS model or a probe with its backbone, and its preprocessing.

    Raises:
        ValueError: the model cannot classify, or not by a support.
    """
    location = hub.locate(name)
    probe = location.row.kind == "probe" if location.row else False
    if location.kind == "repository" and not probe:
        config = hub.read_config(location, hub.Access(revision=revision))
        classes = config.get("architectures") or []
        probe = config.get("model_type") == ProbeConfig.model_type or "VJEPA2ForVideoClassification" in classes
    model: Any
    if probe:
        if has_support:
            raise ValueError(f"{name} is a probe with classes of its own: leave --support out")
        model = Probe.from_pretrained(name, revision=revision)
        if model.backbone is None:
            raise ValueError(
                f"{name} is a head without a backbone: in Python, Probe.from_pretrained(..., backbone=model)"
            )
    else:
        model = JEPAModel.from_pretrained(name, revision=revision)
        if isinstance(model, PiTModel) and has_support:
            raise ValueError(f"{name} has a classifier of its own: leave --support out")
        if not isinstance(model, PAWSModel | PiTModel):
            raise ValueError(
                f"{name} is a {type(model).__name__}, which has no classes: choose a model of the family paws or pit, "
                "or a probe"
            )
        if not has_support and model.classifier is None:
            raise ValueError(
                f"{name} has no classifier of its own"
                + ("" if isinstance(model, PiTModel) else f": give --support, {_LAYOUT}")
            )
    return model.to(device).eval(), JEPAProcessor.from_pretrained(name, revision=revision)


def support_files(folder: str | Path, per_class: int | None = None) -> dict[str, list[str]]:
    """Pictures of each class, by the names of their folders.

    Args:
        folder: with one folder per class.
        per_class: pictures of each class to take, the first by name; None takes all.

    Raises:
        ValueError: there are not two classes, or a class has no picture or fewer than asked for (with the counts).
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"there is no folder {folder}; {_LAYOUT}")
    classes = sorted(each for each in root.iterdir() if each.is_dir() and not each.name.startswith("."))
    if len(classes) < 2:
        raise ValueError(f"{folder} has {len(classes)} folders of classes, at least 2 are needed; {_LAYOUT}")
    found = {
        each.name: sorted(str(path) for path in each.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        for each in classes
    }
    few = {name: len(files) for name, files in found.items() if len(files) < (per_class or 1)}
    if few:
        shown = ", ".join(f"{name}: {count}" for name, count in few.items())
        raise ValueError(
            f"--support needs {per_class or 1} pictures of each class in {folder}; there are fewer of {shown}"
        )
    return {name: files[:per_class] for name, files in found.items()}


@torch.no_grad()
def make_support(
    model: PAWSModel, processor: JEPAProcessor, files: dict[str, list[str]], device: str, batch_size: int = 16
) -> Support:
    """The embedded pictures of each class; one that cannot be read is an error, because the classes rest on it."""
    names = list(files)
    paths = [path for name in names for path in files[name]]
    labels = [name for name in names for _ in files[name]]
    known, numbers = check_support(len(paths), labels, names)
    parts = []
    for start in range(0, len(paths), batch_size):  # pixels of thousands of pictures would fill memory
        inputs = processor(paths[start : start + batch_size], device=device)
        parts.append(model.embed(inputs.pixel_values).predicted.float())
    return Support(torch.cat(parts), numbers.to(device), known)


def classify_files(
    model: Any,
    processor: JEPAProcessor,
    inputs: Iterable[str | Path],
    *,
    support: Support | None = None,
    top: int = 5,
    batch_size: int = 16,
    device: str = "cpu",
) -> Iterator[Labelled]:
    """Labels of each file; one that cannot be read is logged, and said in its place.

    Args:
        model, processor: see `load`.
        inputs: files, and folders that are searched recursively.
        support: for a PAWS model without a classifier.
        top: labels of each.
        batch_size: pictures per forward pass; clips, which may differ in length, go one by one.
        device: where to compute.
    """
    paths = [str(path) for path in find_files(inputs)]
    images = [path for path in paths if Path(path).suffix.lower() in IMAGE_SUFFIXES]
    together = batch_size if len(images) == len(paths) else 1

    def label(some: list[str]) -> Classification:
        inputs = processor(some, device=device)
        return model.classify(inputs, support, top=top) if support is not None else model.classify(inputs, top=top)

    return label_files(paths, together, label)
