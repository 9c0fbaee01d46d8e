"""What the tabs have in common on the side of gradio: pickers, examples, errors for people, and how events are tied."""

from __future__ import annotations

import functools
import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from demos import player
from demos.examples import Example
from demos.library import Library, Wanted
from demos.uploads import shown

logger = logging.getLogger(__name__)

_EXPECTED = (ValueError, OSError, ImportError, TypeError)  # of bad input; anything else is a fault of ours
_UPLOADED = ("image", "video")
AT_ONCE = 2  # events that models work on at the same time, whatever tab they come from


class Shell:
    """The parts that tabs are made of.

    Args:
        library: the models.
        folder: of this server; what it writes for the browser is in it, and nothing else of the machine is served.
    """

    gr = gr

    def __init__(self, library: Library, folder: Path) -> None:
        self.library = library
        self.folder = folder

    def new_folder(self) -> Path:
        """An empty folder inside that of the server, with a name nobody can guess."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    # ---------------------------------------------------------------------------------------------------- components

    def picker(self, wanted: Wanted, default: str) -> Any:
        """A list of the models a tab can use; other names can be typed unless the server is locked."""
        names = self.library.names(wanted)
        several = [name for _, name in names]
        box = gr.Dropdown(
            names,
            value=default if default in several else next(iter(several), None),
            label="Model",
            info=None if self.library.locked else "or type a Hub id or a folder, and press Enter",
            allow_custom_value=not self.library.locked,
            filterable=True,
        )
        if not self.library.locked:  # what was downloaded meanwhile
            box.focus(lambda: gr.update(choices=self.library.names(wanted)), None, box, api_visibility="private")
        return box

    def missing(self, family: str, recipe: str) -> None:
        """A line that says how to get a model of a family that none was found of."""
        gr.Markdown(
            f"No model of the family {family} comes with this package or is in the cache. Train one in minutes with "
            f"`jepa-hub train {recipe}` and type its folder below; `jepa-hub list --family {family}` names others.",
            elem_classes=["jh-note"],
        )

    def files(self, label: str, *, several: bool = True, kinds: Sequence[str] = _UPLOADED) -> Any:
        """Where files are dropped; they are opened by `uploads.check` only."""
        return gr.File(
            label=label,
            file_count="multiple" if several else "single",
            file_types=list(kinds),
            type="filepath",
            height=132,
            elem_classes=["jh-drop"],
        )

    def examples(self, several: Sequence[Example], *, columns: int = 3, label: str = "Examples") -> Any:
        """Thumbnails to click."""
        return gr.Gallery(
            [(each.thumbnail, each.title) for each in several],
            label=label,
            columns=columns,
            height="auto",
            object_fit="cover",
            allow_preview=False,
            interactive=False,
            buttons=[],
            format="png",
            elem_classes=["jh-examples"],
        )

    def picture(self, label: str, *, clickable: bool = False, **settings: Any) -> Any:
        """A picture that is shown, and may be clicked."""
        given: dict[str, Any] = {"interactive": False, "buttons": ["download", "fullscreen"], "format": "png"}
        classes = ["jh-picture", *(["jh-clickable"] if clickable else [])]
        given |= {"visible": False, "min_width": 120, "elem_classes": classes, **settings}
        return gr.Image(label=label, **given)

    def player(self, **settings: Any) -> Any:
        """A player, empty and hidden at first."""
        return player.player(**{"visible": False, **settings})

    # -------------------------------------------------------------------------------------------------------- events

    def run(
        self,
        event: Any,
        function: Callable[..., Any],
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        *,
        name: str | None = None,
        tells: bool = True,
        last: bool = False,
    ) -> Any:
        """Tie a function to an event.

        Args:
            event: such as button.click.
            function: takes `tell(share, words)` first where `tells`, then the inputs.
            inputs, outputs: components.
            name: under which programs can call it; None is for the page only.
            last: of events that come while it runs only the last counts, as where a slider is dragged.
        """
        visible: dict[str, Any] = {"api_name": name, **_SHARED} if name else dict(_QUIET)
        if not tells:
            visible["show_progress"] = "minimal"
        if last:
            visible["trigger_mode"] = "always_last"
        return event(_safe(function, tells), list(inputs), list(outputs), **visible)

    def click(self, event: Any, function: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
        """Tie a function to a click into a picture; it takes the place (x, y) first, then the inputs."""

        def clicked(at: gr.SelectData, *given: Any) -> Any:
            return _guarded(function, at.index, *given)

        return event(clicked, list(inputs), list(outputs), show_progress="minimal", **_QUIET)

    def told(self, event: Any, function: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
        """Tie a function to an event of a script of ours; it takes what the browser sent first, then the inputs."""

        def heard(event: gr.EventData, *given: Any) -> Any:
            return _guarded(function, event._data, *given)

        return event(heard, list(inputs), list(outputs), show_progress="minimal", **_QUIET)

    def choose(
        self,
        event: Any,
        several: Sequence[Example],
        function: Callable[..., Any],
        before: Sequence[Any],
        after: Sequence[Any],
        outputs: Sequence[Any],
    ) -> Any:
        """Tie a function to the choice of an example: it takes `tell`, `before`, what the example gives, `after`.

        The browser sends the number of an example, never a path.
        """

        def chosen(at: gr.SelectData, progress: Any = gr.Progress(), *given: Any) -> Any:  # noqa: B008
            ours = list(several[int(at.index)].given)
            return _guarded(function, progress, *given[: len(before)], ours, *given[len(before) :])

        return event(chosen, [*before, *after], list(outputs), **_QUIET)


# One queue: gradio's default limit is for each event on its own, and there are dozens.
_SHARED: dict[str, Any] = {"concurrency_id": "models", "concurrency_limit": AT_ONCE}
_QUIET: dict[str, Any] = {"api_visibility": "private", **_SHARED}


def _safe(function: Callable[..., Any], tells: bool) -> Callable[..., Any]:
    if tells:

        @functools.wraps(function)
        def told(progress: Any = gr.Progress(), *given: Any) -> Any:  # noqa: B008 - gradio looks for this default
            return _guarded(function, progress, *given)

        vars(told).pop("__wrapped__")  # gradio must see this signature, not the function's
        return told

    @functools.wraps(function)
    def plain(*given: Any) -> Any:
        return _guarded(function, *given)

    vars(plain).pop("__wrapped__")
    return plain


def _guarded(function: Callable[..., Any], *given: Any) -> Any:
    """What a function returns, or an error in words for the person who sees it; a fault of ours is logged in full."""
    try:
        return function(*given)
    except gr.Error:
        raise
    except _EXPECTED as error:
        raise gr.Error(shown(error), duration=12, print_exception=False) from error
    except Exception as error:
        logger.exception("the demo failed")
        raise gr.Error("this failed on our side; the log of the server says why", print_exception=False) from error
