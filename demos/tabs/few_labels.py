"""Few labels: give a handful of pictures their labels by clicking, and watch the others being classified."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from demos import drawing, examples, uploads
from demos.library import Known, Loaded, about
from jepa_hub.nn.resnet import soft_neighbours

if TYPE_CHECKING:
    from demos.shell import Shell

KINDS = ("colour", "shape")
EACH = 3  # pictures of every colour that can be labelled; the others are the test
TEMPERATURE = 0.1  # of the neighbours, where a model has none of its own


@dataclass(frozen=True)
class Board:
    """The pictures as a model sees them.

    Attributes:
        loaded: the model.
        pool: embeddings [P, E] of the pictures that can be labelled.
        test: embeddings [T, E] of those that are classified.
        centre: [E], taken off every embedding.
    """

    loaded: Loaded
    pool: Tensor
    test: Tensor
    centre: Tensor


@dataclass(frozen=True)
class Answer:
    """What the labelled pictures say about the others.

    Attributes:
        labels: the most likely one of each test picture.
        shares: their probabilities.
        right: whether each is true.
    """

    labels: tuple[str, ...]
    shares: tuple[float, ...]
    right: tuple[bool, ...]

    @property
    def accuracy(self) -> float:
        """Share of test pictures that are right."""
        return sum(self.right) / len(self.right)


def usable(known: Known) -> bool:
    """Whether a model looks at pictures."""
    return not known.is_video


@cache
def pictures() -> tuple[tuple[examples.Solid, ...], tuple[examples.Solid, ...]]:
    """Those that can be labelled, EACH of every colour, and those that are classified."""
    pool: list[examples.Solid] = []
    for solid in examples.solids():
        if sum(each.colour == solid.colour for each in pool) < EACH:
            pool.append(solid)
    return tuple(pool), tuple(each for each in examples.solids() if each not in pool)


def classes(kind: str) -> list[str]:
    """The labels of a kind, "colour" or "shape".

    Raises:
        ValueError: another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"labels are {' or '.join(KINDS)}, not {kind[:40]!r}")
    return sorted({getattr(each, kind) for each in examples.solids()})


@torch.no_grad()
def embed(loaded: Loaded, paths: Sequence[str]) -> Tensor:
    """[B, E]: what PAWS compares, or the mean token of another family."""
    inputs = loaded.processor(list(paths))
    if loaded.family == "paws":
        return loaded.model.embed(inputs.pixel_values[:, :, 0]).predicted.float()
    return loaded.model.encode(inputs).pooled.float()


class Boards:
    """Boards by model, made at first use."""

    def __init__(self) -> None:
        self._made: dict[str, Board] = {}
        self._lock = threading.Lock()

    def get(self, loaded: Loaded) -> Board:
        """The board of a model."""
        with self._lock:
            board = self._made.get(loaded.name)
            if board is None or board.loaded.model is not loaded.model:
                pool, test = (embed(loaded, [each.path for each in part]) for part in pictures())
                centre = torch.zeros_like(pool[0]) if loaded.family == "paws" else pool.mean(0)
                board = Board(loaded, pool - centre, test - centre, centre)
                self._made = {loaded.name: board}
            return board


def classify(board: Board, given: Mapping[int, str], queries: Tensor) -> tuple[tuple[str, float], ...]:
    """The most likely label of each embedding and its probability, by the labelled pictures nearest to it.

    Args:
        board: of a model.
        given: labels by number in the pool.
        queries: [Q, E], less the board's centre.

    Raises:
        ValueError: nothing is labelled, or there is no such picture.
    """
    if not given:
        raise ValueError("label a picture first: choose a label, then click pictures that have it")
    if not all(0 <= each < len(board.pool) for each in given):
        raise ValueError(f"pictures to label are 0 to {len(board.pool) - 1}")
    names = sorted(set(given.values()))
    one_hot = torch.zeros(len(given), len(names))
    for row, label in enumerate(given.values()):
        one_hot[row, names.index(label)] = 1
    temperature = getattr(board.loaded.model.config, "temperature", None) or TEMPERATURE
    found = soft_neighbours(queries, board.pool[list(given)], one_hot, temperature)  # [Q, K]
    best = found.max(dim=-1)
    return tuple(
        (names[place], share) for place, share in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    )


def answer(board: Board, given: Mapping[int, str], kind: str) -> Answer:
    """The test pictures, classified and compared with the truth."""
    truth = [getattr(each, kind) for each in pictures()[1]]
    found = classify(board, given, board.test)
    return Answer(
        tuple(label for label, _ in found),
        tuple(share for _, share in found),
        tuple(label == wanted for (label, _), wanted in zip(found, truth, strict=True)),
    )


def first_of_each(kind: str, count: int) -> dict[int, str]:
    """True labels of the first `count` pictures of each class."""
    given: dict[int, str] = {}
    for number, solid in enumerate(pictures()[0]):
        label = getattr(solid, kind)
        if list(given.values()).count(label) < count:
            given[number] = label
    return given


def curve(history: Sequence[tuple[int, float]], chance: float) -> str:
    """HTML: accuracy over the number of labels, as an SVG; the dashed line is guessing."""
    wide, high, left, low = 420, 170, 40, 140
    most = max(8, *(count for count, _ in history))

    def place(count: float, share: float) -> tuple[float, float]:
        return left + (wide - left - 12) * count / most, low - (low - 12) * share

    points = [place(*each) for each in history]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" class="jh-dot jh-plain"/>' for x, y in points)
    grid = "".join(
        f'<line x1="{left}" x2="{wide - 12}" y1="{place(0, share)[1]:.1f}" y2="{place(0, share)[1]:.1f}" '
        f'class="jh-grid"/><text x="{left - 6}" y="{place(0, share)[1] + 4:.1f}" text-anchor="end">{share:.0%}</text>'
        for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    )
    ticks = "".join(
        f'<text x="{place(count, 0)[0]:.1f}" y="{low + 17}" text-anchor="middle">{count}</text>'
        for count in range(0, most + 1, max(1, most // 8))
    )
    y = place(0, chance)[1]
    return (
        f'<svg viewBox="0 0 {wide} {high}" class="jh-chart jh-accuracy" role="img" aria-label="accuracy over labels">'
        f'{grid}{ticks}<line x1="{left}" x2="{wide - 12}" y1="{y:.1f}" y2="{y:.1f}" class="jh-mark"/>'
        f'<polyline points="{line}" class="jh-line jh-plain"/>{dots}'
        f'<text x="{wide / 2}" y="{high - 2}" text-anchor="middle">labels given</text></svg>'
    )


def summary(board: Board, given: Mapping[int, str], found: Answer, kind: str) -> str:
    """Markdown on what was reached with how many labels."""
    return (
        f"{about(board.loaded)}\n\n**{found.accuracy:.0%} of {len(found.right)} other pictures right** by {kind}, from "
        f"{len(given)} label{'s' if len(given) != 1 else ''}; guessing gets {1 / len(classes(kind)):.0%}. Each picture "
        "takes the labels of its nearest labelled pictures, weighted by how near they are."
    )


def labelled(given: Mapping[int, str]) -> list[tuple[drawing.Picture, str]]:
    """The pictures that can be labelled, with the labels they have."""
    return [(opened(each.path), given.get(number, "?")) for number, each in enumerate(pictures()[0])]


def results(found: Answer) -> list[tuple[drawing.Picture, str]]:
    """The test pictures with what they were taken for."""
    rows = zip(pictures()[1], found.labels, found.shares, found.right, strict=True)
    return [(opened(each.path), f"{'✓' if right else '✗'} {label} {share:.0%}") for each, label, share, right in rows]


@cache
def opened(path: str) -> drawing.Picture:
    """A picture of the demo."""
    return Image.open(path).convert("RGB")


def things() -> list[examples.Example]:
    """What there is to click: labels to begin with."""
    starts = (("colour", 1), ("colour", 3), ("shape", 3))
    found = []
    for kind, count in starts:
        sheet = Image.new("RGB", (192, 192), (255, 255, 255))
        numbers = list(first_of_each(kind, count))
        for place in range(4):
            picture = opened(pictures()[0][numbers[place * len(numbers) // 4]].path).resize((94, 94))
            sheet.paste(picture, (place % 2 * 98, place // 2 * 98))
        found.append(examples.Example(f"{count} of each {kind}", (kind, str(count)), sheet))
    return found


# The shell ------------------------------------------------------------------------------------------------------------
def build(shell: Shell) -> None:
    """The tab."""
    gr = shell.gr
    ready = things()
    boards = Boards()
    grid: dict[str, Any] = {
        "height": "auto", "columns": 8, "allow_preview": False, "interactive": False, "buttons": [], "format": "png",
        "object_fit": "cover",
    }  # fmt: skip
    if not shell.library.names(lambda known: known.family == "paws"):
        shell.missing("paws", "paws/tiny_scenes")
    with gr.Row(elem_classes=["jh-columns"]):
        with gr.Column(scale=3, min_width=300):
            model = shell.picker(usable, "paws-tiny-scenes")
            gallery = shell.examples(ready, label="Begin with")
            kind = gr.Radio(list(KINDS), value="colour", label="Tell apart by")
            label = gr.Radio(classes("colour"), value=classes("colour")[0], label="Label to give")
            clear = gr.Button("Take all labels away", size="sm")
            files = shell.files("Your own images, to be classified", kinds=("image",))
        with gr.Column(scale=7, min_width=320):
            text = gr.Markdown(
                "Choose a label on the left and click pictures that have it; the model sorts the others at once. PAWS "
                "was trained to do this from a few labels; other models can be tried on the same pictures.",
                elem_classes=["jh-note"],
            )
            pool = gr.Gallery(labelled({}), label="Click to label", elem_classes=["jh-examples", "jh-found"],
                              elem_id="jh-pool", **grid)  # fmt: skip
            chart = gr.HTML(visible=False, apply_default_css=False, js_on_load=None)
            test = gr.Gallery(label="Classified", visible=False, elem_classes=["jh-examples", "jh-found"],
                              elem_id="jh-classified", **grid)  # fmt: skip
            own = gr.Gallery(label="Your images", visible=False, elem_classes=["jh-examples", "jh-found"], **grid)
    state = gr.State({"labels": {}, "history": []})
    outputs = [state, text, pool, chart, test]

    def told(name: str, which: str, given: dict[int, str], history: list[tuple[int, float]]) -> list[Any]:
        shown = gr.update(value=labelled(given), selected_index=None)
        if not given:
            hidden = gr.update(visible=False)
            return [{"labels": {}, "history": []}, "No labels yet: click a picture.", shown, hidden, hidden]
        board = boards.get(shell.library.get(name))
        found = answer(board, given, which)
        history = [each for each in history if each[0] < len(given)] + [(len(given), found.accuracy)]
        return [
            {"labels": given, "history": history}, summary(board, given, found, which), shown,
            gr.update(value=curve(history, 1 / len(classes(which))), visible=True),
            gr.update(value=results(found), visible=True),
        ]  # fmt: skip

    def begin(tell: Any, name: str, chosen: list[str]) -> list[Any]:
        which, count = chosen
        tell(0.2, "loading the model")
        names = classes(which)
        return [
            which,
            gr.update(choices=names, value=names[0]),
            *told(name, which, first_of_each(which, int(count)), []),
        ]

    def click(number: Any, name: str, which: str, label: str, kept: dict[str, Any]) -> list[Any]:
        given = dict(kept["labels"])
        if label not in classes(which):
            raise ValueError(f"choose a {which} first")
        if given.get(int(number)) == label:
            del given[int(number)]
        else:
            given[int(number)] = label
        return told(name, which, given, kept["history"])

    def switch(which: str) -> list[Any]:
        names = classes(which)
        return [gr.update(choices=names, value=names[0]), *told("", which, {}, [])]

    def again(tell: Any, name: str, which: str, kept: dict[str, Any]) -> list[Any]:
        tell(0.2, "loading the model")
        return told(name, which, dict(kept["labels"]), [])

    def upload(tell: Any, name: str, paths: list[str] | None, kept: dict[str, Any]) -> Any:
        media = uploads.check(paths)
        if media.kind != "image":
            raise ValueError("pictures are classified here, not videos")
        tell(0.2, "loading the model")
        board = boards.get(shell.library.get(name))
        found = classify(board, kept["labels"], embed(board.loaded, media.paths) - board.centre)
        rows = zip(media.paths, found, strict=True)
        return gr.update(value=[(path, f"{label} {share:.0%}") for path, (label, share) in rows], visible=True)

    shell.choose(gallery.select, ready, begin, [model], [], [kind, label, *outputs])
    shell.click(pool.select, click, [model, kind, label, state], outputs)
    shell.run(kind.input, switch, [kind], [label, *outputs], tells=False)
    shell.run(clear.click, switch, [kind], [label, *outputs], tells=False)
    shell.run(model.input, again, [model, kind, state], outputs)
    shell.run(files.upload, upload, [model, files, state], [own])
