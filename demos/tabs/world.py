"""World: tell an image world model how the colours of a picture change, and see what it expects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from demos import drawing, examples, uploads
from demos.library import Loaded, about, of_family
from jepa_hub import photometry
from jepa_hub.features import Features
from jepa_hub.pictures import pca_components, pca_image
from jepa_hub.ranking import draw_changes, predict_whole, ranks

if TYPE_CHECKING:
    from demos.shell import Shell

BANK, LARGE_BANK = 256, 32  # changed versions that are ranked; for models beyond LARGE parameters
LARGE = 50_000_000
STRENGTH = 1.8  # of the bank and the sliders, in units of the paper's jitter
NEAREST = 3
SIDE = 288  # pixels of a picture on the page, about
VIEWS = ("Seen", "Asked for", *(f"Expected: nearest {place + 1}" for place in range(NEAREST)), "True features",
         "Predicted features")  # fmt: skip
REACH = {name: round(STRENGTH * unit, 2) for name, unit in photometry.JITTER.items()}


@dataclass(frozen=True)
class World:
    """A picture, and the versions of it that predictions are compared with.

    Attributes:
        loaded: the model.
        path: of the picture.
        picture: [3, H, W], normalised.
        large: [3, h, w], the same for people.
        changes: [N, 7], parameters of the changed versions.
        latents: [N, T * D], their target tokens.
    """

    loaded: Loaded
    path: str
    picture: Tensor
    large: Tensor
    changes: Tensor
    latents: Tensor

    def changed(self, table: Tensor, pixels: Tensor | None = None) -> Tensor:
        """Versions [N, 3, H, W] of the picture (or of other pixels) under parameters [N, 7]."""
        pixels = self.picture if pixels is None else pixels
        processor = self.loaded.processor
        copies = pixels.expand(len(table), *pixels.shape)
        return photometry.apply_normalised(copies, table.to(pixels), processor.mean, processor.std)


@dataclass(frozen=True)
class Expected:
    """What a model expects of a change.

    Attributes:
        world: of what.
        asked: [1, 7], parameters of the change.
        predicted, true, seen: tokens [T, D] of the prediction, of the changed and of the unchanged picture.
        nearest: int64 [K], the versions nearest to the prediction; 0 is the one asked for, n is number n - 1 of the
            world's.
        rank: of the one asked for among all; ties count against it.
        untold_rank: the same where the model was told of no change.
    """

    world: World
    asked: Tensor
    predicted: Tensor
    true: Tensor
    seen: Tensor
    nearest: Tensor
    rank: int
    untold_rank: int

    @property
    def candidates(self) -> int:
        """Versions that were ranked."""
        return len(self.world.changes) + 1


@torch.no_grad()
def prepare(loaded: Loaded, paths: str | Sequence[str] | None) -> World:
    """A picture and its bank.

    Raises:
        ValueError: not one readable picture, or a model that is told of no changes.
    """
    media = uploads.check(paths, most=1)
    if media.kind != "image":
        raise ValueError("an image world model takes a picture, not a video")
    if loaded.family != "iwm":
        raise ValueError(
            f"{loaded.name} is of the family {loaded.family}; only image world models (iwm) are told changes"
        )
    processor = replace(loaded.processor, multiple="error")
    size = processor.image_size if isinstance(processor.image_size, tuple) else (processor.image_size or 224,) * 2
    scale = max(1, round(SIDE / max(size)))
    large = replace(
        processor,
        image_size=(size[0] * scale, size[1] * scale),
        resize=processor.resize and processor.resize * scale,
        patch_size=loaded.model.config.patch_size * scale,
    )
    try:
        picture, shown = (each(media.paths[0]).pixel_values[0, :, 0] for each in (processor, large))
    except (ValueError, OSError) as error:
        raise ValueError(uploads.shown(error, media.paths)) from error
    many = sum(each.numel() for each in loaded.model.parameters()) < LARGE
    changes = draw_changes((BANK if many else LARGE_BANK) - 1, STRENGTH)
    world = World(loaded, media.paths[0], picture, shown, changes, torch.empty(0))
    latents = [loaded.model.prediction_targets(part).flatten(1) for part in world.changed(changes).split(32)]
    return replace(world, latents=torch.cat(latents))


def parameters(values: Mapping[str, float]) -> Tensor:
    """Parameters [1, 7] of slider values.

    Raises:
        ValueError: an unknown change, or one beyond the sliders.
    """
    for name, value in values.items():
        if abs(float(value)) > REACH.get(name, 0.0) + 1e-6:
            raise ValueError(f"{name} goes from {-REACH.get(name, 0.0)} to {REACH.get(name, 0.0)}, got {value}")
    return photometry.parameters(dict(values), 1)


@torch.no_grad()
def expect(world: World, values: Mapping[str, float]) -> Expected:
    """The prediction under a change, and where among the changed versions it lies.

    Args:
        world: from `prepare`.
        values: by name of the change, see `photometry.parameters`.
    """
    asked = parameters(values)
    model = world.loaded.model
    true = model.prediction_targets(world.changed(asked))  # [1, T, D]
    told = torch.cat([photometry.conditioning(each) for each in (asked, torch.zeros_like(asked))]).to(world.picture)
    predicted = predict_whole(model, world.picture.expand(2, *world.picture.shape), told)  # told, and untold
    bank = torch.cat([true.flatten(1), world.latents])
    distances = torch.cdist(predicted.flatten(1), bank, compute_mode="donot_use_mm_for_euclid_dist")  # [2, N + 1]
    rank = ranks(distances, torch.zeros(2, dtype=torch.int64))
    seen = model.prediction_targets(world.picture[None])[0]
    order = distances[0].argsort(stable=True)[:NEAREST]
    return Expected(world, asked, predicted[0], true[0], seen, order, int(rank[0]), int(rank[1]))


def draw(found: Expected) -> dict[str, drawing.Picture]:
    """Every view; the features share their colours."""
    world = found.world
    table = torch.cat([found.asked, world.changes])
    rows = torch.cat([torch.zeros_like(found.asked), found.asked, table[found.nearest]])
    pixels = world.changed(rows, world.large)  # [2 + K, 3, h, w]
    plain = [_picture(world.loaded, each) for each in pixels]
    side = world.picture.shape[-1] // world.loaded.model.config.patch_size
    grid = (1, found.true.shape[0] // side, side)
    truth, guess = (Features(each[None], grid) for each in (found.true, found.predicted))
    # the unchanged picture joins in, or a change of all tokens at once would not show
    colours = pca_components([truth, Features(found.seen[None], grid)])
    maps = [pca_image(each, size=plain[0].size, components=colours) for each in (truth, guess)]
    return dict(zip(VIEWS, [*plain, *(each for each in maps if isinstance(each, Image.Image))], strict=True))


def _picture(loaded: Loaded, pixels: Tensor) -> drawing.Picture:
    frames = loaded.processor.to_image(pixels[None, :, None])
    return Image.fromarray(frames.numpy().reshape(*pixels.shape[1:], 3))


def words(table: Tensor) -> str:
    """A change in words."""
    named = zip(photometry.NAMES, table.flatten().tolist(), strict=True)
    return ", ".join(f"{name} {value:+.2f}" for name, value in named if abs(value) > 1e-6) or "no change"


def summary(found: Expected) -> str:
    """Markdown on how near the prediction came."""
    nearest = int(found.nearest[0])
    best = "the very one asked for" if nearest == 0 else words(found.world.changes[nearest - 1])
    return (
        f"{about(found.world.loaded)}\n\nTold: {words(found.asked)}. Of {found.candidates} changed versions of this "
        f"picture, **the one asked for comes {ordinal(found.rank)}** by nearness to the prediction; told of no change, "
        f"it comes {ordinal(found.untold_rank)}. Guessing comes {ordinal((found.candidates + 1) // 2)} on average. The "
        f"nearest is {best}."
    )


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 11th."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def things() -> list[examples.Example]:
    """What there is to click: a picture and a change."""
    chosen = (
        (9, "brightness", -0.5, "darker"),
        (11, "brightness", 0.5, "brighter"),
        (4, "contrast", -0.6, "paler"),
        (18, "contrast", 0.6, "harsher"),
        (0, "saturation", -0.3, "greyer"),
        (7, "hue", 0.15, "other hues"),
    )
    found = []
    for number, name, value, title in chosen:
        path = examples.scenes()[number][0]
        found.append(examples.Example(title, (path, name, str(value)), Image.open(path).convert("RGB")))
    return found


# The shell ------------------------------------------------------------------------------------------------------------
def build(shell: Shell) -> None:
    """The tab."""
    gr = shell.gr
    ready = things()
    if not shell.library.names(of_family("iwm")):
        shell.missing("iwm", "iwm/tiny_scenes")
    with gr.Row(elem_classes=["jh-columns"]):
        with gr.Column(scale=3, min_width=300):
            model = shell.picker(of_family("iwm"), "iwm-tiny-scenes")
            gallery = shell.examples(ready, label="A picture and a change")
            sliders = {
                name: gr.Slider(-most, most, 0, step=0.01, label=name.capitalize()) for name, most in REACH.items()
            }
            files = shell.files("Your own image", several=False, kinds=("image",))
        with gr.Column(scale=7, min_width=320):
            text = gr.Markdown(
                "Click an example, then move the sliders. The model sees the picture as it is, is told of a change, "
                "and predicts the features of the changed picture. What it expects is shown as the nearest of many "
                "changed versions.",
                elem_classes=["jh-note"],
            )
            with gr.Row(elem_classes=["jh-views"]):
                views = {name: shell.picture(name) for name in VIEWS}
    state = gr.State(None, time_to_live=3600)
    controls = list(sliders.values())
    shown = [text, *views.values()]

    def answer(world: World, values: Sequence[float]) -> list[Any]:
        found = expect(world, dict(zip(sliders, values, strict=True)))
        drawn = draw(found)
        return [summary(found), *(gr.update(value=drawn[name], visible=True) for name in VIEWS)]

    def begin(tell: Any, name: str, chosen: list[str]) -> list[Any]:
        path, change, value = chosen
        tell(0.1, "loading the model")
        loaded = shell.library.get(name)
        tell(0.4, "changing colours")
        values = [float(value) if each == change else 0.0 for each in sliders]
        world = prepare(loaded, [path])
        return [world, *values, *answer(world, values)]

    def upload(tell: Any, name: str, paths: Any, *values: float) -> list[Any]:
        tell(0.1, "loading the model")
        loaded = shell.library.get(name)
        tell(0.4, "changing colours")
        world = prepare(loaded, paths)
        return [world, *answer(world, values)]

    def again(tell: Any, name: str, world: World | None, *values: float) -> list[Any]:
        return upload(tell, name, world.path, *values) if world else [gr.skip()] * (1 + len(shown))

    def move(world: World | None, *values: float) -> list[Any]:
        return answer(world, values) if world else [gr.skip()] * len(shown)

    shell.choose(gallery.select, ready, begin, [model], [], [state, *controls, *shown])
    shell.run(files.upload, upload, [model, files, *controls], [state, *shown], name="world")
    shell.run(model.input, again, [model, state, *controls], [state, *shown])
    for control in controls:
        shell.run(control.input, move, [state, *controls], shown, tells=False, last=True)
