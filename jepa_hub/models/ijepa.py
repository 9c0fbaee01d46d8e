"""I-JEPA: predict the representation of image blocks from one context block. Source: arXiv:2301.08243."""

from __future__ import annotations

from huggingface_hub.dataclasses import strict

from jepa_hub.models.base import JEPAModel
from jepa_hub.models.config import JEPAConfig


@strict
class IJepaConfig(JEPAConfig):
    """Images, 2D sine-cosine positions with the column in the first half of the channels (as upstream's code)."""

    model_type = "jepa_hub_ijepa"


class IJepaModel(JEPAModel):
    """I-JEPA's encoder, predictor and target encoder."""

    config_class = IJepaConfig
    config: IJepaConfig
