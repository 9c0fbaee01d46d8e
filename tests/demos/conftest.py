"""The demo's server, once per session, with everything that leaves the machine written down."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import REQUIRE_ALL

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"


@dataclass
class Server:
    """A running demo.

    Attributes:
        address: of it.
        folder: that it writes to and serves.
        outgoing: hosts beyond this machine that this process looked up or connected to.
    """

    address: str
    folder: Path
    app: Any
    outgoing: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("gradio", reason="needs gradio: pip install 'jepa-hub[demo]'")
    outgoing: list[str] = []
    connect, lookup = socket.socket.connect, socket.getaddrinfo

    def connected(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _local(address[0]):
            outgoing.append(str(address[0]))
            raise OSError("tests do not leave this machine")
        return connect(self, address)

    def looked_up(host: Any, *rest: Any, **more: Any) -> Any:
        if host is not None and not _local(host):
            outgoing.append(str(host))
            raise socket.gaierror("tests do not leave this machine")
        return lookup(host, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connected)
        patch.setattr(socket, "getaddrinfo", looked_up)
        patch.setenv("GRADIO_TEMP_DIR", "")
        from demos.app import Settings, serve

        app, address = serve(Settings(), wait=False)
        import os

        yield Server(address.rstrip("/"), Path(os.environ["GRADIO_TEMP_DIR"]), app, outgoing)
        app.close()


def _local(host: Any) -> bool:
    text = host.decode() if isinstance(host, bytes) else str(host)
    return text in ("", "localhost", "::1", "0.0.0.0", "::") or text.startswith("127.")


@pytest.fixture
def browser() -> Iterator[Any]:
    """Debian's Chromium, without a screen."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing = "playwright (pip install playwright -c constraints.txt)"
    else:
        missing = "" if Path(CHROMIUM).exists() else "chromium (make system)"
    if missing:
        if REQUIRE_ALL:
            pytest.fail(f"the browser test needs {missing}")
        pytest.skip(f"needs {missing}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture
def film(tmp_path: Path) -> str:
    """A short film: a bright square moves over a dark ground."""
    from demos.examples import write_film

    frames = np.full((20, 64, 80, 3), 40, np.uint8)
    for index, frame in enumerate(frames):
        frame[20:40, 2 * index : 2 * index + 20] = (230, 120, 20)
    return str(write_film(tmp_path / "film.mp4", frames))


@pytest.fixture
def picture(tmp_path: Path) -> str:
    """A picture: left half red, right half blue, with some noise."""
    array = np.zeros((90, 120, 3), np.uint8)
    array[:, :60], array[:, 60:] = (200, 30, 30), (30, 30, 200)
    array += np.random.default_rng(0).integers(0, 30, array.shape, dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "picture.png")
    return str(tmp_path / "picture.png")
