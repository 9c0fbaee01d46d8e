"""What `jepa-hub list` and `jepa-hub info` say: catalog rows, and models on disk, in words and as JSON.

Standard library only, so that looking something up is instant; weights are counted from file headers, never loaded.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jepa_hub.catalog import CHECKPOINTS
from jepa_hub.catalog_row import COMMERCIAL_LICENCES, Checkpoint, Preprocessing
from jepa_hub.json_files import read_object

NETWORKS = ("encoder", "predictor", "target_encoder")
HEADS = ("projection", "prediction", "classifier", "text", "mixing")  # of PAWS and Llip models
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9}
# The name of a setting in our config.json, and in those of transformers' ijepa and vjepa2.
_SETTINGS = {
    "width": ("hidden_size",),
    "layers": ("num_hidden_layers",),
    "heads": ("num_attention_heads",),
    "patch_size": ("patch_size",),
    "tubelet_size": ("tubelet_size",),
    "image_size": ("image_size", "crop_size"),
    "num_frames": ("num_frames", "frames_per_clip"),
}


# Selecting ------------------------------------------------------------------------------------------------------------
def parse_count(text: str) -> int:
    """A number of parameters: "400M", "1.2B", "650000000".

    Raises:
        ValueError: not a number with an optional K, M or B.
    """
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([KMBG]?)\s*", text.upper())
    if not found:
        raise ValueError(f"{text!r} is not a number of parameters; write 400M, 1.2B or 650000000")
    return round(float(found[1]) * _UNITS[found[2]])


def select(
    rows: Iterable[Checkpoint],
    *,
    family: str | None = None,
    licence: str | None = None,
    commercial: bool = False,
    max_parameters: int | None = None,
    size: str | None = None,
    kind: str | None = None,
) -> list[Checkpoint]:
    """The rows that meet every condition given.

    Args:
        rows: catalog rows.
        family, licence, kind: exact, whatever the case.
        commercial: only licences that allow commercial use.
        max_parameters: of one encoder; rows of unknown size are left out.
        size: a part of the name, such as "vitl".

    Raises:
        ValueError: no row of the catalog has that family, licence or kind.
    """
    rows = list(rows)
    for what, wanted in (("family", family), ("licence", licence), ("kind", kind)):
        known = sorted({getattr(row, what) for row in rows})
        if wanted is not None and wanted.lower() not in known:
            raise ValueError(f"no {what} {wanted!r} in the catalog; it has {', '.join(known)}")
        if wanted is not None:
            rows = [row for row in rows if getattr(row, what) == wanted.lower()]
    if commercial:
        rows = [row for row in rows if row.licence in COMMERCIAL_LICENCES]
    if max_parameters is not None:
        rows = [row for row in rows if row.parameters is not None and row.parameters <= max_parameters]
    if size is not None:
        rows = [row for row in rows if size.lower() in row.name]
    return rows


# Rows -----------------------------------------------------------------------------------------------------------------
def table(rows: Sequence[Checkpoint]) -> str:
    """One line per row under a header; parameters are those of one encoder."""
    lines = [("NAME", "ENCODER", "INPUT", "LICENCE", "HOLDS", "SOURCE")]
    for row in rows:
        holds = "not supported" if row.unsupported else "a probe" if row.kind == "probe" else _short(row.networks)
        pixels = row.preprocessing
        size = f"{pixels.num_frames} x {pixels.image_size}" if pixels.num_frames else str(pixels.image_size)
        lines.append((row.name, count_text(row.parameters), size, row.licence, holds, row.source))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def row_data(row: Checkpoint) -> dict[str, Any]:
    """A row as plain data, with what follows from it."""
    commercial = row.licence in COMMERCIAL_LICENCES
    return {**asdict(row), "commercial_use": commercial, "probes": [probe.name for probe in _probes(row)]}


def row_text(row: Checkpoint) -> str:
    """A row in words."""
    use = "commercial use allowed" if row.licence in COMMERCIAL_LICENCES else "no commercial use"
    lines = [
        ("name", row.name),
        ("kind", f"{row.family} {row.kind}, {row.layout} layout" + (f", reads {row.backbone}" if row.backbone else "")),
        ("source", row.source),
        ("paper", f"https://arxiv.org/abs/{row.paper}"),
        ("licence", f"{row.licence} ({use}); {row.licence_source}"),
    ]
    if row.unsupported:
        lines.append(("cannot be loaded", row.unsupported))
    if row.networks:
        lines.append(("networks", ", ".join(row.networks)))
    if row.parameters:
        lines.append(("parameters", f"{count_text(row.parameters)} per encoder ({row.parameters:,})"))
    if row.grid_size:
        lines.append(("tokens", _grid_text(row.grid_size)))
    lines.append(("preprocessing", _preprocessing_text(row.preprocessing)))
    if row.config:
        lines.append(("settings", ", ".join(f"{key} {value}" for key, value in row.config.items())))
    lines.append(("sha256", row.sha256 or "unknown: nobody here has read this file"))
    lines += [("score", f"{s.dataset} {s.metric} {s.value} ({s.protocol}; {s.source})") for s in row.scores]
    if not row.scores and row.kind == "model":
        lines.append(("score", "none was read in a primary source for this file"))
    lines += [("probe", probe.name) for probe in _probes(row)]
    if row.note:
        lines.append(("note", row.note))
    return _aligned(lines)


def _probes(row: Checkpoint) -> list[Checkpoint]:
    return [probe for probe in CHECKPOINTS.values() if probe.backbone == row.name]


# Models on disk -------------------------------------------------------------------------------------------------------
def folder_data(folder: Path) -> dict[str, Any]:
    """What a model folder holds, from config.json, the preprocessor's file and the headers of its weights.

    Raises:
        OSError: there is no readable config.json, or a weight file is torn.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{folder} has no config.json, so it is not a model of transformers or of jepa_hub")
    config = read_object(file)
    found = config_data(config)
    shapes: dict[str, list[int]] = {}
    for weights in sorted(folder.glob("*.safetensors")):
        shapes |= safetensors_shapes(weights)
    found["name"] = str(folder)
    found["parameters"] = count_parameters(shapes)
    for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            found["preprocessing"] = {name: read_object(folder / name)}
            break
    return found


def config_data(config: Mapping[str, Any]) -> dict[str, Any]:
    """Family, networks, sizes, tokens and licence of a config.json, ours or transformers'."""
    found: dict[str, Any] = {"model_type": config.get("model_type")}
    for ours, names in _SETTINGS.items():
        found[ours] = next((config[name] for name in names if config.get(name) is not None), None)
    found["networks"] = config.get("networks")
    found["licence"] = config.get("licence")
    found["provenance"] = config.get("provenance")
    found["grid_size"] = _grid(found)
    return found


def count_parameters(shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Learned values per network (or "all"), from tensor names and shapes; fixed position tables do not count."""
    counts: dict[str, int] = {}
    for name, shape in shapes.items():
        if "pos_embed" in name or "position_embeddings" in name:
            continue
        size = 1
        for side in shape:
            size *= side
        first = name.split(".")[0]
        key = first if first in (*NETWORKS, *HEADS) else "all"
        counts[key] = counts.get(key, 0) + size
    return counts


def safetensors_shapes(path: Path) -> dict[str, list[int]]:
    """Tensor name -> shape, from the header of a safetensors file.

    Raises:
        OSError: the file is torn or something else.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > 100_000_000:
                raise ValueError("its header is too long")
            header = json.loads(file.read(length))
        return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
    except (struct.error, ValueError, KeyError, TypeError) as error:
        raise OSError(f"{path} is torn or is not a safetensors file ({error})") from error


def folder_text(found: Mapping[str, Any]) -> str:
    """`folder_data` or `config_data` in words."""
    sizes = [f"{key} {found[key]}" for key in _SETTINGS if found.get(key) is not None]
    lines = [("name", str(found.get("name", ""))), ("model type", str(found.get("model_type")))]
    if found.get("networks"):
        lines.append(("networks", ", ".join(found["networks"])))
    lines.append(("settings", ", ".join(sizes)))
    lines += [
        ("parameters", f"{count_text(count)} in {network} ({count:,})")
        for network, count in (found.get("parameters") or {}).items()
    ]
    if found.get("grid_size"):
        lines.append(("tokens", _grid_text(found["grid_size"])))
    for name, settings in (found.get("preprocessing") or {}).items():
        lines.append(("preprocessing", f"{name}: {json.dumps(settings)}"))
    if found.get("provenance"):
        lines.append(("made from", str(found["provenance"])))
    lines.append(("licence", str(found.get("licence") or "not stated in config.json")))
    return _aligned(lines)


def _grid(found: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """Tokens (T, H, W) of the input a model was trained on, or None where its config does not tell."""
    size, patch = found["image_size"], found["patch_size"]
    if not size or not isinstance(patch, int):
        return None
    height, width = (size, size) if isinstance(size, int) else size
    steps = max((found["num_frames"] or 1) // (found["tubelet_size"] or 1), 1)
    return steps, height // patch, width // patch


# Words ----------------------------------------------------------------------------------------------------------------
def count_text(count: int | None) -> str:
    """A count of parameters for people: 304M, 1.01B."""
    if count is None:
        return "?"
    if count >= 10**9:
        return f"{count / 10**9:.2f}B"
    return f"{count / 10**6:.0f}M" if count >= 10**7 else f"{count / 10**6:.2f}M"


def _short(networks: Sequence[str]) -> str:
    return "all three networks" if len(networks) == 3 else ", ".join(networks)


def _grid_text(grid: Sequence[int]) -> str:
    steps, height, width = grid
    shape = f"{height} x {width}" if steps == 1 else f"{steps} x {height} x {width} (time, rows, columns)"
    return f"{steps * height * width} = {shape}"


def _preprocessing_text(pixels: Preprocessing) -> str:
    resize = f"shortest edge {pixels.resize}, " if pixels.resize else ""
    text = f"{resize}centre crop {pixels.image_size}, {pixels.interpolation}, mean {pixels.mean}, std {pixels.std}"
    if pixels.num_frames:
        rate = (
            f" at {pixels.fps:g} fps" if pixels.fps else f", every {pixels.frame_step}th" if pixels.frame_step else ""
        )
        text += f"; {pixels.num_frames} frames{rate}"
    return text


def _aligned(lines: Sequence[tuple[str, str]]) -> str:
    width = max(len(label) for label, _ in lines)
    shown, previous = [], ""
    for label, text in lines:
        shown.append(f"{label if label != previous else '':<{width}}  {text}".rstrip())
        previous = label
    return "\n".join(shown)
