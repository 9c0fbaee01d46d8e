"""A player in the browser: films of the same length side by side, with curves whose cursor follows them.

The frames travel as one picture per film inside the page, so that every frame is shown exactly when its value is
pointed at, and nothing has to be served.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from demos.drawing import Picture, data_url

COLUMNS = 8  # frames in a row of the picture that carries them
SCRIPT = (Path(__file__).parent / "assets" / "player.js").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Film:
    """Frames of one size, one picture each."""

    title: str
    frames: Sequence[Picture]


@dataclass(frozen=True)
class Curve:
    """Values over time.

    Attributes:
        title: in the legend.
        times: seconds.
        values: NaN is a gap.
        tone: "possible", "impossible" or "plain".
    """

    title: str
    times: Sequence[float]
    values: Sequence[float]
    tone: str = "plain"


@dataclass(frozen=True)
class Show:
    """What a player shows.

    Attributes:
        films: of as many frames each.
        seconds: of each frame.
        curves: over the same time.
        marks: (seconds, words) of moments.
        seen: until when, in seconds, all was seen and nothing predicted.
        value: what the curves measure.
    """

    films: Sequence[Film]
    seconds: Sequence[float]
    curves: Sequence[Curve] = ()
    marks: Sequence[tuple[float, str]] = field(default_factory=tuple)
    seen: float | None = None
    value: str = "surprise"

    def to_html(self) -> str:
        """The element that the script of `player` brings to life."""
        counts = {len(film.frames) for film in self.films} | {len(self.seconds)}
        if len(counts) != 1:
            raise ValueError(f"films of one player have as many frames as there are times, got {sorted(counts)}")
        content: dict[str, Any] = {
            "columns": COLUMNS,
            "seconds": [round(float(each), 4) for each in self.seconds],
            "films": [
                {"title": film.title, "src": _carried(film.frames), "size": film.frames[0].size} for film in self.films
            ],
            "curves": [
                {
                    "title": curve.title,
                    "tone": curve.tone,
                    "points": [
                        [round(float(t), 4), None if math.isnan(v) else round(float(v), 6)]
                        for t, v in zip(curve.times, curve.values, strict=True)
                    ],
                }
                for curve in self.curves
            ],
            "marks": [[round(float(t), 4), words] for t, words in self.marks],
            "seen": None if self.seen is None else round(float(self.seen), 4),
            "value": self.value,
        }
        return f'<div class="jh-player" data-show="{html.escape(json.dumps(content))}"></div>'


def _carried(frames: Sequence[Picture]) -> str:
    width, height = frames[0].size
    rows = -(-len(frames) // COLUMNS)
    sheet = Image.new("RGB", (width * min(COLUMNS, len(frames)), height * rows))
    for number, frame in enumerate(frames):
        sheet.paste(frame, (number % COLUMNS * width, number // COLUMNS * height))
    return data_url(sheet)


def player(**settings: Any) -> Any:
    """A gradio component that plays the HTML of a `Show`."""
    import gradio as gr

    start = f"{SCRIPT}\nstart(element); watch('value', () => start(element));"
    return gr.HTML(js_on_load=start, apply_default_css=False, elem_classes=["jh-player-box"], **settings)
