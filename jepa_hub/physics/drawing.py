"""Pictures of surprise: the curve, the film with its map laid over, and the sheet of a pair."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from jepa_hub.physics.surprise import SurpriseCurve

POSSIBLE, IMPOSSIBLE = "#3b6ea8", "#c44e52"


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def plot_curve(curve: SurpriseCurve, path: str | Path | None = None, *, mark: float | None = None) -> Any:
    """Surprise over time, one line per context length, as a matplotlib figure; see `SurpriseCurve.plot`."""
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(7, 2.8))
    colours = plt.get_cmap("viridis")(np.linspace(0.1, 0.85, len(curve.windows.context_frames)))
    for frames, values, colour in zip(curve.windows.context_frames, curve.timeline, colours, strict=True):
        axis.plot(curve.step_times, values, "o-", markersize=3, color=colour, label=f"{frames} frames seen")
    if mark is not None:
        axis.axvline(mark, color=IMPOSSIBLE, linestyle="--", linewidth=1)
    axis.set_xlabel("seconds")
    axis.set_ylabel("surprise")
    axis.legend(fontsize=7, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    _save(figure, path)
    return figure


def _save(figure: Any, path: str | Path | None) -> None:
    if path is not None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130, metadata={"Software": None} if str(path).endswith(".png") else None)
        _pyplot().close(figure)


def overlay(pictures: np.ndarray[Any, Any], maps: Tensor, scale: tuple[float, float]) -> np.ndarray[Any, Any]:
    """Frames with the surprise of their tokens laid over in red, uint8 [F, H, W, 3].

    Args:
        pictures: uint8 [F, H, W, 3].
        maps: [S, h, w] per step of F / S frames; NaN is left as it is.
        scale: surprise that is clear, and that is full red.
    """
    frames, height, width = pictures.shape[:3]
    shown = torch.nn.functional.interpolate(maps[:, None].nan_to_num(0.0), (height, width), mode="nearest")[:, 0]
    low, high = scale
    strength = 0.75 * ((shown - low) / max(high - low, 1e-9)).clamp(0, 1).numpy()
    strength = np.repeat(strength, frames // len(maps), axis=0)[..., None]  # [F', H, W, 1]
    part = pictures[: len(strength)].astype(np.float32)
    laid = part * (1 - strength) + np.array([230, 30, 30], np.float32) * strength
    return np.concatenate([laid.round().astype(np.uint8), pictures[len(strength) :]])


def write_overlay(path: str | Path, curve: SurpriseCurve, pictures: np.ndarray[Any, Any], fps: float = 8.0) -> Path:
    """An H.264 film: the frames on the left, with the surprise of the longest context laid over on the right.

    Args:
        path: ends in .mp4.
        curve: of the film.
        pictures: uint8 [F, H, W, 3], what the model saw.
        fps: of the film that is written.
    """
    import av

    maps = curve.map_timeline[-1]  # [S, h, w]
    known = maps[maps.isfinite()]
    scale = (float(known.quantile(0.5)), float(known.quantile(0.995)))
    both = np.concatenate([pictures, overlay(pictures, maps, scale)], axis=2)
    factor = max(1, 256 // both.shape[1])
    both = both.repeat(factor, axis=1).repeat(factor, axis=2)
    both = both[:, : both.shape[1] // 2 * 2, : both.shape[2] // 2 * 2]  # H.264 wants even sizes
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), mode="w") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = both.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "18"}
        for picture in both:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture))))
        container.mux(stream.encode())
    return path


def pair_sheet(
    path: str | Path,
    pairs: Sequence[tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any], int | None]],
    steps: Sequence[tuple[Tensor, Tensor]] | None = None,
) -> Path:
    """Pairs of clips frame by frame, the possible one above, with their surprise curves and the violation marked.

    Args:
        path: of the picture.
        pairs: (title, possible, impossible uint8 [F, H, W, 3], frame of the violation).
        steps: surprise of the time steps of the two, [T] each; NaN at context steps. None draws no curves.
    """
    plt = _pyplot()
    rows = len(pairs)
    figure, axes = plt.subplots(
        rows, 1 if steps is None else 2, figsize=(11 if steps is None else 14, 1.75 * rows), squeeze=False,
        gridspec_kw=None if steps is None else {"width_ratios": [3.6, 1]},
    )  # fmt: skip
    for row, (title, possible, impossible, event) in enumerate(pairs):
        strip = np.concatenate([np.concatenate(list(clip), axis=1) for clip in (possible, impossible)], axis=0)
        axis = axes[row, 0]
        axis.imshow(strip)
        axis.set_title(title, fontsize=9, loc="left", pad=3)
        axis.set_xticks([])
        axis.set_yticks([strip.shape[0] * 0.25, strip.shape[0] * 0.75], ["possible", "impossible"], fontsize=7)
        if event is not None:
            axis.axvline(event * possible.shape[2] - 0.5, color=IMPOSSIBLE, linewidth=1.5)
        if steps is None:
            continue
        curve = axes[row, 1]
        width = len(possible) / len(steps[row][0])
        for values, colour in zip(steps[row], (POSSIBLE, IMPOSSIBLE), strict=True):
            curve.plot((np.arange(len(values)) + 0.5) * width, values, "o-", markersize=3, color=colour)
        if event is not None:
            curve.axvline(event, color=IMPOSSIBLE, linestyle="--", linewidth=1)
        curve.set_xlim(0, len(possible))
        curve.tick_params(labelsize=6)
        curve.set_title("surprise (red: impossible)", fontsize=7)
        curve.spines[["top", "right"]].set_visible(False)
    figure.tight_layout(pad=0.5)
    _save(figure, path)
    return Path(path)
