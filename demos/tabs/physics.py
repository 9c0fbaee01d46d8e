"""Physics: where in a clip a model is surprised, which of two clips surprises it more, and the scores of the suite."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from demos import drawing, examples, uploads
from demos.library import Loaded, about, predicts_video
from demos.player import Curve, Film, Show
from demos.violations import Violation, can_draw, draw_scene, scene_names
from jepa_hub.media.video import VideoInfo, probe_video
from jepa_hub.physics.drawing import overlay
from jepa_hub.physics.evaluation import Protocol, evaluate
from jepa_hub.physics.surprise import SurpriseCurve, surprise_curve
from jepa_hub.physics.tables import Row, score_table
from jepa_hub.physics.templates import PROPERTIES
from jepa_hub.physics.worlds import Quadruplet, worlds_suite

if TYPE_CHECKING:
    from demos.shell import Shell

WINDOW = 16  # frames, where a checkpoint does not say its clip length
CONTEXT = 8  # frames seen, unless told otherwise
MOST_FRAMES = 128  # taken of a video; a longer one is thinned
MOST_PIXELS = 200_000_000  # of all frames that are taken, as they are in the file; one of large frames is thinned too
QUICK = 4  # the quick table scores every so manyth scene
Tell = Callable[[float, str], Any]


@dataclass(frozen=True)
class Watched:
    """A clip and how surprising it was.

    Attributes:
        title: of it.
        frames: uint8 [F, h, w, 3], for people.
        curve: surprise over time.
        seconds: of each frame.
        step_seconds: of each step of the curve's timeline.
    """

    title: str
    frames: np.ndarray[Any, Any]
    curve: SurpriseCurve
    seconds: tuple[float, ...]
    step_seconds: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Surprise of the whole clip: the mean over its windows, as the suites score it."""
        return float(self.curve.values[0].mean())

    @property
    def timeline(self) -> Tensor:
        """[S] of every time step; NaN where it was only ever seen, never predicted."""
        return self.curve.timeline[0]


def usual_context(loaded: Loaded, context_frames: int = 0) -> int:
    """Frames to be seen, fitted to a model's tubelets and clip length; 0 is CONTEXT."""
    context_frames = context_frames or CONTEXT
    tubelet, window = loaded.model.config.tubelet_size, loaded.model.config.num_frames or WINDOW
    return int(min(max(context_frames // tubelet, 1) * tubelet, window - tubelet))


def thinning(info: VideoInfo, window: int) -> int:
    """Every how many frames one is taken, so that their memory is bounded; a window is always left."""
    most = max(min(MOST_FRAMES, MOST_PIXELS // (info.width * info.height)), window)
    return max(1, -(-info.num_frames // most))


def watch(loaded: Loaded, video: str | np.ndarray[Any, Any], title: str, context_frames: int = 0) -> Watched:
    """Surprise of a clip, in windows that begin with `context_frames` frames that are seen.

    Args:
        loaded: a model that predicts clips.
        video: path of a file, or frames uint8 [F, H, W, 3] at `examples.CLIP_RATE`.
        title: of it.
        context_frames: see `usual_context`.

    Raises:
        ValueError: the video is shorter than a window, or cannot be read.
    """
    config = loaded.model.config
    side = -(-160 // config.patch_size) * config.patch_size  # for people; the model gets its own size
    large = replace(loaded.processor, image_size=side, resize=None, aspect=loaded.processor.aspect)
    step = 1
    if isinstance(video, str):
        step = thinning(probe_video(video), config.num_frames or WINDOW)
    try:
        shown = large(video, stride=step, odd_frames="drop")
        curve = surprise_curve(
            loaded.model,
            video,
            context_frames=usual_context(loaded, context_frames),
            window_frames=config.num_frames or WINDOW,
            processor=loaded.processor,
            frame_step=step,
        )
    except (ValueError, OSError) as error:
        raise ValueError(uploads.shown(error, [video] if isinstance(video, str) else [])) from error
    frames = loaded.processor.to_image(shown.pixel_values).numpy()[0]
    scale = 1.0 if isinstance(video, str) else 1 / examples.CLIP_RATE
    seconds = tuple(float(each) * scale for each in curve.frame_times)
    return Watched(title, frames, curve, seconds, tuple(float(each) * scale for each in curve.step_times))


def watch_files(loaded: Loaded, paths: Sequence[str] | None, context_frames: int = 0) -> list[Watched]:
    """One video, or two to be compared.

    Raises:
        ValueError: not one or two readable videos.
    """
    several = [uploads.check([path]) for path in paths or []] or [uploads.check(None)]
    if len(several) > 2 or any(each.kind != "video" for each in several):
        raise ValueError("surprise takes one video, or two to be compared; a still picture has no time to be wrong in")
    titles = [Path(each.paths[0]).name for each in several]
    return [watch(loaded, each.paths[0], title, context_frames) for each, title in zip(several, titles, strict=True)]


def watch_scene(loaded: Loaded, scene: Quadruplet, context_frames: int = 0) -> list[Watched]:
    """All four clips of a scene: two possible ones, and the impossible ones that begin like them.

    With `context_frames` 0 at most CONTEXT are seen, and none in which it has gone wrong already.
    """
    context_frames = context_frames or min(CONTEXT, *scene.event)
    titles = ("as it should be", "as it should be", *scene.directions)
    return [watch(loaded, clip, title, context_frames) for clip, title in zip(scene.clips, titles, strict=True)]


def gap(possible: Watched, impossible: Watched) -> float:
    """How much more surprising the second is, per cent of the first."""
    return 100 * (impossible.mean - possible.mean) / possible.mean


def verdict(watched: Sequence[Watched], side: int) -> str:
    """Markdown on a scene: which clip of the pair surprised more and by how much, and both pairs together."""
    possible, impossible = watched[side], watched[side + 2]
    margin = gap(possible, impossible)
    both = sum(each.mean for each in watched[2:]) / sum(each.mean for each in watched[:2]) * 100 - 100
    right = (
        "The impossible clip surprised it more" if margin > 0 else "The possible clip surprised it more: it was fooled"
    )
    return (
        f"**{right}: {margin:+.2f} %** ({impossible.mean:.4f} against {possible.mean:.4f}, mean absolute error of the "
        f"predicted tokens). Both impossible versions of this scene together: {both:+.2f} %.\n\nA pair can be won by "
        "taking the emptier or the slower clip, but then the other direction is lost; the table below counts all pairs."
    )


def comparison(watched: Sequence[Watched]) -> str:
    """Markdown on uploaded videos."""
    if len(watched) == 1:
        only = watched[0]
        peak = int(only.timeline.nan_to_num(-1).argmax())
        return (
            f"**{only.title}**: surprise {only.mean:.4f} on average, highest at {only.step_seconds[peak]:.2f} s "
            f"({float(only.timeline[peak]):.4f}). Upload two videos to compare them."
        )
    first, second = watched
    low, high = (first, second) if first.mean <= second.mean else (second, first)
    return (
        f"**{high.title} surprised it more: {gap(low, high):+.2f} %** "
        f"({high.mean:.4f} against {low.mean:.4f}, mean absolute error of the predicted tokens)."
    )


def show(watched: Sequence[Watched], tones: Sequence[str], violation: Violation | None = None) -> Show:
    """Clips with heat laid over where they surprised, on one scale, above their curves on one time."""
    length = min(len(each.frames) for each in watched)
    maps = [each.curve.map_timeline[0] for each in watched]  # [S, h, w]
    known = torch.cat([each[each.isfinite()] for each in maps])
    scale = float(known.quantile(0.5)), float(known.quantile(0.995))
    films = []
    for each, heat in zip(watched, maps, strict=True):
        films.append(Film(each.title, _pictures(each.frames[:length])))
        films.append(Film("where it surprised", _pictures(overlay(each.frames, heat, scale)[:length])))
    curves = [
        Curve(each.title, each.step_seconds, each.timeline.tolist(), tone)
        for each, tone in zip(watched, tones, strict=True)
    ]
    marks = [(violation.seconds, violation.words)] if violation else []
    first = watched[0].curve.windows
    seen = watched[0].seconds[first.starts[0] + first.context_frames[0] - 1]
    return Show(films, watched[0].seconds[:length], curves, marks, seen)


def _pictures(frames: np.ndarray[Any, Any]) -> list[drawing.Picture]:
    return [Image.fromarray(np.ascontiguousarray(each)) for each in frames]


_scoring = threading.Lock()  # one at a time writes its file


# The suite ------------------------------------------------------------------------------------------------------------
def scores(loaded: Loaded, folder: Path, tell: Tell, *, every: int = QUICK, context_frames: int = 0) -> list[Row]:
    """Scores of each property on the suite of simulated worlds that comes with the package.

    Args:
        loaded: a model that predicts clips.
        folder: for raw surprises; what is there already is not computed again.
        tell: is told how far it is.
        every: score every so manyth scene of each variant; 1 is the whole suite.
        context_frames: see `usual_context`.

    Raises:
        ValueError: the model cannot be surprised by clips of 16 frames.
    """
    suite = worlds_suite(seen=False)
    items = [each for each in suite.items if int(each.video.group.rsplit("/", 1)[1]) % every == 0]
    context = usual_context(loaded, context_frames)
    out = folder / f"{hashlib.sha256(repr((loaded.name, context, every)).encode()).hexdigest()[:16]}.jsonl"
    kinds = list(dict.fromkeys(each.video.property for each in items))
    for number, kind in enumerate(kinds):
        tell(0.05 + 0.75 * number / len(kinds), f"watching {PROPERTIES[kind].title}")
        part = [each for each in items if kinds.index(each.video.property) <= number]
        with _scoring:
            raw = evaluate(
                loaded.model,
                loaded.processor,
                replace(suite, items=part),
                out,
                Protocol(context_frames=(context,)),
                about={"model": loaded.name},
                progress=False,
            )
    tell(0.85, "scoring")
    return score_table(raw, ["mean"])


def table(rows: Sequence[Row], name: str, context_frames: int) -> str:
    """Markdown, one line per property; relative accuracies of which 50 is chance."""
    lines = [
        f"**{name}** on {sum(row.num_pairs for row in rows if row.property != 'all')} pairs, {context_frames} frames "
        "seen. Right: the impossible clip of a pair surprised more (chance is 50; 95 % interval over scenes). Scenes: "
        "both impossible clips together surprised more than both possible ones.",
        "",
        "| property | pairs | right, % | scenes, % | margin, % |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        title = PROPERTIES[row.property].title if row.property in PROPERTIES else row.property
        lines.append(f"| {title} | {row.num_pairs} | {row.relative} | {row.group} | {row.margin.value:+.2f} |")
    return "\n".join(lines)


# Scenes ---------------------------------------------------------------------------------------------------------------
def things() -> list[examples.Example]:
    """What there is to click: a scene and what goes wrong."""
    chosen = (("gravity", 0, 1), ("permanence", 0, 1), ("continuity", 1, 0), ("colour", 0, 1), ("solidity", 0, 0),
              ("support", 0, 0))  # fmt: skip
    found = []
    for kind, place, side in chosen:
        title, scene = [each for each in scene_names().items() if each[1].name.startswith(f"{kind}/")][place]
        frame = min(scene.event[side] + 2, len(scene.clips[0]) - 1)
        picture = Image.fromarray(scene.clips[side + 2][frame])
        found.append(examples.Example(f"{kind}: {scene.directions[side]}", (title, str(side)), picture))
    return found


# The shell ------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Seen:
    """What is on the page: a scene, all four clips watched, or uploaded videos."""

    watched: Sequence[Watched]
    scene: Quadruplet | None = None
    paths: tuple[str, ...] = ()

    def drawn(self, side: int) -> tuple[str, Show]:
        """The words and the player."""
        if self.scene is None:
            return comparison(self.watched), show(self.watched, ("plain", "impossible"))
        pair = [self.watched[side], self.watched[side + 2]]
        return verdict(self.watched, side), show(pair, ("possible", "impossible"), Violation(self.scene, side))


def build(shell: Shell) -> None:
    """The tab."""
    gr = shell.gr
    ready = things()
    with gr.Row(elem_classes=["jh-columns"]):
        with gr.Column(scale=3, min_width=300):
            model = shell.picker(predicts_video, "vjepa-tiny-worlds")
            gallery = shell.examples(ready, label="Something impossible happens")
            with gr.Group():
                scene = gr.Dropdown(list(scene_names()), value=None, label="Violate it yourself: the scene")
                wrong = gr.Radio([], label="What goes wrong", interactive=True)
            new = gr.Button("Simulate a new scene like this (MuJoCo)", size="sm", visible=can_draw())
            files = shell.files("Your own video, or two to compare")
            context = gr.Slider(
                0, 14, 0, step=2, label="Frames seen first", info=f"0: {CONTEXT}, or fewer before it goes wrong"
            )
        with gr.Column(scale=7, min_width=320):
            text = gr.Markdown(
                "Click a scene. The model sees the first frames of a clip, predicts the rest, and is surprised where "
                "it then sees something else. Blue: as it should be. Red: something impossible, from the dashed line.",
                elem_classes=["jh-note"],
            )
            player = shell.player()
            with gr.Row():
                quick = gr.Button("Score a quarter of the suite", size="sm")
                whole = gr.Button("Score the whole suite", size="sm")
            scored = gr.Markdown(elem_classes=["jh-table"])
    state, drawn_so_far = gr.State(None, time_to_live=3600), gr.State(0)
    outputs = [state, text, player, scene, wrong]

    def answer(seen: Seen, loaded: Loaded, title: str | None, side: int) -> list[Any]:
        words, film = seen.drawn(side)
        directions = [(Violation(seen.scene, each).words, each) for each in (0, 1)] if seen.scene else []
        return [
            seen, f"{about(loaded)}\n\n{words}", gr.update(value=film.to_html(), visible=True),
            gr.update(value=title), gr.update(choices=directions, value=side if directions else None),
        ]  # fmt: skip

    def run(tell: Any, name: str, frames: int, chosen: list[str]) -> list[Any]:
        title, side = chosen
        tell(0.1, "loading the model")
        loaded = shell.library.get(name)
        if title not in scene_names():
            raise ValueError(f"there is no scene {title[:80]!r}")
        tell(0.4, "watching")
        found = scene_names()[title]
        return answer(Seen(watch_scene(loaded, found, int(frames)), found), loaded, title, int(side))

    def upload(tell: Any, name: str, frames: int, paths: list[str] | None) -> list[Any]:
        tell(0.1, "loading the model")
        loaded = shell.library.get(name)
        tell(0.4, "watching")
        return answer(Seen(watch_files(loaded, paths, int(frames)), None, tuple(paths or ())), loaded, None, 0)

    def again(tell: Any, name: str, frames: int, seen: Seen | None, title: str | None, side: int | None) -> list[Any]:
        if seen is None:
            return [gr.skip()] * len(outputs)
        if seen.scene is None:
            return upload(tell, name, frames, list(seen.paths))
        loaded = shell.library.get(name)
        tell(0.4, "watching")
        return answer(Seen(watch_scene(loaded, seen.scene, int(frames)), seen.scene), loaded, title, side or 0)

    def turn(name: str, seen: Seen | None, title: str | None, side: int | None) -> list[Any]:
        if seen is None or seen.scene is None or side is None:
            return [gr.skip()] * len(outputs)
        return answer(seen, shell.library.get(name), title, side)

    def draw(tell: Any, name: str, frames: int, title: str | None, count: int) -> list[Any]:
        kind, variant, _ = scene_names()[title or next(iter(scene_names()))].name.split("/")
        loaded = shell.library.get(name)
        tell(0.2, "simulating")
        found = draw_scene(kind, variant, count)
        tell(0.6, "watching")
        return [*answer(Seen(watch_scene(loaded, found, int(frames)), found), loaded, title, 0), count + 1]

    def tabled(every: int) -> Callable[..., str]:
        def score(tell: Any, name: str, frames: int) -> str:
            loaded = shell.library.get(name)
            rows = scores(loaded, shell.folder, tell, every=every, context_frames=int(frames))
            return table(rows, name, usual_context(loaded, int(frames)))

        return score

    shell.choose(gallery.select, ready, run, [model, context], [], outputs)
    shell.run(scene.input, lambda tell, name, frames, title: run(tell, name, frames, [title, "0"]),
              [model, context, scene], outputs)  # fmt: skip
    shell.run(wrong.input, turn, [model, state, scene, wrong], outputs, tells=False)
    shell.run(files.upload, upload, [model, context, files], outputs, name="surprise")
    for event in (model.input, context.input):
        shell.run(event, again, [model, context, state, scene, wrong], outputs, last=True)
    shell.run(new.click, draw, [model, context, scene, drawn_so_far], [*outputs, drawn_so_far])
    shell.run(quick.click, tabled(QUICK), [model, context], [scored])
    shell.run(whole.click, tabled(1), [model, context], [scored])
