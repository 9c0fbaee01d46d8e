"""JEPAModel: the base of every family. Encodes pixels, predicts masked tokens, saves and loads."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from jepa_hub.features import Features
from jepa_hub.masks import Masks
from jepa_hub.models import graphs, loading, saving
from jepa_hub.models import inputs as model_inputs
from jepa_hub.models.attend import ConfiguredAttention
from jepa_hub.models.config import NETWORKS, JEPAConfig
from jepa_hub.models.graphs import Graph
from jepa_hub.nn.attention import Attention, CrossAttention
from jepa_hub.nn.block import Block
from jepa_hub.nn.encoder import ViTEncoder
from jepa_hub.nn.patchify import PatchEmbed
from jepa_hub.nn.pooling import AttentivePooler
from jepa_hub.nn.positions import LearnedPositions, NoPositions, RotaryPositions, SinCosPositions
from jepa_hub.nn.predictor import Predictor
from jepa_hub.notices import say_once


@dataclass
class JEPAOutput(ModelOutput):
    """What `JEPAModel.forward` returns.

    Attributes:
        last_hidden_state: features [B, N, D] without masks; with masks the context tokens [B, C, D] (a tuple of them
            for a sequence of masks).
        predicted: [B, M, T, D], or a tuple of them for a sequence of masks; None without masks.
    """

    last_hidden_state: Tensor | tuple[Tensor, ...] | None = None
    predicted: Tensor | tuple[Tensor, ...] | None = None


class JEPAPreTrainedModel(PreTrainedModel):
    """What models and probes share: the attention kernel, initialisation and the transformers switches."""

    config_class = JEPAConfig
    main_input_name = "pixel_values"
    input_modalities = ("image", "video")
    supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["Block", "CrossBlock"]
    _supports_sdpa = True
    _supports_flash_attn = True

    def bind_attention(self) -> None:
        """Let every attention layer look up `config._attn_implementation` at each call."""
        for module in self.modules():
            if isinstance(module, (Attention, CrossAttention)):
                module.attend = ConfiguredAttention(self.config)

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        # For code from elsewhere transformers passes over modules without parameters of their own, such as a Block.
        # Ours goes through transformers' initialization, which asks every tensor, and can be let in.
        super()._initialize_weights(module)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, LearnedPositions):
            init.trunc_normal_(module.table, std=std)
        elif isinstance(module, AttentivePooler):
            init.trunc_normal_(module.query_tokens, std=std)
        elif isinstance(module, Predictor):
            fill = init.zeros_ if self.config.zero_init_mask_tokens else init.trunc_normal_
            fill(module.mask_tokens, **({} if self.config.zero_init_mask_tokens else {"std": std}))
        elif isinstance(module, Block) and self.config.rescale_residual:
            for linear in (module.attn.proj, module.mlp.output):
                init.trunc_normal_(linear.weight, std=std / (2 * module.index) ** 0.5)


class JEPAModel(JEPAPreTrainedModel):
    """An encoder, a predictor and a target encoder, any of which may be absent (None).

    `JEPAModel.from_pretrained(...)` returns the right family; a family's own class refuses other families' weights.
    """

    networks: ClassVar[tuple[str, ...]] = NETWORKS
    targets_may_be_seen: ClassVar[bool] = False  # whether a token may be context and target at once
    card_examples: ClassVar[Mapping[str, str]] = {}  # attribute that must be there -> line of the card's example
    more_graphs: ClassVar[Mapping[str, str]] = {}  # graph of a family's own -> method or head it computes
    encoder: ViTEncoder | None
    predictor: Predictor | None
    target_encoder: ViTEncoder | None

    def __init__(self, config: JEPAConfig) -> None:
        if type(self) is JEPAModel:
            raise TypeError("JEPAModel is the base class; use a family (IJepaModel, ...) or JEPAModel.from_pretrained")
        super().__init__(config)
        self.encoder = self.build_encoder(config) if "encoder" in config.networks else None
        self.predictor = self.build_predictor(config) if "predictor" in config.networks else None
        self.target_encoder = self.build_encoder(config) if "target_encoder" in config.networks else None
        self.build_heads(config)
        self.post_init()
        self._keys_to_ignore_on_load_unexpected |= {rf"^{name}\." for name in NETWORKS if name not in config.networks}
        self.bind_attention()
        if self.encoder is not None and self.target_encoder is not None and not _is_meta(self):
            # transformers initialises every module by itself: a new target starts as the encoder, as in the papers.
            self.target_encoder.load_state_dict(self.encoder.state_dict())

    # ------------------------------------------------------------------------------------------------ construction

    @staticmethod
    def build_encoder(config: JEPAConfig) -> ViTEncoder:
        """The encoder of `config`, uninitialised."""
        patch_embed = PatchEmbed(
            config.hidden_size,
            patch_size=config.patch_size,
            tubelet_size=config.tubelet_size,
            num_channels=config.num_channels,
        )
        positions = build_positions(config, config.hidden_size, config.encoder_spec.head_dim)
        return ViTEncoder(config.encoder_spec, config.num_hidden_layers, patch_embed, positions)

    @staticmethod
    def build_predictor(config: JEPAConfig) -> Predictor:
        """The predictor of `config`, uninitialised; the seam where families differ."""
        return Predictor(config.predictor_spec, config.predictor_num_hidden_layers, **predictor_parts(config))

    def build_heads(self, config: JEPAConfig) -> None:
        """Add what a family holds beside the three networks; nothing by default."""

    def copy_encoder_to_target(self) -> None:
        """Make the target encoder a real copy of the encoder (the start of training from a one-encoder checkpoint)."""
        self.target_encoder = copy.deepcopy(self._require("encoder"))
        self.config.networks = [name for name in NETWORKS if name in {*self.config.networks, "target_encoder"}]
        self.bind_attention()

    # ----------------------------------------------------------------------------------------------------- running

    def forward(
        self,
        pixel_values: Tensor,
        masks: Masks | Sequence[Masks] | None = None,
        conditioning: Tensor | None = None,
    ) -> JEPAOutput:
        """Features of the whole input, or, with masks, context tokens and predicted target tokens.

        Args:
            pixel_values: [B, 3, H, W] or [B, 3, F, H, W], normalised.
            masks: what the context encoder sees and what is predicted; the context encoder gets only the kept tokens.
            conditioning: for families whose predictor takes it.
        """
        pixels = model_inputs.as_clip(pixel_values)
        if masks is None:
            return JEPAOutput(last_hidden_state=self.feature_encoder(pixels))
        encoder, predictor = self._require("encoder"), self._require("predictor")
        grid = encoder.patch_embed.grid(pixels)
        several = [masks] if isinstance(masks, Masks) else list(masks)
        context = tuple(encoder(pixels, each.context) for each in several)  # [B, C, D] each
        predicted = tuple(
            predictor(known, each, grid, conditioning) for known, each in zip(context, several, strict=True)
        )
        if isinstance(masks, Masks):
            return JEPAOutput(last_hidden_state=context[0], predicted=predicted[0])
        return JEPAOutput(last_hidden_state=context, predicted=predicted)

    @torch.no_grad()
    def encode(
        self,
        inputs: Tensor | Mapping[str, Any],
        *,
        layers: Sequence[int] = (),
        window_frames: int | None = None,
        stride_frames: int | None = None,
        pad: bool = False,
    ) -> Features:
        """Features of images or clips, from the target encoder as in the official evaluations.

        Args:
            inputs: a processor's output, [B, 3, H, W] or [B, 3, F, H, W]; a still image given to a video model is
                repeated to fill one tubelet.
            layers: blocks whose outputs are wanted too (0 is the first, -1 the last), each through the final norm.
            window_frames: encode a long clip in sliding windows of so many frames; tokens covered twice are averaged.
            stride_frames: step between windows; defaults to `window_frames`.
            pad: fill up to whole patches and tubelets (last frame repeated, edges zero) instead of refusing;
                `Features.valid` marks tokens that are at least half real pixels.

        Raises:
            ValueError: pixels are not finite, lie in the wrong layout, or their size would lose pixels or frames.
        """
        encoder = self.feature_encoder
        clip = model_inputs.prepare(inputs, self, pad=pad)
        if window_frames is None:
            if stride_frames is not None:
                raise ValueError("stride_frames goes with window_frames")
            outputs = _run(encoder, clip.pixels, layers)
        else:
            windows = model_inputs.windows(clip.pixels.shape[2], window_frames, stride_frames, self.config.tubelet_size)
            outputs = model_inputs.merge_windows(
                ((start, _run(encoder, clip.pixels[:, :, start : start + window_frames], layers)) for start in windows),
                tubelet=self.config.tubelet_size,
                grid=clip.grid,
            )
        return Features(
            tokens=outputs.pop("last"),
            grid_size=clip.grid,
            frame_times=clip.frame_times,
            layers={layer: outputs[str(layer)] for layer in layers},
            valid=clip.valid,
        )

    @torch.no_grad()
    def predict(
        self,
        inputs: Tensor | Mapping[str, Any],
        *,
        context: Iterable[int] | None = None,
        target: Iterable[int] | None = None,
        masks: Masks | Sequence[Masks] | None = None,
        group: int = 0,
        conditioning: Tensor | Mapping[str, Any] | None = None,
    ) -> Any:
        """What the predictor expects at the targets [B, M, T, D]; nothing of the targets reaches the model.

        Args:
            inputs: as in `encode`.
            context: frames the model sees, e.g. range(0, 8).
            target: frames to predict, e.g. range(8, 16); every tubelet is wholly context, target or neither.
            masks: explicit token masks instead of frames; a sequence gives a tuple of predictions.
            group: which mask token (V-JEPA: 0 short-range, 1 long-range); with `masks` each carries its own.
            conditioning: for families whose predictor takes it: [B, A], or by name, see the family's class.

        Raises:
            ValueError: masks overlap, lie outside the grid, or frames split a tubelet.
        """
        clip = model_inputs.prepare(inputs, self, pad=False)
        chosen: dict[str, Any] = {"context": context, "target": target, "masks": masks, "group": group}
        asked = model_inputs.masks_of(self, clip.grid, len(clip.pixels), **chosen)
        conditioning = self.told(conditioning, len(clip.pixels))
        if conditioning is not None:
            conditioning = conditioning.to(clip.pixels.device)
        placed = [each.to(clip.pixels.device) for each in asked]
        predicted = self(clip.pixels, placed, conditioning).predicted
        return predicted[0] if masks is None or isinstance(masks, Masks) else predicted

    def default_masks(self, num_tokens: int, batch_size: int) -> Masks | None:
        """What `predict` asks for when it is told neither frames nor masks; None refuses that."""
        return None

    def told(self, conditioning: Tensor | Mapping[str, Any] | None, batch_size: int) -> Tensor | None:
        """What the predictor is told, as a tensor [B, A]; families that know names encode them here."""
        if isinstance(conditioning, Mapping):
            raise ValueError(f"{type(self).__name__} knows no named conditioning; Image World Models do")
        return conditioning

    @torch.no_grad()
    def prediction_targets(self, pixels: Tensor) -> Tensor:
        """What the predictor is trained to give at every token [B, N, D]; compare predictions with this.

        The target encoder's tokens with mean 0 and variance 1 over D, in float32 (a layer norm without weights).

        Args:
            pixels: [B, 3, F, H, W], normalised.
        """
        tokens = self.feature_encoder(model_inputs.as_clip(pixels))
        if tokens.dtype != torch.float64:
            tokens = tokens.float()
        return F.layer_norm(tokens, tokens.shape[-1:], eps=1e-5)

    @property
    def feature_encoder(self) -> ViTEncoder:
        """The target encoder, or the encoder where there is no target encoder (said once)."""
        if self.target_encoder is not None:
            return self.target_encoder
        if self.encoder is None:
            raise ValueError("this model has no encoder: load it with networks=('target_encoder',) or ('encoder',)")
        if "target_encoder" in self.networks:
            say_once(
                f"{self.config.provenance or type(self).__name__}: no target encoder here; features come from the "
                "context encoder (official evaluations use the target encoder)"
            )
        return self.encoder

    def _require(self, name: str) -> Any:
        network = getattr(self, name)
        if network is None:
            raise ValueError(
                f"this needs the {name}, but the model holds only {', '.join(self.config.networks)}; "
                f"load with networks={tuple(NETWORKS)} from a checkpoint that has it"
            )
        return network

    def graphs(self, layers: Sequence[int] = ()) -> list[Graph]:
        """What this model computes, as traceable functions of tensors: one exported file each.

        A family that computes more than features and predictions adds to the list, and to `more_graphs`.

        Args:
            layers: blocks whose outputs `features` gives too, as in `encode`.
        """
        return graphs.of_model(self, layers)

    # ------------------------------------------------------------------------------------------- loading and saving

    @classmethod
    def from_pretrained(cls, name: Any, **settings: Any) -> Any:
        """The model of a Hub id, catalog name, folder, URL or official file; see `jepa_hub.models.loading.load`."""
        if name is None:  # transformers' own route: config and state_dict are given
            return super().from_pretrained(None, **settings)
        return loading.load(cls, name, **settings)

    def save_pretrained(self, save_directory: Any, **settings: Any) -> Any:
        """Write config.json, safetensors (5 GB shards) and, where there is none, a model card."""
        return saving.save(self, save_directory, **settings)

    def write_weights(self, folder: Any, **settings: Any) -> None:
        """config.json and safetensors only, by transformers' own `save_pretrained`."""
        super().save_pretrained(folder, **settings)

    def push_to_hub(self, repo_id: str, **settings: Any) -> Any:
        """Upload to the Hub; a README.md that is there stays as it is. See `jepa_hub.models.saving.push`."""
        return saving.push(self, repo_id, **settings)

    def save_official(self, path: Any) -> Any:
        """Write the layout of Meta's code (`torch.save` of the networks present), readable by this package too."""
        return saving.save_official(self, path)

    def save_transformers(self, folder: Any, *, network: str | None = None) -> Any:
        """Write the transformers format (I-JEPA and V-JEPA 2): one encoder, and V-JEPA 2's predictor."""
        return saving.save_transformers(self, folder, network=network)


def build_positions(config: JEPAConfig, dim: int, head_dim: int) -> nn.Module:
    """The positions of `config` at width `dim`."""
    if config.position_type == "sincos":
        return SinCosPositions(
            dim,
            axes=config.position_axes,
            uniform_power=config.uniform_power,
            base_grid=config.base_grid,
            resize=config.position_resize,
        )
    if config.position_type == "learned":
        assert config.base_grid is not None  # checked by the config
        return LearnedPositions(dim, base_grid=config.base_grid)
    if config.position_type.startswith("rotary_"):
        return RotaryPositions(head_dim, layout=config.position_type.removeprefix("rotary_"))
    return NoPositions()


def predictor_parts(config: JEPAConfig) -> dict[str, Any]:
    """Arguments of `Predictor` that follow from `config`."""
    return {
        "encoder_dim": config.hidden_size,
        "positions": build_positions(config, config.predictor_hidden_size, config.predictor_spec.head_dim),
        "num_mask_tokens": config.num_mask_tokens,
        "output_dim": config.prediction_size,
    }


def _run(encoder: ViTEncoder, pixels: Tensor, layers: Sequence[int]) -> dict[str, Tensor]:
    """The last output and those of `layers`, by name."""
    if not layers:
        return {"last": encoder(pixels)}
    outputs = encoder.forward_layers(pixels, [*layers, -1])
    return {"last": outputs[-1], **{str(layer): outputs[layer] for layer in layers}}


def _is_meta(model: nn.Module) -> bool:
    return any(parameter.is_meta for parameter in model.parameters())
