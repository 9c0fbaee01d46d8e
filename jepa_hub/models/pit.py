"""PiT: a plain vision transformer whose tokens are single pixels, and its heads. Source: arXiv:2406.09415.

Nothing but the patch size, the positions and the scale at which both start sets it apart from a vision transformer, so
the same family holds the patch-2 and patch-16 models it is compared with. Not the pooling-based PiT of timm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import initialization as init

from jepa_hub.models import graphs
from jepa_hub.models import inputs as model_inputs
from jepa_hub.models.base import JEPAModel, build_positions
from jepa_hub.models.config import JEPAConfig
from jepa_hub.models.graphs import Graph
from jepa_hub.models.mae import MAEConfig, MAEModel
from jepa_hub.models.probe import Classification
from jepa_hub.nn.encoder import ViTEncoder
from jepa_hub.nn.linear import Linear
from jepa_hub.nn.patchify import PatchEmbed
from jepa_hub.nn.pixels import PixelEncoder
from jepa_hub.nn.positions import LearnedPositions

POOLS = ("class", "mean")


@strict
class PiTConfig(MAEConfig):
    """A vision transformer with one token per pixel, its heads, and (for masked pixels) a predictor.

    Args:
        pool: what the heads read: "class" (a class token) or "mean" (of all tokens).
        embedding_std: deviation of the embedded pixels at the start, for pixels of deviation 1.
        position_std: deviation of learned positions at the start; that of the pixels by default. A table much smaller
            than the pixels leaves a bag of pixels: with three numbers to a token nothing else tells tokens apart.
        attention_window: side (odd) of the square of tokens that a token may look at; None is all of them.
        num_classes: of the classification head; 0 has none.
        class_names: of those classes, in order; without them numbers are told.
        num_values: numbers that the regression head gives; 0 has none.
        value_offset, value_scale: of those numbers: offset + scale * what the linear layer gives.
    """

    model_type = "jepa_hub_pit"

    patch_size: int = 1
    image_size: int | list[int] | tuple[int, int] | None = 32
    position_type: str = "learned"
    pixel_targets: str = "none"  # a single pixel has no deviation to be divided by
    pool: str = "class"
    embedding_std: float = 0.5
    position_std: float | None = None
    attention_window: int | None = None
    num_classes: int = 0
    class_names: list[str] | tuple[str, ...] = ()
    num_values: int = 0
    value_offset: float = 0.0
    value_scale: float = 1.0

    @property
    def num_extra_tokens(self) -> int:
        """The class token."""
        return int(self.pool == "class")

    def _check(self) -> None:
        super()._check()
        self.class_names = list(self.class_names)  # as they are read from files
        if self.pool not in POOLS:
            raise ValueError(f"pool is one of {', '.join(POOLS)}, not {self.pool!r}")
        if self.pool == "class" and self.position_type.startswith("rotary_"):
            raise ValueError("a class token has no rotary position: set pool='mean', or another position_type")
        if self.attention_window is not None and (self.attention_window < 1 or self.attention_window % 2 == 0):
            raise ValueError(f"attention_window is odd, so that a token is in the middle, not {self.attention_window}")
        if self.num_classes < 0 or self.num_values < 0 or self.num_classes == 1:
            raise ValueError(
                f"num_classes is 0 or 2 and more, num_values 0 and more: {self.num_classes}, {self.num_values}"
            )
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ValueError(f"{len(self.class_names)} class_names for {self.num_classes} classes")
        scales = (self.embedding_std, self.value_scale, 1.0 if self.position_std is None else self.position_std)
        if min(scales) <= 0:
            raise ValueError("embedding_std, position_std and value_scale must be positive")


class PiTModel(MAEModel):
    """A pixel transformer: `encode` gives a token per pixel, `classify` and `regress` what its heads say.

    With a predictor it also predicts masked pixels (`predict`).
    """

    networks = ("encoder", "predictor")
    more_graphs: ClassVar[Mapping[str, str]] = {"classes": "logits", "values": "values"}
    card_examples: ClassVar[Mapping[str, str]] = {
        "classifier": 'found = model.classify(processor("photo.jpg"))  # .labels, the likeliest first  .probabilities',
        "regressor": 'numbers = model.regress(processor("photo.jpg"))  # [B, V]',
    }
    config_class = PiTConfig
    config: PiTConfig
    encoder: PixelEncoder

    @staticmethod
    def build_encoder(config: JEPAConfig) -> PixelEncoder:
        """The encoder of `config`, uninitialised."""
        assert isinstance(config, PiTConfig)
        patch_embed = PatchEmbed(
            config.hidden_size,
            patch_size=config.patch_size,
            tubelet_size=config.tubelet_size,
            num_channels=config.num_channels,
        )
        return PixelEncoder(
            config.encoder_spec,
            config.num_hidden_layers,
            patch_embed,
            build_positions(config, config.hidden_size, config.encoder_spec.head_dim),
            class_token=config.pool == "class",
            window=config.attention_window,
        )

    def build_heads(self, config: JEPAConfig) -> None:
        """The heads of `config`; an absent one is None."""
        assert isinstance(config, PiTConfig)
        self.classifier = Linear(config.hidden_size, config.num_classes) if config.num_classes else None
        self.regressor = Linear(config.hidden_size, config.num_values) if config.num_values else None

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.embedding_std
        if isinstance(module, PatchEmbed):  # after its own linear layer, so that this is what stays
            init.normal_(module.proj.weight, std=std * module.proj.in_features**-0.5)
        elif isinstance(module, LearnedPositions):
            init.normal_(module.table, std=self.config.position_std or std)
        elif isinstance(module, PixelEncoder) and module.class_token is not None:
            init.normal_(module.class_token, std=std)

    @classmethod
    def from_encoder(cls, model: JEPAModel) -> PiTModel:
        """A model for heads on the encoder that a vision transformer's features come from, without other networks.

        Args:
            model: of any family with a vision transformer; one that is such a model already comes back itself.

        Raises:
            ValueError: its encoder is another kind of network.
        """
        if isinstance(model, cls) and list(model.config.networks) == ["encoder"]:
            return model
        source = model.feature_encoder
        if not isinstance(source, ViTEncoder):
            raise ValueError(f"heads go on a vision transformer; {type(model).__name__} has a {type(source).__name__}")
        known = {field.name for field in fields(PiTConfig)}
        settings = {name: value for name, value in model.config.settings().items() if name in known}
        if not isinstance(model, cls):
            settings["pool"] = "mean"  # there is no class token
        found = cls(cls.config_class(**{**settings, "networks": ["encoder"]}))
        found = found.to(device=model.device, dtype=model.dtype).train(model.training)
        found.encoder.load_state_dict(source.state_dict())
        found.encoder.gradient_checkpointing = source.gradient_checkpointing
        if source.gradient_checkpointing:
            found.activation_checkpointing_enable()
        for name in ("classifier", "regressor"):
            head = getattr(model, name, None)
            if isinstance(head, nn.Module):
                getattr(found, name).load_state_dict(head.state_dict())
        return found

    @torch.no_grad()
    def start_classifier(self, num_classes: int) -> None:
        """Put a linear layer of zeros for so many classes; a classifier of as many classes is kept."""
        if self.classifier is not None and self.config.num_classes == num_classes:
            return
        self.classifier = self._zeros(num_classes)
        self.config.num_classes, self.config.class_names = num_classes, []

    @torch.no_grad()
    def start_regressor(self, num_values: int, *, offset: float = 0.0, scale: float = 1.0) -> None:
        """Put a linear layer of zeros for so many numbers of mean `offset` and deviation `scale`; one there is kept."""
        asked = (num_values, offset, scale)
        if self.regressor is not None and asked == (
            self.config.num_values,
            self.config.value_offset,
            self.config.value_scale,
        ):
            return
        self.regressor = self._zeros(num_values)
        self.config.num_values, self.config.value_offset, self.config.value_scale = asked

    def _zeros(self, outputs: int) -> Linear:
        head = Linear(self.config.hidden_size, outputs)
        init.zeros_(head.weight)
        init.zeros_(head.bias)
        return head.to(self.device, self.dtype)

    # ----------------------------------------------------------------------------------------------------- running

    def pooled(self, pixels: Tensor) -> Tensor:
        """What the heads read [B, D], differentiable: the class token, or the mean of all tokens.

        Args:
            pixels: [B, 3, H, W] or [B, 3, F, H, W], normalised.
        """
        first, tokens = self.encoder.with_class(model_inputs.as_clip(pixels))
        return tokens.mean(dim=1) if first is None else first

    def logits(self, pixels: Tensor) -> Tensor:
        """Logits [B, K] of the classes, differentiable.

        Raises:
            ValueError: the model has no classification head.
        """
        if self.classifier is None:
            raise ValueError("this model has no classifier: train one with a recipe of the method supervised")
        return self.classifier(self.pooled(pixels))

    def values(self, pixels: Tensor) -> Tensor:
        """The numbers [B, V] of the regression head in their own units, differentiable.

        Raises:
            ValueError: the model has no regression head.
        """
        if self.regressor is None:
            raise ValueError("this model has no regressor: train one with a recipe of the method supervised")
        return self.config.value_offset + self.config.value_scale * self.regressor(self.pooled(pixels))

    @torch.no_grad()
    def classify(self, inputs: Tensor | Mapping[str, Any], *, top: int = 5, batch_size: int = 64) -> Classification:
        """The most likely labels and their probabilities.

        Args:
            inputs: a processor's output, [B, 3, H, W] or [B, 3, F, H, W], normalised.
            top: labels per picture.
            batch_size: pictures per forward pass.

        Raises:
            ValueError: the model has no classification head.
        """
        pixels = model_inputs.prepare(inputs, self, pad=False).pixels
        logits = torch.cat([self.logits(part) for part in pixels.split(batch_size)]).float()  # [B, K]
        chosen = logits.softmax(dim=-1).topk(min(top, logits.shape[-1]), dim=-1)
        names = self.config.class_names or [str(index) for index in range(logits.shape[-1])]
        labels = [[names[index] for index in row] for row in chosen.indices.tolist()]
        return Classification(labels, chosen.values)

    @torch.no_grad()
    def regress(self, inputs: Tensor | Mapping[str, Any], *, batch_size: int = 64) -> Tensor:
        """The numbers [B, V] of the regression head, in their own units; arguments as of `classify`."""
        pixels = model_inputs.prepare(inputs, self, pad=False).pixels
        return torch.cat([self.values(part) for part in pixels.split(batch_size)])

    def graphs(self, layers: Sequence[int] = ()) -> list[Graph]:
        """Features, predictions, and what the heads give."""
        found = super().graphs(layers)
        pixels, axes = graphs.example_pixels(self.config)
        for name, head in (("classes", self.classifier), ("values", self.regressor)):
            if head is not None:
                method = self.more_graphs[name]
                module = graphs.Method(self, method)
                found.append(Graph(name, module, {"pixel_values": pixels}, {"pixel_values": axes}, (method,)))
        return found
