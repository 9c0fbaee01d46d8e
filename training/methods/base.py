"""Method: model and objective as one module, so that one wrapper, one autocast and one compile cover both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from jepa_hub.models.base import JEPAModel
from training.config import Settings as RunSettings
from training.data.source import Label


class MethodSettings(BaseModel):
    """Settings of a method; each method adds its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Method(nn.Module):
    """A model and what it is trained for.

    Subclasses set `views` (what they need of a sample), `needs_masks` and `networks` (what the model must hold), and
    write `forward`.
    """

    Settings: ClassVar[type[MethodSettings]] = MethodSettings
    views: ClassVar[str] = "one"
    needs_masks: ClassVar[bool] = True
    networks: ClassVar[tuple[str, ...]] = ("encoder",)

    def __init__(self, model: JEPAModel, settings: Any) -> None:
        super().__init__()
        self.model = model
        self.settings = settings

    @classmethod
    def check(cls, settings: RunSettings) -> None:
        """Return if the rest of a recipe gives the method what it needs.

        Raises:
            ValueError: it does not.
        """

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """0-d tensors: "loss" is minimised, the rest is logged.

        Args:
            batch: "pixels" [B, 3, F, H, W] normalised, "masks" a list of Masks (one per group), "labels" by name;
                "views" a list of all views of the samples, "pixels" first, where the recipe asks for several; "support"
                with "pixels" [V*S, 3, F, H, W] (view by view), "labels" [S] in 0 .. "num_classes" - 1, "classes" [C]
                and the name of the "label", where the recipe has a support; "captions" a list of n*B texts (sample by
                sample), "caption_ids" [n*B] and "known_ids" [B, F] (0 pads), where the recipe has captions.
        """
        raise NotImplementedError

    def name_classes(self, labels: Mapping[str, Label]) -> None:
        """Note the names of the classes that are learned, on a model that says them.

        Args:
            labels: of the labelled samples' source, by name.

        Raises:
            ValueError: the method learns a label that is not there, or that is not what its settings say.
        """

    def after_step(self, progress: float) -> None:
        """What follows an optimizer step, e.g. a moving average; `progress` in [0, 1] of the schedule."""

    def features(self, pixels: Tensor) -> Tensor:
        """Tokens [B, N, D] that the guard and the online probe look at."""
        return self.model.feature_encoder(pixels)

    def parts(self) -> dict[str, nn.Module]:
        """Trained networks by name; gradients are clipped for each on its own, as upstream."""
        return {
            name: child for name, child in self.named_children() if any(p.requires_grad for p in child.parameters())
        }
