"""Llip: a picture as many vectors, mixed anew for every text it is compared with. Source: arXiv:2405.00740."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from transformers import initialization as init

from jepa_hub.models import graphs, tokenizing
from jepa_hub.models import inputs as model_inputs
from jepa_hub.models.base import build_positions
from jepa_hub.models.config import JEPAConfig
from jepa_hub.models.encoder_only import EncoderOnlyModel
from jepa_hub.models.graphs import Graph
from jepa_hub.models.llip_config import LlipConfig
from jepa_hub.nn.mixing import Mixing, MixtureEncoder
from jepa_hub.nn.patchify import PatchEmbed
from jepa_hub.nn.positions import LearnedPositions
from jepa_hub.nn.text import TextEncoder, TextTower

_CHUNK = 1 << 24  # numbers of the [pictures, texts, E] array that are made at once


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


class LlipModel(EncoderOnlyModel):
    """Pictures and texts in one space; `encode` gives patches, as in every family.

    `encode_image`, `encode_text`, `mix` and `logits` are what it is for; zero-shot classification and retrieval:
    jepa_hub.zero_shot.
    """

    networks = ("encoder",)
    refusal = (
        "a Llip model predicts no tokens: encode_image(images) and encode_text(texts) embed, logits(image, text) "
        "compares, jepa_hub.zero_shot classifies and retrieves"
    )
    more_graphs: ClassVar[Mapping[str, str]] = {"image": "image_parts", "text": "text_parts", "pairs": "pair_logits"}
    card_examples: ClassVar[Mapping[str, str]] = {
        "mixing": 'logits = model.logits(processor("photo.jpg"), ["a red cube", "a blue sphere"])  # [B, T]'
    }
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
