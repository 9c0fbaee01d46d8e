"""A Hugging Face Hub on 127.0.0.1 for tests: push, pull, revisions, pull requests, errors, failures on demand.

Load it as a pytest plugin (`pytest_plugins = ["tests.hub_server"]` in tests/conftest.py), before anything imports
huggingface_hub, which reads its environment once, at import. Loading sets that environment: HF_ENDPOINT names a port
of this machine that is reserved but closed, HF_HOME is a temporary folder, and HF_HUB_OFFLINE=1, so that a test that
did not ask for a Hub fails at once instead of retrying. The fixtures:

- `hub`: starts the server (once per session), empties it and the cache, and takes this test online to it.
- `offline`: a context manager, `with offline() as requests:`, in which huggingface_hub and transformers work as under
  HF_HUB_OFFLINE=1 (both read `huggingface_hub.constants.HF_HUB_OFFLINE` at each request) and the server refuses what
  reaches it all the same; `requests` lists it, and should stay empty.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import uvicorn

from tests.hub_routes import application
from tests.hub_store import Hub, Request

ROOT = Path(__file__).resolve().parent.parent


def _reserve_port() -> socket.socket:
    """A bound socket that does not listen: connections are refused at once until the server takes it over."""
    reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    reserved.bind(("127.0.0.1", 0))
    return reserved


def _set_environment(url: str, token: str) -> Path:
    """Point huggingface_hub at the server and at an empty home; returns that home, removed at exit."""
    if "huggingface_hub" in sys.modules:
        raise RuntimeError(
            "huggingface_hub was imported before tests.hub_server, and has read HF_ENDPOINT already: "
            "load the plugin first (pytest_plugins in tests/conftest.py) and import huggingface_hub after it"
        )
    home = Path(tempfile.mkdtemp(prefix="jepa_hub_test_home_"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGINGFACE_", "TRANSFORMERS_"))]:
        del os.environ[name]  # a developer's own cache, token or endpoint must not decide a test
    os.environ |= {
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_TOKEN": token,
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_XET": "1",  # xet has a protocol of its own, which this server does not speak
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
    return home


_SOCKET = _reserve_port()
_HUB = Hub(f"http://127.0.0.1:{_SOCKET.getsockname()[1]}")
_HOME = _set_environment(_HUB.url, _HUB.token)


class _Impatient:
    """The module `time` whose sleep does not: stands in for it where huggingface_hub waits between retries."""

    def __getattr__(self, name: str) -> object:
        return getattr(time, name)

    @staticmethod
    def sleep(seconds: float) -> None:
        """Return at once."""


@pytest.fixture(scope="session")
def _hub_server() -> Iterator[Hub]:
    server = uvicorn.Server(uvicorn.Config(application(_HUB), log_level="critical", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [_SOCKET]}, name="hub", daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise RuntimeError(f"the test Hub did not start at {_HUB.url}")
        time.sleep(0.01)
    yield _HUB
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def hub(_hub_server: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The local Hub, empty, with an empty cache, online for this test and for the processes it starts."""
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http

    _hub_server.reset()
    for left in _HOME.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    for module in (_http, file_download):
        monkeypatch.setattr(module, "time", _Impatient())
    return _hub_server


@contextmanager
def _offline(hub: Hub) -> Iterator[list[Request]]:
    from huggingface_hub import constants

    made: list[Request] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        patch.setenv("HF_HUB_OFFLINE", "1")  # for the processes a test starts
        patch.setattr(hub, "refusing", True)
        patch.setattr(hub, "requests", made)
        yield made
    hub.requests.extend(made)


@pytest.fixture
def offline(hub: Hub) -> Callable[[], AbstractContextManager[list[Request]]]:
    """A context manager for the part of a test that must make no request; gives the list of those made all the same."""
    return lambda: _offline(hub)


def run_python(
    arguments: Sequence[str], *, offline: bool | None = None, timeout: float = 120, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a fresh interpreter, `python *arguments`, in the environment of the tests; text output is captured.

    Args:
        arguments: for instance ["-c", code] or ["-m", "jepa_hub.cli", "--help"].
        offline: HF_HUB_OFFLINE for it; None: as this test has it (offline, or online to the fixture `hub`).
        timeout: seconds.
        environment: further variables.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    variables = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    if offline is not None:
        variables["HF_HUB_OFFLINE"] = str(int(offline))
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=variables | environment, capture_output=True, text=True, timeout=timeout)
