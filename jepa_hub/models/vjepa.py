"""V-JEPA: predict the representation of masked tubes of a clip. Source: arXiv:2404.08471.

The intuitive-physics models (arXiv:2502.11831) are this family with `position_type="rotary_interleaved"` and
`hidden_act="swiglu"`.
"""

from __future__ import annotations

from huggingface_hub.dataclasses import strict

from jepa_hub.models.base import JEPAModel
from jepa_hub.models.config import JEPAConfig


@strict
class VJepaConfig(JEPAConfig):
    """Clips of 16 frames, tubelets of 2, 3D sine-cosine positions, one mask token per mask kind (short, long range)."""

    model_type = "jepa_hub_vjepa"

    tubelet_size: int = 2
    num_frames: int | None = 16
    position_axes: str = "time_row_column"
    uniform_power: bool = True
    num_mask_tokens: int = 2
    zero_init_mask_tokens: bool = True


class VJepaModel(JEPAModel):
    """V-JEPA's encoder, predictor and target encoder."""

    config_class = VJepaConfig
    config: VJepaConfig
