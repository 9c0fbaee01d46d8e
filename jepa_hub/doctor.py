"""What `jepa-hub doctor` looks at: what is installed, whether it fits together, and the command that mends it.

Nothing is downloaded and nothing is changed. Modules that may be broken are imported in a process of their own.
"""

from __future__ import annotations

import ctypes.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

Status = Literal["ok", "absent", "warning", "error"]
MINIMUM_PYTHON = (3, 11)
MINIMUM_FREE_GB = 12  # the largest single weight file is about 10 GB
# What a package of pyproject.toml is for, in the order of the report. Absent extras are not errors.
PURPOSE = {
    "torch": "models",
    "transformers": "loading and saving models",
    "safetensors": "weights",
    "huggingface_hub": "downloads and uploads",
    "numpy": "arrays",
    "pillow": "images",
    "av": "video",
    "matplotlib": "plots",
    "tqdm": "progress bars",
    "typer": "this command",
    "accelerate": "training",
    "kornia": "augmentation",
    "datasets": "training data",
    "webdataset": "training data",
    "diffusers": "the latents of diffusion models",
    "pydantic": "recipes",
    "pyyaml": "recipes",
    "scikit-learn": "probes",
    "peft": "fine-tuning adapters",
    "tensorboard": "training curves",
    "onnx": "ONNX export",
    "onnxscript": "ONNX export",
    "onnxruntime": "running exported models",
    "onnxruntime-gpu": "running exported models on a GPU",
    "mujoco": "simulated physics",
    "gradio": "demos",
    "torchcodec": "video decoding on a GPU",
    "pyarrow": "parquet output of `jepa-hub embed`",
}
OPTIONAL: dict[str, tuple[str, None]] = {
    "pyarrow": (">=16", None),
    "peft": (">=0.18", None),
}  # in no extra of their own
TWIN = {"onnxruntime": "onnxruntime-gpu", "onnxruntime-gpu": "onnxruntime"}  # they overwrite each other's files


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    topic: str
    status: Status
    text: str
    fix: str = ""  # the command that mends it, or what to do


def examine() -> list[Finding]:
    """Every check, in the order of the report."""
    wanted = requirements()
    findings = [check_python(), *check_packages(wanted)]
    for check in (
        check_torch, check_torchvision, check_onnxruntime, check_video, check_torchcodec, check_physics,
        check_programs, check_hub,
    ):  # fmt: skip
        findings += check()
    return findings


def report(findings: list[Finding]) -> str:
    """The findings as aligned text, worst last, each with its fix."""
    marks = {"ok": "ok", "absent": "-", "warning": "warning", "error": "ERROR"}
    width = max(len(finding.topic) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.topic:<{width}}  {marks[finding.status]:<7}  {finding.text}")
        if finding.fix:
            lines.append(f"{'':<{width}}           -> {finding.fix}")
    count = {status: sum(finding.status == status for finding in findings) for status in marks}
    absent = f", {count['absent']} optional parts absent" if count["absent"] else ""
    lines.append(f"\n{_plural(count['error'], 'error')}, {_plural(count['warning'], 'warning')}{absent}")
    return "\n".join(lines)


def as_json(findings: list[Finding]) -> dict[str, Any]:
    """The findings as plain data."""
    return {
        "ok": not has_errors(findings),
        "platform": platform.platform(),
        "findings": [asdict(finding) for finding in findings],
    }


def has_errors(findings: list[Finding]) -> bool:
    """Whether something is broken (an absent optional part is not)."""
    return any(finding.status == "error" for finding in findings)


# What is asked of the machine; each is one call that a test can replace -----------------------------------------------
def installed(distribution: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def run_python(code: str) -> tuple[bool, str]:
    """Run code in a fresh interpreter: (it worked, its output or the last line of its error)."""
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return False, "did not finish within two minutes"
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else ""


def find_library(name: str) -> str | None:
    """The system library of that name, or None."""
    return ctypes.util.find_library(name)


def requirements() -> dict[str, tuple[str, str | None]]:
    """Distribution -> (version specifier, extra or None), of the installed package or of the checkout it runs from."""
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires("jepa-hub") or []
    except metadata.PackageNotFoundError:
        lines = list(_checkout_requirements())
    wanted: dict[str, tuple[str, str | None]] = {}
    for line in lines:
        requirement = Requirement(line)
        extra = next((e for e in _EXTRAS if f'extra == "{e}"' in str(requirement.marker)), None)
        name = requirement.name.lower().replace("_", "-")
        key = "huggingface_hub" if name == "huggingface-hub" else name
        if requirement.marker is None or extra is not None:
            wanted.setdefault(key, (str(requirement.specifier), extra))
    return wanted


_EXTRAS = ("train", "export", "export-gpu", "physics", "demo", "video-gpu")


def _checkout_requirements() -> Iterator[str]:
    import tomllib

    file = Path(__file__).resolve().parent.parent / "pyproject.toml"
    if not file.is_file():
        return
    project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    yield from project["dependencies"]
    for extra, lines in project["optional-dependencies"].items():
        yield from (f'{line}; extra == "{extra}"' for line in lines)


# Checks ---------------------------------------------------------------------------------------------------------------
def check_python() -> Finding:
    """The interpreter."""
    version = platform.python_version()
    if sys.version_info[:2] < MINIMUM_PYTHON:
        need = ".".join(map(str, MINIMUM_PYTHON))
        return Finding("python", "error", f"{version}, but {need} or newer is needed", f"install Python {need}")
    return Finding("python", "ok", f"{version} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores")


def check_packages(wanted: Mapping[str, tuple[str, str | None]]) -> list[Finding]:
    """The packages of pyproject.toml, present ones first; what an extra lacks is one line with one command."""
    present, lacking = [], dict[str, list[str]]()
    for name in PURPOSE:
        specifier, extra = wanted.get(name, OPTIONAL.get(name, ("", None)))
        if installed(name) is not None or not (extra or name in OPTIONAL):
            present.append(check_package(name, specifier))
        elif name not in TWIN or installed(TWIN[name]) is None:  # never advise a second onnxruntime
            extra = "export-gpu" if extra == "export" and installed("onnxruntime-gpu") else extra
            lacking.setdefault(extra or "", []).append(name)
    return present + [_absent(extra, names) for extra, names in lacking.items()]


def check_package(name: str, specifier: str) -> Finding:
    """One package: there, and new enough."""
    from packaging.specifiers import SpecifierSet

    version, purpose = installed(name), PURPOSE[name]
    if version is None:
        return Finding(name, "error", f"missing; needed for {purpose}", f'pip install "{name}{specifier}"')
    if not SpecifierSet(specifier).contains(version, prereleases=True):
        text = f"{version}, but {specifier} is needed for {purpose}"
        return Finding(name, "error", text, f'pip install --upgrade "{name}{specifier}"')
    return Finding(name, "ok", f"{version}  {purpose}")


def _absent(extra: str, names: list[str]) -> Finding:
    if not extra:
        return Finding(names[0], "absent", PURPOSE[names[0]], f'pip install "{names[0]}{OPTIONAL[names[0]][0]}"')
    purposes = ", ".join(dict.fromkeys(PURPOSE[name] for name in names))
    return Finding(
        f"extra {extra}", "absent", f"lacks {', '.join(names)} ({purposes})", f'pip install "jepa-hub[{extra}]"'
    )


def check_torch() -> list[Finding]:
    """Whether torch imports, and which device it computes on."""
    if installed("torch") is None:
        return []  # already reported as a missing package
    code = (
        "import torch; c = torch.cuda; n = c.device_count() if c.is_available() else 0; "
        "print(torch.version.cuda or torch.version.hip or '', n, torch.backends.mps.is_available(), "
        "', '.join(sorted({c.get_device_name(i) for i in range(n)})), sep='|')"
    )
    worked, output = run_python(code)
    if not worked:
        text = f"torch is installed but does not import: {output}"
        return [Finding("device", "error", text, "pip install --force-reinstall torch")]
    cuda, count, mps, names = output.split("|", 3)
    if int(count):
        return [Finding("device", "ok", f"{count} GPU(s): {names} (CUDA {cuda})")]
    if mps == "True":
        return [Finding("device", "ok", "Apple GPU (mps)")]
    if shutil.which("nvidia-smi") and not cuda:
        text = "this machine has an NVIDIA driver, but torch is a CPU build"
        return [Finding("device", "warning", text, "see https://pytorch.org/get-started for the CUDA build of torch")]
    if shutil.which("nvidia-smi"):
        text = f"torch is built for CUDA {cuda} but sees no GPU (CUDA_VISIBLE_DEVICES, or a driver too old?)"
        return [Finding("device", "warning", text, "run nvidia-smi and compare its CUDA version with torch's")]
    return [Finding("device", "ok", "CPU only")]


def check_torchvision() -> list[Finding]:
    """A torchvision that does not match torch breaks transformers while it is merely present."""
    version = installed("torchvision")
    if version is None:
        return []
    worked, output = run_python("import torchvision")
    if worked:
        return [Finding("torchvision", "ok", f"{version}  not needed by jepa_hub")]
    text = (
        f"{version} does not work beside torch {installed('torch')} ({output}); while it is present, transformers "
        "cannot import its models either. jepa_hub does not need it"
    )
    return [Finding("torchvision", "error", text, "pip uninstall torchvision")]


def check_onnxruntime() -> list[Finding]:
    """The two onnxruntime packages share one folder; together, or after removing one, they are broken."""
    cpu, gpu = installed("onnxruntime"), installed("onnxruntime-gpu")
    if cpu and gpu:
        text = f"onnxruntime {cpu} and onnxruntime-gpu {gpu} overwrite each other's files; keep one"
        fix = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu   (or onnxruntime)"
        return [Finding("onnxruntime", "error", text, fix)]
    if not (cpu or gpu):
        return []
    name = "onnxruntime" if cpu else "onnxruntime-gpu"
    worked, output = run_python("import onnxruntime; print(onnxruntime.__version__)")
    if worked:
        return []
    text = f"{name} is installed but broken ({output}), as after removing its twin package"
    return [Finding("onnxruntime", "error", text, f"pip install --force-reinstall --no-deps {name}")]


def check_video() -> list[Finding]:
    """PyAV's FFmpeg and its H.264 decoder."""
    if installed("av") is None:
        return []
    code = (
        "import av; v = av.library_versions['libavcodec']; print('.'.join(map(str, v)), 'h264' in av.codecs_available)"
    )
    worked, output = run_python(code)
    if not worked:
        return [Finding("video", "error", f"PyAV does not import: {output}", "pip install --force-reinstall av")]
    version, has_h264 = output.split()
    if has_h264 != "True":
        fix = "pip install --force-reinstall --only-binary av av"
        return [Finding("video", "warning", "this PyAV cannot decode H.264 (a build without it)", fix)]
    return [Finding("video", "ok", f"PyAV decodes H.264 (libavcodec {version})")]


def check_torchcodec() -> list[Finding]:
    """An optional torchcodec that is installed but cannot load its libraries."""
    if installed("torchcodec") is None:
        return []
    worked, output = run_python("import torchcodec.decoders")
    if worked:
        return []
    text = f"installed, but does not load: {output}. Videos are decoded by PyAV"
    fix = "install a system FFmpeg (apt-get install ffmpeg) and a torchcodec made for this torch, or remove torchcodec"
    return [Finding("torchcodec", "warning", text, fix)]


def check_physics() -> list[Finding]:
    """MuJoCo renders through EGL or OSMesa."""
    if installed("mujoco") is None:
        return []
    libraries = [name for name in ("EGL", "OSMesa") if find_library(name)]
    if libraries or platform.system() != "Linux":
        return [Finding("rendering", "ok", f"{' and '.join(libraries) or platform.system()} for mujoco")]
    text = "mujoco is installed, but neither EGL nor OSMesa is: simulated worlds cannot be rendered"
    return [Finding("rendering", "warning", text, "apt-get install libegl1   (or libosmesa6)")]


def check_programs() -> list[Finding]:
    """Programs that some parts can use."""
    findings = []
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    for name, path, purpose, command in (
        ("ffmpeg", shutil.which("ffmpeg"), "torchcodec only; PyAV brings its own", "apt-get install ffmpeg"),
        ("chromium", browser, "browser tests of the demos", "apt-get install chromium"),
    ):
        status: Status = "ok" if path else "absent"
        findings.append(Finding(name, status, purpose, "" if path else command))
    return findings


def check_hub() -> list[Finding]:
    """Where downloads go, whether they fit, and whether the Hub may be asked at all."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    findings = []
    free = shutil.disk_usage(existing).free / 1e9
    if not os.access(existing, os.W_OK):
        text = f"{cache} cannot be written: models cannot be downloaded"
        findings.append(Finding("model cache", "error", text, "set HF_HOME to a folder you may write"))
    elif free < MINIMUM_FREE_GB:
        text = f"{cache} has {free:.1f} GB free; the largest weights need {MINIMUM_FREE_GB}"
        findings.append(Finding("model cache", "warning", text, "free some space, or set HF_HOME to another disk"))
    else:
        findings.append(Finding("model cache", "ok", f"{cache}, {free:.0f} GB free"))
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        findings.append(
            Finding("hub", "warning", "HF_HUB_OFFLINE is set: only cached models load", "unset HF_HUB_OFFLINE")
        )
    return findings


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
