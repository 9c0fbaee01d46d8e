"""What a run leaves for others: the model as `JEPAModel.from_pretrained` reads it, with a card, and its upload."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from jepa_hub.card import card
from jepa_hub.models.base import JEPAModel
from jepa_hub.models.config import JEPAConfig
from jepa_hub.processing import JEPAProcessor
from training.config import Settings
from training.recipe import to_yaml

NOTES = """
## How it was made

Trained with jepa_hub for {steps:,} steps of {step_size} samples on `{source}`.

| measured at the end of the run | |
|---|---|
{metrics}

`settings.yaml` beside the weights holds everything that determines the run:

```bash
accelerate launch training/train.py settings.yaml
```

```yaml
{settings}```
"""


def processor_of(config: JEPAConfig) -> JEPAProcessor:
    """The preprocessing that matches what the model was trained on."""
    size = config.view_size
    assert size is not None  # training needs it
    return JEPAProcessor(
        image_size=size if isinstance(size, int) else (size[0], size[1]),
        patch_size=config.patch_size,
        tubelet_size=config.tubelet_size,
        num_frames=config.num_frames if config.tubelet_size > 1 else None,
    )


def write_model(
    model: JEPAModel,
    folder: Path,
    settings: Settings,
    *,
    name: str,
    state: dict[str, Tensor],
    step_size: int,
    metrics: dict[str, Any],
) -> None:
    """Write weights, preprocessing, settings and card so that the folder is whole or not there at all.

    Args:
        model: what `state` fits.
        folder: where to; an older one is replaced at the end.
        settings: of the run.
        name: for the card's usage example.
        state: weights of the model by name, gathered from all workers.
        step_size: samples per step.
        metrics: for the card.
    """
    draft = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    rows = "\n".join(f"| {key} | {_shown(value)} |" for key, value in metrics.items())
    text = to_yaml(settings)
    notes = NOTES.format(
        steps=settings.run.steps,
        step_size=step_size,
        source=json.dumps(settings.data.source.model_dump(mode="json")),
        metrics=rows or "| nothing | |",
        settings=text,
    )
    (draft / "README.md").write_text(card(model, name) + notes, encoding="utf-8")
    (draft / "settings.yaml").write_text(text, encoding="utf-8")
    (draft / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    processor_of(model.config).save_pretrained(draft)
    model.save_pretrained(draft, state_dict=state)
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    draft.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def push(folder: Path, repo_id: str) -> None:
    """Upload a written model; a README.md that is on the Hub already stays."""
    model = JEPAModel.from_pretrained(folder)
    message = "Upload a model trained with jepa_hub"
    model.save_pretrained(folder, push_to_hub=True, repo_id=repo_id, commit_message=message)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
