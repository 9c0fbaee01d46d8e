"""The doctor: what it finds on a broken machine, and that its advice is safe."""

from __future__ import annotations

import os
import platform
import shutil
import tomllib
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from jepa_hub import doctor
from jepa_hub.doctor import Finding
from tests.hub_server import ROOT

GOOD = {
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "safetensors": "0.8.0",
    "huggingface_hub": "2.4.0",
    "numpy": "2.4.6",
    "pillow": "12.3.0",
    "av": "18.1.0",
    "matplotlib": "3.11.2",
    "tqdm": "4.70.1",
    "typer": "0.29.2",
}
Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """Pretend what is installed, what runs and what the system has; by default a sound CPU machine."""

    def pretend(
        packages: dict[str, str] | None = None,
        runs: dict[str, tuple[bool, str]] | None = None,
        programs: tuple[str, ...] = (),
        libraries: tuple[str, ...] = (),
    ) -> None:
        answers = {"torch.version": (True, "|0|False|"), "av.library": (True, "62.28.102 True"), **(runs or {})}

        def run_python(code: str) -> tuple[bool, str]:
            return next((answer for part, answer in answers.items() if part in code), (True, "1.0"))

        installed = {**GOOD, **(packages or {})}
        monkeypatch.setattr(doctor, "installed", lambda name: installed.get(name) or None)
        monkeypatch.setattr(doctor, "run_python", run_python)
        monkeypatch.setattr(doctor, "find_library", lambda name: name if name in libraries else None)
        monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name in programs else None)
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        monkeypatch.delenv("HF_HUB_CACHE", raising=False)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        disk = namedtuple("disk", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: disk(10**12, 0, 10**12))

    pretend()
    return pretend


def finding(topic: str) -> Finding:
    (found,) = [each for each in doctor.examine() if each.topic == topic]
    return found


def test_a_sound_machine_has_no_errors(machine: Machine) -> None:
    findings = doctor.examine()
    assert not doctor.has_errors(findings) and not any(each.status == "warning" for each in findings)
    text = doctor.report(findings)
    assert "0 errors, 0 warnings" in text and "device" in text and "CPU only" in text
    data = doctor.as_json(findings)
    assert data["ok"] is True and data["findings"][0]["topic"] == "python"


def test_requirements_are_those_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {Requirement(line).name: str(Requirement(line).specifier) for line in project["dependencies"]}
    found = doctor.requirements()
    assert {name: found[name] for name in declared} == {name: (text, None) for name, text in declared.items()}
    assert set(declared) <= set(doctor.PURPOSE)
    for extra in ("train", "export", "export-gpu", "physics", "demo", "video-gpu"):
        names = {Requirement(line).name for line in project["optional-dependencies"][extra]}
        assert names <= set(doctor.PURPOSE) and names <= set(found), extra


def test_a_missing_package_is_an_error_with_its_command(machine: Machine) -> None:
    machine({"av": ""})
    found = finding("av")
    assert found.status == "error" and found.fix.startswith('pip install "av>=')


def test_an_old_package_is_an_error_with_its_command(machine: Machine) -> None:
    machine({"transformers": "4.57.0"})
    found = finding("transformers")
    assert (
        found.status == "error" and "4.57.0" in found.text and found.fix == 'pip install --upgrade "transformers>=5.23"'
    )


def test_absent_extras_are_one_line_each_and_no_error(machine: Machine) -> None:
    found = finding("extra train")
    assert found.status == "absent" and "kornia" in found.text and found.fix == 'pip install "jepa-hub[train]"'
    assert finding("extra demo").fix == 'pip install "jepa-hub[demo]"'


def test_both_onnxruntimes_are_an_error(machine: Machine) -> None:
    machine({"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"})
    found = [each for each in doctor.examine() if each.topic == "onnxruntime" and each.status == "error"]
    assert len(found) == 1 and "overwrite each other" in found[0].text and "pip uninstall" in found[0].fix


@pytest.mark.parametrize(("here", "twin"), [("onnxruntime", "onnxruntime-gpu"), ("onnxruntime-gpu", "onnxruntime")])
def test_a_second_onnxruntime_is_never_advised(machine: Machine, here: str, twin: str) -> None:
    machine({here: "1.31.1"})
    for each in doctor.examine():
        assert each.topic != twin and f"lacks {twin}" not in each.text
        assert "[export]" not in each.fix if here == "onnxruntime-gpu" else "[export-gpu]" not in each.fix


def test_an_onnxruntime_broken_by_its_twin(machine: Machine) -> None:
    machine({"onnxruntime": "1.32.0"}, {"import onnxruntime": (False, "AttributeError: no __version__")})
    found = [each for each in doctor.examine() if each.status == "error"]
    assert len(found) == 1 and "--force-reinstall" in found[0].fix


def test_a_torchvision_of_another_torch_is_an_error_and_explained(machine: Machine) -> None:
    machine({"torchvision": "0.28.0"}, {"import torchvision": (False, "RuntimeError: operator torchvision::nms")})
    found = finding("torchvision")
    assert found.status == "error" and "torchvision::nms" in found.text and "transformers" in found.text
    assert found.fix == "pip uninstall torchvision"
    machine({"torchvision": "0.28.0"})
    assert finding("torchvision").status == "ok"


@pytest.mark.parametrize(
    ("answer", "programs", "status", "words"),
    [
        ((True, "13.0|2|False|NVIDIA H200"), (), "ok", "2 GPU(s): NVIDIA H200 (CUDA 13.0)"),
        ((True, "|0|True|"), (), "ok", "mps"),
        ((True, "|0|False|"), ("nvidia-smi",), "warning", "CPU build"),
        ((True, "13.0|0|False|"), ("nvidia-smi",), "warning", "sees no GPU"),
        ((False, "ImportError: libcudart.so.13"), (), "error", "does not import: ImportError"),
    ],
)
def test_devices(
    machine: Machine, answer: tuple[bool, str], programs: tuple[str, ...], status: str, words: str
) -> None:
    machine(runs={"torch.version": answer}, programs=programs)
    found = finding("device")
    assert found.status == status and words in found.text


def test_video(machine: Machine) -> None:
    machine(runs={"av.library": (True, "62.1 False")})
    assert finding("video").status == "warning"
    machine({"torchcodec": "0.17.0"}, {"torchcodec": (False, "OSError: libnvrtc.so.13")})
    (broken,) = [each for each in doctor.examine() if each.topic == "torchcodec" and each.status == "warning"]
    assert "libnvrtc" in broken.text and "PyAV" in broken.text


def test_mujoco_without_a_gl_library(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    machine({"mujoco": "4.0.0"})
    assert finding("rendering").status == "warning" and "libegl1" in finding("rendering").fix
    machine({"mujoco": "4.0.0"}, libraries=("EGL",))
    assert finding("rendering").status == "ok"


def test_an_old_python(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MINIMUM_PYTHON", (9, 0))
    assert finding("python").status == "error"


def test_the_model_cache(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "not" / "yet" / "there"))
    assert finding("model cache").status == "ok"
    disk = namedtuple("disk", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk(10**12, 0, 10**9))
    assert finding("model cache").status == "warning" and "1.0 GB free" in finding("model cache").text
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert finding("model cache").status == "error"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert finding("hub").status == "warning"


def test_what_is_asked_of_the_machine_is_answered() -> None:
    assert doctor.installed("numpy") and doctor.installed("no-such-distribution") is None
    assert doctor.run_python("print('a'); print('b')") == (True, "b")
    worked, error = doctor.run_python("import no_such_module")
    assert not worked and error.startswith("ModuleNotFoundError")
