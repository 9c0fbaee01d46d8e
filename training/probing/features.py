"""From a source and an encoder to a FeatureTable: read, resize, normalise, encode; bad samples are left out."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from jepa_hub.features import Features
from jepa_hub.masking.draws import keyed
from jepa_hub.models.base import JEPAModel
from jepa_hub.processing import JEPAProcessor
from training.data.source import Label, Sample, Source
from training.probing.cache import read_table, table_key, weights_hash, write_table
from training.probing.reading import Reader, Reading
from training.probing.tables import FeatureTable, join_names

logger = logging.getLogger(__name__)

Encode = Callable[[Tensor], Tensor | Features]
RAW_SIZE, RAW_FRAMES = 16, 4  # of the raw-pixel baseline
TWIN_INIT = 208  # purpose of a key
MAX_BYTES = 8 << 30  # of one table; tokens of a large model fill memory quickly


def extract_features(
    encode: Encode | JEPAModel,
    source: Source,
    *,
    batch_size: int = 64,
    limit: int | None = None,
    pooled: bool = True,
    layers: int = 1,
    cache: Path | None = None,
    indices: Sequence[int] | None = None,
    processor: JEPAProcessor | None = None,
    device: torch.device | str | None = None,
    name: str | None = None,
    num_workers: int = 0,
    max_bad: float = 0.01,
    progress: bool = True,
) -> FeatureTable:
    """Frozen features of samples, with their labels.

    Args:
        encode: a model (its feature encoder is used: the target encoder where there is one), or a function of
            normalised pixels [B, 3, F, H, W] (F = 1 for pictures) to [B, D], tokens [B, N, D] or `Features`, such as
            `method.features`. The model, or the network a method belongs to, is in eval mode meanwhile.
        source: of samples.
        batch_size: samples per call of `encode`.
        limit: only the first so many of `indices`.
        pooled: keep the mean token of each sample instead of all tokens.
        layers: of a model, how many of its last blocks to read, each through the final norm, their channels side by
            side; 1 reads its features alone.
        cache: folder in which tables are kept; one is found again by weights, source, samples and preprocessing.
        indices: which samples; all by default.
        processor: how samples become pixels; by default the model's size (other sizes are resized and centre-cropped)
            with ImageNet's mean and standard deviation, and for a function the samples' own size (give
            `default_processor(model)` for another).
        device: where pixels go; that of the model by default.
        name: of a function, for the cache: it must change whenever the function's results do.
        num_workers: processes that read.
        max_bad: share of samples that may be unreadable; they are logged and left out.
        progress: show a bar.

    Raises:
        ValueError: no samples, too many unreadable ones, more tokens than fit in memory, no `name` for a cache, or
            more layers than there are.
    """
    _check_layers(encode, layers)
    chosen = list(range(len(source)) if indices is None else indices)[:limit]
    if not chosen:
        raise ValueError("there are no samples to encode: the source is empty, or limit or indices leave nothing")
    processor = processor or default_processor(encode)
    key = ""
    if cache is not None:
        key = table_key(
            source, chosen, {"pooled": pooled, "layers": layers, "pixels": repr(processor)}, weights_hash(encode, name)
        )
        found = read_table(cache, key, source.labels)
        if found is not None:
            return found
    readings = DataLoader(
        Reader(source, chosen), batch_size=batch_size, num_workers=num_workers, collate_fn=list, shuffle=False
    )
    bar = tqdm(total=len(chosen), desc="features", unit="sample", disable=None if progress else True, leave=False)
    with bar, frozen(encode, layers) as call:
        table = _encode_all(readings, source, _Batch(call, processor, device or _device(encode), pooled), bar, max_bad)
    if cache is not None:
        write_table(cache, key, table)
    return table


def raw_pixels(source: Source, **settings: Any) -> FeatureTable:
    """The raw-pixel baseline: each sample as 16 x 16 pixels (of 4 frames spread over a clip), flattened.

    Args:
        source: of samples.
        settings: of `extract_features`, except `encode`, `processor`, `pooled` and `name`.
    """
    processor = JEPAProcessor(image_size=RAW_SIZE, aspect="squash")
    return extract_features(_flat, source, processor=processor, name="raw_pixels", **settings)


def untrained(model: JEPAModel, seed: int = 0) -> JEPAModel:
    """A model of the same configuration with fresh random weights, the same for the same seed."""
    with torch.random.fork_rng(devices=[]):  # transformers initialises from the global generator
        torch.manual_seed(int(keyed(seed, TWIN_INIT)))
        twin = type(model)(copy.deepcopy(model.config))
    twin.config.provenance = "an untrained twin"
    return twin.to(model.device).eval()


def default_processor(encode: Any, image_size: int | tuple[int, int] | None = None) -> JEPAProcessor:
    """ImageNet normalisation at the model's size; a function's samples keep their size.

    Raises:
        ValueError: the model does not know its size and `image_size` is not given.
    """
    if not isinstance(encode, JEPAModel):
        return JEPAProcessor(image_size=image_size, aspect="native" if image_size is None else "crop")
    config = encode.config
    size = image_size or config.image_size
    if size is None:
        raise ValueError("this model's file does not say its image size: give one (processor=, or --size)")
    return JEPAProcessor(
        image_size=size if isinstance(size, int) else (size[0], size[1]),
        patch_size=config.patch_size,
        tubelet_size=config.tubelet_size,
    )


@contextmanager
def frozen(encode: Any, layers: int = 1) -> Iterator[Encode]:
    """`encode` as a function, its network in eval mode and without gradients meanwhile."""
    network = encode if isinstance(encode, nn.Module) else getattr(encode, "__self__", None)
    modes = [(each, each.training) for each in network.modules()] if isinstance(network, nn.Module) else []
    try:
        for module, _ in modes:
            module.training = False
        with torch.no_grad():
            yield _model_call(encode, layers) if isinstance(encode, JEPAModel) else encode
    finally:
        for module, mode in modes:
            module.training = mode


def _check_layers(encode: Any, layers: int) -> None:
    if layers == 1:
        return
    if not isinstance(encode, JEPAModel):
        raise ValueError(f"layers={layers} needs a model; a function gives what it gives")
    if not 1 <= layers <= encode.config.num_hidden_layers:
        raise ValueError(f"layers={layers}: this model has 1 to {encode.config.num_hidden_layers} to read")


def _model_call(model: JEPAModel, layers: int) -> Encode:
    """Features of the model; an image model sees the frames of a clip one by one."""
    blocks = tuple(range(-layers, 0)) if layers > 1 else ()

    def tokens(pixels: Tensor) -> Tensor:
        features = model.encode(pixels, layers=blocks)
        return torch.cat([features.layers[block] for block in blocks], dim=-1) if blocks else features.tokens

    def call(pixels: Tensor) -> Tensor:
        frames = pixels.shape[2]
        if frames == 1 or model.config.tubelet_size > 1 or (model.config.num_frames or 1) > 1:
            return tokens(pixels)  # [B, N, layers*D]
        stills = pixels.transpose(1, 2).flatten(0, 1)  # [B*F, 3, H, W]
        return tokens(stills).unflatten(0, (-1, frames)).flatten(1, 2)  # [B, F*N, layers*D]

    return call


def _device(encode: Any) -> torch.device:
    network = encode if isinstance(encode, nn.Module) else getattr(encode, "__self__", None)
    first = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    return torch.device("cpu") if first is None else first.device


def _flat(pixels: Tensor) -> Tensor:
    frames = torch.linspace(0, pixels.shape[2] - 1, min(RAW_FRAMES, pixels.shape[2])).round().long()
    return pixels[:, :, frames.to(pixels.device)].flatten(1)  # [B, 3*f*16*16]


@dataclass(frozen=True)
class _Batch:
    """Turns readings into rows of features."""

    encode: Encode
    processor: JEPAProcessor
    device: torch.device | str
    pooled: bool

    def __call__(self, samples: list[Sample], kind: str) -> Tensor:
        layout = "CHW" if kind == "image" else "CFHW"
        inputs = self.processor([sample.pixels for sample in samples], layout=layout, device=self.device)
        output = self.encode(inputs.pixel_values)
        if isinstance(output, Features):
            output = output.pooled if self.pooled else output.tokens
        if output.ndim not in (2, 3) or len(output) != len(samples):
            raise ValueError(f"expected [{len(samples)}, D] or [{len(samples)}, N, D] features, got {output.shape}")
        if self.pooled and output.ndim == 3:
            output = output.mean(dim=1)  # [B, D]
        return output.float().cpu()


def _encode_all(readings: DataLoader[Reading], source: Source, batch: _Batch, bar: Any, max_bad: float) -> FeatureTable:
    """The table of all readable samples."""
    total = len(readings.dataset)  # type: ignore[arg-type]  # a Reader has a length
    parts: list[Tensor] = []
    kept: list[Reading] = []
    skipped: list[str] = []
    for group in readings:
        good = [reading for reading in group if reading.sample is not None]
        for reading in group:
            if reading.sample is None:
                logger.warning("sample %d left out: %s", reading.index, reading.reason)
                skipped.append(reading.reason)
        if len(skipped) > max_bad * total:
            raise ValueError(
                f"{len(skipped)} of {total} samples could not be read, more than the tolerated {max_bad:.1%}: "
                f"{join_names(skipped)}"
            )
        if good:
            parts.append(batch([reading.sample for reading in good if reading.sample is not None], source.kind))
            size = parts[0][0].numel() * parts[0].element_size() * total
            if size > MAX_BYTES:
                raise ValueError(
                    f"tokens of {total} samples would take {size / 2**30:.1f} GiB: probe fewer samples, or use pooled "
                    f"features (the linear, knn and low_shot probes)"
                )
            # pixels are dropped here: only what the table needs stays in memory
            kept += [
                Reading(each.index, Sample(each.index, torch.empty(0), each.sample.labels), each.content)
                for each in good
                if each.sample is not None
            ]
        bar.update(len(group))
    if not kept:
        raise ValueError(f"none of {total} samples could be read: {join_names(skipped)}")
    info = source.labels
    return FeatureTable(
        features=torch.cat(parts),
        labels={name: _column(name, info[name], kept) for name in info},
        samples=torch.tensor([reading.content for reading in kept]),
        label_info=info,
        indices=torch.tensor([reading.index for reading in kept]),
        skipped=tuple(skipped),
    )


def _column(name: str, info: Label, readings: list[Reading]) -> Tensor:
    values = []
    for reading in readings:
        assert reading.sample is not None  # unreadable ones were left out
        if name not in reading.sample.labels:
            raise ValueError(f"sample {reading.index} has no value of label {name!r}, which its source declares")
        values.append(reading.sample.labels[name])
    return torch.tensor(values, dtype=torch.int64 if info.kind == "class" else torch.float64)
