"""What every JEPA configuration holds; families change defaults and add fields."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from huggingface_hub.dataclasses import strict
from packaging.version import Version
from transformers import PreTrainedConfig

from jepa_hub.nn.block import HIDDEN_ACTS, BlockSpec
from jepa_hub.nn.positions import Grid
from jepa_hub.version import __version__

NETWORKS = ("encoder", "predictor", "target_encoder")
POSITION_TYPES = ("sincos", "rotary_tiled", "rotary_interleaved", "learned", "none")
POSITION_AXES = ("column_row", "row_column", "time_row_column")
POSITION_RESIZE = ("recompute", "interpolate")

# name: hidden_size, num_hidden_layers, num_attention_heads, intermediate_size. Head counts of ijepa and jepa;
# vjepa2 differs for "giant" (see VJepa2Config). Source: facts read in the official code, arXiv:2301.08243, app. A.
SIZES: dict[str, tuple[int, int, int, int]] = {
    "vit_tiny": (192, 12, 3, 768),
    "vit_small": (384, 12, 6, 1536),
    "vit_base": (768, 12, 12, 3072),
    "vit_large": (1024, 24, 16, 4096),
    "vit_huge": (1280, 32, 16, 5120),
    "vit_giant": (1408, 40, 16, 6144),
    "vit_gigantic": (1664, 48, 16, 6656),  # Upstream: a misspelt argument gives it an MLP ratio of 4
}
# Keys transformers itself hands to a config beside its declared fields.
_TRANSFORMERS_KEYS = {
    "name_or_path",
    "attn_implementation",
    "experts_implementation",
    "output_attentions",
    "torch_dtype",
    "num_labels",
    "model_type",
    "auto_map",
    "quantization_config",
    "per_layer_config",
    "_commit_hash",
    "_attn_implementation_internal",
    "_experts_implementation_internal",
}


@strict
class JEPAConfig(PreTrainedConfig):
    """Configuration of an encoder, a predictor and a target encoder.

    Args:
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: of both encoders; `intermediate_size`
            defaults to 4 x `hidden_size`.
        hidden_act: "gelu" (exact), "quick_gelu" (CLIP's) or "swiglu".
        patch_size, tubelet_size: pixels and frames per token.
        image_size: pixels the weights were trained on, one number or [height, width]; None where the file cannot tell.
        num_frames: clip length the weights were trained on; None where the file cannot tell.
        position_type: one of "sincos", "rotary_tiled" (V-JEPA 2), "rotary_interleaved", "learned", "none".
        position_axes: order of the channels of sine-cosine positions.
        uniform_power: equal channels per axis in 3D sine-cosine positions.
        position_resize: "recompute" (the formula on the true grid) or "interpolate" (upstream V-JEPA).
        predictor_*: the predictor; heads default to those of the encoder.
        num_mask_tokens, zero_init_mask_tokens: learned stand-ins of targets.
        rescale_residual: divide residual projections by sqrt(2 x layer) at initialisation (V-JEPA 2's code).
        networks: which of "encoder", "predictor", "target_encoder" are present.
        licence, provenance: of the weights; printed on load and written to the model card.

    Raises:
        ValueError: an unknown or impossible setting; the nearest known name is given.
    """

    model_type = "jepa_hub"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int | None = None
    hidden_act: str = "gelu"
    qkv_bias: bool = True
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    rescale_residual: bool = False
    num_channels: int = 3
    patch_size: int = 16
    tubelet_size: int = 1
    image_size: int | list[int] | tuple[int, int] | None = 224
    num_frames: int | None = 1
    position_type: str = "sincos"
    position_axes: str = "column_row"
    uniform_power: bool = False
    position_resize: str = "recompute"
    predictor_hidden_size: int = 384
    predictor_num_hidden_layers: int = 12
    predictor_num_attention_heads: int | None = None
    predictor_intermediate_size: int | None = None
    num_mask_tokens: int = 1
    zero_init_mask_tokens: bool = False
    networks: list[str] | tuple[str, ...] = NETWORKS
    licence: str | None = None
    provenance: str | None = None
    library_version: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        kwargs.pop("transformers_version", None)
        self._refuse_unknown(kwargs)
        if self.intermediate_size is None:
            self.intermediate_size = 4 * self.hidden_size
        if self.predictor_num_attention_heads is None:
            self.predictor_num_attention_heads = self.num_attention_heads
        if self.predictor_intermediate_size is None:
            self.predictor_intermediate_size = 4 * self.predictor_hidden_size
        if isinstance(self.image_size, (list, tuple)):
            height, width = self.image_size
            self.image_size = height if height == width else [height, width]
        self.networks = [name for name in NETWORKS if name in self.networks] + [
            name for name in self.networks if name not in NETWORKS
        ]
        self.library_version = self.library_version or __version__
        super().__post_init__(**kwargs)
        self._check()

    @classmethod
    def of_size(cls, size: str, **settings: Any) -> JEPAConfig:
        """The configuration of a published size, e.g. `of_size("vit_large", patch_size=14)`."""
        return cls(**{**cls.size_settings(size), **settings})

    @classmethod
    def size_settings(cls, size: str) -> dict[str, Any]:
        """Fields of a published size.

        Raises:
            ValueError: there is no such size.
        """
        if size not in cls.sizes():
            raise ValueError(f"unknown size {size!r}; {cls.__name__} has {', '.join(cls.sizes())}")
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        return dict(zip(names, cls.sizes()[size], strict=True))

    @classmethod
    def sizes(cls) -> Mapping[str, tuple[Any, ...]]:
        """Published sizes: name -> (hidden_size, num_hidden_layers, num_attention_heads, intermediate_size)."""
        return SIZES

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As transformers', but a key of a newer jepa_hub is dropped with a warning, any other unknown one raises."""
        known = {field.name for field in fields(cls)} | _TRANSFORMERS_KEYS | {"transformers_version"}
        unknown = sorted(set(config_dict) - known)
        written_by = config_dict.get("library_version")
        if unknown and written_by and Version(written_by) > Version(__version__):
            warnings.warn(
                f"config.json was written by jepa_hub {written_by}, this is {__version__}: "
                f"ignoring {', '.join(unknown)}; upgrade jepa_hub if results look wrong",
                stacklevel=2,
            )
            config_dict = {key: value for key, value in config_dict.items() if key not in unknown}
        return super().from_dict(config_dict, **kwargs)

    def settings(self) -> dict[str, Any]:
        """What this package declares, without transformers' own fields."""
        own = {field.name for field in fields(self)} - {field.name for field in fields(PreTrainedConfig)}
        return {name: getattr(self, name) for name in sorted(own)}

    def to_diff_dict(self) -> dict[str, Any]:
        """Everything of ours is written, defaults too, so that a later change of a default changes no saved model."""
        return super().to_diff_dict() | self.settings()

    @property
    def base_grid(self) -> Grid | None:
        """Tokens (T, H, W) of the input the weights were trained on, or None where that is unknown."""
        if self.image_size is None or self.num_frames is None:
            return None
        height, width = (self.image_size,) * 2 if isinstance(self.image_size, int) else self.image_size
        frames = max(self.num_frames // self.tubelet_size, 1)
        return frames, height // self.patch_size, width // self.patch_size

    @property
    def view_size(self) -> int | list[int] | tuple[int, int] | None:
        """Pixels of the pictures the model is for; `image_size`, unless a model works on something smaller."""
        return self.image_size

    @property
    def num_extra_tokens(self) -> int:
        """Tokens that the encoder carries beside those of the grid."""
        return 0

    @property
    def prediction_size(self) -> int:
        """Channels of a predicted token."""
        return self.hidden_size

    @property
    def conditioning_size(self) -> int:
        """Numbers that the predictor takes beside the masks; 0 for families that are told nothing."""
        return 0

    @property
    def encoder_summary(self) -> str:
        """The encoder in a few words, for cards."""
        return f"width {self.hidden_size}, {self.num_hidden_layers} blocks, {self.num_attention_heads} heads"

    @property
    def encoder_spec(self) -> BlockSpec:
        """Blocks of the encoders."""
        return self._spec(self.hidden_size, self.num_attention_heads, self.intermediate_size)

    @property
    def predictor_spec(self) -> BlockSpec:
        """Blocks of the predictor."""
        return self._spec(
            self.predictor_hidden_size, self.predictor_num_attention_heads, self.predictor_intermediate_size
        )

    def _spec(self, dim: int, num_heads: int | None, mlp_hidden: int | None) -> BlockSpec:
        assert num_heads is not None and mlp_hidden is not None  # set in __post_init__
        return BlockSpec(dim, num_heads, mlp_hidden, self.hidden_act, self.qkv_bias, self.layer_norm_eps)

    def _refuse_unknown(self, extra: dict[str, Any]) -> None:
        unknown = sorted(set(extra) - _TRANSFORMERS_KEYS)
        if not unknown:
            return
        known = [field.name for field in fields(self)]
        hints = []
        for key in unknown:
            close = difflib.get_close_matches(key, known, 1)
            hints.append(f"{key!r}" + (f" (did you mean {close[0]!r}?)" if close else ""))
        raise ValueError(f"{type(self).__name__} has no setting {', '.join(hints)}")

    def _check(self) -> None:
        choices = {
            "hidden_act": HIDDEN_ACTS,
            "position_type": POSITION_TYPES,
            "position_axes": POSITION_AXES,
            "position_resize": POSITION_RESIZE,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is one of {', '.join(allowed)}, not {getattr(self, name)!r}")
        unknown = [name for name in self.networks if name not in NETWORKS]
        if unknown or not self.networks:
            raise ValueError(f"networks are chosen from {', '.join(NETWORKS)}, not {list(self.networks)}")
        if self.position_type == "learned" and self.base_grid is None:
            raise ValueError("learned positions need image_size and num_frames")
