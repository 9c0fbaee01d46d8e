"""Llip: a picture as many vectors, mixed anew for every text it is compared with. Source: arXiv:2405.00740."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, NoReturn

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import initialization as init

from jepa_hub.masks import Masks
from jepa_hub.models import graphs, tokenizing
from jepa_hub.models import inputs as model_inputs
from jepa_hub.models.base import JEPAModel, JEPAOutput, build_positions
from jepa_hub.models.config import JEPAConfig
from jepa_hub.models.graphs import Graph
from jepa_hub.nn.block import BlockSpec
from jepa_hub.nn.mixing import MIXINGS, Mixing, MixtureEncoder
from jepa_hub.nn.patchify import PatchEmbed
from jepa_hub.nn.positions import LearnedPositions
from jepa_hub.nn.text import TextEncoder, TextTower

# Published sizes. Vision: width, blocks, heads, MLP, patch; text: width, blocks, heads; E, tau, norms. Facts of the
# official configurations.
LLIPS: dict[str, tuple[int, int, int, int, int, int, int, int, int, float, bool]] = {
    "vit_base_patch32": (768, 12, 12, 3072, 32, 512, 12, 8, 512, 5.0, False),
    "vit_base_patch16": (768, 12, 12, 3072, 16, 512, 12, 8, 512, 5.0, False),
    "vit_large_patch14": (1024, 24, 16, 4096, 14, 768, 12, 12, 768, 1.0, False),
    "vit_huge_patch14": (1280, 32, 16, 5120, 14, 1024, 24, 16, 1024, 5.0, True),
    "vit_gigantic_patch14": (1664, 48, 16, 8192, 14, 1280, 32, 20, 1280, 5.0, True),
}
_SIZE_FIELDS = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "patch_size"),
    *("text_hidden_size", "text_num_hidden_layers", "text_num_attention_heads"),
    *("embed_size", "mixing_temperature", "mixing_norm"),
)
_CHUNK = 1 << 24  # numbers of the [pictures, texts, E] array that are made at once


@strict
class LlipConfig(JEPAConfig):
    """A vision tower with mixture tokens, a text tower, and the mixing between them.

    Args:
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: of the vision tower.
        embed_size: E, of keys, values, queries and of the vectors that are compared.
        num_mixture_tokens: K; 1 has nothing to mix.
        mixing: "text" (Llip); "uniform", "learned", "first" ignore the text. "first" with one token is SigLIP or CLIP.
        mixing_temperature: tau; it stands in the place of the square root of the width of a head.
        num_mixing_heads: H.
        mixing_norm: layer norms on keys, values and queries.
        mix_patches: patches are mixed too, each place with matrices of its own (then only image_size is taken).
        text_*: the text tower; `text_intermediate_size` defaults to 4 x `text_hidden_size`.
        vocab_size, context_length, end_token_id: of the texts' tokens.
        tokenizer: Hub id or folder, or package:<name> for one that ships with this package; a model's own comes first.
        position_std: of positions and mixture tokens before training; None is CLIP's, one over the root of the width.
        attention_gain: factor on queries, keys and values of the vision tower before training; None is 1. Small models
            on small pictures find out where things are only from positions at the scale of their patches (2) and a
            sharper attention (3): from CLIP's start their mixture tokens stay alike.
        logit_scale_init, logit_bias_init: logarithm of the scale, and bias, of a pair's logit before training.
    """

    model_type = "jepa_hub_llip"

    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    patch_size: int = 32
    position_type: str = "learned"
    networks: list[str] | tuple[str, ...] = ("encoder",)
    embed_size: int = 512
    num_mixture_tokens: int = 64
    mixing: str = "text"
    mixing_temperature: float = 5.0
    num_mixing_heads: int = 8
    mixing_norm: bool = False
    mix_patches: bool = False
    text_hidden_size: int = 512
    text_num_hidden_layers: int = 12
    text_num_attention_heads: int = 8
    text_intermediate_size: int | None = None
    vocab_size: int = 49408
    context_length: int = 77
    end_token_id: int = 49407
    tokenizer: str | None = "openai/clip-vit-base-patch32"
    position_std: float | None = None
    attention_gain: float | None = None
    logit_scale_init: float = math.log(1 / 0.07)
    logit_bias_init: float = -10.0

    def __post_init__(self, **kwargs: Any) -> None:
        if self.text_intermediate_size is None:
            self.text_intermediate_size = 4 * self.text_hidden_size
        super().__post_init__(**kwargs)

    @classmethod
    def sizes(cls) -> Mapping[str, tuple[Any, ...]]:
        """Published sizes."""
        return LLIPS

    @classmethod
    def size_settings(cls, size: str) -> dict[str, Any]:
        """Fields of a published size."""
        if size not in LLIPS:
            raise ValueError(f"unknown size {size!r}; {cls.__name__} has {', '.join(LLIPS)}")
        return dict(zip(_SIZE_FIELDS, LLIPS[size], strict=True))

    @property
    def text_spec(self) -> BlockSpec:
        """Blocks of the text tower."""
        assert self.text_intermediate_size is not None  # set in __post_init__
        return BlockSpec(
            self.text_hidden_size,
            self.text_num_attention_heads,
            self.text_intermediate_size,
            self.hidden_act,
            self.qkv_bias,
            self.layer_norm_eps,
            causal=True,
        )

    def _check(self) -> None:
        super()._check()
        if list(self.networks) != ["encoder"]:
            raise ValueError(f"a Llip model has one network, the encoder, not {list(self.networks)}")
        if self.mixing not in MIXINGS:
            raise ValueError(f"mixing is one of {', '.join(MIXINGS)}, not {self.mixing!r}")
        if self.position_type not in ("learned", "sincos", "none"):
            raise ValueError(f"mixture tokens have no place on the grid: position_type {self.position_type!r}")
        if self.tubelet_size != 1 or self.num_frames != 1:
            raise ValueError("a Llip model takes pictures: tubelet_size and num_frames are 1")
        if self.num_mixture_tokens < 1 or self.embed_size % self.num_mixing_heads or self.mixing_temperature <= 0:
            raise ValueError(
                f"num_mixture_tokens ({self.num_mixture_tokens}) must be 1 or more, mixing_temperature "
                f"({self.mixing_temperature}) positive, and num_mixing_heads ({self.num_mixing_heads}) a divisor of "
                f"embed_size ({self.embed_size})"
            )
        if self.mix_patches and (self.base_grid is None or self.mixing == "first"):
            raise ValueError("mix_patches needs image_size, and a mixing that takes more than the first token")


class ImageParts(NamedTuple):
    """keys [B, K, E], values [B, K, E] and the text-free vector pooled [B, E], of unit length."""

    keys: Tensor
    values: Tensor
    pooled: Tensor


class TextParts(NamedTuple):
    """queries [T, E] and targets [T, E], the latter of unit length."""

    queries: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Mixed:
    """Pictures as texts see them.

    Attributes:
        vectors: [B, T, E], of unit length.
        weights: how much of each token a text took, [B, T, H, K].
    """

    vectors: Tensor
    weights: Tensor


class LlipModel(JEPAModel):
    """Pictures and texts in one space; `encode` gives patches, as in every family.

    `encode_image`, `encode_text`, `mix` and `logits` are what it is for; zero-shot classification and retrieval:
    jepa_hub.zero_shot.
    """

    networks = ("encoder",)
    more_graphs: ClassVar[Mapping[str, str]] = {"image": "image_parts", "text": "text_parts", "pairs": "pair_logits"}
    config_class = LlipConfig
    config: LlipConfig
    encoder: MixtureEncoder  # type: ignore[assignment]

    @staticmethod
    def build_encoder(config: JEPAConfig) -> MixtureEncoder:
        """The vision tower of `config`, uninitialised."""
        assert isinstance(config, LlipConfig)
        patch_embed = PatchEmbed(
            config.hidden_size, patch_size=config.patch_size, num_channels=config.num_channels, bias=False
        )
        positions = build_positions(config, config.hidden_size, config.encoder_spec.head_dim)
        return MixtureEncoder(
            config.encoder_spec, config.num_hidden_layers, patch_embed, positions, config.num_mixture_tokens
        )

    def build_heads(self, config: JEPAConfig) -> None:
        """The text tower and the mixing."""
        assert isinstance(config, LlipConfig)
        patches = math.prod(config.base_grid) if config.mix_patches and config.base_grid else 0
        text = TextEncoder(
            config.text_spec,
            config.text_num_hidden_layers,
            vocab_size=config.vocab_size,
            context_length=config.context_length,
            end_token_id=config.end_token_id,
        )
        asked, norm, eps = config.mixing == "text", config.mixing_norm, config.layer_norm_eps
        self.text = TextTower(text, config.text_hidden_size, config.embed_size, queries=asked, norm=norm, eps=eps)
        self.mixing = Mixing(
            config.hidden_size,
            config.embed_size,
            num_tokens=config.num_mixture_tokens + patches,
            num_heads=config.num_mixing_heads,
            temperature=config.mixing_temperature,
            kind=config.mixing,
            norm=norm,
            eps=eps,
        )
        self._tokenizer: Any = None

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """CLIP's rules (arXiv:2103.00020's code), for both towers; they scale with the width."""
        if isinstance(module, (MixtureEncoder, TextEncoder)):
            blocks: Any = module.blocks
            gain = (self.config.attention_gain or 1.0) if isinstance(module, MixtureEncoder) else 1.0
            for block in blocks:
                width = block.attn.proj.in_features
                init.normal_(block.attn.qkv.weight, std=gain * width**-0.5)
                init.normal_(block.mlp.fc1.weight, std=(2 * width) ** -0.5)
                for linear in (block.attn.proj, block.mlp.output):
                    init.normal_(linear.weight, std=(2 * width * len(blocks)) ** -0.5)
        if isinstance(module, MixtureEncoder):
            for table in (module.mixture_tokens, module.mixture_positions):
                init.normal_(table, std=self.config.position_std or table.shape[-1] ** -0.5)
        elif isinstance(module, TextEncoder):
            init.normal_(module.embedding.weight, std=0.02)
            init.normal_(module.positions, std=0.01)
        elif isinstance(module, LearnedPositions):
            init.normal_(module.table, std=self.config.position_std or module.table.shape[-1] ** -0.5)
        elif isinstance(module, Mixing):
            for matrices in (module.key_proj, module.value_proj):
                if matrices is not None:
                    init.normal_(matrices, std=matrices.shape[1] ** -0.5)
            if module.token_weights is not None:
                init.zeros_(module.token_weights)
            init.constant_(module.logit_scale, self.config.logit_scale_init)
            init.constant_(module.logit_bias, self.config.logit_bias_init)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)

    # ------------------------------------------------------------------------------------------------------ refused

    def forward(
        self,
        pixel_values: Tensor,
        masks: Masks | Sequence[Masks] | None = None,
        conditioning: Tensor | None = None,
    ) -> JEPAOutput:
        """Patches [B, N, D] of the vision tower.

        Args:
            pixel_values: [B, 3, H, W], normalised.
            masks, conditioning: must be None.
        """
        if masks is not None or conditioning is not None:
            self.predict(pixel_values)
        return super().forward(pixel_values)

    def predict(self, inputs: Any, **settings: Any) -> NoReturn:
        """Refused: there is no predictor."""
        raise ValueError(
            "a Llip model predicts no tokens: encode_image(images) and encode_text(texts) embed, logits(image, text) "
            "compares, jepa_hub.zero_shot classifies and retrieves"
        )

    def prediction_targets(self, pixels: Tensor) -> NoReturn:
        """Refused: there is no predictor."""
        self.predict(pixels)

    # ----------------------------------------------------------------------------------------------- differentiable

    def image_parts(self, pixels: Tensor) -> ImageParts:
        """Keys, values and the text-free vector of pictures, differentiable.

        Args:
            pixels: [B, 3, H, W] or [B, 3, 1, H, W], normalised.

        Raises:
            ValueError: patches are mixed, and the size is not the model's.
        """
        clip = model_inputs.as_clip(pixels)
        if self.config.mix_patches:
            if self.encoder.grid(clip) != self.config.base_grid:
                raise ValueError(
                    f"this model mixes patches by their place: pictures must be {self.config.image_size} pixels high "
                    f"and wide, not {tuple(clip.shape[-2:])}"
                )
            tokens = self.encoder.all_tokens(clip)  # [B, K+N, D]
        else:
            tokens = self.encoder.mixture(clip)  # [B, K, D]
        keys, values = self.mixing.project(tokens)
        return ImageParts(keys, values, self.mixing.alone(values))

    def text_parts(self, ids: Tensor) -> TextParts:
        """Queries and targets of texts, differentiable.

        Args:
            ids: int64 [T, L], see `tokenize`.
        """
        return TextParts(*self.text(ids))

    def pair_logits(self, keys: Tensor, values: Tensor, queries: Tensor, targets: Tensor) -> Tensor:
        """The logit of every picture with every text [B, T], differentiable; memory grows with B x T x E.

        Args:
            keys, values: `ImageParts` [B, K, E].
            queries, targets: `TextParts` [T, E].
        """
        mixed = self.mixing(keys, values, queries)  # [B, T, E]
        return self.scaled(torch.einsum("bte,te->bt", mixed, targets))

    def scaled(self, cosines: Tensor) -> Tensor:
        """Logits of cosines: exp(logit_scale) * cosine + logit_bias."""
        return cosines * self.mixing.logit_scale.exp() + self.mixing.logit_bias

    @property
    def mixes_by_text(self) -> bool:
        """Whether a picture's vector depends on the text it is compared with."""
        return self.config.mixing == "text"

    # -------------------------------------------------------------------------------------------------------- using

    @torch.no_grad()
    def encode_image(self, images: Tensor | Mapping[str, Any]) -> ImageParts:
        """Keys and values of the mixture tokens, and `pooled` [B, E], the text-free vector (the uniform mixture).

        Args:
            images: a processor's output or [B, 3, H, W], normalised.
        """
        return ImageParts(*self.image_parts(model_inputs.prepare(images, self, pad=False).pixels))

    @torch.no_grad()
    def encode_text(self, texts: str | Sequence[str] | Tensor) -> TextParts:
        """Queries and targets [T, E] of texts, or of token numbers [T, L]."""
        ids = texts if isinstance(texts, Tensor) else self.tokenize(texts)
        return TextParts(*self.text_parts(ids.to(self.device)))

    @torch.no_grad()
    def mix(self, image: ImageParts, text: TextParts, *, temperature: float | None = None) -> Mixed:
        """Every picture as every text sees it; memory grows with B x T.

        Args:
            image, text: of `encode_image` and `encode_text`.
            temperature: tau, instead of the model's; fix it before you look at a test set.

        Raises:
            ValueError: the model does not mix by text.
        """
        if not self.mixes_by_text:
            raise ValueError(f"this model's mixing is {self.config.mixing!r}: a picture has one vector, .pooled")
        vectors = self.mixing(image.keys, image.values, text.queries, temperature)
        return Mixed(vectors, self.mixing.weights(image.keys, text.queries, temperature))

    @torch.no_grad()
    def cosines(self, image: ImageParts, text: TextParts, *, temperature: float | None = None) -> Tensor:
        """Cosine of every picture, mixed for every text, with that text [B, T]; computed in pieces.

        Args:
            image, text: of `encode_image` and `encode_text`.
            temperature: see `mix`.
        """
        if not self.mixes_by_text:
            return image.pooled @ text.targets.T
        rows = max(1, _CHUNK // max(1, text.queries.numel()))
        parts = zip(image.keys.split(rows), image.values.split(rows), strict=True)
        found = [
            torch.einsum("bte,te->bt", self.mixing(keys, values, text.queries, temperature), text.targets)
            for keys, values in parts
        ]
        return torch.cat(found)  # [B, T]

    @torch.no_grad()
    def logits(
        self,
        image: ImageParts | Tensor | Mapping[str, Any],
        text: TextParts | str | Sequence[str],
        *,
        temperature: float | None = None,
    ) -> Tensor:
        """The logit of every picture with every text [B, T]; its sigmoid is the probability that they belong together.

        Args:
            image: `ImageParts`, or pictures.
            text: `TextParts`, or texts.
            temperature: see `mix`.
        """
        known = image if isinstance(image, ImageParts) else self.encode_image(image)
        asked = text if isinstance(text, TextParts) else self.encode_text(text)
        return self.scaled(self.cosines(known, asked, temperature=temperature))

    # ---------------------------------------------------------------------------------------------- tokenizer, files

    @property
    def tokenizer(self) -> Any:
        """The tokenizer saved with the model, else the one its configuration names; loaded at first use."""
        if self._tokenizer is None:
            self._tokenizer = tokenizing.load(self.config)
        return self._tokenizer

    def tokenize(self, texts: str | Sequence[str]) -> Tensor:
        """Token numbers int64 [T, L] of texts, the longer ones cut to the model's length; words it lacks are said once.

        Raises:
            ValueError: there is no text, or an empty one.
        """
        return tokenizing.tokenize(self.tokenizer, texts, self.config.context_length, self.config.end_token_id)

    def write_weights(self, folder: Any, **settings: Any) -> None:
        """config.json, safetensors, and the tokenizer where it is at hand (nothing is downloaded for it)."""
        super().write_weights(folder, **settings)
        if self._tokenizer is not None or tokenizing.is_local(self.config):
            self.tokenizer.save_pretrained(folder)

    def graphs(self, layers: Sequence[int] = ()) -> list[Graph]:
        """Patches; parts of pictures; parts of texts; logits of pairs."""
        found = super().graphs(layers)
        pixels, axes = graphs.example_pixels(self.config)
        image = graphs.Method(self, "image_parts")
        if not self.config.mix_patches:
            found.append(Graph("image", image, {"pixel_values": pixels}, {"pixel_values": axes}, ImageParts._fields))
        ids = torch.arange(12).view(3, 4) % self.config.vocab_size
        ids[:, -1] = self.config.end_token_id
        free = {"input_ids": {0: "texts", 1: "length"}}
        found.append(Graph("text", graphs.Method(self, "text_parts"), {"input_ids": ids}, free, TextParts._fields))
        size, tokens = self.config.embed_size, self.mixing.value_proj.shape[0]
        pairs = {name: torch.randn(2, tokens, size) for name in ("keys", "values")}
        pairs |= {name: torch.randn(3, size) for name in ("queries", "targets")}
        free = {name: {0: "batch" if name in ("keys", "values") else "texts"} for name in pairs}
        found.append(Graph("pairs", graphs.Method(self, "pair_logits"), pairs, free, ("logits",)))
        return found
