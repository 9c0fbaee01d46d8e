"""What makes up a Llip model, and the published sizes. Source: arXiv:2405.00740 and its code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from huggingface_hub.dataclasses import strict

from jepa_hub.models.config import JEPAConfig
from jepa_hub.nn.block import BlockSpec
from jepa_hub.nn.mixing import MIXINGS

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
