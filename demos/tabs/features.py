"""Features: what an encoder sees in pictures and films, in colours, groups, attention and similarity."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from demos import drawing, examples, uploads
from demos.drawing import Sheet
from demos.library import Loaded, about
from demos.player import Film, Show
from jepa_hub.features import Features
from jepa_hub.inspection import attention, has_attention, segments, similarity
from jepa_hub.pictures import pca_components, pca_image, save_pca
from jepa_hub.processing import Inputs

if TYPE_CHECKING:
    from demos.shell import Shell

MOST_TOKENS = 1024  # of one time step
MOST_FRAMES = 32
FINE = 16  # tokens per side that a small model is shown at, though it was trained on fewer
VIEWS = ("Input", "Colours (PCA)", "Groups (k-means)", "Attention", "Similarity")


@dataclass(frozen=True)
class Look:
    """What was looked at.

    Attributes:
        loaded: the model.
        inputs: what it was given.
        features: what it made of it.
        frames: uint8 [B, T, H, W, 3], one picture per time step.
        is_video: whether there is a time.
    """

    loaded: Loaded
    inputs: Inputs
    features: Features
    frames: np.ndarray[Any, Any]
    is_video: bool

    @property
    def num_cells(self) -> int:
        """Pictures on a sheet: one per image, or one per time step."""
        return int(self.frames.shape[0] * self.frames.shape[1])

    @property
    def layers(self) -> int:
        """Blocks of the encoder; 0 for one without attention."""
        return len(self.loaded.model.feature_encoder.blocks) if has_attention(self.loaded.model) else 0

    @property
    def heads(self) -> int:
        """Heads of a block."""
        return int(self.loaded.model.config.num_attention_heads) if self.layers else 0


@dataclass(frozen=True)
class Options:
    """What is drawn.

    Attributes:
        groups: of k-means.
        layer, head: whose attention; head None is the mean over heads.
        token: (sample, t, row, column) that was clicked; None looks from everywhere.
    """

    groups: int = 5
    layer: int = -1
    head: int | None = None
    token: tuple[int, int, int, int] | None = None


def usual_side(loaded: Loaded) -> int:
    """Tokens per side that a model is shown at: those it was trained on, or more where these are few."""
    size = loaded.model.config.image_size
    height = size if isinstance(size, int) else max(size) if size else 224
    return max(
        height // loaded.model.config.patch_size, min(FINE, 2 * max(height // loaded.model.config.patch_size, 1))
    )


def look(loaded: Loaded, paths: Sequence[str] | None, *, side: int = 0, num_frames: int = 0) -> Look:
    """Features of pictures, side by side, or of a film.

    Args:
        loaded: the model.
        paths: of the files.
        side: tokens per side; 0 is `usual_side`.
        num_frames: of a film; 0 is the model's clip length, or 8 for a model of images, which takes them one by one.

    Raises:
        ValueError: the files cannot be read or do not fit; see `uploads.check`.
    """
    media = uploads.check(paths)
    config = loaded.model.config
    side = side or usual_side(loaded)
    if not 2 <= side <= MOST_TOKENS**0.5:
        raise ValueError(f"tokens per side are 2 to {int(MOST_TOKENS**0.5)}, got {side}")
    pixels = side * config.patch_size
    processor = replace(loaded.processor, image_size=pixels, resize=pixels, aspect="crop", multiple="error")
    try:
        if media.kind == "video":
            tubelet = getattr(config, "tubelet_size", 1)
            count = min(num_frames or config.num_frames or 8, MOST_FRAMES)
            if not loaded.is_video:
                count = min(num_frames or 8, MOST_FRAMES)
            count = max(count // tubelet, 1) * tubelet
            inputs = processor(media.paths[0], num_frames=count, odd_frames="pad")
            if not loaded.is_video:
                return _frame_by_frame(loaded, inputs)
        else:
            inputs = processor(list(media.paths))
    except (ValueError, OSError) as error:
        raise ValueError(uploads.shown(error, media.paths)) from error
    features = loaded.model.encode(inputs)
    shown = loaded.processor.to_image(inputs.pixel_values).numpy()  # [B, F, H, W, 3]
    shown = shown.reshape(len(shown), -1, *shown.shape[-3:])
    per_step = max(shown.shape[1] // features.grid_size[0], 1)
    return Look(loaded, inputs, features, shown[:, ::per_step], media.kind == "video")


def _frame_by_frame(loaded: Loaded, inputs: Inputs) -> Look:
    """A film through a model of images: its frames are a batch, put back in time."""
    stills = inputs.pixel_values[0].transpose(0, 1).unsqueeze(2)  # [F, 3, 1, H, W]
    found = loaded.model.encode(stills)
    _, rows, columns = found.grid_size
    features = Features(found.tokens.flatten(0, 1)[None], (len(stills), rows, columns), inputs.frame_times)
    frames = loaded.processor.to_image(inputs.pixel_values).numpy()
    return Look(loaded, inputs, features, frames.reshape(1, -1, *frames.shape[-3:]), True)


def draw(seen: Look, options: Options = Options()) -> dict[str, Sheet]:
    """A sheet of every view; colours, groups and scales are shared over pictures and time.

    Raises:
        ValueError: there is no such layer, head or token.
    """
    size = drawing.cell_size(seen.frames.shape[2:4], seen.num_cells)
    plain = drawing.pictures(seen.frames.reshape(-1, *seen.frames.shape[2:]), size)
    columns = min(seen.num_cells, 4) if seen.is_video else None
    sheets = {"Input": plain}
    colours = pca_image(seen.features, size=size)
    sheets["Colours (PCA)"] = colours if isinstance(colours, list) else [colours]
    groups = segments(seen.features, min(options.groups, seen.features.tokens[..., 0].numel()))[0]
    sheets["Groups (k-means)"] = drawing.mixed(
        plain, drawing.blocks(drawing.segment_colours(groups.flatten(0, 1)), size), 0.7
    )
    if seen.layers:
        looks = _attention(seen, options)  # [B, T, h, w]
        low, high = looks.flatten(1).amin(1), looks.flatten(1).quantile(0.995, 1)
        scaled = (looks - low.view(-1, 1, 1, 1)) / (high - low).clamp(min=1e-12).view(-1, 1, 1, 1)
        sheets["Attention"] = drawing.blocks(drawing.heat(scaled.flatten(0, 1), 0, 1), size)
    if options.token is not None:
        alike = similarity(seen.features, options.token).flatten(0, 1)  # [B * T, h, w]
        warm = drawing.blocks(drawing.heat(alike, -0.2, 1), size)
        sheets["Similarity"] = drawing.mixed(plain, warm, 0.75)
        box, cell = _box(seen, options.token)
        for name in ("Input", "Similarity"):
            sheets[name] = [
                drawing.outlined(each, box) if number == cell else each for number, each in enumerate(sheets[name])
            ]
    return {name: Sheet.of(cells, columns) for name, cells in sheets.items()}


def _attention(seen: Look, options: Options) -> Tensor:
    """[B, T, h, w] of a layer and head."""
    model, token = seen.loaded.model, options.token
    if seen.is_video and not seen.loaded.is_video:  # frames went one by one, and so looks each
        stills = seen.inputs.pixel_values[0].transpose(0, 1).unsqueeze(2)
        found = attention(model, stills, layer=options.layer, token=None if token is None else (0, *token[2:]))
        found = found.transpose(0, 1).flatten(1, 2)[None]  # [1, heads, F, h, w]
    else:
        found = attention(model, seen.inputs, layer=options.layer, token=None if token is None else token[1:])
    if options.head is None:
        return found.mean(1)
    if not 0 <= options.head < found.shape[1]:
        raise ValueError(f"head {options.head}: this layer has heads 0 .. {found.shape[1] - 1}")
    return found[:, options.head]


def _box(seen: Look, token: tuple[int, int, int, int]) -> tuple[tuple[float, float, float, float], int]:
    steps, rows, columns = seen.features.grid_size
    sample, t, row, column = token
    return (column / columns, row / rows, (column + 1) / columns, (row + 1) / rows), sample * steps + t


def token_at(seen: Look, sheet: Sheet, x: float, y: float) -> tuple[int, int, int, int] | None:
    """(sample, t, row, column) under a pixel of a sheet; None between the pictures."""
    found = sheet.at(x, y)
    if found is None:
        return None
    cell, u, v = found
    steps, rows, columns = seen.features.grid_size
    return cell // steps, cell % steps, int(v * rows), int(u * columns)


def show(seen: Look, sheets: dict[str, Sheet]) -> Show | None:
    """The views of a film side by side in time; None for pictures."""
    if not seen.is_video:
        return None
    names = [name for name in VIEWS if name in sheets]
    times = seen.features.frame_times
    steps = seen.features.grid_size[0]
    seconds = times[0].tolist() if times is not None else [step / examples.CLIP_RATE for step in range(steps)]
    return Show([Film(name, sheets[name].cells) for name in names], seconds)


def summary(seen: Look, seconds: float) -> str:
    """Markdown on what was done."""
    t, rows, columns = seen.features.grid_size
    what = f"{t} x {rows} x {columns} tokens" if t > 1 else f"{rows} x {columns} tokens each"
    size = f"{seen.inputs.pixel_values.shape[-1]} pixels"
    share = pca_components(seen.features).explained
    return (
        f"{about(seen.loaded)}\n\n{what} of {seen.features.tokens.shape[-1]} numbers, from {size}, in {seconds:.2f} s. "
        f"Three directions hold {share:.0%} of the variance: they are the colours."
    )


def downloads(seen: Look, folder: Path) -> list[str]:
    """Files to take away: the PCA as PNG, for films as MP4, and all features as safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = seen.inputs
    settings: dict[str, Any] = {"mean": seen.loaded.processor.mean, "std": seen.loaded.processor.std}
    written = [save_pca(folder / "pca.png", seen.features, pixels, **settings)]
    if seen.features.grid_size[0] > 1:
        written.append(save_pca(folder / "pca.mp4", seen.features, pixels, **settings))
    tensors = {"tokens": seen.features.tokens.contiguous(), "pooled": seen.features.pooled.contiguous()}
    tensors["grid_size"] = torch.tensor(seen.features.grid_size)
    if seen.features.frame_times is not None:
        tensors["frame_times"] = seen.features.frame_times.contiguous()
    save_file(tensors, folder / "features.safetensors", metadata={"model": seen.loaded.name})
    return [str(path) for path in (*written, folder / "features.safetensors")]


# The shell ------------------------------------------------------------------------------------------------------------
def things(folder: Path) -> list[Any]:
    """What there is to click."""
    return [
        examples.gallery((4,), "a scene"),
        examples.gallery((9,), "another scene"),
        examples.gallery((0, 1, 7, 11), "four pictures"),
        examples.clip("continuity/passing/0000", 0, folder),
        examples.clip("support/open_seen/0000", 1, folder),
        examples.clip("colour/resting/0000", 0, folder),
    ]


def build(shell: Shell) -> None:
    """The tab."""
    gr = shell.gr
    ready = things(shell.folder)
    with gr.Row(elem_classes=["jh-columns"]):
        with gr.Column(scale=3, min_width=300):
            model = shell.picker(lambda known: True, "ijepa-tiny-scenes")
            files = shell.files("Images (up to 8), or a video")
            gallery = shell.examples(ready)
            with gr.Accordion("Settings", open=False):
                side = gr.Slider(0, 32, 0, step=1, label="Tokens per side", info="0 is what suits the model")
                num_frames = gr.Slider(
                    0, MOST_FRAMES, 0, step=2, label="Frames of a video", info="0 is what suits the model"
                )
                groups = gr.Slider(2, 12, 5, step=1, label="Groups (k-means)")
                layer = gr.Slider(0, 3, 3, step=1, label="Attention of the layer")
                head = gr.Dropdown([("mean of all", -1)], value=-1, label="Attention of the head")
        with gr.Column(scale=7, min_width=320):
            text = gr.Markdown(
                "Click an example, or drop your own pictures. Then click any patch: every other patch that the model "
                "finds alike lights up, in all pictures and all through a video.",
                elem_classes=["jh-note"],
            )
            player = shell.player()
            with gr.Row(elem_classes=["jh-views"]):
                views = {name: shell.picture(name, clickable=True) for name in VIEWS}
            with gr.Row():
                save = gr.Button("Prepare downloads", size="sm", visible=False)
                saved = gr.File(label="PNG, MP4, safetensors", visible=False, file_count="multiple", interactive=False)
    state, token, given = gr.State(None, time_to_live=3600), gr.State(None), gr.State(None)

    def drawn(seen: Look | None, options: Options) -> list[Any]:
        if seen is None:
            return [gr.skip()] * (len(VIEWS) + 1)
        sheets = draw(seen, options)
        film = show(seen, sheets)
        pictures = [
            gr.update(value=sheets[name].picture if name in sheets else None, visible=name in sheets) for name in VIEWS
        ]
        return [gr.update(value=film.to_html() if film else "", visible=film is not None), *pictures]

    def run(tell: Any, name: str, paths: list[str] | None, side: int, frames: int, groups: int) -> list[Any]:
        tell(0.1, "loading the model")
        loaded = shell.library.get(name)
        tell(0.4, "looking")
        start = time.perf_counter()
        seen = look(loaded, paths, side=int(side), num_frames=int(frames))
        spent = time.perf_counter() - start
        tell(0.8, "drawing")
        last = max(seen.layers - 1, 0)
        heads = [("mean of all", -1), *((str(number), number) for number in range(seen.heads))]
        return [
            seen, None, paths, summary(seen, spent),
            gr.update(maximum=max(last, 1), value=last, interactive=seen.layers > 1),
            gr.update(choices=heads, value=-1),
            gr.update(visible=True), gr.update(visible=False, value=None),
            *drawn(seen, Options(groups=int(groups))),
        ]  # fmt: skip

    def redraw(seen: Look | None, token: Any, groups: int, layer: int, head: int) -> list[Any]:
        if seen is None:
            return drawn(None, Options())
        layer = min(int(layer), max(seen.layers - 1, 0))
        return drawn(seen, Options(int(groups), layer, None if head is None or head < 0 else int(head), token))

    def click(at: Any, seen: Look | None, *options: Any) -> list[Any]:
        if seen is None:
            return [gr.skip(), *drawn(None, Options())]
        sheet = Sheet.of([Image.new("1", drawing.cell_size(seen.frames.shape[2:4], seen.num_cells))] * seen.num_cells,
                         min(seen.num_cells, 4) if seen.is_video else None)  # fmt: skip
        token = token_at(seen, sheet, *at)
        return [gr.skip(), *drawn(None, Options())] if token is None else [token, *redraw(seen, token, *options)]

    shown = [player, *views.values()]
    outputs = [state, token, given, text, layer, head, save, saved, *shown]
    settings = [side, num_frames, groups]
    shell.run(files.upload, run, [model, files, *settings], outputs, name="features")
    shell.choose(gallery.select, ready, run, [model], settings, outputs)

    def again(tell: Any, name: str, paths: list[str] | None, *settings: int) -> list[Any]:
        return run(tell, name, paths, *settings) if paths else [gr.skip()] * len(outputs)

    for event in (model.input, side.input, num_frames.input):  # of what was looked at last
        shell.run(event, again, [model, given, *settings], outputs, last=True)
    for control in (groups, layer, head):
        shell.run(control.input, redraw, [state, token, groups, layer, head], shown, tells=False, last=True)
    for view in views.values():
        shell.click(view.select, click, [state, groups, layer, head], [token, *shown])

    def prepare(seen: Look | None) -> Any:
        if seen is None:
            raise ValueError("look at something first")
        return gr.update(value=downloads(seen, shell.new_folder()), visible=True)

    shell.run(save.click, prepare, [state], [saved], tells=False)
