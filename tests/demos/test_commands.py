"""The command `jepa-hub demo`, and the Space it writes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
import yaml
from typer.testing import CliRunner

from demos import commands
from demos.space import write_space
from tests.hub_server import ROOT, run_python


def test_it_is_a_command_of_jepa_hub() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, name = project["entry-points"]["jepa_hub.commands"]["demo"].split(":")
    assert module == commands.__name__ and getattr(commands, name) is commands.demo


def invoke(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(commands.demo)
    return CliRunner().invoke(app, list(arguments))


def test_it_serves_where_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    app_module = pytest.importorskip("demos.app")
    seen: list[Any] = []

    class App:
        def block_thread(self) -> None:
            seen.append("waits")

    def serve(settings: Any, wait: bool) -> tuple[App, str]:
        seen.append(settings)
        return App(), "http://x/"

    monkeypatch.setattr(app_module, "serve", serve)
    done = invoke("--port", "7999", "--no-open")
    assert done.exit_code == 0 and "http://x/" in done.output and seen[1] == "waits"
    assert (seen[0].host, seen[0].port, seen[0].share, seen[0].open_browser) == ("127.0.0.1", 7999, False, False)
    assert not seen[0].is_public
    invoke("--host", "0.0.0.0", "--no-open")
    assert seen[2].is_public and app_module.Settings(share=True).is_public


def test_without_gradio_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    done = invoke("--no-open")
    assert isinstance(done.exception, ImportError) and "jepa-hub[demo]" in str(done.exception)


def test_the_functions_of_tabs_need_no_gradio() -> None:
    names = ", ".join(f"demos.tabs.{each.stem}" for each in sorted((ROOT / "demos" / "tabs").glob("[a-z]*.py")))
    done = run_python(["-c", f"import sys; sys.modules['gradio'] = None; import {names}; print('fine')"])
    assert done.stdout.strip() == "fine", done.stderr


def test_a_space_is_one_folder(tmp_path: Path) -> None:
    folder = write_space(tmp_path / "space")
    header = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert header["sdk"] == "gradio" and header["app_file"] == "app.py" and header["license"] == "apache-2.0"
    assert len(header["short_description"]) <= 60
    lines = (folder / "requirements.txt").read_text().splitlines()
    assert {"torch", "transformers", "scikit-learn"} <= {line.split("==")[0] for line in lines}
    assert all("==" in line and "+" not in line for line in lines) and not any("gradio" in line for line in lines)
    assert (folder / "jepa_hub/weights/ijepa-tiny-scenes/model.safetensors").is_file()
    assert write_space(folder) == folder  # again, over itself
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(ValueError, match="not empty"):
        write_space(tmp_path / "mine")


@pytest.mark.slow
def test_a_space_runs_on_its_own(tmp_path: Path) -> None:
    """Away from the checkout, on what is in the folder alone."""
    folder = write_space(tmp_path / "space")
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables |= {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": "7977"}
    code = (
        "import runpy, demos, jepa_hub; print(demos.__file__, jepa_hub.__file__, flush=True); "
        "runpy.run_path('app.py', run_name='__main__')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and process.poll() is None:
            try:
                answer = httpx.get("http://127.0.0.1:7977/", timeout=5)
                break
            except httpx.HTTPError:
                time.sleep(0.5)
        assert answer.status_code == 200 and "jepa_hub" in answer.text
        config = httpx.get("http://127.0.0.1:7977/config").json()
        pickers = [each["props"] for each in config["components"] if each["props"].get("label") == "Model"]
        assert pickers and not any(each["allow_custom_value"] for each in pickers)
    finally:
        process.terminate()
        output = process.communicate(timeout=20)[0].decode()
    assert output.split()[0].startswith(str(folder)) and output.split()[1].startswith(str(folder)), output
