"""The server against strangers: what it serves, what it refuses, and that it stays up."""

from __future__ import annotations

import asyncio
import json
import re
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from demos.app import MOST_UPLOAD, WAITING
from demos.examples import scenes
from demos.guard import Guard
from demos.shell import AT_ONCE
from tests.demos.conftest import Server
from tests.demos.test_uploads import bad_files
from tests.hub_server import ROOT

MODEL = "ijepa-tiny-scenes"


def upload(server: Server, path: Path | str, name: str | None = None) -> str:
    """Where the server put a file."""
    content = Path(path).read_bytes()
    answer = httpx.post(f"{server.address}/gradio_api/upload", files={"files": (name or Path(path).name, content)})
    assert answer.status_code == 200, answer.text
    return str(answer.json()[0])


def call(server: Server, data: list[Any], *, name: str = "features", timeout: float = 60) -> tuple[str, Any]:
    """What a function answers to a program: ("complete", outputs) or ("error", why)."""
    started = httpx.post(f"{server.address}/gradio_api/call/{name}", json={"data": data}, timeout=timeout)
    if started.status_code != 200:
        return "error", started.text
    text = httpx.get(f"{server.address}/gradio_api/call/{name}/{started.json()['event_id']}", timeout=timeout).text
    events = re.findall(r"event: (\w+)\ndata: (.*)", text)
    kind, content = next(each for each in events if each[0] in ("complete", "error"))
    return kind, json.loads(content)


def ask(server: Server, path: str, model: str = MODEL) -> tuple[str, Any]:
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    return call(server, [model, [file], 8, 0, 3])


def alive(server: Server) -> bool:
    kind, outputs = ask(server, upload(server, scenes()[0][0]))
    return kind == "complete" and "8 x 8 tokens" in json.dumps(outputs)


def test_it_listens_on_this_machine_only(server: Server) -> None:
    assert server.address.startswith("http://127.0.0.1:")
    assert alive(server)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        str(ROOT / "pyproject.toml"),
        str(ROOT / "jepa_hub" / "weights" / MODEL / "config.json"),
        str(ROOT / "demos" / "data" / "worlds.zip"),
        "../../../../etc/passwd",
        "..%2f..%2f..%2fetc%2fpasswd",
        "file:///etc/passwd",
        "//etc/passwd",
    ],
)
def test_nothing_but_its_own_files_is_served(server: Server, path: str) -> None:
    for route in ("file=", "file/", "static/", "assets/", "custom_component/", "stream/"):
        answer = httpx.get(f"{server.address}/gradio_api/{route}{path}", follow_redirects=False)
        bare = httpx.get(f"{server.address}/{route}{path}", follow_redirects=False)
        for each in (answer, bare):
            assert each.status_code in (403, 404, 405, 422), (route, each.status_code)
            assert "root:" not in each.text and "[project]" not in each.text and "model_type" not in each.text


@pytest.mark.parametrize(
    "path", ["/etc/passwd", str(ROOT / "README.md"), str(ROOT / "demos/data/scenes/00.png"), "../x"]
)
def test_a_program_cannot_name_a_file_of_the_machine(server: Server, path: str) -> None:
    kind, content = ask(server, path)
    assert kind == "error" and "root:" not in json.dumps(content)


@pytest.mark.parametrize(
    "address", ["http://example.com/a.png", "https://169.254.169.254/latest", "http://127.0.0.1:1/a.png", "ftp://a.b/c"]
)
def test_nothing_is_fetched_for_a_program(server: Server, address: str) -> None:
    before = list(server.outgoing)
    kind, content = ask(server, address)
    assert kind == "error" and "not fetched from addresses" in content
    assert server.outgoing == before


@pytest.mark.parametrize("address", ["http://example.com/a.png", "https://example.com/a", "http:%2f%2fexample.com/a"])
def test_nothing_is_fetched_and_passed_on(server: Server, address: str) -> None:
    before = list(server.outgoing)
    for route in ("gradio_api/file=", "file=", "gradio_api/proxy=", "gradio_api/stream/"):
        answer = httpx.get(f"{server.address}/{route}{address}", follow_redirects=False)
        assert answer.status_code == 403 and "fetches nothing" in answer.text, (route, answer.status_code)
    assert server.outgoing == before


def test_a_request_has_a_size(server: Server) -> None:
    kind, content = call(server, ["x" * (5 << 20)])
    assert kind == "error" and "4 MB" in content
    large = httpx.post(f"{server.address}/gradio_api/component_server", json={"data": "x" * (5 << 20)}, timeout=60)
    assert large.status_code == 413 and "4 MB" in large.text


def test_an_upload_has_a_size() -> None:
    """Of all its files together; what one may have is tested below."""
    assert MOST_UPLOAD < 1 << 30
    ended: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(4):
            ended.append(await receive())

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": bytes(400), "more_body": True}

    async def send(message: Any) -> None:
        raise AssertionError(message)

    scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload"}
    asyncio.run(Guard(app, most_upload=1000)(scope, receive, send))
    assert [each["type"] for each in ended] == ["http.request"] * 2 + ["http.disconnect"] * 2


def test_no_function_is_called_past_the_queue(server: Server) -> None:
    for name in ("features", "predict"):
        answer = httpx.post(f"{server.address}/gradio_api/run/{name}", json={"data": [MODEL]}, timeout=30)
        assert answer.status_code >= 400, answer.text


def test_all_tabs_share_one_queue(server: Server) -> None:
    """So that no more than AT_ONCE models run, whoever asks for what."""
    events = [each for each in server.app.fns.values() if each.queue and each.api_name]
    public = [each for each in events if each.api_visibility == "public"]
    assert len(public) >= 5
    assert {(each.concurrency_id, each.concurrency_limit) for each in public} == {("models", AT_ONCE)}


def test_the_page_may_load_nothing_from_elsewhere(server: Server) -> None:
    headers = httpx.get(server.address).headers
    assert headers["content-security-policy"].startswith("default-src 'self' data: blob:")
    assert "frame-ancestors 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    text = httpx.get(server.address).text
    assert 'analytics_enabled":true' not in text.replace(" ", "")


def test_a_name_with_a_path_in_it_stays_inside(server: Server) -> None:
    where = Path(upload(server, scenes()[0][0], "../../../../tmp/escaped.png"))
    assert where.resolve().is_relative_to(server.folder.resolve()) and not Path("/tmp/escaped.png").exists()


def test_too_large_a_file_is_refused(server: Server) -> None:
    answer = httpx.post(
        f"{server.address}/gradio_api/upload", files={"files": ("big.png", b"\0" * (65 << 20))}, timeout=60
    )
    assert answer.status_code == 413
    assert sum(each.stat().st_size for each in server.folder.rglob("*") if each.is_file()) < 60 << 20


def test_bad_files_are_answered_in_words(server: Server, tmp_path: Path, film: str) -> None:
    for name, said in bad_files(tmp_path / "bad", film).items():
        kind, content = ask(server, upload(server, tmp_path / "bad" / name))
        text = json.dumps(content)
        assert kind == "error" and re.search(said, text) and name in text, (name, text)
        assert str(server.folder) not in text and "Traceback" not in text
    assert alive(server)


@pytest.mark.parametrize("name", ["surprise", "predict", "zero_shot", "world"])
def test_every_function_for_programs_checks_its_files(server: Server, tmp_path: Path, film: str, name: str) -> None:
    bad_files(tmp_path / "bad", film)
    before: dict[str, list[Any]] = {
        "surprise": ["vjepa-tiny-worlds", 0], "predict": [MODEL], "zero_shot": ["llip-tiny-scenes"], "world": [MODEL],
    }  # fmt: skip
    after: dict[str, list[Any]] = {"predict": ["centre"], "zero_shot": ["a, b", "{}"], "world": [0, 0, 0, 0]}
    uploaded = {each: upload(server, tmp_path / "bad" / each) for each in ("empty.png", "torn.mp4", "huge.png")}
    for each, path in {**uploaded, "passwd": "/etc/passwd", "x": "../../x"}.items():
        file: Any = {"path": path, "meta": {"_type": "gradio.FileData"}}
        kind, content = call(
            server, [*before[name], [file] if name == "surprise" else file, *after.get(name, [])], name=name
        )
        text = json.dumps(content)
        assert kind == "error" and "root:" not in text and "Traceback" not in text and str(server.folder) not in text
        assert each not in uploaded or each in text or "Invalid file type" in text, text


def test_wrong_arguments_are_answered(server: Server) -> None:
    place = upload(server, scenes()[0][0])
    for data in ([MODEL, None, 8, 0, 3], [MODEL], [MODEL, "x", "y", "z", []]):
        kind, _ = call(server, data)
        assert kind == "error"
    kind, content = ask(server, place, model="no-such-model")
    assert kind == "error" and "no-such-model" in json.dumps(content)
    assert alive(server)


def test_fifty_at_once(server: Server) -> None:
    """Some are answered, the others are told that the queue is full; none is lost, and the server goes on."""
    place = upload(server, scenes()[0][0])
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: ask(server, place), range(50)))
    done = [content for kind, content in answers if kind == "complete"]
    turned_away = [content for kind, content in answers if kind == "error"]
    assert len(done) + len(turned_away) == 50 and len(done) >= AT_ONCE
    assert all("8 x 8 tokens" in json.dumps(content) for content in done)
    assert all("full" in json.dumps(content).lower() for content in turned_away), turned_away[:2]
    assert len(done) >= WAITING  # those in the queue were all answered
    assert alive(server)


@pytest.mark.slow
def test_memory_stays_flat_over_hundreds_of_calls(server: Server) -> None:
    """A soak: gradio keeps the state of the last 64 sessions, so memory may grow until there are as many, not after."""
    place = upload(server, scenes()[0][0])

    def resident(calls: int) -> float:
        assert all(ask(server, place)[0] == "complete" for _ in range(calls))
        pages = int(Path("/proc/self/statm").read_text().split()[1])  # the server runs in this process
        return pages * resource.getpagesize() / 2**20

    full = resident(90)
    assert resident(150) - full < 60


def test_nothing_left_the_machine(server: Server) -> None:
    assert alive(server)
    assert server.outgoing == []
