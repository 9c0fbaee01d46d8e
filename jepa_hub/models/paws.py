"""PAWS and SuNCEt: residual networks that classify by a few labelled pictures. Source: arXiv:2104.13963, 2006.10803."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import initialization as init

from jepa_hub.models import graphs
from jepa_hub.models import inputs as model_inputs
from jepa_hub.models.config import JEPAConfig
from jepa_hub.models.encoder_only import EncoderOnlyModel
from jepa_hub.models.graphs import Graph
from jepa_hub.models.probe import Classification
from jepa_hub.models.support import Support, check_support
from jepa_hub.nn.resnet import BLOCKS, STEMS, Classifier, PredictionHead, ProjectionHead, ResNet, soft_neighbours

# name -> block, blocks per stage, channels of the first stage. Upstream's code; wide ones: arXiv:2006.10029, sec. 3.
RESNETS: dict[str, tuple[str, tuple[int, ...], int]] = {
    "resnet18": ("basic", (2, 2, 2, 2), 64),
    "resnet50": ("bottleneck", (3, 4, 6, 3), 64),
    "resnet50w2": ("bottleneck", (3, 4, 6, 3), 128),
    "resnet50w4": ("bottleneck", (3, 4, 6, 3), 256),
    "resnet101": ("bottleneck", (3, 4, 23, 3), 64),
    "resnet101w2": ("bottleneck", (3, 4, 23, 3), 128),
    "resnet200": ("bottleneck", (3, 24, 36, 3), 64),
    "resnet200w2": ("bottleneck", (3, 24, 36, 3), 128),
    "wide_resnet28w2": ("wide", (4, 4, 4), 32),
}
# Fields of a transformer, which mean nothing here and are refused and not written.
_TRANSFORMER_FIELDS = (
    *("num_attention_heads", "intermediate_size", "hidden_act", "qkv_bias", "layer_norm_eps", "initializer_range"),
    *("rescale_residual", "tubelet_size", "position_type", "position_axes", "uniform_power", "position_resize"),
    *("predictor_hidden_size", "predictor_num_hidden_layers", "predictor_num_attention_heads"),
    *("predictor_intermediate_size", "num_mask_tokens", "zero_init_mask_tokens"),
)


@strict
class PAWSConfig(JEPAConfig):
    """A residual network and its heads; `of_size("resnet50")` gives the published ones.

    Args:
        block: "basic", "bottleneck" or "wide".
        depths: blocks of each stage.
        base_width: channels of the first stage, doubled by each stage.
        stem: "imagenet" (stride 4) or "small" (stride 1).
        hidden_size, num_hidden_layers, patch_size: channels of the last map, blocks in all and pixels per place of the
            last map; they follow from the above and must agree if given.
        projection_size: of the embeddings h; 0 has no projection head.
        projection_hidden_size: of the projection head's layers; the width of the last map by default.
        projection_layers: 3 (with batch norm) or 2 (without; the SuNCEt runs of 2020).
        prediction: whether a prediction head makes embeddings z of h.
        num_classes: of a fine-tuned classifier; 0 has none.
        temperature: of the soft nearest-neighbour classifier.
    """

    model_type = "jepa_hub_paws"

    hidden_size: int = 0
    num_hidden_layers: int = 0
    patch_size: int = 0
    block: str = "bottleneck"
    depths: list[int] | tuple[int, ...] = (3, 4, 6, 3)
    base_width: int = 64
    stem: str = "imagenet"
    projection_size: int = 2048
    projection_hidden_size: int = 0
    projection_layers: int = 3
    prediction: bool = True
    num_classes: int = 0
    temperature: float = 0.1
    networks: list[str] | tuple[str, ...] = ("encoder",)

    def __post_init__(self, **kwargs: Any) -> None:
        given = {name for name in _TRANSFORMER_FIELDS if getattr(self, name) != getattr(JEPAConfig, name)}
        if given:
            raise ValueError(f"PAWSConfig has no setting {', '.join(sorted(given))}: a ResNet has no attention")
        if self.block not in BLOCKS or self.stem not in STEMS:
            raise ValueError(
                f"block is one of {', '.join(BLOCKS)} and stem one of {', '.join(STEMS)}, not {self.block!r} and "
                f"{self.stem!r}"
            )
        if not self.depths or min(self.depths) < 1 or self.base_width < 1:
            raise ValueError(f"depths {list(self.depths)} and base_width {self.base_width} must be 1 or more")
        self.depths = list(self.depths)
        derived = {
            "hidden_size": self.base_width * 2 ** (len(self.depths) - 1) * BLOCKS[self.block].expansion,
            "num_hidden_layers": sum(self.depths),
            "patch_size": (4 if self.stem == "imagenet" else 1) * 2 ** (len(self.depths) - 1),
        }
        for name, value in derived.items():
            if getattr(self, name) not in (0, value):
                raise ValueError(
                    f"{name} follows from block, depths, base_width and stem: {value}, not {getattr(self, name)}"
                )
            setattr(self, name, value)
        self.projection_hidden_size = self.projection_hidden_size or self.hidden_size
        super().__post_init__(**kwargs)
        for name in _TRANSFORMER_FIELDS:  # the base class fills some in; what means nothing is not written
            setattr(self, name, getattr(JEPAConfig, name))

    @classmethod
    def sizes(cls) -> Mapping[str, tuple[Any, ...]]:
        """Published sizes: name -> (block, depths, base_width)."""
        return RESNETS

    @classmethod
    def size_settings(cls, size: str) -> dict[str, Any]:
        """Fields of a published size."""
        if size not in RESNETS:
            raise ValueError(f"unknown size {size!r}; {cls.__name__} has {', '.join(RESNETS)}")
        block, depths, base_width = RESNETS[size]
        found: dict[str, Any] = {"block": block, "depths": list(depths), "base_width": base_width}
        if block == "wide":  # CIFAR
            found |= {"stem": "small", "projection_size": 128, "prediction": False, "image_size": 32}
        return found

    def settings(self) -> dict[str, Any]:
        """What this family declares."""
        return {name: value for name, value in super().settings().items() if name not in _TRANSFORMER_FIELDS}

    def to_diff_dict(self) -> dict[str, Any]:
        """What is written to config.json: nothing of a transformer."""
        return {name: value for name, value in super().to_diff_dict().items() if name not in _TRANSFORMER_FIELDS}

    @property
    def encoder_summary(self) -> str:
        """The encoder in a few words."""
        stages = ", ".join(map(str, self.depths))
        return f"width {self.hidden_size}, {self.block} blocks {stages} from {self.base_width} channels"

    def _check(self) -> None:
        super()._check()
        if list(self.networks) != ["encoder"]:
            raise ValueError(f"a PAWS model has one network, the encoder, not {list(self.networks)}")
        if self.projection_layers not in (2, 3):
            raise ValueError(f"projection_layers is 2 or 3, not {self.projection_layers}")
        if self.prediction and (not self.projection_size or self.projection_size % 4):
            raise ValueError(f"a prediction head needs a projection_size that 4 divides, not {self.projection_size}")
        if self.temperature <= 0 or self.num_classes < 0 or self.projection_size < 0:
            raise ValueError("temperature must be positive, num_classes and projection_size 0 or more")


class Embeddings(NamedTuple):
    """pooled [B, D], projected h [B, E] (pooled without a head), predicted z [B, E] (h without a head)."""

    pooled: Tensor
    projected: Tensor
    predicted: Tensor


class PAWSModel(EncoderOnlyModel):
    """A ResNet with a projection and a prediction head; it has no predictor of tokens and no target encoder.

    `encode` gives the places of the last map as tokens; `classify` labels pictures by labelled ones.
    """

    networks = ("encoder",)
    refusal = (
        "a PAWS model predicts no tokens: it has an encoder and heads. classify(images, support_images, "
        "support_labels) predicts labels, embed(images) gives embeddings, encode(images) features"
    )
    more_graphs: ClassVar[Mapping[str, str]] = {
        "embeddings": "embed",
        "classification": "class_probabilities",
        "classifier": "classifier",
    }
    config_class = PAWSConfig
    config: PAWSConfig
    encoder: ResNet  # type: ignore[assignment]
    _no_split_modules = ["BasicBlock", "Bottleneck", "WideBlock"]  # noqa: RUF012 - as in the base class
    supports_gradient_checkpointing = False

    @staticmethod
    def build_encoder(config: JEPAConfig) -> ResNet:  # type: ignore[override]
        """The residual network of `config`, uninitialised."""
        assert isinstance(config, PAWSConfig)
        return ResNet(
            config.block, config.depths, config.base_width, stem=config.stem, num_channels=config.num_channels
        )

    def build_heads(self, config: JEPAConfig) -> None:
        """The heads of `config`; an absent one is None."""
        assert isinstance(config, PAWSConfig)
        width, hidden, size = config.hidden_size, config.projection_hidden_size, config.projection_size
        self.projection = ProjectionHead(width, hidden, size, num_layers=config.projection_layers) if size else None
        self.prediction = PredictionHead(size) if config.prediction else None
        self.classifier = Classifier(width, hidden, config.num_classes) if config.num_classes else None

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):  # torch's own start, as upstream
            bound = module.in_features**-0.5
            init.uniform_(module.weight, -bound, bound)
            init.uniform_(module.bias, -bound, bound)

    @torch.no_grad()
    def start_classifier(self, num_classes: int) -> None:
        """Keep the first layer of the projection head, put a linear layer of zeros on it and drop the rest.

        A model that has a classifier of as many classes keeps it.

        Source: upstream's fine-tuning; arXiv:2104.13963, sec. 4 (the first layer is kept, as in arXiv:2006.10029).
        """
        if self.classifier is not None and self.config.num_classes == num_classes:
            return
        classifier = Classifier(self.config.hidden_size, self.config.projection_hidden_size, num_classes)
        if isinstance(self.projection, ProjectionHead) and self.projection.num_layers == 3:
            classifier.fc1.load_state_dict(self.projection.fc1.state_dict())
            classifier.bn1.load_state_dict(self.projection.bn1.state_dict())
        init.zeros_(classifier.fc2.weight)
        init.zeros_(classifier.fc2.bias)
        self.classifier = classifier.to(self.device, self.dtype)
        self.projection = self.prediction = None
        self.config.num_classes, self.config.projection_size, self.config.prediction = num_classes, 0, False

    # ----------------------------------------------------------------------------------------------------- running

    def embed(self, pixels: Tensor) -> Embeddings:
        """Pooled features and both embeddings, differentiable.

        Args:
            pixels: [B, 3, H, W] or [B, 3, 1, H, W], normalised.
        """
        pooled = self.encoder.pooled(model_inputs.as_clip(pixels))  # [B, D]
        projected = pooled if self.projection is None else self.projection(pooled)  # [B, E]
        return Embeddings(pooled, projected, projected if self.prediction is None else self.prediction(projected))

    def graphs(self, layers: Sequence[int] = ()) -> list[Graph]:
        """Features, embeddings, classes by a support set, and the classes of a fine-tuned classifier."""
        found = super().graphs(layers)
        pixels, axes = graphs.example_pixels(self.config)
        inputs = {"pixel_values": pixels}
        embeddings = graphs.Method(self, "embed")
        found.append(Graph("embeddings", embeddings, inputs, {"pixel_values": axes}, Embeddings._fields))
        supports = torch.randn(5, self.embed(pixels.to(self.device, self.dtype)).predicted.shape[-1])  # [S, E]
        inputs = {**inputs, "supports": supports, "labels": torch.eye(5, 4)}
        free = {"pixel_values": axes, "supports": {0: "supports"}, "labels": {0: "supports", 1: "classes"}}
        by_support = graphs.Method(self, "class_probabilities")
        found.append(Graph("classification", by_support, inputs, free, ("probabilities",)))
        if self.classifier is not None:
            pooled = {"pooled": torch.randn(2, self.config.hidden_size)}
            classes = graphs.Method(self, "classifier")
            found.append(Graph("classifier", classes, pooled, {"pooled": {0: "batch"}}, ("logits",)))
        return found

    def class_probabilities(self, pixels: Tensor, supports: Tensor, labels: Tensor) -> Tensor:
        """Probabilities [B, K] of pictures from a support set that is embedded already: tensors in, tensor out.

        Args:
            pixels: [B, 3, H, W], normalised.
            supports: `Support.embeddings` [S, E].
            labels: `Support.one_hot` [S, K].
        """
        return soft_neighbours(self.embed(pixels).predicted, supports, labels, self.config.temperature)

    @torch.no_grad()
    def support(
        self,
        images: Tensor | Mapping[str, Any],
        labels: Sequence[int | str] | Tensor,
        *,
        classes: int | Sequence[str] | None = None,
        batch_size: int = 64,
    ) -> Support:
        """Labelled pictures, embedded once, for any number of `classify` calls.

        Args:
            images: a processor's output or [S, 3, H, W], normalised.
            labels: of each picture, names or numbers.
            classes: how many classes there are, or their names; by default those among the labels.
            batch_size: pictures per forward pass.

        Raises:
            ValueError: other numbers of pictures and labels, a label out of range, or a class without pictures.
        """
        pixels = model_inputs.prepare(images, self, pad=False).pixels
        names, numbers = check_support(len(pixels), labels, classes)
        embeddings = torch.cat([self.embed(part).predicted.float() for part in pixels.split(batch_size)])  # [S, E]
        return Support(embeddings, numbers.to(embeddings.device), names)

    @torch.no_grad()
    def classify(
        self,
        images: Tensor | Mapping[str, Any],
        support_images: Tensor | Mapping[str, Any] | Support | None = None,
        support_labels: Sequence[int | str] | Tensor | None = None,
        *,
        classes: int | Sequence[str] | None = None,
        top: int = 5,
        batch_size: int = 64,
    ) -> Classification:
        """The most likely labels and their probabilities, by the labelled pictures nearest to each.

        Args:
            images: a processor's output or [B, 3, H, W], normalised.
            support_images, support_labels, classes: see `support`; or one `Support`. A fine-tuned model with a
                classifier of its own needs none.
            top: labels per picture.
            batch_size: pictures per forward pass.

        Raises:
            ValueError: there is no support and no classifier, or the support is wrong (the counts are given).

        Source: arXiv:2104.13963, eq. 1.
        """
        pixels = model_inputs.prepare(images, self, pad=False).pixels
        if support_images is None:
            names, probabilities = self._by_classifier(pixels, batch_size)
        else:
            support = support_images
            if not isinstance(support, Support):
                if support_labels is None:
                    raise ValueError("support_images need support_labels, one for each")
                support = self.support(support, support_labels, classes=classes, batch_size=batch_size)
            elif support_labels is not None or classes is not None:
                raise ValueError("this Support has its labels already: leave support_labels and classes out")
            names = support.names
            parts = [
                self.class_probabilities(part, support.embeddings, support.one_hot) for part in pixels.split(batch_size)
            ]
            probabilities = torch.cat(parts)  # [B, K]
        chosen = probabilities.topk(min(top, probabilities.shape[-1]), dim=-1)
        return Classification([[names[index] for index in row] for row in chosen.indices.tolist()], chosen.values)

    def _by_classifier(self, pixels: Tensor, batch_size: int) -> tuple[tuple[str, ...], Tensor]:
        if self.classifier is None:
            raise ValueError(
                "this model has no classifier of its own: give support_images and support_labels, a few pictures of "
                "each class"
            )
        pooled = torch.cat([self.embed(part).pooled for part in pixels.split(batch_size)])
        logits = self.classifier(pooled).float()  # [B, K]
        known = self.config.id2label or {}
        named = len(known) == self.config.num_classes
        names: Iterable[str] = (str(known[index]) if named else str(index) for index in range(self.config.num_classes))
        return tuple(names), logits.softmax(dim=-1)
