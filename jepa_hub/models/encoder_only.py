"""The base of families without a predictor: what asks for predictions is refused in words that name the way out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

from torch import Tensor

from jepa_hub.masks import Masks
from jepa_hub.models.base import JEPAModel, JEPAOutput


class EncoderOnlyModel(JEPAModel):
    """A `JEPAModel` that encodes and predicts no tokens; it has heads or methods of its own instead.

    A family sets `refusal`: what it is, and what to call instead of `predict`.
    """

    refusal: ClassVar[str]

    def forward(
        self,
        pixel_values: Tensor,
        masks: Masks | Sequence[Masks] | None = None,
        conditioning: Tensor | None = None,
    ) -> JEPAOutput:
        """Tokens [B, N, D] of the encoder.

        Args:
            pixel_values: [B, 3, H, W], normalised.
            masks, conditioning: must be None.
        """
        if masks is not None or conditioning is not None:
            self.predict(pixel_values)
        return super().forward(pixel_values)

    def predict(self, inputs: Any, **settings: Any) -> NoReturn:
        """Refused: there is no predictor."""
        raise ValueError(self.refusal)

    def prediction_targets(self, pixels: Tensor) -> NoReturn:
        """Refused: there is no predictor."""
        self.predict(pixels)
