"""What the wheel holds, and that it installs and runs in an environment of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.hub_server import ROOT

PACKAGES = ["demos", "export", "jepa_hub", "training"]
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.egg-info")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that the checkout gets neither build/ nor *.egg-info."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=LEFT_OUT)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    for name in ("tests", "benchmarks", "data", "runs"):  # what lies beside the packages must stay out
        (copy / name).mkdir()
        (copy / name / "stray.py").write_text("")
    weights = copy / "jepa_hub" / "weights" / "made-up-model"
    weights.mkdir(parents=True)
    (weights / "config.json").write_text("{}")
    (weights / "model.safetensors").write_bytes(b"")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def files(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _metadata(files: dict[str, bytes], name: str) -> str:
    return next(data.decode() for path, data in files.items() if path.endswith(f".dist-info/{name}"))


def test_the_wheel_holds_the_four_packages_and_nothing_else(files: dict[str, bytes]) -> None:
    assert sorted(_metadata(files, "top_level.txt").split()) == PACKAGES
    assert sorted({path.split("/")[0] for path in files if ".dist-info/" not in path}) == PACKAGES


def test_every_module_is_inside(files: dict[str, bytes]) -> None:
    modules = {path.relative_to(ROOT).as_posix() for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    assert modules <= set(files)


def test_data_files_are_inside(files: dict[str, bytes]) -> None:
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(files)
    assert {f"jepa_hub/weights/made-up-model/{name}" for name in ("config.json", "model.safetensors")} <= set(files)
    data = [path for path in (ROOT / "jepa_hub" / "weights").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    data += (ROOT / "training").rglob("*.yaml")
    assert {path.relative_to(ROOT).as_posix() for path in data} <= set(files)


def test_metadata(files: dict[str, bytes]) -> None:
    text = _metadata(files, "METADATA")
    assert (
        "Name: jepa-hub\n" in text and "License-Expression: Apache-2.0\n" in text and "Requires-Python: >=3.11" in text
    )
    assert any(path.endswith("licenses/LICENSE") for path in files)
    assert "jepa-hub = jepa_hub.cli:main" in _metadata(files, "entry_points.txt")
    base = [line for line in text.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    heavy = re.compile(r"torchvision|timm|gradio|onnx|mujoco|accelerate|kornia|decord|scikit", re.IGNORECASE)
    assert base and not [line for line in base if heavy.search(line) or re.search(r"==|<", line)]


def test_extras_never_bring_both_onnxruntimes() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["all"] == ["jepa-hub[train,export,physics,demo]"]
    assert set(extras) == {"train", "export", "export-gpu", "physics", "demo", "video-gpu", "dev", "all"}
    for names in extras.values():
        runtimes = [name for name in names if name.startswith("onnxruntime")]
        assert len(runtimes) <= 1


def test_constraints_carry_no_local_tag_and_name_every_dependency_once() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    names = [re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines]
    assert len(names) == len(set(names))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [
        *project["dependencies"],
        *(name for extra in ("train", "export", "physics", "demo", "dev") for name in extras[extra]),
    ]
    wanted = [name for name in wanted if not name.startswith("jepa-hub[")]
    pinned = {re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", name)[0]).lower() for name in wanted}
    assert pinned <= set(names), pinned - set(names)


@pytest.mark.slow
def test_the_wheel_installs_and_runs_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    """With pip and constraints.txt, as the README says, away from the checkout."""
    python = tmp_path / "venv" / "bin" / "python"
    away = tmp_path / "away"
    away.mkdir()
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command: str | Path, timeout: float = 120) -> str:
        done = subprocess.run(command, cwd=away, env=variables, capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(sys.executable, "-m", "venv", python.parent.parent)
    run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel, timeout=900)
    run(python, "-m", "pip", "check")
    where = run(
        python, "-c", "import jepa_hub; print(jepa_hub.__file__); print(jepa_hub.JEPAModel, jepa_hub.CHECKPOINTS)"
    )
    assert where.startswith(str(python.parent.parent))
    assert "Usage" in run(python.parent / "jepa-hub", "--help")
    assert "recipe" in run(python, "-m", "training.train", "--help")
