"""V-JEPA 2: V-JEPA with rotary positions, at scale. Source: arXiv:2506.09985."""

from __future__ import annotations

from huggingface_hub.dataclasses import strict

from jepa_hub.models.base import JEPAModel
from jepa_hub.models.config import SIZES, JEPAConfig


@strict
class VJepa2Config(JEPAConfig):
    """Clips of 64 frames at 256 pixels, rotary positions (tiled, as in the weights), ten mask tokens.

    Upstream trains token 0 when all clips of a run have one length, and predicts with token 1 by default at inference;
    `predict(..., group=)` chooses.
    """

    model_type = "jepa_hub_vjepa2"

    tubelet_size: int = 2
    image_size: int | list[int] | tuple[int, int] | None = 256
    num_frames: int | None = 64
    position_type: str = "rotary_tiled"
    position_axes: str = "time_row_column"
    predictor_num_attention_heads: int | None = 12
    num_mask_tokens: int = 10
    zero_init_mask_tokens: bool = True
    rescale_residual: bool = True

    @classmethod
    def sizes(cls) -> dict[str, tuple[int, int, int, int]]:
        """Published sizes; the giant has 22 heads in this code base."""
        return {**SIZES, "vit_giant": (1408, 40, 22, 6144)}


class VJepa2Model(JEPAModel):
    """V-JEPA 2's encoder, predictor and target encoder."""

    config_class = VJepa2Config
    config: VJepa2Config
