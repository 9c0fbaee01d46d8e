"""Prediction: what a model expects where it cannot see, beside what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from demos import drawing, examples, painter, uploads
from demos.imagining import Galleries
from demos.library import Known, Loaded, about, predicts
from demos.player import Curve, Film, Show
from jepa_hub.features import Features
from jepa_hub.masks import Masks, frame_masks
from jepa_hub.patch_bank import PatchBank
from jepa_hub.pictures import pca_components, pca_image
from jepa_hub.processing import Inputs

if TYPE_CHECKING:
    from demos.shell import Shell

FOR_VIDEO = "vjepa-tiny-worlds"
SIDE, CLIP_SIDE = 320, 192  # pixels of a picture on the page, and of a frame, about
HIDDEN = (112, 120, 134)
VIEWS = ("Seen", "Truth", "Imagined", "Truth in gallery patches", "True features", "Predicted features", "Error")
PLACES = {
    "centre": (0.25, 0.75, 0.25, 0.75),
    "left half": (0.0, 1.0, 0.0, 0.5),
    "right half": (0.0, 1.0, 0.5, 1.0),
    "bottom half": (0.5, 1.0, 0.0, 1.0),
}


@dataclass(frozen=True)
class Ready:
    """A picture or clip that can be asked about.

    Attributes:
        loaded: the model.
        path: of the file.
        inputs: what the model is given.
        large: [3, F, H, W], the same, larger, for people.
        scale: how many times.
        grid: (T, H, W) in tokens.
    """

    loaded: Loaded
    path: str
    inputs: Inputs
    large: Tensor
    scale: int
    grid: tuple[int, int, int]

    @property
    def is_video(self) -> bool:
        """Whether there is a time."""
        return self.grid[0] > 1

    @property
    def tubelet(self) -> int:
        """Frames of a time step."""
        return max(1, self.inputs.pixel_values.shape[2] // self.grid[0])

    def pictures(self, pixels: Tensor) -> list[drawing.Picture]:
        """Large normalised pixels [3, F, H, W] as one picture per time step."""
        frames = self.loaded.processor.to_image(pixels[None]).numpy().reshape(-1, *pixels.shape[2:], 3)
        return [Image.fromarray(np.ascontiguousarray(each)) for each in frames[:: self.tubelet]]


@dataclass(frozen=True)
class Guess:
    """What a model predicted.

    Attributes:
        ready: of what.
        target: int64 [M], numbers of the hidden tokens.
        predicted: [M, D].
        true: [N, D], tokens of the whole input.
    """

    ready: Ready
    target: Tensor
    predicted: Tensor
    true: Tensor

    @property
    def error(self) -> Tensor:
        """[M] mean absolute error of each hidden token."""
        return (self.predicted - self.true[self.target]).abs().mean(-1)

    @property
    def blind_error(self) -> float:
        """The error of always guessing the mean token of this input."""
        return float((self.true[self.target] - self.true.mean(0)).abs().mean())

    @property
    def likeness(self) -> float:
        """Mean cosine between predicted and true tokens, both less the mean token."""
        mean = self.true.mean(0)
        return float(F.cosine_similarity(self.predicted - mean, self.true[self.target] - mean, dim=-1).mean())


def can_predict(known: Known) -> bool:
    """Whether the tab can use a model: one that predicts within a picture or clip, told nothing about a change."""
    return predicts(known) and known.family != "iwm"


def prepare(loaded: Loaded, paths: Sequence[str] | None) -> Ready:
    """A file at the model's own size.

    Raises:
        ValueError: not one readable image or video, or a video for a model of images.
    """
    media = uploads.check(paths, most=1)
    config = loaded.model.config
    processor = replace(loaded.processor, multiple="error")
    size = processor.image_size if isinstance(processor.image_size, tuple) else (processor.image_size or 224,) * 2
    scale = max(1, round((CLIP_SIDE if media.kind == "video" else SIDE) / max(size)))
    large = replace(
        processor,
        image_size=(size[0] * scale, size[1] * scale),
        resize=processor.resize and processor.resize * scale,
        patch_size=config.patch_size * scale,
    )
    how: dict[str, Any] = {}
    if media.kind == "video":
        if not loaded.is_video:
            raise ValueError(f"{loaded.name} predicts within a picture; choose a video model for a video")
        how = {"num_frames": config.num_frames or 16, "odd_frames": "drop"}
    try:
        inputs, shown = processor(media.paths[0], **how), large(media.paths[0], **how)
    except (ValueError, OSError) as error:
        raise ValueError(uploads.shown(error, media.paths)) from error
    frames, height, width = inputs.pixel_values.shape[2:]
    steps = max(1, frames // getattr(config, "tubelet_size", 1))
    grid = (steps, height // config.patch_size, width // config.patch_size)
    return Ready(loaded, media.paths[0], inputs, shown.pixel_values[0], scale, grid)


def cells_of(ready: Ready, place: str) -> list[int]:
    """Numbers, on the grid of one time step, of the cells of a named place.

    Raises:
        ValueError: there is no such place.
    """
    if place not in PLACES:
        raise ValueError(f"there is no place {place[:40]!r}; there are {', '.join(PLACES)}")
    _, rows, columns = ready.grid
    top, bottom, left, right = PLACES[place]
    return [
        row * columns + column
        for row in range(round(top * rows), round(bottom * rows))
        for column in range(round(left * columns), round(right * columns))
    ]


@torch.no_grad()
def guess(ready: Ready, cells: Sequence[int], context_frames: int = 0) -> Guess:
    """What the model expects in the hidden tokens; it is shown the others only.

    Args:
        ready: from `prepare`.
        cells: hidden cells of the grid of one time step, hidden at all times; unused where frames are given.
        context_frames: of a video, frames that are seen; the later ones are hidden. 0 hides `cells` instead.

    Raises:
        ValueError: nothing or everything would be hidden.
    """
    steps, rows, columns = ready.grid
    per_step = rows * columns
    if ready.is_video and context_frames:
        seen = context_frames // ready.tubelet * ready.tubelet
        total = steps * ready.tubelet
        if not 0 < seen < total:
            raise ValueError(f"of {total} frames {ready.tubelet} to {total - ready.tubelet} can be seen, not {seen}")
        masks = frame_masks(range(seen), range(seen, total), ready.grid, ready.tubelet, 1)
    else:
        chosen = sorted({int(each) for each in cells})
        if not chosen or not 0 <= chosen[0] <= chosen[-1] < per_step or len(chosen) == per_step:
            raise ValueError(f"paint over some of the {rows} x {columns} patches, but not over all of them")
        kept = sorted(set(range(per_step)) - set(chosen))
        offsets = torch.arange(steps)[:, None] * per_step
        context, target = ((offsets + torch.tensor(each)).flatten() for each in (kept, chosen))
        masks = Masks(context[None], target[None, None])
    predicted = ready.loaded.model.predict(ready.inputs, masks=masks)[0, 0].float()  # [M, D]
    true = ready.loaded.model.prediction_targets(ready.inputs.pixel_values)[0]  # [N, D]
    return Guess(ready, masks.target[0, 0], predicted, true)


def draw(found: Guess, bank: PatchBank) -> dict[str, list[drawing.Picture]]:
    """Of every view one picture per time step; features share their colours, gallery patches their gallery."""
    ready = found.ready
    size = ready.large.shape[3], ready.large.shape[2]
    hidden = torch.zeros(len(found.true), dtype=torch.bool)
    hidden[found.target] = True
    shape = hidden.view(ready.grid)
    guessed = found.true.clone()
    guessed[found.target] = found.predicted
    truth = Features(found.true[None], ready.grid)
    colours = pca_components(truth)
    maps = [
        _listed(pca_image(each, size=size, components=colours)) for each in (truth, Features(guessed[None], ready.grid))
    ]
    errors = torch.full((len(found.true),), float("nan"))
    errors[found.target] = found.error
    heat = drawing.heat(errors.view(ready.grid), 0, max(2 * found.blind_error, float(found.error.max()), 1e-6))
    plain = ready.pictures(ready.large)
    views = {
        "Seen": _covered(plain, shape, 1.0),
        "Truth": plain,
        "Imagined": ready.pictures(bank.paint(ready.large, found.target, found.predicted)),
        "Truth in gallery patches": ready.pictures(bank.paint(ready.large, found.target, found.true[found.target])),
        "True features": _covered(maps[0], ~shape, 0.7),
        "Predicted features": _covered(maps[1], ~shape, 0.7),
        "Error": drawing.blocks(heat, size),
    }
    return {name: views[name] for name in VIEWS}


def _listed(pictures: Any) -> list[drawing.Picture]:
    return pictures if isinstance(pictures, list) else [pictures]


def _covered(pictures: Sequence[drawing.Picture], where: Tensor, share: float) -> list[drawing.Picture]:
    """Pictures with grey over the cells bool [T, H, W] that are true."""
    done = []
    for picture, cells in zip(pictures, where, strict=True):
        mask = Image.fromarray((cells.numpy() * round(255 * share)).astype(np.uint8)).resize(
            picture.size, Image.Resampling.NEAREST
        )
        done.append(Image.composite(Image.new("RGB", picture.size, HIDDEN), picture.convert("RGB"), mask))
    return done


def show(found: Guess, views: dict[str, list[drawing.Picture]]) -> Show:
    """The views of a clip side by side in time, above the error of each time step."""
    times = found.ready.inputs.frame_times
    steps = found.ready.grid[0]
    seconds = [float(step) for step in range(steps)]
    if times is not None:
        seconds = times[0, : steps * found.ready.tubelet].unflatten(0, (steps, -1)).mean(-1).tolist()
    errors = torch.full((len(found.true),), float("nan"))
    errors[found.target] = found.error
    means = errors.view(steps, -1).nanmean(-1)
    curves = [
        Curve("error of the prediction", seconds, means.tolist(), "plain"),
        Curve(
            "of guessing the mean", seconds, torch.where(means.isnan(), means, found.blind_error).tolist(), "possible"
        ),
    ]
    return Show([Film(name, cells) for name, cells in views.items()], seconds, curves, value="error")


def summary(found: Guess) -> str:
    """Markdown on how good the guess was."""
    t, rows, columns = found.ready.grid
    return (
        f"{about(found.ready.loaded)}\n\n{len(found.target)} of {t * rows * columns} tokens hidden. **Likeness of the "
        f"prediction to the truth: {found.likeness:.2f}** (cosine; 1 is perfect, 0 knows nothing of this picture). "
        f"Error {float(found.error.mean()):.3f}; always guessing the mean token has {found.blind_error:.3f}. Nothing "
        "hidden reached the model. *Imagined* shows each predicted token as the patch, of other pictures, whose token "
        "is nearest; next to it the true tokens, as well as these patches can show them."
    )


def things(folder: Any) -> list[examples.Example]:
    """What there is to click."""
    return [
        examples.gallery((9,), "a scene"),
        examples.gallery((11,), "another scene"),
        examples.gallery((18,), "a third one"),
        examples.clip("solidity/passing/0000", 0, folder),
        examples.clip("continuity/passing/0000", 1, folder),
        examples.clip("gravity/open_seen/0001", 0, folder),
    ]


# The shell ------------------------------------------------------------------------------------------------------------
def build(shell: Shell) -> None:
    """The tab."""
    gr = shell.gr
    ready_made = things(shell.folder)
    galleries = Galleries()
    with gr.Row(elem_classes=["jh-columns"]):
        with gr.Column(scale=3, min_width=300):
            model = shell.picker(can_predict, "ijepa-tiny-scenes")
            gallery = shell.examples(ready_made)
            files = shell.files("Your own image, or a video", several=False)
            place = gr.Radio(list(PLACES), value="centre", label="Hide")
            frames = gr.Slider(0, 16, 8, step=2, label="Frames seen", visible=False,
                               info="of a video; 0 hides the painted patches at all times instead")  # fmt: skip
        with gr.Column(scale=7, min_width=320):
            text = gr.Markdown(
                "Click an example. The model sees a part of a picture and predicts the features of the rest; paint "
                "over what it may not see. Of a video it sees the first frames and predicts the later ones.",
                elem_classes=["jh-note"],
            )
            canvas = painter.painter(visible=False)
            player = shell.player()
            with gr.Row(elem_classes=["jh-views"]):
                views = {name: shell.picture(name) for name in VIEWS[1:]}  # what is seen is painted above
    state = gr.State(None, time_to_live=3600)
    shown = [text, player, *views.values()]
    outputs = [state, model, canvas, frames, *shown]

    def answer(tell: Any, ready: Ready, cells: Sequence[int], seen: int) -> list[Any]:
        found = guess(ready, cells, seen)
        tell(0.6, "looking into the gallery")
        bank = galleries.get(ready.loaded, ready.inputs.pixel_values, ready.scale).without(ready.path)
        drawn = draw(found, bank)
        if ready.is_video:
            film = gr.update(value=show(found, drawn).to_html(), visible=True)
            return [summary(found), film, *(gr.update(value=None, visible=False) for _ in views)]
        pictures = [gr.update(value=drawn[name][0], visible=True) for name in views]
        return [summary(found), gr.update(value="", visible=False), *pictures]

    def painted(ready: Ready, cells: Sequence[int], seen: int) -> Any:
        if ready.is_video and seen:
            return gr.update(value="", visible=False)
        return gr.update(value=painter.to_html(ready.pictures(ready.large)[0], ready.grid[1:], cells), visible=True)

    def run(tell: Any, name: str, paths: Any, where: str) -> list[Any]:
        tell(0.1, "loading the model")
        several = [paths] if isinstance(paths, str) else paths
        loaded = shell.library.get(fitting(shell, name, several))
        ready = prepare(loaded, several)
        tell(0.4, "predicting")
        total = ready.grid[0] * ready.tubelet
        seen = total // 2 // ready.tubelet * ready.tubelet if ready.is_video else 0
        cells = cells_of(ready, where)
        slider = gr.update(visible=False)
        if ready.is_video:
            slider = gr.update(maximum=total - ready.tubelet, step=ready.tubelet, value=seen, visible=True)
        return [ready, loaded.name, painted(ready, cells, seen), slider, *answer(tell, ready, cells, seen)]

    def again(tell: Any, name: str, ready: Ready | None, where: str) -> list[Any]:
        if ready is None:
            return [gr.skip()] * len(outputs)
        found = prepare(shell.library.get(name), [ready.path])
        return run(tell, name, found.path, where)

    def hide(tell: Any, ready: Ready | None, where: str, seen: int) -> list[Any]:
        if ready is None:
            return [gr.skip()] * (len(shown) + 1)
        cells = cells_of(ready, where)
        return [painted(ready, cells, int(seen)), *answer(tell, ready, cells, int(seen))]

    def stroke(told: Any, ready: Ready | None) -> list[Any]:
        if ready is None:
            return [gr.skip()] * len(shown)
        return answer(lambda *_: None, ready, painter.cells_of(told, ready.grid[1] * ready.grid[2]), 0)

    shell.choose(gallery.select, ready_made, run, [model], [place], outputs)
    shell.run(files.upload, run, [model, files, place], outputs, name="predict")
    shell.run(model.input, again, [model, state, place], outputs)
    for event in (place.input, frames.input):
        shell.run(event, hide, [state, place, frames], [canvas, *shown], last=True)
    shell.told(canvas.input, stroke, [state], shown)


def fitting(shell: Shell, name: str, paths: Sequence[str] | None) -> str:
    """The chosen model, or for a video a shipped model of clips where the chosen one knows pictures only."""
    if uploads.check(paths, most=1).kind == "video" and not shell.library.get(name).is_video:
        return FOR_VIDEO
    return name
