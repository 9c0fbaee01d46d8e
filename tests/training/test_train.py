"""The entry file of the package `training`: how it finds its package, and what it says while it cannot train."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from training import train

FILE = Path(train.__file__)
SHADOW = "raise SystemExit('the wrong training was imported')"


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, timeout=60)


def test_help_names_recipe_and_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        train.main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "vjepa/tiny_worlds" in shown and "key.path=value" in shown


def test_a_run_is_refused_honestly(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        train.main(["vjepa/tiny_worlds", "optim.lr=1e-3"])
    assert stop.value.code == 1
    assert "not part of this version" in capsys.readouterr().err


def test_by_path_in_a_folder_that_has_a_training_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").write_text(SHADOW)
    done = _run([str(FILE), "vjepa/tiny_worlds"], tmp_path)
    assert done.returncode == 1 and "not part of this version" in done.stderr


def test_by_path_puts_the_root_first_and_training_nowhere(tmp_path: Path) -> None:
    code = (
        f"import runpy, sys; sys.path.insert(0, {str(FILE.parent)!r}); runpy.run_path({str(FILE)!r}); print(sys.path)"
    )
    shown = _run(["-c", code], tmp_path).stdout
    assert shown.startswith(f"['{FILE.parent.parent}',") and f"'{FILE.parent}'" not in shown


def test_another_training_that_was_imported_is_named(tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").write_text("")
    launch = f"import sys, runpy, training; sys.argv[1:] = ['x']; runpy.run_path({str(FILE)!r}, run_name='__main__')"
    done = _run(["-c", launch], tmp_path)
    assert done.returncode == 1
    assert str(tmp_path / "training") in done.stderr and "rename that folder" in done.stderr
