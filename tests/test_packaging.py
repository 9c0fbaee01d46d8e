"""What the wheel holds, and that it installs and runs in an environment of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tests.documents import write_clip
from tests.hub_server import ROOT

PACKAGES = ["demos", "export", "jepa_hub", "training"]
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.egg-info")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to build from, with strays beside the packages; the checkout gets neither build/ nor *.egg-info."""
    copy = tmp_path_factory.mktemp("source")
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
    return copy


def _build(source: Path, out: Path, kind: str) -> Path:
    command = [sys.executable, "-m", "build", f"--{kind}", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl" if kind == "wheel" else "*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build(source, tmp_path_factory.mktemp("wheel"), "wheel")


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
def test_the_source_distribution_builds_the_same_wheel(source: Path, files: dict[str, bytes], tmp_path: Path) -> None:
    packed = _build(source, tmp_path / "sdist", "sdist")
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    [unpacked] = (tmp_path / "unpacked").iterdir()
    assert {"LICENSE", "README.md", "pyproject.toml", "PKG-INFO", *PACKAGES} <= {
        path.name for path in unpacked.iterdir()
    }
    with zipfile.ZipFile(_build(unpacked, tmp_path / "again", "wheel")) as archive:
        again = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    assert again == {name: data for name, data in files.items() if ".dist-info/" not in name}


@pytest.mark.slow
def test_the_wheel_installs_and_runs_in_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    """With pip and constraints.txt, as the README says, away from the checkout: embed, surprise, two training steps."""
    python = tmp_path / "venv" / "bin" / "python"
    away = tmp_path / "away"
    away.mkdir()
    Image.new("RGB", (80, 64), "orange").save(away / "photo.png")
    write_clip(away / "clip.mp4")
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables |= {"ACCELERATE_USE_CPU": "true", "JEPA_HUB_NO_PROGRESS": "1"}

    def run(*command: str | Path, timeout: float = 120) -> str:
        done = subprocess.run(command, cwd=away, env=variables, capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(sys.executable, "-m", "venv", python.parent.parent)
    command = python.parent / "jepa-hub"
    run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", f"{wheel}[train]", timeout=1500)
    run(python, "-m", "pip", "check")
    where = run(
        python, "-c", "import jepa_hub; print(jepa_hub.__file__); print(jepa_hub.JEPAModel, jepa_hub.CHECKPOINTS)"
    )
    assert where.startswith(str(python.parent.parent))
    shown = run(command, "--help")
    assert all(f" {name} " in shown for name in ("embed", "surprise", "train", "probe", "export", "push", "demo"))
    run(command, "embed", "photo.png", "--model", "ijepa-tiny-scenes", "-o", "vectors.npz", "--quiet")
    run(command, "surprise", "clip.mp4", "--model", "vjepa-tiny-worlds", "-o", "surprise")
    short = ["run.steps=2", "optim.warmup_steps=1", "data.batch_size=4", "data.source.num_samples=8", "run.out=run"]
    run(command, "train", "ijepa/tiny_scenes", *short, timeout=300)
    run(command, "embed", "photo.png", "--model", "run/final", "-o", "own.npz", "--quiet")
    assert (away / "vectors.npz").is_file() and (away / "own.npz").is_file() and (away / "surprise").is_dir()
