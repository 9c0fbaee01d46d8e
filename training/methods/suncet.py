"""SuNCEt: SimCLR with a term that pulls labelled samples of a class together. Source: arXiv:2006.10803, 2002.05709."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from training.config import Settings as RunSettings
from training.methods.base import MethodSettings
from training.methods.gathering import gather, rank
from training.methods.residual import ResidualMethod, label_rows
from training.objectives import nt_xent, suncet


class SuNCEtSettings(MethodSettings):
    """Settings of `SuNCEt`.

    Attributes:
        temperature: of both terms.
        self_supervised: weight of SimCLR's term; 0 trains on labelled samples alone.
        supervised: weight of SuNCEt's term, which ends with `data.support.until`; without a support it is SimCLR.
        label_smoothing: of the support's labels.
        freeze_norms: batch norms keep their statistics, for fine-tuning.
    """

    temperature: float = Field(default=0.1, gt=0)
    self_supervised: float = Field(default=1.0, ge=0)
    supervised: float = Field(default=1.0, ge=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    freeze_norms: bool = False

    @model_validator(mode="after")
    def _something(self) -> SuNCEtSettings:
        if not self.self_supervised and not self.supervised:
            raise ValueError("one of self_supervised and supervised must be above 0")
        return self


class SuNCEt(ResidualMethod):
    """Supervised noise contrastive estimation beside SimCLR; either can be had alone."""

    Settings: ClassVar[type[MethodSettings]] = SuNCEtSettings
    views: ClassVar[str] = "two, and a support"

    @classmethod
    def check(cls, settings: RunSettings) -> None:
        """Two views for SimCLR's term, a support for the other."""
        own = cls.Settings.model_validate(settings.method.own)
        assert isinstance(own, SuNCEtSettings)
        support = settings.data.support
        if own.self_supervised and settings.data.num_views != 2:
            raise ValueError(
                f"SimCLR's term compares two views: set data.num_views=2 (it is {settings.data.num_views})"
            )
        if not own.self_supervised and (support is None or support.until < 1 or not own.supervised):
            raise ValueError(
                "without SimCLR's term every step needs labelled samples: give data.support, with until: 1"
            )
        if support is not None and support.unique_classes:
            raise ValueError(
                "workers share the classes of SuNCEt, so that positives exist across them: unique_classes: false"
            )
        if settings.model.own.get("prediction", settings.model.size != "wide_resnet28w2"):
            raise ValueError("suncet trains the projection head alone: set model.prediction=false")

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """SimCLR's term on the views and SuNCEt's on the support, where there is one."""
        own, support = self.settings, batch.get("support")
        views = batch["views"][:2] if own.self_supervised else []
        labelled = [support["pixels"]] if support is not None and own.supervised else []
        embedded = [each.projected for each in self.embed(*views, *labelled)]
        found: dict[str, Tensor] = {}
        with torch.autocast(batch["pixels"].device.type, enabled=False):
            loss = torch.zeros((), device=batch["pixels"].device, dtype=embedded[0].dtype)
            if views:
                queries = torch.cat(embedded[:2])  # [2*B, E]
                keys = gather(queries.detach())
                found["nt_xent"] = nt_xent(queries, keys, own.temperature, rank() * len(queries))
                loss = loss + own.self_supervised * found["nt_xent"]
            if labelled:
                assert support is not None
                queries, count = embedded[-1], support["num_classes"]
                repeats = len(queries) // len(support["labels"])
                labels = label_rows(support["labels"], count, own.label_smoothing, repeats)  # [V*S, K]
                keys, key_labels = gather(queries), gather(labels)
                start = rank() * len(queries)
                found["suncet"] = suncet(queries, keys, labels, key_labels, own.temperature, start)
                loss = loss + own.supervised * found["suncet"]
        return {"loss": loss, **{name: value.detach() for name, value in found.items()}}
