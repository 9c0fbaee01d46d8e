"""Exported models with the same `encode()`, `predict()` and `classify()` as the torch model."""

from __future__ import annotations

import functools
from collections import namedtuple
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from export import files
from export.preprocess import FRAMES
from export.sessions import Session, open_session
from jepa_hub import hub
from jepa_hub.features import Features
from jepa_hub.masks import Masks
from jepa_hub.media import resizing
from jepa_hub.models import registry
from jepa_hub.models.base import JEPAModel, JEPAOutput
from jepa_hub.models.graphs import is_image_model, layer_name
from jepa_hub.models.inputs import masks_of
from jepa_hub.models.probe import Probe, ProbeConfig
from jepa_hub.processing import JEPAProcessor

SUFFIXES = {"onnx": ".onnx", "aoti": ".pt2"}


class OnnxJEPAModel:
    """`OnnxJEPAModel.from_pretrained(name)`: an exported model of a folder or Hub repository.

    What comes back is of the family's own class, so whatever takes a `JEPAModel` for inference takes it; its networks
    are files opened by onnxruntime (or AOTInductor packages) instead of torch modules.
    """

    def __new__(cls, *_: Any, **__: Any) -> Any:
        raise TypeError("use OnnxJEPAModel.from_pretrained(folder or Hub id)")

    @staticmethod
    def from_pretrained(
        name: str | Path,
        *,
        precision: str = "fp32",
        provider: str = "auto",
        file_format: str = "onnx",
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        trust_native_code: bool = False,
        **session: Any,
    ) -> Any:
        """The exported model, ready to run.

        Args:
            name: folder or Hub id that holds config.json and onnx/ (or aoti/).
            precision: which files: "fp32", "fp16", "bf16", "int8", "int8_static".
            provider: "auto", "cpu", "cuda" or "tensorrt" (see `OnnxSession`).
            file_format: "onnx" or "aoti".
            revision, cache_dir, token, local_files_only: as in huggingface_hub.
            trust_native_code: an AOTInductor package is a program; one from the Hub runs only when this is set.
            session: further arguments of `OnnxSession`: device_index, cache, threads.

        Raises:
            ValueError: the model's family is unknown, or a package of machine code is not trusted.
            OSError: nothing is exported there in this precision, or a file is torn or refused.
            RuntimeError: the provider asked for cannot be had.
        """
        access = hub.Access(revision, cache_dir, token, local_files_only)
        location = hub.locate(name)
        if file_format not in SUFFIXES:
            raise ValueError(f"file_format is {' or '.join(SUFFIXES)}, not {file_format!r}")
        if file_format == "aoti" and not Path(location.name).is_dir() and not trust_native_code:
            raise ValueError(
                f"an AOTInductor package is machine code, and {name} comes from the Hub: pass trust_native_code=True "
                "if you trust its authors, or take the ONNX files"
            )
        config = hub.read_config(location, access)
        is_probe = config.get("model_type") == ProbeConfig.model_type
        graphs = ["logits", "head"] if is_probe else ["features", "prediction", *_others(config)]
        paths = {}
        for graph in graphs:
            path = _fetch(location, access, file_format, graph, precision)
            if path is not None:
                paths[graph] = path
        if not paths:
            wanted = files.file_name(graphs[0], precision, SUFFIXES[file_format])
            raise OSError(
                f"{name} holds no {files.FOLDERS[file_format]}/{wanted}; write it with `jepa-hub export {name} --to "
                f"{file_format} --precision {precision}`"
            )
        sessions = {graph: open_session(path, provider, **session) for graph, path in paths.items()}
        return _probe(config, sessions) if is_probe else of_sessions(config, sessions)


def _others(config: Mapping[str, Any]) -> list[str]:
    """Graphs of a family's own beside features and predictions."""
    family = str(config.get("model_type", "")).removeprefix(registry.TYPE_PREFIX)
    return list(registry.model_class(family).more_graphs) if family in registry.MODELS else []


def _fetch(location: hub.Location, access: hub.Access, kind: str, graph: str, precision: str) -> Path | None:
    """The file of a graph, with the files of its large tensors beside it."""
    folder = files.FOLDERS[kind]
    path = hub.fetch(location, f"{folder}/{files.file_name(graph, precision, SUFFIXES[kind])}", access)
    if path is not None and kind == "onnx":
        for extra in files.external_files(path):
            if hub.fetch(location, f"{folder}/{extra}", access) is None:
                raise OSError(f"{location.name}: {path.name} keeps its tensors in {extra}, which is not there")
    return path


def of_sessions(config: Mapping[str, Any], sessions: Mapping[str, Session]) -> Any:
    """The model of a configuration whose networks are these sessions.

    Raises:
        ValueError: the configuration is of no family of this package.
    """
    model_type = str(config.get("model_type", ""))
    family = model_type.removeprefix(registry.TYPE_PREFIX)
    if not model_type.startswith(registry.TYPE_PREFIX) or family not in registry.MODELS:
        raise ValueError(
            f"config.json names the model type {model_type!r}, which this version of jepa_hub does not know"
        )
    cls = registry.model_class(family)
    with torch.device("meta"):
        model = cls(cls.config_class.from_dict(dict(config)))
    for name in ("encoder", "target_encoder"):
        network = getattr(model, name, None)
        if network is not None:
            setattr(model, name, _Encoder(sessions.get("features"), network, model.config))
    for name, child in list(model.named_children()):
        if not isinstance(child, _Encoder):
            setattr(model, name, _Absent(name))  # its weights are in the sessions
    for graph, name in cls.more_graphs.items():
        if graph in sessions:
            called = _Called(sessions[graph], graph, model.config)
            if name in model._modules:
                setattr(model, name, called)
            else:
                model.__dict__[name] = called.forward  # a method: what an instance has comes first
    model.__class__ = exported_class(cls)
    model.sessions = dict(sessions)
    return model.eval()


@functools.cache
def exported_class(cls: type) -> type:
    """A family's class with what runs replaced; named after it."""
    return type(f"Exported{cls.__name__}", (_Exported, cls), {"__module__": __name__})


class _Absent(nn.Module):
    """Stands for a network that is inside a session."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.network = name

    def forward(self, *_: Any, **__: Any) -> Any:
        raise ValueError(f"the {self.network} of an exported model cannot be called alone: use encode() or predict()")


class _Called(nn.Module):
    """A graph of a family's own in the place of the method or head it computes."""

    def __init__(self, session: Session, graph: str, config: Any) -> None:
        super().__init__()
        self.session, self.graph, self.config = session, graph, config

    def forward(self, *inputs: Tensor) -> Any:
        named = dict(zip(self.session.inputs, inputs, strict=True))
        if "pixel_values" in named:
            pixels = named["pixel_values"]
            named["pixel_values"] = fit(pixels.unsqueeze(2) if pixels.ndim == 4 else pixels, self.config)
        outputs = self.session.run(named)
        if len(outputs) == 1:
            return next(iter(outputs.values()))
        return namedtuple(self.graph, outputs)(**outputs)


class _Encoder(nn.Module):
    """The features graph in the place of an encoder."""

    def __init__(self, session: Session | None, network: Any, config: Any) -> None:
        super().__init__()
        self.session, self.config = session, config
        self.grid = network.grid  # checks sizes and layout; it reads no weights
        if hasattr(network, "patch_embed"):
            self.__dict__["patch_embed"] = network.patch_embed  # not a child: an exported model has no parameters

    def forward(self, pixels: Tensor, keep: Tensor | None = None) -> Tensor:
        if keep is not None:
            raise ValueError("an exported model encodes whole inputs; predictions go through predict()")
        return self._run(pixels)["tokens"]

    def forward_layers(self, pixels: Tensor, layers: Sequence[int]) -> dict[int, Tensor]:
        outputs = self._run(pixels)
        named = {
            layer: "tokens" if layer == -1 and "layer_last" not in outputs else layer_name(layer) for layer in layers
        }
        missing = [layer for layer, name in named.items() if name not in outputs]
        if missing:
            raise ValueError(
                f"blocks {missing} are not among the outputs of this file; export with "
                f"{' '.join(f'--layer {layer}' for layer in missing)}"
            )
        return {layer: outputs[name] for layer, name in named.items()}

    def _run(self, pixels: Tensor) -> dict[str, Tensor]:
        if self.session is None:
            raise ValueError("the features of this model were not exported; export with --graph features")
        return self.session.run({"pixel_values": fit(pixels, self.config)})


def fit(pixels: Tensor, config: Any) -> Tensor:
    """Pixels [B, 3, F, H, W] as a graph takes them: float32; images without a frame axis, a still fills a tubelet."""
    pixels = pixels.float()
    if is_image_model(config):
        if pixels.shape[2] != 1:
            raise ValueError(f"this image model was given {pixels.shape[2]} frames; encode them one by one")
        return pixels[:, :, 0]
    if pixels.shape[2] == 1:
        return pixels.expand(-1, -1, config.tubelet_size, -1, -1)
    return pixels


class _Exported(JEPAModel):
    """What replaces running in torch; stands before the family in the order of classes."""

    sessions: dict[str, Session]

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where the sessions run."""
        return next(iter(self.sessions.values())).device

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """Of inputs and outputs; what is inside is `precision`'s affair."""
        return torch.float32

    @property
    def providers(self) -> list[str]:
        """What the sessions really run on, by preference."""
        return next(iter(self.sessions.values())).providers

    @property
    def takes_frames(self) -> bool:
        """Whether the preprocessing is in the graphs, so that uint8 frames go in."""
        return any(bool(each.metadata.get("preprocessing_in_graph")) for each in self.sessions.values())

    @property
    def processor(self) -> JEPAProcessor | None:
        """The preprocessing that was recorded at export."""
        told = next(iter(self.sessions.values())).metadata.get("preprocessing")
        return JEPAProcessor(**told) if told else None

    @torch.no_grad()
    def encode(self, inputs: Any, **settings: Any) -> Features:
        """As the family's; where the preprocessing is in the graph, `inputs` are uint8 frames instead.

        Args:
            inputs: as in the family's `encode`, or uint8 [B, F, H, W, 3] ([B, H, W, 3] for image models; the first axis
                may be missing).
            settings: as in the family's `encode`; none with uint8 frames.
        """
        if not self.takes_frames:
            return super().encode(inputs, **settings)
        if settings:
            raise ValueError(f"{', '.join(settings)} cannot be given where the preprocessing is in the graph")
        frames, grid = self._frames(inputs)
        session = self.sessions.get("features")
        if session is None:
            raise ValueError("the features of this model were not exported; export with --graph features")
        return Features(session.run({FRAMES: frames})["tokens"], grid)

    @torch.no_grad()
    def predict(
        self,
        inputs: Any,
        *,
        context: Iterable[int] | None = None,
        target: Iterable[int] | None = None,
        masks: Masks | Sequence[Masks] | None = None,
        group: int = 0,
        conditioning: Tensor | Mapping[str, Any] | None = None,
    ) -> Any:
        """As the family's; where the preprocessing is in the graph, `inputs` are uint8 frames instead."""
        chosen: dict[str, Any] = {"context": context, "target": target, "masks": masks, "group": group}
        if not self.takes_frames:
            return super().predict(inputs, **chosen, conditioning=conditioning)
        frames, grid = self._frames(inputs)
        several = masks_of(self, grid, len(frames), **chosen)
        told = self.told(conditioning, len(frames))
        predicted = tuple(self._predicted({FRAMES: frames}, each, told) for each in several)
        return predicted[0] if masks is None or isinstance(masks, Masks) else predicted

    def forward(
        self,
        pixel_values: Tensor,
        masks: Masks | Sequence[Masks] | None = None,
        conditioning: Tensor | None = None,
    ) -> JEPAOutput:
        """As the family's, without the context tokens: predictions come out of one graph."""
        if masks is None:
            return super().forward(pixel_values)
        pixels = pixel_values.unsqueeze(2) if pixel_values.ndim == 4 else pixel_values  # [B, 3, F, H, W]
        several = [masks] if isinstance(masks, Masks) else list(masks)
        inputs = {"pixel_values": fit(pixels, self.config)}
        predicted = tuple(self._predicted(inputs, each, conditioning) for each in several)
        return JEPAOutput(predicted=predicted[0] if isinstance(masks, Masks) else predicted)

    def _predicted(self, pixels: dict[str, Tensor], masks: Masks, conditioning: Tensor | None = None) -> Tensor:
        session = self.sessions.get("prediction")
        if session is None:
            raise ValueError("this model was exported without predictions (or has no predictor): --graph prediction")
        inputs = {**pixels, "context": masks.context, "target": masks.target}
        count = self.config.num_mask_tokens
        if count > 1:
            if not 0 <= int(masks.group) < count:  # a runtime would read past the table, or say something obscure
                raise ValueError(f"group {int(masks.group)}: this predictor has mask tokens 0 .. {count - 1}")
            inputs["group"] = torch.tensor([int(masks.group)])
        shape = (len(masks.context), self.config.conditioning_size)
        if shape[1]:
            inputs["conditioning"] = torch.zeros(shape) if conditioning is None else conditioning
        elif conditioning is not None:
            raise ValueError(f"{type(self).__name__} takes no conditioning")
        if shape[1] and inputs["conditioning"].shape != shape:
            raise ValueError(f"conditioning is {list(shape)}, got {tuple(inputs['conditioning'].shape)}")
        return session.run(inputs)["predicted"]

    def _frames(self, inputs: Any) -> tuple[Tensor, tuple[int, int, int]]:
        """uint8 frames with all axes, and the grid of tokens that becomes of them."""
        frames = torch.as_tensor(inputs) if not isinstance(inputs, Mapping) else None
        axes = 4 if is_image_model(self.config) else 5
        if frames is not None and frames.ndim == axes - 1:
            frames = frames[None]
        if frames is None or frames.dtype != torch.uint8 or frames.ndim != axes or frames.shape[-1] != 3:
            got = "a processor's output" if frames is None else f"{frames.dtype} {tuple(frames.shape)}"
            wanted = "[B, H, W, 3]" if axes == 4 else "[B, F, H, W, 3]"
            raise ValueError(f"the preprocessing is inside this file: give uint8 frames {wanted}, not {got}")
        if axes == 5 and frames.shape[1] == 1:
            frames = frames.expand(-1, self.config.tubelet_size, -1, -1, -1)
        count = 1 if axes == 4 else frames.shape[1]
        height, width = output_size(self.processor, (frames.shape[-3], frames.shape[-2]))
        encoder: Any = self.feature_encoder
        pixels = torch.empty(len(frames), 3, count, height, width, device="meta")
        return frames, encoder.grid(pixels)

    def save_pretrained(self, *_: Any, **__: Any) -> Any:
        """Refused: there are no torch weights here."""
        raise ValueError("an exported model holds no torch weights: copy its folder, or push it with export.push")

    def push_to_hub(self, *_: Any, **__: Any) -> Any:
        """Refused: there are no torch weights here."""
        raise ValueError("an exported model holds no torch weights: push its folder with export.push")


def output_size(processor: JEPAProcessor | None, size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of the pixels that a processor makes of frames of `size` (H, W)."""
    if processor is None:
        raise ValueError("the file has its preprocessing inside but does not say which; export it again")
    square = processor.image_size
    geometry = resizing.plan(
        size,
        image_size=(square, square) if isinstance(square, int) else square,
        resize=processor.resize,
        aspect=processor.aspect,
        patch_size=processor.patch_size,
        multiple=processor.multiple,
        crop_rounding=processor.crop_rounding,
        name="the frames",
    )
    return geometry.final(size)


class _ExportedProbe(Probe):
    """A probe whose head, and whose backbone and head together, are sessions."""

    sessions: dict[str, Session]
    device = _Exported.device
    dtype = _Exported.dtype
    providers = _Exported.providers

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [B, classes] from tokens [B, N, D]."""
        if "head" not in self.sessions:
            raise ValueError("the head of this probe was not exported alone: give pixels, or export with --graph head")
        return self.sessions["head"].run({"tokens": tokens.float()})["logits"]

    @torch.no_grad()
    def classify(self, inputs: Any, *, top: int = 5) -> Any:
        """As the probe's; pixels go through the whole graph at once."""
        session = self.sessions.get("logits")
        if isinstance(inputs, Features) or session is None or self.backbone is None:
            return super().classify(inputs, top=top)
        if session.metadata.get("preprocessing_in_graph"):
            frames = torch.as_tensor(inputs)
            logits = session.run({FRAMES: frames})["logits"]
        else:
            from jepa_hub.models import inputs as model_inputs

            clip = model_inputs.prepare(inputs, self.backbone, pad=False)
            logits = session.run({"pixel_values": fit(clip.pixels, self.backbone.config)})["logits"]
        return self.classification(logits, top)


def _probe(config: Mapping[str, Any], sessions: Mapping[str, Session]) -> Any:
    with torch.device("meta"):
        probe = Probe(ProbeConfig.from_dict(dict(config)))
    if probe.backbone is not None:
        backbone = {"model_type": probe.backbone.config.model_type, **probe.backbone.config.settings()}
        probe.backbone = of_sessions(backbone, sessions)
    probe.pooler, probe.linear = None, None  # type: ignore[assignment]
    probe.__class__ = _ExportedProbe
    probe.sessions = dict(sessions)  # type: ignore[assignment]
    return probe.eval()
