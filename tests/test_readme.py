"""Every block of the README runs: Python as it stands, commands as a user types them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from jepa_hub.cli import app
from tests.documents import blocks

PYTHON = [block.text for block in blocks("README.md") if block.language == "python"]
COMMANDS = [
    words
    for block in blocks("README.md")
    if block.language == "bash" and block.runs
    for words in block.lines
    if words[0] == "jepa-hub"
]


@pytest.mark.parametrize("block", PYTHON, ids=range(len(PYTHON)))
def test_python(block: str, workplace: Path) -> None:
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
    results = [value for value in names.values() if isinstance(value, torch.Tensor) or hasattr(value, "tokens")]
    for result in results:
        tensor = getattr(result, "tokens", result)
        assert tensor.isfinite().all()
    assert results or "from_pretrained" in block


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands(command: list[str], workplace: Path) -> None:
    result = CliRunner().invoke(app, command[1:])
    expected = (0, 1) if "doctor" in command else (0,)  # doctor reports what this machine lacks
    assert result.exit_code in expected, result.output + repr(result.exception)
    assert result.output.strip()


def test_the_first_screen_is_two_commands() -> None:
    assert blocks("README.md")[0].lines == [["make", "demo"], ["make", "test"]]


def test_what_the_readme_says_is_there() -> None:
    assert len(PYTHON) >= 4 and len(COMMANDS) >= 6
