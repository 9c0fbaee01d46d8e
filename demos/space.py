"""A folder that is a Hugging Face Space of the demo: the packages, what they need, and the header that Spaces read."""

from __future__ import annotations

import re
import shutil
from importlib import metadata
from pathlib import Path

from jepa_hub import version

_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc")
_README = """---
title: jepa_hub
emoji: 🧩
colorFrom: indigo
colorTo: green
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app.py
license: apache-2.0
short_description: See what a JEPA sees, expects, and is surprised by
---

# jepa_hub

What models of the JEPA family see in pictures and films, what they expect, and what surprises them. Only the models
that come with the package can be chosen here; `pip install 'jepa-hub[demo]'` and `jepa-hub demo` open any other on
your machine.
"""
_APP = '''"""The Space: the demo, locked to the models that come with it."""

import os

from demos.app import Settings, serve

host = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
port = int(os.environ["GRADIO_SERVER_PORT"]) if "GRADIO_SERVER_PORT" in os.environ else None
if __name__ == "__main__":  # scenes are simulated in another process, which imports this file
    serve(Settings(host=host, port=port, locked=True, root_path=os.environ.get("GRADIO_ROOT_PATH")))
'''


def write_space(folder: Path) -> Path:
    """The folder, ready to be pushed to a Space with the SDK gradio; it can be tried with `python app.py`.

    Raises:
        ValueError: there is something in the folder that is no Space of ours.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / "demos" / "space.py").is_file():
        raise ValueError(f"{folder} is not empty: name a folder that is not there yet")
    folder.mkdir(parents=True, exist_ok=True)
    for source in (Path(version.__file__).parent, Path(__file__).parent):
        target = folder / source.name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, ignore=_LEFT_OUT)
    (folder / "README.md").write_text(_README.format(gradio=metadata.version("gradio")), encoding="utf-8")
    (folder / "app.py").write_text(_APP, encoding="utf-8")
    (folder / "requirements.txt").write_text("".join(f"{each}\n" for each in requirements()), encoding="utf-8")
    return folder


def requirements() -> list[str]:
    """What the package and its extra `demo` need, in the versions installed here; gradio comes with a Space."""
    found = []
    for line in metadata.requires("jepa-hub") or []:
        name = re.split(r"[^\w.-]", line)[0]
        if ("extra ==" not in line or re.search(r"extra == .demo.", line)) and name != "gradio":
            version = metadata.version(name).split("+")[0]  # no local tag such as +cpu
            found.append(f"{name}=={version}")
    return sorted(set(found))
