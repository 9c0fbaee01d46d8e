"""Pictures of features: tokens projected on their three main directions and shown as red, green and blue.

Neighbouring colours mean similar tokens. Colours can be compared within one call, or between calls that share
`components`; a colour has no meaning of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from jepa_hub.features import Features

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TOKEN_PIXELS = 16  # side of one token in a picture of default size
FIT_TOKENS = 50_000  # directions are found on at most this many tokens
PERCENTILES = (0.01, 0.99)  # a few outlying tokens must not grey out all others
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
PANEL, FRAME, COLUMNS, MARGIN, GAP, TEXT = 384, 144, 8, 20, 12, 15
INK, EDGE, PAPER, PADDING = (40, 40, 46), (205, 205, 210), (255, 255, 255), (128, 128, 128)


@dataclass(frozen=True)
class Components:
    """A projection of tokens to colours, to be shared between pictures."""

    mean: Tensor  # [D]
    basis: Tensor  # [D, 3], orthonormal columns, most variance first
    low: Tensor  # [3], the projection shown as 0
    high: Tensor  # [3], the projection shown as 255
    explained: float  # share of the variance in the three directions, 0 to 1


def pca_components(features: Features | Sequence[Features]) -> Components:
    """The three directions of most variance over all valid tokens, each with its 1st and 99th percentile.

    Args:
        features: tokens [B, N, D], or several of them with the same D.

    Raises:
        ValueError: no tokens, tokens that are not finite, or widths that differ.
    """
    several = _as_list(features)
    widths = {one.tokens.shape[-1] for one in several}
    if len(widths) != 1:
        raise ValueError(f"pictures need features of one width, got {sorted(widths) or 'none'}")
    tokens = torch.cat([_valid_tokens(one) for one in several])  # [M, D]
    if not len(tokens):
        raise ValueError("there is no valid token to draw")
    tokens = tokens[:: -(-len(tokens) // FIT_TOKENS)].double().cpu()  # [m, D]
    if not tokens.isfinite().all():
        raise ValueError("the features hold NaN or infinite values; check the input pixels and the dtype of the model")
    mean = tokens.mean(dim=0)  # [D]
    basis, variances = _directions(tokens - mean)
    projected = (tokens - mean) @ basis  # [m, 3]
    low, high = projected.quantile(torch.tensor(PERCENTILES, dtype=torch.float64), dim=0)  # [3], [3]
    total = float((tokens - mean).square().sum(dim=1).mean())
    explained = float(variances.sum()) / total if total > 0 else 0.0
    return Components(mean.float(), basis.float(), low.float(), high.float(), min(explained, 1.0))


def pca_image(
    features: Features | Sequence[Features],
    *,
    size: int | tuple[int, int] | None = None,
    components: Components | None = None,
) -> Image.Image | list[Image.Image]:
    """One picture for one image; for clips, batches and sequences a list, in order of sample and time.

    Args:
        features: tokens [B, N, D] on a grid (T, H, W); several of them share their colours.
        size: (width, height) of a picture, or its longer side, in pixels; None draws 16 pixels per token.
        components: from `pca_components`, to share colours with other pictures; found on these features by default.

    Raises:
        ValueError: features that are not finite, or components of another width.
    """
    several = _as_list(features)
    components = pca_components(several) if components is None else components
    pictures = [
        Image.fromarray(map_.numpy()).resize(_size(map_.shape[1], map_.shape[0], size), Image.Resampling.NEAREST)
        for one in several
        for sample in _colours(one, components)
        for map_ in sample
    ]
    return pictures[0] if len(pictures) == 1 else pictures


def save_pca(
    path: str | os.PathLike[str],
    features: Features,
    pixels: Tensor | Mapping[str, Tensor] | None = None,
    *,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
    components: Components | None = None,
) -> Path:
    """Where the picture was written: input beside its PCA map; for clips frames above maps, or a film for `.mp4`.

    Args:
        path: ends in .png, .jpg, .webp, or .mp4 (clips only).
        features: what `encode` returned for `pixels`.
        pixels: processor output or [B, 3, F, H, W] (or [B, 3, H, W]), normalised by `mean` and `std`; None leaves the
            input out.
        mean, std: undone before the input is shown; ImageNet's by default.
        components: from `pca_components`, to share colours with other pictures.

    Raises:
        ValueError: another file ending, pixels that do not belong to the features, or an image saved as a film.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    num_steps = features.grid_size[0]
    if suffix not in (*IMAGE_SUFFIXES, ".mp4"):
        raise ValueError(f"{path.name}: pictures end in {', '.join(IMAGE_SUFFIXES)}, films in .mp4")
    if suffix == ".mp4" and num_steps == 1:
        raise ValueError(f"{path.name}: these features hold a single moment; save them as .png")
    components = pca_components(features) if components is None else components
    maps = [[Image.fromarray(map_.numpy()) for map_ in sample] for sample in _colours(features, components)]
    frames = None if pixels is None else _frames(pixels, features, mean, std)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        if suffix == ".mp4":
            _save_film(partial, maps, frames, features)
        elif num_steps == 1:
            _image_sheet(maps, frames, _caption(features, components)).save(partial)
        else:
            _clip_sheet(maps, frames, features, _caption(features, components)).save(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


# Projection -----------------------------------------------------------------------------------------------------------
def _as_list(features: Features | Sequence[Features]) -> list[Features]:
    return [features] if isinstance(features, Features) else list(features)


def _valid_tokens(features: Features) -> Tensor:
    tokens = features.tokens.detach()
    return tokens.flatten(0, 1) if features.valid is None else tokens[features.valid]  # [M, D]


def _directions(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal [D, 3] with fixed signs, and the variance along each [3]; columns past the rank are zero."""
    dim = centred.shape[1]
    if len(centred) < dim:
        _, singular, rows = torch.linalg.svd(centred, full_matrices=False)  # [r], [r, D]
        variances, basis = singular[:3].square() / len(centred), rows[:3].mT  # [<=3], [D, <=3]
    else:
        values, vectors = torch.linalg.eigh(centred.mT @ centred / len(centred))  # ascending
        variances, basis = values.flip(0)[:3].clamp(min=0), vectors.flip(1)[:, :3]
    # An eigenvector has no sign of its own: make its largest entry positive, so that runs and machines agree.
    largest = basis.gather(0, basis.abs().argmax(dim=0, keepdim=True))  # [1, <=3]
    basis = basis * torch.where(largest < 0, -1.0, 1.0)
    # What is rounding error next to the first direction would otherwise be stretched to full colour.
    basis = basis * (variances > 1e-10 * variances[0].clamp(min=1e-20))
    missing = 3 - basis.shape[1]
    return torch.nn.functional.pad(basis, (0, missing)), torch.nn.functional.pad(variances, (0, missing))


def _colours(features: Features, components: Components) -> Tensor:
    """uint8 [B, T, H, W, 3]; tokens that saw only padding are grey."""
    if components.mean.shape[0] != features.tokens.shape[-1]:
        found, wanted = components.mean.shape[0], features.tokens.shape[-1]
        raise ValueError(f"components are of width {found}, these features of width {wanted}: different models?")
    tokens = features.tokens.detach().float().cpu()  # [B, N, D]
    projected = (tokens - components.mean) @ components.basis  # [B, N, 3]
    span = components.high - components.low  # [3]
    share = (projected - components.low) / span.clamp(min=1e-12)
    share = torch.where(span > 1e-6 * span.max().clamp(min=1e-12), share, torch.full_like(share, 0.5))
    colours = (share.clamp(0, 1).nan_to_num() * 255).round().to(torch.uint8)
    if features.valid is not None:
        colours[~features.valid.cpu()] = torch.tensor(PADDING, dtype=torch.uint8)
    return colours.unflatten(1, features.grid_size)  # [B, T, H, W, 3]


def _size(width: int, height: int, size: int | tuple[int, int] | None) -> tuple[int, int]:
    if size is None:
        return width * TOKEN_PIXELS, height * TOKEN_PIXELS
    if isinstance(size, int):
        scale = size / max(width, height)
        return max(1, round(width * scale)), max(1, round(height * scale))
    return size


# The input ------------------------------------------------------------------------------------------------------------
def _frames(
    pixels: Tensor | Mapping[str, Tensor], features: Features, mean: Sequence[float], std: Sequence[float]
) -> list[list[Image.Image]]:
    """Frames to show, [B][F]."""
    tensor = pixels if isinstance(pixels, Tensor) else pixels["pixel_values"]
    if tensor.ndim == 4:
        tensor = tensor.unsqueeze(2)  # [B, 3, 1, H, W]
    if tensor.ndim != 5 or tensor.shape[1] != 3:
        raise ValueError(f"pixels are [B, 3, F, H, W] or [B, 3, H, W], got {tuple(tensor.shape)}")
    if len(tensor) != len(features.tokens):
        raise ValueError(f"pixels of {len(tensor)} samples with features of {len(features.tokens)}")
    if tensor.shape[2] < features.grid_size[0]:
        raise ValueError(f"{tensor.shape[2]} frames cannot have given {features.grid_size[0]} time steps")
    shape = (1, 3, 1, 1, 1)
    shown = tensor.detach().float().cpu() * torch.tensor(std).view(shape) + torch.tensor(mean).view(shape)
    shown = (shown.clamp(0, 1).nan_to_num() * 255).round().to(torch.uint8).permute(0, 2, 3, 4, 1)  # [B, F, H, W, 3]
    return [[Image.fromarray(frame.contiguous().numpy()) for frame in clip] for clip in shown]


def _caption(features: Features, components: Components) -> str:
    t, h, w = features.grid_size
    grid = f"{h} x {w}" if t == 1 else f"{t} x {h} x {w}"
    share = f"{components.explained:.0%} of the variance"
    return f"PCA of {grid} tokens: 3 of {features.tokens.shape[-1]} dimensions hold {share}"


def _seconds(features: Features, sample: int, step: int) -> str:
    return f"step {step}" if features.frame_times is None else f"{float(features.frame_times[sample, step]):.2f} s"


# Sheets ---------------------------------------------------------------------------------------------------------------
def _fit(picture: Image.Image, side: int, resample: Image.Resampling) -> Image.Image:
    return picture.resize(_size(picture.width, picture.height, side), resample)


def _image_sheet(maps: list[list[Image.Image]], frames: list[list[Image.Image]] | None, caption: str) -> Image.Image:
    rows = []
    for sample, steps in enumerate(maps):
        cells = [("tokens", _fit(steps[0], PANEL, Image.Resampling.NEAREST))]
        if frames is not None:
            picture = frames[sample][0].resize(cells[0][1].size, Image.Resampling.LANCZOS)
            cells.insert(0, ("input", picture))
        rows.append(cells)
    return _sheet(rows, caption)


def _clip_sheet(
    maps: list[list[Image.Image]], frames: list[list[Image.Image]] | None, features: Features, caption: str
) -> Image.Image:
    """Strips of at most COLUMNS steps: the first frame of each step above its map."""
    rows: list[list[tuple[str, Image.Image]]] = []
    for sample, steps in enumerate(maps):
        small = [_fit(step, FRAME, Image.Resampling.NEAREST) for step in steps]
        for start in range(0, len(steps), COLUMNS):
            columns = range(start, min(start + COLUMNS, len(steps)))
            if frames is not None:
                per_step = len(frames[sample]) // len(steps)
                shown = [frames[sample][step * per_step] for step in columns]
                rows.append(
                    [
                        (_seconds(features, sample, step), frame.resize(small[step].size, Image.Resampling.LANCZOS))
                        for step, frame in zip(columns, shown, strict=True)
                    ]
                )
                rows.append([("", small[step]) for step in columns])
            else:
                rows.append([(_seconds(features, sample, step), small[step]) for step in columns])
    return _sheet(rows, caption)


def _sheet(rows: list[list[tuple[str, Image.Image]]], caption: str) -> Image.Image:
    """Rows of labelled cells on white paper; an unlabelled row hangs close below the row above it."""
    font, small = ImageFont.load_default(size=TEXT), ImageFont.load_default(size=TEXT - 2)
    label = TEXT + 8
    heights = [max(cell.height for _, cell in row) + (label if any(text for text, _ in row) else 0) for row in rows]
    gaps = [GAP if any(text for text, _ in row) else 4 for row in rows]
    width = max(sum(cell.width for _, cell in row) + GAP * (len(row) - 1) for row in rows)
    width = max(width, int(font.getlength(caption))) + 2 * MARGIN
    height = 2 * MARGIN + TEXT + sum(heights) + sum(gaps)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 2), caption, fill=INK, font=font)
    y = MARGIN + TEXT
    for row, row_height, gap in zip(rows, heights, gaps, strict=True):
        y += gap
        x = MARGIN
        labelled = any(text for text, _ in row)
        for text, cell in row:
            if text:
                draw.text((x, y + 2), text, fill=INK, font=small)
            top = y + (label if labelled else 0)
            sheet.paste(cell, (x, top))
            draw.rectangle((x - 1, top - 1, x + cell.width, top + cell.height), outline=EDGE)
            x += cell.width + GAP
        y += row_height
    return sheet


# Films ----------------------------------------------------------------------------------------------------------------
def _save_film(
    path: Path, maps: list[list[Image.Image]], frames: list[list[Image.Image]] | None, features: Features
) -> None:
    """H.264 film of the first sample: input left, map right, at the pace of the clip."""
    if len(maps) != 1:
        raise ValueError(f"a film shows one clip, got {len(maps)}; save one file per clip")
    steps = [_fit(step, PANEL, Image.Resampling.NEAREST) for step in maps[0]]
    shown = steps if frames is None else frames[0]
    per_step = max(len(shown) // len(steps), 1)
    pictures = []
    for index, frame in enumerate(shown):
        map_ = steps[min(index // per_step, len(steps) - 1)]
        cells = [map_] if frames is None else [frame.resize(map_.size, Image.Resampling.LANCZOS), map_]
        pictures.append(_side_by_side(cells))
    _encode(path, pictures, _frame_rate(features, per_step))


def _frame_rate(features: Features, per_step: int) -> Fraction:
    times = features.frame_times
    if times is None or times.shape[1] < 2 or float(times[0, -1]) <= float(times[0, 0]):
        return Fraction(8)
    step = float(times[0, -1] - times[0, 0]) / (times.shape[1] - 1)  # seconds
    return Fraction(min(max(per_step / step, 0.5), 60.0)).limit_denominator(1000)


def _side_by_side(cells: Sequence[Image.Image]) -> Image.Image:
    width = sum(cell.width for cell in cells) + GAP * (len(cells) - 1)
    height = max(cell.height for cell in cells)
    picture = Image.new("RGB", (width + width % 2, height + height % 2), PAPER)  # H.264 wants even sizes
    x = 0
    for cell in cells:
        picture.paste(cell, (x, 0))
        x += cell.width + GAP
    return picture


def _encode(path: Path, pictures: Iterable[Image.Image], rate: Fraction) -> None:
    import av  # here, because still pictures need no video library

    pictures = list(pictures)
    with av.open(str(path), mode="w") as container:
        stream: Any = container.add_stream("libx264", rate=rate)
        stream.width, stream.height = pictures[0].size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "18"}
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
