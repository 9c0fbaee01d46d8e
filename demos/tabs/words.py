"""Words: which words fit a picture, which pictures fit a text, and how each text mixes a picture."""

from __future__ import annotations

import html
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps
from torch import Tensor

from demos import drawing, examples, uploads
from demos.library import Loaded, about, of_family
from jepa_hub import zero_shot
from jepa_hub.models.llip import ImageParts
from jepa_hub.retrieval import Gallery

if TYPE_CHECKING:
    from demos.shell import Shell

COLOURS = "red, green, blue, yellow, purple, cyan, brown, grey"
SHAPES = "cube, sphere, cylinder, cone"
TEMPLATE = "a {} object"
MOST_WORDS, MOST_LETTERS = 40, 200
SHOWN, TOP = 8, 6  # words and pictures


@dataclass(frozen=True)
class Fit:
    """How well words fit a picture.

    Attributes:
        names: of the words, best first.
        shares: their probabilities, among these words.
        weights: [C, heads, K], how each word mixes the picture's mixture tokens; None where the model does not mix.
        unknown: words that the model has never read.
    """

    names: tuple[str, ...]
    shares: tuple[float, ...]
    weights: Tensor | None
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class Hit:
    """A picture that was found.

    Attributes:
        path: of the file.
        cosine: with the text, mixed for it.
        weights: [heads, K], how the text mixed it; None where the model does not mix.
    """

    path: str
    cosine: float
    weights: Tensor | None


def words_of(text: str) -> list[str]:
    """Words or phrases with commas or line breaks between.

    Raises:
        ValueError: fewer than two, more than MOST_WORDS, or a very long one.
    """
    found = list(dict.fromkeys(each.strip() for each in text.replace("\n", ",").split(",") if each.strip()))
    if not 2 <= len(found) <= MOST_WORDS or any(len(each) > MOST_LETTERS for each in found):
        raise ValueError(
            f"give 2 to {MOST_WORDS} words or phrases of up to {MOST_LETTERS} letters, with commas between; "
            f"got {len(found)}"
        )
    return found


def fit(loaded: Loaded, path: str | Sequence[str] | None, words: str, template: str = TEMPLATE) -> Fit:
    """Zero-shot: which of some words fits a picture.

    Args:
        loaded: a Llip model.
        path: of the picture.
        words: see `words_of`.
        template: a text with {} where the word goes.

    Raises:
        ValueError: the words, the template or the picture cannot be used.
    """
    names = words_of(words)
    media = uploads.check(path, most=1)
    if media.kind != "image":
        raise ValueError("words are about a picture here, not a video")
    if "{}" not in template or len(template) > MOST_LETTERS:
        raise ValueError(f"a template is a text with {{}} where the word goes, such as {TEMPLATE!r}")
    try:
        inputs = loaded.processor(media.paths[0])
    except (ValueError, OSError) as error:
        raise ValueError(uploads.shown(error, media.paths)) from error
    classes = zero_shot.encode_classes(loaded.model, names, [template])
    parts = loaded.model.encode_image(inputs)
    found = zero_shot.classify(loaded.model, parts, classes, top=len(names))
    order = [names.index(each) for each in found.labels[0]]
    weights = loaded.model.mix(parts, classes.texts).weights[0, order] if loaded.model.mixes_by_text else None
    texts = [template.replace("{}", each) for each in names]
    return Fit(tuple(found.labels[0]), tuple(found.probabilities[0].tolist()), weights, unknown_words(loaded, texts))


def unknown_words(loaded: Loaded, texts: Sequence[str]) -> tuple[str, ...]:
    """Words that a model reads as its unknown one."""
    tokenizer = loaded.model.tokenizer
    if tokenizer.unk_token_id is None:
        return ()
    words = dict.fromkeys(word.strip(".,;:!?\"'()") for text in texts for word in text.split())
    read = {word: tokenizer(word, add_special_tokens=False)["input_ids"] for word in words if word}
    return tuple(word for word, ids in read.items() if tokenizer.unk_token_id in ids)


@cache
def gallery_paths() -> tuple[str, ...]:
    """Pictures that texts search."""
    return (*(path for path, _ in examples.scenes()), *(each.path for each in examples.solids()))


class Index:
    """Encoded galleries, one per model."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[Any, ImageParts]] = {}
        self._lock = threading.Lock()

    def get(self, loaded: Loaded) -> Gallery:
        """The gallery of a model, encoded at first use."""
        with self._lock:
            model, parts = self._made.get(loaded.name, (None, None))
            if model is not loaded.model or parts is None:
                paths = gallery_paths()
                batches = (loaded.processor(list(paths[start : start + 16])) for start in range(0, len(paths), 16))
                gallery = Gallery.of(loaded.model, batches)
                self._made = {loaded.name: (loaded.model, gallery.parts)}
                return gallery
            return Gallery(model, parts)


def search(loaded: Loaded, gallery: Gallery, text: str, *, top: int = TOP) -> list[Hit]:
    """The pictures of the gallery that fit a text best, all of them scored exactly.

    Raises:
        ValueError: no text, or a very long one.
    """
    if not text.strip() or len(text) > MOST_LETTERS:
        raise ValueError(f"write what you look for, in up to {MOST_LETTERS} letters, such as 'a red sphere'")
    asked = loaded.model.encode_text(text.strip())
    found = gallery.search(asked, top=top, shortlist=None)
    places = found.indices[0]
    weights = None
    if loaded.model.mixes_by_text:
        chosen = ImageParts(*(each[places] for each in gallery.parts))
        weights = loaded.model.mix(chosen, asked).weights[:, 0]  # [top, heads, K]
    return [
        Hit(gallery_paths()[place], score, None if weights is None else weights[rank])
        for rank, (place, score) in enumerate(zip(places.tolist(), found.scores[0].tolist(), strict=True))
    ]


def mixture_table(rows: Sequence[tuple[str, Tensor]]) -> str:
    """HTML: a row of cells for each text, one group per head, one cell per mixture token; dark is much.

    Args:
        rows: what stands before a row, and its weights [heads, K], each head's adding up to 1.
    """
    heads, tokens = rows[0][1].shape
    above = "".join(f'<th colspan="{tokens}">head {head + 1}</th>' for head in range(heads))
    body = []
    for title, weights in rows:
        cells = []
        for head in range(heads):
            for token in range(tokens):
                share = float(weights[head, token])
                first = ' class="jh-first"' if token == 0 else ""
                cells.append(
                    f'<td{first}><i style="opacity:{share:.3f}" title="head {head + 1}, mixture token {token + 1}: '
                    f'{share:.1%}"></i></td>'
                )
        body.append(f"<tr><th>{html.escape(title)}</th>{''.join(cells)}</tr>")
    return (
        f'<div class="jh-mixture"><table><thead><tr><th></th>{above}</tr></thead><tbody>{"".join(body)}</tbody></table>'
        "</div>"
    )


def told(loaded: Loaded, unknown: Sequence[str]) -> str:
    """Markdown on a model, and on words that it cannot read."""
    words = ", ".join(f"`{each[:40].replace('`', '')}`" for each in unknown[:8])
    never = f"\n\nIt has never read {words}: such words say nothing to it." if unknown else ""
    return f"{about(loaded)}{never}"


def things() -> list[examples.Example]:
    """What there is to click."""
    chosen = [next(each for each in examples.solids() if each.colour == colour and each.shape == shape)
              for colour, shape in (("red", "sphere"), ("blue", "cube"), ("yellow", "cone"))]  # fmt: skip
    solids = [
        examples.Example(f"a {each.shape}", (each.path,), Image.open(each.path).convert("RGB")) for each in chosen
    ]
    return [*solids, *(examples.gallery((number,), title) for number, title in ((4, "a scene"), (11, "another"),
                                                                              (18, "a third")))]  # fmt: skip


# The shell ------------------------------------------------------------------------------------------------------------
def build(shell: Shell) -> None:
    """The tab."""
    gr = shell.gr
    ready = things()
    index = Index()
    if not shell.library.names(of_family("llip")):
        shell.missing("llip", "llip/tiny_scenes")
    with gr.Row(elem_classes=["jh-columns"]):
        with gr.Column(scale=3, min_width=300):
            model = shell.picker(of_family("llip"), "llip-tiny-scenes")
            gallery = shell.examples(ready)
            files = shell.files("Your own image", several=False, kinds=("image",))
            words = gr.Textbox(COLOURS, label="Words to choose from", info="with commas between", lines=2)
            template = gr.Textbox(TEMPLATE, label="In the sentence", info="{} stands for the word")
            ask = gr.Button("Which word fits?", variant="primary", size="sm")
        with gr.Column(scale=7, min_width=320):
            text = gr.Markdown(
                "Click a picture: the model says which of the words on the left fits it, though it was never trained "
                "on these classes. Below, find pictures by a text. Each text mixes what the model saw in its own way.",
                elem_classes=["jh-note"],
            )
            with gr.Row(elem_classes=["jh-fit"]):
                picture = shell.picture("Picture", scale=1)
                bars = gr.Label(label="Which word fits", num_top_classes=SHOWN, visible=False, scale=2)
            mixed = gr.HTML(visible=False, apply_default_css=False, js_on_load=None)
            with gr.Row(equal_height=True):
                wish = gr.Textbox("a red sphere", label="Find pictures of", scale=4, max_lines=1)
                find = gr.Button("Find", variant="primary", scale=1, min_width=80)
            found = gr.Gallery(
                label="Found", columns=TOP, height="auto", visible=False, allow_preview=False, interactive=False,
                buttons=[], format="png", elem_classes=["jh-examples", "jh-found"], elem_id="jh-found",
            )  # fmt: skip
            found_mixed = gr.HTML(visible=False, apply_default_css=False, js_on_load=None)
    given = gr.State(None)
    outputs = [given, text, picture, bars, mixed]

    def run(tell: Any, name: str, paths: Any, words: str, template: str) -> list[Any]:
        tell(0.1, "loading the model")
        loaded = shell.library.get(name)
        tell(0.5, "reading")
        several = [paths] if isinstance(paths, str) else paths
        best = fit(loaded, several, words, template)
        shares = dict(zip(best.names, best.shares, strict=True))
        table = "" if best.weights is None else mixture_table(
            [(template.replace("{}", each), weights) for each, weights in zip(best.names, best.weights[:SHOWN],
                                                                            strict=False)])  # fmt: skip
        return [
            several, told(loaded, best.unknown), gr.update(value=shown(several[0]), visible=True),
            gr.update(value=shares, visible=True), gr.update(value=f"{EXPLAINED}{table}", visible=bool(table)),
        ]  # fmt: skip

    def again(tell: Any, name: str, paths: Any, words: str, template: str) -> list[Any]:
        if not paths:
            raise ValueError("click a picture first")
        return run(tell, name, paths, words, template)

    def seek(tell: Any, name: str, wish: str) -> list[Any]:
        tell(0.1, "loading the model")
        loaded = shell.library.get(name)
        tell(0.3, "looking at the gallery")
        hits = search(loaded, index.get(loaded), wish)
        pictures = [(shown(each.path), f"{each.cosine:.2f}") for each in hits]
        rows = [(f"{rank + 1}.", each.weights) for rank, each in enumerate(hits) if each.weights is not None]
        unknown = unknown_words(loaded, [wish])
        return [
            told(loaded, unknown) if unknown else gr.skip(), gr.update(value=pictures, visible=True),
            gr.update(value=mixture_table(rows) if rows else "", visible=bool(rows)),
        ]  # fmt: skip

    settings = [words, template]
    shell.choose(gallery.select, ready, run, [model], settings, outputs)
    shell.run(files.upload, run, [model, files, *settings], outputs, name="zero_shot")
    for event in (ask.click, words.submit, template.submit):
        shell.run(event, again, [model, given, *settings], outputs)
    for event in (find.click, wish.submit):
        shell.run(event, seek, [model, wish], [text, found, found_mixed])


EXPLAINED = '<p class="jh-small">What each text took from the mixture tokens, for every head (dark is much):</p>'


def shown(path: str) -> drawing.Picture:
    """A picture for the page."""
    with Image.open(Path(path)) as opened:
        opened.draft("RGB", (512, 512))
        picture = opened.convert("RGB")
    return ImageOps.contain(ImageOps.exif_transpose(picture), (320, 320), Image.Resampling.LANCZOS)
