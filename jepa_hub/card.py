"""The model card written beside weights that have none."""

from __future__ import annotations

from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from jepa_hub import catalog

TEXT = """
# {title}

{summary} Loaded with [jepa_hub](https://pypi.org/project/jepa-hub/).

```python
from jepa_hub import JEPAModel, JEPAProcessor

model = JEPAModel.from_pretrained("{name}")
processor = JEPAProcessor.from_pretrained("{name}")
features = model.encode(processor("{example}"))  # .tokens [B, N, D]  .grid [B, T, H, W, D]  .pooled [B, D]{more}
```

| | |
|---|---|
| family | {family} |
| networks | {networks} |
| encoder | {encoder} |
| input | {input} |
| parameters | {parameters} |
| licence | {licence} |
| provenance | {provenance} |
"""


def card(model: Any, name: str, tags: list[str] | None = None) -> str:
    """README.md text of a model: YAML head, usage, what it holds, licence and provenance.

    Args:
        model: a `JEPAModel`.
        name: Hub id or folder that the usage example names.
        tags: further tags.
    """
    config = model.config
    family = config.model_type.removeprefix("jepa_hub_")
    row = catalog.find(config.provenance) if config.provenance else None
    video = config.tubelet_size > 1
    task = _task(model, video)
    learned = ["self-supervised-learning"] if task.endswith("feature-extraction") else []
    data = ModelCardData(
        library_name="jepa_hub",
        license=config.licence,
        pipeline_tag=task,
        tags=["jepa", family, *learned, "video" if video else "image", *(tags or [])],
        base_model=row.source if row and "/" in row.source and "://" not in row.source else None,
    )
    size = config.image_size if config.image_size is not None else "any size"
    frames = f"clips of {config.num_frames or 'any number of'} frames, " if video else "images, "
    body = TEXT.format(
        title=name,
        summary=f"{family} weights" + (f" (arXiv:{row.paper})." if row else "."),
        name=name,
        more="".join(f"\n{line}" for part, line in model.card_examples.items() if getattr(model, part) is not None),
        example="clip.mp4" if video else "photo.jpg",
        family=family,
        networks=", ".join(config.networks),
        encoder=config.encoder_summary,
        input=f"{frames}{size} pixels, patches of {config.patch_size}",
        parameters=f"{sum(parameter.numel() for parameter in model.parameters()):,}",
        licence=config.licence or "not stated",
        provenance=config.provenance or "not stated",
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n{body}"))


def _task(model: Any, video: bool) -> str:
    """The Hub's name of what a model is for."""
    if hasattr(model, "sample"):
        return "unconditional-image-generation"  # the Hub has no name for pictures of a class
    if getattr(model, "classifier", None) is not None:
        return "image-classification"
    if hasattr(model, "encode_text"):
        return "zero-shot-image-classification"
    return "feature-extraction" if video else "image-feature-extraction"
