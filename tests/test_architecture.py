"""Who may import whom, checked on the syntax trees; and what `import jepa_hub` and `jepa-hub --help` must not load."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.hub_server import ROOT, run_python

# Package -> the packages of ours that it may import.
PACKAGES = {
    "jepa_hub": "jepa_hub",
    "training": "training jepa_hub",
    "export": "export jepa_hub",
    "demos": "demos jepa_hub",
}


class Layer(NamedTuple):
    """Modules that play one part, the layers they may import besides their own, and whose code else."""

    modules: str
    layers: str
    others: str  # top-level names besides the standard library; "*" is anything but transformers, "**" anything


# The first layer that has a module is its layer. Modules of no layer (the command line and what serves only it) may
# import anything, and no layer may import them.
LAYERS = {
    "ground": Layer("jepa_hub.version jepa_hub.notices jepa_hub.json_files", "", ""),
    "pictures": Layer("jepa_hub.pictures jepa_hub.masking.audit", "features masks ground", "*"),
    "masks": Layer("jepa_hub.masks jepa_hub.masking jepa_hub.masking.*", "ground", "torch"),
    "features": Layer("jepa_hub.features", "ground", "torch"),
    "catalog": Layer("jepa_hub.catalog jepa_hub.catalog_*", "ground", "torch"),
    "photometry": Layer("jepa_hub.photometry", "ground", "torch"),
    "positions": Layer("jepa_hub.nn.positions", "ground", "torch"),
    "nn": Layer("jepa_hub.nn jepa_hub.nn.*", "positions masks ground", "torch"),
    "convert": Layer("jepa_hub.convert jepa_hub.convert.*", "positions ground", "torch"),
    "hub": Layer("jepa_hub.hub jepa_hub.hub_* jepa_hub.card", "catalog convert ground", "*"),
    "media": Layer(
        "jepa_hub.media jepa_hub.media.*",
        "ground",
        "*",
    ),
    "processing": Layer("jepa_hub.processing jepa_hub.processor_*", "catalog hub media masks ground", "*"),
    "models": Layer(
        "jepa_hub.models jepa_hub.models.*",
        "nn positions masks features photometry processing hub convert catalog ground",
        "**",
    ),
    "physics": Layer(
        "jepa_hub.physics jepa_hub.physics.*",
        "models masks features processing media hub catalog pictures ground",
        "**",
    ),
    "objectives": Layer("training.objectives", "", "torch"),
}
COMMAND_LINE = ("jepa_hub.cli", "typer jepa_hub.version")  # module, what it may import outside its functions
LOSSES = re.compile(r"(.*_)?loss(es)?|.*Loss|optim|optimizer")  # jepa_hub has none


class Import(NamedTuple):
    """One imported module: where, and whether it runs when the importing module is imported."""

    source: str
    target: str
    line: int
    at_import: bool


@dataclass(frozen=True)
class Tree:
    """The modules of a source tree by dotted name."""

    root: Path

    @cached_property
    def modules(self) -> dict[str, ast.Module]:
        found = {}
        for package in PACKAGES:
            for path in sorted((self.root / package).rglob("*.py")):
                name = ".".join(path.relative_to(self.root).with_suffix("").parts).removesuffix(".__init__")
                found[name] = ast.parse(path.read_text(encoding="utf-8"))
        return found

    def is_package(self, name: str) -> bool:
        return (self.root / name.replace(".", "/") / "__init__.py").is_file()

    @cached_property
    def imports(self) -> list[Import]:
        return [each for name, module in self.modules.items() for each in self._of(name, module, at_import=True)]

    def _of(self, name: str, node: ast.AST, at_import: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
                continue
            if isinstance(child, ast.Import):
                yield from (Import(name, alias.name, child.lineno, at_import) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                for alias in child.names:
                    inner = f"{child.module}.{alias.name}"
                    target = "." * child.level + (inner if inner in self.modules else child.module or "")
                    yield Import(name, target, child.lineno, at_import)
            deferred = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from self._of(name, child, at_import and not deferred)


def layer_of(module: str) -> str | None:
    return next((name for name, layer in LAYERS.items() if _among(module, layer.modules)), None)


def _among(module: str, patterns: str) -> bool:
    return any(fnmatch(module, pattern) for pattern in patterns.split())


def _top(module: str) -> str:
    return module.split(".")[0]


def packages_keep_apart(tree: Tree) -> Iterator[str]:
    for each in tree.imports:
        if each.target.startswith("."):
            yield f"{each.source}:{each.line} has a relative import; write the whole name"
        elif _top(each.target) in PACKAGES and _top(each.target) not in PACKAGES[_top(each.source)].split():
            yield f"{each.source}:{each.line} imports {each.target}; {_top(each.source)} may not"


def layers_look_down(tree: Tree) -> Iterator[str]:
    for each in tree.imports:
        name = layer_of(each.source)
        if name is None or _top(each.target) in sys.stdlib_module_names:
            continue
        if _top(each.target) in PACKAGES:
            allowed = layer_of(each.target) in {name, *LAYERS[name].layers.split()}
        else:
            others = LAYERS[name].others
            allowed = others == "**" or (others == "*" and _top(each.target) != "transformers")
            allowed |= _top(each.target) in others.split()
        if not allowed:
            yield f"{each.source}:{each.line} imports {each.target}; the layer {name!r} may not"


def command_line_imports_late(tree: Tree) -> Iterator[str]:
    module, allowed = COMMAND_LINE
    for each in tree.imports:
        light = {each.target, _top(each.target)} & {*allowed.split(), *sys.stdlib_module_names}
        if each.source == module and each.at_import and not light:
            yield f"{module}:{each.line} imports {each.target} at the top; import it in the function that needs it"


def no_own_init(tree: Tree) -> Iterator[str]:
    for each in tree.imports:
        if tree.is_package(each.target) and (each.source + ".").startswith(each.target + "."):
            yield f"{each.source}:{each.line} imports its own package {each.target}; import the module with the name"


def no_cycles(tree: Tree) -> Iterator[str]:
    graph: dict[str, set[str]] = {name: set() for name in tree.modules}
    for each in tree.imports:
        parts = each.target.split(".")
        for name in (
            ".".join(parts[:end]) for end in range(1, len(parts) + 1)
        ):  # Python runs every __init__ on the way
            if each.at_import and name in graph and not (each.source + ".").startswith(name + "."):
                graph[each.source].add(name)
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> Iterator[str]:
        if name in path:
            yield "import cycle: " + " -> ".join((*path[path.index(name) :], name))
        elif name not in done:
            for target in sorted(graph[name]):
                yield from visit(target, (*path, name))
            done.add(name)

    for name in graph:
        yield from visit(name, ())


def no_shadows(tree: Tree) -> Iterator[str]:
    taken = sys.stdlib_module_names | dependencies()
    for name in tree.modules:
        if name.split(".")[-1] in taken:
            yield f"{name} has the name of the standard library's or a dependency's {name.split('.')[-1]}"


def dependencies() -> set[str]:
    """The import names of everything that pyproject.toml names, development tools apart."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [names for extra, names in project["optional-dependencies"].items() if extra != "dev"]
    wanted = {re.split(r"[^\w.-]", name)[0].lower() for names in [project["dependencies"], *extras] for name in names}
    installed = {top for top, dists in packages_distributions().items() if wanted & {dist.lower() for dist in dists}}
    return (installed | {name.replace("-", "_") for name in wanted}) - set(PACKAGES)


def models_know_no_losses(tree: Tree) -> Iterator[str]:
    for name, module in tree.modules.items():
        for node in ast.walk(module) if _top(name) == "jepa_hub" else ():
            called = getattr(node, "attr", None) or getattr(node, "id", None) or getattr(node, "name", None)
            if isinstance(called, str) and LOSSES.fullmatch(called):
                yield f"{name}:{getattr(node, 'lineno', 0)} has {called}; objectives and optimizers are training's"


def inits_only_reexport(tree: Tree) -> Iterator[str]:
    for name, module in tree.modules.items():
        for node in module.body if tree.is_package(name) else ():
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                yield f"{name}/__init__.py:{node.lineno} defines {node.name}; move it to a module"


CHECKS: list[Callable[[Tree], Iterator[str]]] = [
    packages_keep_apart,
    layers_look_down,
    command_line_imports_late,
    no_own_init,
    no_cycles,
    no_shadows,
    models_know_no_losses,
    inits_only_reexport,
]
GOOD = {
    "jepa_hub/__init__.py": "def __getattr__(name):\n    from jepa_hub.masks import Masks\n    return Masks",
    "jepa_hub/masks.py": "import math\nimport torch\nfrom torch import Tensor",
    "jepa_hub/nn/__init__.py": "",
    "jepa_hub/nn/block.py": "from jepa_hub.nn import attention\nfrom jepa_hub.masks import Masks",
    "jepa_hub/nn/attention.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import jepa_hub.models.base",
    "jepa_hub/models/__init__.py": "from jepa_hub.models.base import JEPAModel",
    "jepa_hub/models/base.py": "import transformers\nfrom jepa_hub.nn.block import Block",
    "jepa_hub/cli.py": "import typer\ndef main():\n    import torch, jepa_hub.models.base",
    "training/__init__.py": "",
    "training/loop.py": "import accelerate\nfrom jepa_hub import JEPAModel\nloss = 1",
}
# Check -> the smallest trees that break it: file, text, and what the message must say.
BAD: list[tuple[Callable[[Tree], Iterator[str]], str, str, str]] = [
    (packages_keep_apart, "jepa_hub/masks.py", "def f():\n    import training.loop", "imports training.loop"),
    (packages_keep_apart, "export/onnx_file.py", "from training import loop", "imports training.loop"),
    (packages_keep_apart, "demos/app.py", "import export", "imports export"),
    (packages_keep_apart, "jepa_hub/nn/block.py", "from . import attention", "relative"),
    (layers_look_down, "jepa_hub/nn/block.py", "from jepa_hub.models import base", "'nn'"),
    (layers_look_down, "jepa_hub/nn/block.py", "import transformers.utils", "'nn'"),
    (layers_look_down, "jepa_hub/masks.py", "import numpy as np", "'masks'"),
    (layers_look_down, "jepa_hub/masking/samplers.py", "from jepa_hub.nn.block import Block", "'masks'"),
    (layers_look_down, "jepa_hub/features.py", "from jepa_hub.processing import Inputs", "'features'"),
    (layers_look_down, "jepa_hub/catalog.py", "import huggingface_hub", "'catalog'"),
    (layers_look_down, "jepa_hub/catalog_row.py", "from jepa_hub.hub import locate", "'catalog'"),
    (layers_look_down, "jepa_hub/convert/meta.py", "from jepa_hub.nn.block import Block", "'convert'"),
    (layers_look_down, "jepa_hub/hub.py", "def f():\n    from transformers import AutoModel", "'hub'"),
    (layers_look_down, "jepa_hub/hub.py", "from jepa_hub.models.base import JEPAModel", "'hub'"),
    (layers_look_down, "jepa_hub/media/video.py", "from jepa_hub.processing import Inputs", "'media'"),
    (layers_look_down, "jepa_hub/processing.py", "import jepa_hub.models.base", "'processing'"),
    (layers_look_down, "jepa_hub/models/base.py", "from jepa_hub.physics import surprise", "'models'"),
    (layers_look_down, "jepa_hub/models/base.py", "from jepa_hub.cli import main", "'models'"),
    (layers_look_down, "jepa_hub/notices.py", "import torch", "'ground'"),
    (layers_look_down, "training/objectives.py", "from jepa_hub.masks import Masks", "'objectives'"),
    (command_line_imports_late, "jepa_hub/cli.py", "import torch", "imports torch at the top"),
    (command_line_imports_late, "jepa_hub/cli.py", "from jepa_hub.masks import Masks", "jepa_hub.masks at the top"),
    (command_line_imports_late, "jepa_hub/cli.py", "class A:\n    import numpy", "numpy at the top"),
    (no_own_init, "jepa_hub/masks.py", "def f():\n    from jepa_hub import JEPAModel", "package jepa_hub"),
    (no_own_init, "jepa_hub/nn/block.py", "import jepa_hub", "package jepa_hub"),
    (no_own_init, "jepa_hub/models/base.py", "from jepa_hub.models import VJepaModel", "package jepa_hub.models"),
    (no_cycles, "jepa_hub/nn/attention.py", "from jepa_hub.nn.block import Block", "block -> jepa_hub.nn.attention"),
    (no_cycles, "jepa_hub/nn/attention.py", "try:\n    import jepa_hub.models\nexcept ImportError: pass", "cycle"),
    (no_shadows, "jepa_hub/queue.py", "", "queue"),
    (no_shadows, "training/data/datasets.py", "", "datasets"),
    (no_shadows, "jepa_hub/torch/__init__.py", "", "torch"),
    (models_know_no_losses, "jepa_hub/models/base.py", "def masked_loss(x): pass", "masked_loss"),
    (models_know_no_losses, "jepa_hub/models/base.py", "y = F.smooth_l1_loss(a, b)", "smooth_l1_loss"),
    (models_know_no_losses, "jepa_hub/probe.py", "from torch import optim\ncriterion = nn.MSELoss()", "MSELoss"),
    (inits_only_reexport, "jepa_hub/nn/__init__.py", "class Block: pass", "defines Block"),
    (inits_only_reexport, "training/__init__.py", "def train(): pass", "defines train"),
]


def _write(root: Path, files: dict[str, str]) -> Tree:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return Tree(root)


@pytest.mark.parametrize("check", CHECKS)
def test_this_tree(check: Callable[[Tree], Iterator[str]]) -> None:
    assert list(check(Tree(ROOT))) == []


@pytest.mark.parametrize("check", CHECKS)
def test_a_good_tree_passes(check: Callable[[Tree], Iterator[str]], tmp_path: Path) -> None:
    assert list(check(_write(tmp_path, GOOD))) == []


@pytest.mark.parametrize(("check", "file", "text", "said"), BAD)
def test_each_rule_can_fail(
    check: Callable[[Tree], Iterator[str]], file: str, text: str, said: str, tmp_path: Path
) -> None:
    found = list(check(_write(tmp_path, {**GOOD, file: text})))
    assert any(said in each for each in found), found


def test_every_rule_is_tried() -> None:
    assert {check for check, *_ in BAD} == set(CHECKS)


def test_the_tree_is_found() -> None:
    assert {"jepa_hub", "training", "export", "demos"} <= set(Tree(ROOT).modules)
    assert any(each.target == "torch" for each in Tree(ROOT).imports)


def test_public_names_exist_where_they_are_said_to_be() -> None:
    import jepa_hub

    modules = Tree(ROOT).modules
    assert set(jepa_hub._HOME) == set(jepa_hub.__all__) <= set(dir(jepa_hub))
    for name, home in jepa_hub._HOME.items():
        nodes = list(ast.walk(modules[home]))
        defined = {node.name for node in nodes if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
        defined |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        assert name in defined, f"{home} does not define {name}"


def test_a_misspelt_name_gets_the_nearest() -> None:
    import jepa_hub

    for wrong, right in (("JepaModel", "JEPAModel"), ("jepa_processor", "JEPAProcessor"), ("checkpoint", "Checkpoint")):
        with pytest.raises(AttributeError, match=f"did you mean '{right}'"):
            getattr(jepa_hub, wrong)
    with pytest.raises(AttributeError, match="it has CHECKPOINTS"):
        _ = jepa_hub.zzz
    assert not hasattr(jepa_hub, "online_encoder")


def test_import_loads_the_standard_library_only() -> None:
    code = "import sys; before = set(sys.modules); import jepa_hub; print(*sorted(set(sys.modules) - before))"
    loaded = {_top(name) for name in run_python(["-c", code]).stdout.split()}
    assert "jepa_hub" in loaded and loaded - {"jepa_hub"} <= sys.stdlib_module_names


def test_help_loads_nothing_heavy() -> None:
    code = """if True:
        import sys
        sys.argv = ["jepa-hub", "--help"]
        from jepa_hub.cli import main
        try:
            main()
        finally:
            print("LOADED", *sorted({name.split(".")[0] for name in sys.modules}))"""
    done = run_python(["-c", code])
    shown, _, loaded = done.stdout.partition("LOADED")
    assert done.returncode == 0 and "Usage" in shown, done.stderr
    assert not {"torch", "transformers", "numpy", "huggingface_hub"} & set(loaded.split())
