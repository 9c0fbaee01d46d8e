"""Probe: a classifier on frozen features, attentive or linear, with or without its backbone."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor
from transformers import PreTrainedConfig

from jepa_hub import hub
from jepa_hub.convert import probes
from jepa_hub.features import Features
from jepa_hub.models import graphs, loading, registry
from jepa_hub.models.base import JEPAModel, JEPAPreTrainedModel
from jepa_hub.models.graphs import Graph
from jepa_hub.nn.block import BlockSpec
from jepa_hub.nn.linear import Linear
from jepa_hub.nn.pooling import AttentivePooler


@strict
class ProbeConfig(PreTrainedConfig):
    """Configuration of a probe.

    Args:
        kind: "attentive" (a learned query reads the tokens) or "linear" (on the mean token).
        hidden_size, num_attention_heads, intermediate_size: of the attentive pooler.
        num_blocks: self-attention blocks over the tokens before the query (0 in V-JEPA, 3 in V-JEPA 2).
        num_queries: learned queries.
        layers: backbone blocks whose tokens are joined, last to first as trained; empty means the last output.
        backbone: `model_type` and settings of the backbone saved with the probe, or None.
        provenance, licence: of the weights.
    """

    model_type = "jepa_hub_probe"

    kind: str = "attentive"
    hidden_size: int = 1024
    num_attention_heads: int = 16
    intermediate_size: int | None = None
    num_blocks: int = 0
    num_queries: int = 1
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    rescale_residual: bool = False
    layers: list[int] | tuple[int, ...] = ()
    backbone: dict[str, Any] | None = None
    provenance: str | None = None
    licence: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.kind not in ("attentive", "linear"):
            raise ValueError(f"kind is 'attentive' or 'linear', not {self.kind!r}")
        self.intermediate_size = self.intermediate_size or 4 * self.hidden_size
        self.layers = list(self.layers)
        super().__post_init__(**kwargs)


@dataclass(frozen=True)
class Classification:
    """labels: per sample, the most likely labels first; probabilities [B, top], in the same order."""

    labels: list[list[str]]
    probabilities: Tensor


class Probe(JEPAPreTrainedModel):
    """A linear layer on pooled tokens of a backbone.

    `Probe.from_pretrained("facebook/vjepa2-vitl-fpc16-256-ssv2")` brings its backbone; official probe files hold a
    head only: pass `backbone=`.
    """

    config_class = ProbeConfig
    config: ProbeConfig

    def __init__(self, config: ProbeConfig) -> None:
        super().__init__(config)
        self.pooler = None
        if config.kind == "attentive":
            assert config.intermediate_size is not None  # set by the config
            spec = BlockSpec(
                config.hidden_size,
                config.num_attention_heads,
                config.intermediate_size,
                layer_norm_eps=config.layer_norm_eps,
            )
            self.pooler = AttentivePooler(spec, num_blocks=config.num_blocks, num_queries=config.num_queries)
        self.linear = Linear(config.hidden_size, config.num_labels)
        self.backbone: JEPAModel | None = None
        if config.backbone is not None:
            family = str(config.backbone["model_type"]).removeprefix(registry.TYPE_PREFIX)
            model = registry.model_class(family)
            self.backbone = model(model.config_class.from_dict(dict(config.backbone)))
        self.post_init()
        self.bind_attention()

    def attach(self, backbone: JEPAModel) -> Probe:
        """Use `backbone` for pixels from now on, and save it with the probe; returns the probe.

        Raises:
            ValueError: its width is not the probe's.
        """
        if backbone.config.hidden_size != self.config.hidden_size:
            raise ValueError(
                f"the probe reads tokens of width {self.config.hidden_size}, this backbone gives "
                f"{backbone.config.hidden_size}"
            )
        self.backbone = backbone
        self.config.backbone = {"model_type": backbone.config.model_type, **backbone.config.settings()}
        return self

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [B, classes] from tokens [B, N, D]."""
        if tokens.ndim != 3 or tokens.shape[-1] != self.config.hidden_size:
            raise ValueError(f"expected tokens [B, N, {self.config.hidden_size}], got {tuple(tokens.shape)}")
        tokens = tokens.to(self.linear.weight.dtype)
        if self.pooler is None:
            return self.linear(tokens.mean(dim=1))
        return self.linear(self.pooler(tokens)[:, 0])  # [B, classes]

    def graphs(self) -> list[Graph]:
        """What this probe computes, as traceable functions of tensors: pixels to logits, and tokens to logits."""
        return graphs.of_probe(self)

    @torch.no_grad()
    def classify(self, inputs: Any, *, top: int = 5) -> Classification:
        """The most likely labels and their probabilities.

        Args:
            inputs: `Features`, a processor's output, [B, 3, H, W] or [B, 3, F, H, W]; pixels need a backbone.
            top: labels per sample.
        """
        return self.classification(self(self._tokens(inputs)), top)

    def classification(self, logits: Tensor, top: int) -> Classification:
        """Labels and probabilities from logits [B, classes]."""
        chosen = logits.float().softmax(dim=-1).topk(min(top, logits.shape[-1]), dim=-1)
        names = self.config.id2label or {}
        labels = [[str(names.get(index, index)) for index in row] for row in chosen.indices.tolist()]
        return Classification(labels, chosen.values)

    def _tokens(self, inputs: Any) -> Tensor:
        if not isinstance(inputs, Features):
            if self.backbone is None:
                raise ValueError("this probe has no backbone: pass Features, or probe.attach(backbone) first")
            inputs = self.backbone.encode(inputs, layers=self.config.layers)
        missing = [layer for layer in self.config.layers if layer not in inputs.layers]
        if missing:
            raise ValueError(f"this probe reads blocks {self.config.layers}: encode(..., layers={self.config.layers})")
        if not self.config.layers:
            return inputs.tokens
        return torch.cat([inputs.layers[layer] for layer in self.config.layers], dim=1)  # [B, layers*N, D]

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str] | None,
        *,
        backbone: JEPAModel | None = None,
        head: int | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        subfolder: str = "",
        dtype: torch.dtype | str = torch.float32,
        **settings: Any,
    ) -> Any:
        """A probe from our folder or repository, a transformers classification repository, or an official file.

        Args:
            name: what to load.
            backbone: the model whose features it reads, for files that hold a head only.
            head: which one, for files with several heads.
            settings: configuration that wins over what is stored (layers=, num_attention_heads=, id2label=, ...).

        Raises:
            ValueError: not a probe, or its tensors do not fit.
            OSError: it cannot be found, reached or read.
        """
        if name is None:
            return super().from_pretrained(None, dtype=dtype, **settings)
        access = hub.Access(revision, cache_dir, token, local_files_only, force_download, subfolder)
        config, tensors, own = _open(hub.locate(name), access, head, settings)
        if own is not None and backbone is None:
            backbone = own(dtype)
        if config["num_attention_heads"] is None:
            raise ValueError(f"{name}: {config['hidden_size']} is not a published width; give num_attention_heads=")
        chosen = ProbeConfig(**config)
        with torch.device("meta"):
            expected = cls(chosen).state_dict()
        loading.check_fit(expected, tensors, f"{name}", cls.__name__)
        probe = super().from_pretrained(None, config=chosen, state_dict=tensors, dtype=dtype)
        return probe if backbone is None else probe.attach(backbone)


def _open(
    location: hub.Location, access: hub.Access, head: int | None, settings: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor], Any]:
    """Configuration, tensors, and a function that loads the backbone stored with them (or None)."""
    if location.kind in ("file", "url"):
        row = location.row
        remote = location.kind == "url"
        checkpoint = hub.read_downloaded(location.name, access) if remote else hub.read_official(location.name)
        tensors = probes.read_meta(checkpoint, head)
        known = {"licence": row.licence, "provenance": row.name, **_probe_settings(row.config)} if row else {}
        return {**_defaults(), **probes.infer(tensors), **known, **settings}, tensors, None
    config = hub.read_config(location, access)
    tensors = hub.read_safetensors(location, access)
    if config.get("model_type") == ProbeConfig.model_type:
        stored = ProbeConfig.from_dict(config)
        declared = {field.name for field in fields(ProbeConfig)} - {field.name for field in fields(PreTrainedConfig)}
        kept = {name: getattr(stored, name) for name in declared}
        return {**kept, "id2label": stored.id2label, **settings}, tensors, None
    if "VJEPA2ForVideoClassification" not in (config.get("architectures") or []):
        raise ValueError(
            f"{location.name} is not a probe: its config.json names {config.get('model_type')!r} "
            f"{config.get('architectures')}; JEPAModel.from_pretrained loads backbones"
        )
    labels = {"id2label": {int(key): value for key, value in (config.get("id2label") or {}).items()} or None}
    head_tensors = probes.read_transformers(tensors)
    known = _probe_settings(location.row.config) if location.row else {}
    own = {**_defaults(), **probes.infer(head_tensors), **known, **labels, "provenance": location.name, **settings}
    own.pop("num_labels" if own["id2label"] else "", None)
    plain = {key: getattr(access, key) for key in vars(access)}
    return own, head_tensors, lambda dtype: JEPAModel.from_pretrained(location.name, dtype=dtype, **plain)


def _defaults() -> dict[str, Any]:
    return {"num_attention_heads": ProbeConfig.num_attention_heads}


def _probe_settings(row: Any) -> dict[str, Any]:
    """Of a catalog row, what a probe's configuration takes."""
    return {key: row[key] for key in ("layers", "num_attention_heads") if key in row}
