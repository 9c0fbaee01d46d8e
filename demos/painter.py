"""A picture in the browser whose patches can be painted over."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from demos.drawing import Picture, data_url

SCRIPT = (Path(__file__).parent / "assets" / "painter.js").read_text(encoding="utf-8")


def to_html(picture: Picture, grid: tuple[int, int], cells: Sequence[int]) -> str:
    """The element that the script of `painter` brings to life.

    Args:
        picture: that is shown.
        grid: (rows, columns) of patches.
        cells: numbers of the patches that are painted over at first.
    """
    content = {
        "src": data_url(picture),
        "size": picture.size,
        "rows": grid[0],
        "columns": grid[1],
        "cells": [int(each) for each in cells],
    }
    return f'<div class="jh-painter" data-show="{html.escape(json.dumps(content))}"></div>'


def cells_of(told: Any, count: int) -> list[int]:
    """Numbers of the painted patches that a browser sent.

    Raises:
        ValueError: it sent something else.
    """
    cells = told.get("cells") if isinstance(told, dict) else None
    if not isinstance(cells, list) or not all(isinstance(each, int) and 0 <= each < count for each in cells):
        raise ValueError(f"expected numbers of patches from 0 to {count - 1}")
    return cells


def painter(**settings: Any) -> Any:
    """A gradio component that shows the HTML of `to_html`; its event `input` tells the painted cells."""
    import gradio as gr

    start = f"{SCRIPT}\nbegin(element); watch('value', () => begin(element));"
    return gr.HTML(js_on_load=start, apply_default_css=False, elem_classes=["jh-painter-box"], **settings)
