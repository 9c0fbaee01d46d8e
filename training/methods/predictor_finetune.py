"""Predictor fine-tuning: labels read through the predictor of a frozen image world model. Source: arXiv:2403.00504."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from jepa_hub.models.base import JEPAModel
from jepa_hub.models.iwm import IWMModel
from training.config import Settings as RunSettings
from training.methods.base import Method, MethodSettings


class PredictorFineTuneSettings(MethodSettings):
    """Settings of `PredictorFineTune`.

    Attributes:
        tasks: labels of the source and their numbers of classes; each gets a task token and an attentive head.
        train: "predictor" (the encoder is frozen), "encoder" (the control: heads read its tokens, there is no
            predictor) or "all" (end to end).
        start: of the predictor, "pretrained" or "random" (the control of the same size).
    """

    tasks: dict[str, int] = Field(min_length=1)
    train: Literal["predictor", "encoder", "all"] = "predictor"
    start: Literal["pretrained", "random"] = "pretrained"


class PredictorFineTune(Method):
    """Cross-entropy of all tasks at once.

    As in the paper the encoder is the target encoder, sees the whole clean picture, and the predictor is asked for the
    whole, unchanged picture (no change is its conditioning). There a pretrained predictor gets a tenth of the learning
    rate of a random one; here a recipe sets one learning rate for all that is trained.
    """

    Settings: ClassVar[type[MethodSettings]] = PredictorFineTuneSettings
    needs_masks: ClassVar[bool] = False
    networks: ClassVar[tuple[str, ...]] = ("predictor", "target_encoder")
    settings: PredictorFineTuneSettings

    def __init__(self, model: JEPAModel, settings: PredictorFineTuneSettings) -> None:
        if not isinstance(model, IWMModel):
            raise ValueError(f"the method predictor_finetune trains the family iwm, not {type(model).__name__}")
        if model.target_encoder is None:
            model.copy_encoder_to_target()
        if settings.train == "encoder":
            model.predictor = None
        elif settings.start == "random" or model.predictor is None:
            model.predictor = model.build_predictor(model.config).to(model.device, model.dtype)
            for module in reversed(list(model.predictor.modules())):  # children first, as transformers does it
                model._init_weights(module)
            model.bind_attention()
        model.encoder = None  # its moving average is the one that is used
        kept = ["predictor", "target_encoder"] if model.predictor is not None else ["target_encoder"]
        model.config.networks = kept
        model.start_tasks(settings.tasks)
        super().__init__(model, settings)
        assert model.target_encoder is not None  # made above
        model.target_encoder.requires_grad_(settings.train != "predictor")

    @classmethod
    def check(cls, settings: RunSettings) -> None:
        """Masks and second views have no part in it."""
        if settings.masks is not None or settings.data.photometry is not None:
            raise ValueError("predictor_finetune sees whole, unchanged pictures: leave out masks and data.photometry")

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Mean cross-entropy over the tasks, and the accuracy of each."""
        model: Any = self.model
        tokens = model.feature_encoder(batch["pixels"])  # [B, N, D]
        grid = model.feature_encoder.grid(batch["pixels"])
        losses, found = [], {}
        for task in self.settings.tasks:
            if task not in batch["labels"]:
                raise ValueError(f"the source has no label {task!r}; it has {', '.join(batch['labels'])}")
            logits = model.logits_of(tokens, grid, task)
            labels = batch["labels"][task]
            losses.append(F.cross_entropy(logits.float(), labels))
            found[f"accuracy_{task}"] = (logits.argmax(dim=1) == labels).float().mean()
        return {"loss": torch.stack(losses).mean(), **found}

    def parts(self) -> dict[str, nn.Module]:
        """What is trained."""
        model: Any = self.model
        named = {"target_encoder": model.target_encoder, "predictor": model.predictor, "heads": model.heads}
        return {
            name: each
            for name, each in named.items()
            if each is not None and any(parameter.requires_grad for parameter in each.parameters())
        }
