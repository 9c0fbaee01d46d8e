"""Llip, and SigLIP and CLIP on the same model: pictures and texts that belong together. Source: arXiv:2405.00740."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from jepa_hub.models.base import JEPAModel
from jepa_hub.models.llip import LlipModel
from training.config import Settings as RunSettings
from training.methods.base import Method, MethodSettings
from training.methods.gathering import gather, rank, world_size
from training.methods.pairing import Texts, chunked, ring
from training.objectives import log_totals, sigmoid_pairs, softmax_pairs

MAX_LOGIT_SCALE = math.log(100)


class LlipSettings(MethodSettings):
    """Settings of `Llip`.

    Attributes:
        objective: sigmoid (SigLIP's, Llip's) or softmax (CLIP's).
        query: compared mixes a picture with the text that it is compared with; own mixes it once, with its own text,
            and compares that with every text: the shortcut that the paper warns of, for controls.
        known: what becomes of pairs that are true although the text was drawn for another picture (a caption of the
            batch is among this picture's captions): ignored, or taken as negatives as the paper has to.
        chunk: numbers of an array [pictures, texts, embed_size] that may exist at once.
    """

    objective: Literal["sigmoid", "softmax"] = "sigmoid"
    query: Literal["compared", "own"] = "compared"
    known: Literal["ignored", "negative"] = "ignored"
    chunk: int = Field(default=1 << 24, ge=1)


class Llip(Method):
    """A picture is mixed anew for every text that it is compared with, negatives too."""

    Settings: ClassVar[type[MethodSettings]] = LlipSettings
    views: ClassVar[str] = "one, and captions"
    needs_masks: ClassVar[bool] = False
    networks: ClassVar[tuple[str, ...]] = ("encoder",)
    model: LlipModel

    def __init__(self, model: JEPAModel, settings: MethodSettings) -> None:
        if not isinstance(model, LlipModel):
            raise ValueError(f"the method llip trains the family llip, not {type(model).__name__}: set model.name=llip")
        super().__init__(model, settings)

    @classmethod
    def check(cls, settings: RunSettings) -> None:
        """Captions, and one of each sample for the shortcut."""
        if settings.data.captions is None:
            raise ValueError("the method llip needs texts: set data.captions, such as {per_sample: 1}")
        own = cls.Settings.model_validate(settings.method.own)
        assert isinstance(own, LlipSettings)
        if own.query == "own" and settings.data.captions.per_sample > 1:
            raise ValueError("method.query=own mixes a picture with its one text: set data.captions.per_sample=1")

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The loss over all pairs of all workers, and how often the best text of the batch is a picture's own."""
        model, own = self.model, self.settings
        pixels = batch["pixels"]
        image = model.image_parts(pixels)
        text = model.text_parts(model.tokenize(batch["captions"]).to(pixels.device))
        count = len(pixels)
        first = rank() * count
        mine = torch.arange(first, first + count, device=pixels.device)  # [B]
        owner = mine.repeat_interleave(len(batch["captions"]) // count)  # [T]
        everyone = ring(Texts(text.queries, text.targets, owner, batch["caption_ids"]))
        if own.query == "own" and model.mixes_by_text:
            vectors = model.mixing(image.keys, image.values, text.queries[:, None])[:, 0]  # [B, E]
        else:
            vectors = image.pooled
        if model.mixes_by_text and own.query == "compared":
            parts = [
                chunked(model.pair_logits, image.keys, image.values, each.queries, each.targets, own.chunk)
                for each in everyone
            ]
        else:
            parts = [model.scaled(vectors @ each.targets.T) for each in everyone]
        logits = torch.cat(parts, dim=1)  # [B, T of all workers]
        positive = mine[:, None] == torch.cat([each.owner for each in everyone])
        ignored = None
        if own.known == "ignored":
            known = batch["known_ids"]  # [B, F]
            ids = torch.cat([each.id for each in everyone])  # [T]
            ignored = (known[:, :, None] == ids).any(dim=1) & ~positive
        with torch.autocast(pixels.device.type, enabled=False):
            loss = self._loss(logits, positive, ignored, len(owner))
        best = logits.detach() if ignored is None else logits.detach().masked_fill(ignored, -torch.inf)
        right = positive.gather(1, best.argmax(dim=1, keepdim=True))
        return {
            "loss": loss,
            "batch_accuracy": right.float().mean(),
            "logit_scale": model.mixing.logit_scale.detach().exp().mean(),
        }

    def _loss(self, logits: Tensor, positive: Tensor, ignored: Tensor | None, texts: int) -> Tensor:
        """The objective of this worker's pictures and texts.

        Args:
            logits, positive, ignored: [B, T of all workers].
            texts: of this worker.
        """
        if self.settings.objective == "sigmoid":
            return sigmoid_pairs(logits, positive, ignored) / texts
        logits = logits if logits.dtype == torch.float64 else logits.float()
        by_picture = softmax_pairs(logits, positive, ignored)
        turned, own = logits.T, slice(rank() * texts, (rank() + 1) * texts)
        unknown = None if ignored is None else ignored.T
        # Texts are compared with the pictures of all workers: each adds what its own give to every text's total.
        totals = log_totals(turned, positive.T, unknown)  # [T of all workers]
        totals = gather(totals).view(world_size(), -1).logsumexp(dim=0)
        by_text = softmax_pairs(turned[own], positive.T[own], None, totals[own])
        return (by_picture + by_text) / 2

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Keep the scale between 1 and 100."""
        self.model.mixing.logit_scale.clamp_(0, MAX_LOGIT_SCALE)

    def features(self, pixels: Tensor) -> Tensor:
        """Values of the mixture tokens [B, K, E]: what is compared is made of them."""
        return self.model.image_parts(pixels).values

    def parts(self) -> dict[str, nn.Module]:
        """The vision tower, the text tower and the mixing."""
        return {"encoder": self.model.encoder, "text": self.model.text, "mixing": self.model.mixing}
