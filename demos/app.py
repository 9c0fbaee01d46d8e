"""The app: its look, its tabs, and a server that serves only what it made or was given."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Read when gradio is imported: no usage reports, no look for newer versions.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr
from starlette.middleware import Middleware

from demos.guard import Guard
from demos.library import Library
from demos.shell import AT_ONCE, Shell
from demos.tabs import features, few_labels, physics, prediction, words, world
from demos.uploads import MAX_UPLOAD

ASSETS = Path(__file__).parent / "assets"
LOCAL = ("127.0.0.1", "localhost", "::1")
WAITING = 24  # requests that wait before more are turned away
MOST_UPLOAD = 256 << 20  # bytes of all files of one upload
KEPT_SECONDS = 3600  # of files that were handed in or made
SYSTEM_FONTS = ["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
MONO_FONTS = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]

TABS: tuple[tuple[str, str, Any], ...] = (
    ("Features", "features", features),
    ("Prediction", "prediction", prediction),
    ("Physics", "physics", physics),
    ("World", "world", world),
    ("Words", "words", words),
    ("Few labels", "few-labels", few_labels),
)


@dataclass(frozen=True)
class Settings:
    """How the demo is served.

    Attributes:
        host, port: where it listens; None is the first free port from 7860.
        share: a public address through gradio's tunnel.
        open_browser: open it when it is up.
        locked: see `Library`; always so where strangers can reach the server.
        root_path: under which a proxy serves it.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    share: bool = False
    open_browser: bool = False
    locked: bool = False
    root_path: str | None = None

    @property
    def is_public(self) -> bool:
        """Whether others than the user of this machine can reach it."""
        return self.share or self.host not in LOCAL


def theme() -> Any:
    """The look, on the fonts of the system: nothing is fetched."""
    base = gr.themes.Soft(
        primary_hue=gr.themes.colors.indigo,
        secondary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        font=SYSTEM_FONTS,
        font_mono=MONO_FONTS,
    )
    plain = {
        f"block_{part}_{name}{dark}": value
        for part in ("title", "label")
        for dark in ("", "_dark")
        for name, value in (
            ("background_fill", "transparent"),
            ("text_color", "*body_text_color"),
            ("border_width", "0px"),
        )
    }
    plain |= {"block_title_padding": "0", "block_title_text_weight": "600", "block_label_text_weight": "600"}
    return base.set(**plain, block_label_shadow="none")


def build_app(library: Library, folder: Path) -> Any:
    """The gradio app.

    Args:
        library: the models.
        folder: for what is written for the browser.
    """
    shell = Shell(library, folder)
    with gr.Blocks(title="jepa_hub", analytics_enabled=False, delete_cache=(600, KEPT_SECONDS)) as app:
        gr.HTML((ASSETS / "header.html").read_text(encoding="utf-8"), apply_default_css=False, js_on_load=None)
        with gr.Tabs(elem_classes=["jh-tabs"]):
            for title, name, module in TABS:
                with gr.Tab(title, id=name, elem_id=f"jh-tab-{name}"):
                    module.build(shell)
    return app


def serve(settings: Settings, *, wait: bool = True) -> tuple[Any, str]:
    """Start the server; the app and its address.

    Args:
        settings: where and for whom.
        wait: stay until it is stopped; otherwise `app.close()` stops it.
    """
    folder = Path(tempfile.mkdtemp(prefix="jepa-hub-demo-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if wait:  # an orderly end, so that the folder goes: docker, systemd and `kill` send this
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    # Uploads and results go where only this server looks, and disappear with it.
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    library = Library(locked=settings.locked or settings.is_public)
    app = build_app(library, folder)
    app.queue(max_size=WAITING, api_open=False, default_concurrency_limit=AT_ONCE, status_update_rate=1)
    _, address, _ = app.launch(
        server_name=settings.host,
        server_port=settings.port,
        share=settings.share,
        inbrowser=settings.open_browser,
        root_path=settings.root_path,
        prevent_thread_lock=True,
        quiet=True,
        show_error=False,
        max_file_size=MAX_UPLOAD,
        allowed_paths=[],
        app_kwargs={"middleware": [Middleware(Guard, most_upload=MOST_UPLOAD, framed=settings.is_public)]},
        state_session_capacity=64,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        footer_links=["api", "settings"],
        favicon_path=str(ASSETS / "favicon.svg"),
        theme=theme(),
        css=(ASSETS / "style.css").read_text(encoding="utf-8"),
    )
    if wait:
        app.block_thread()
    return app, address
