"""Every page: its Python runs from top to bottom, its commands run or are at least real, its YAML is settings.

A page's Python blocks are one script. A command of a block marked `checked` (it needs data, a GPU or a cluster) is
parsed by the program's own parser, so that a flag, a recipe or a setting that does not exist fails here.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
import typer
import yaml
from typer.testing import CliRunner

from jepa_hub import cli
from jepa_hub.cli import app
from tests.documents import VARIANT, Block, blocks, pages
from tests.hub_server import ROOT

DOCS = [page for page in pages() if page.startswith("docs/")]
OWN_TEST = {  # run by a test that also looks at what comes
    "docs/llip.md",  # tests/test_llip_page.py
    "docs/image_world_models.md",  # tests/training/test_iwm_docs.py
}
SLOW_PAGES = {"docs/export.md"}  # its Python stands on files that an export of a minute writes
SLOW_COMMANDS = ("export", "push", "train", "probe", "demo")  # and those of physics but `score`
ALL = [block for page in pages() for block in blocks(page) if block.info != VARIANT]
HERE = [block for block in ALL if block.page in DOCS and block.page not in OWN_TEST and block.runs]
PYTHON = list(dict.fromkeys(block.page for block in HERE if block.language == "python"))
RUN = [block for block in HERE if block.language == "bash" and any(words[0] == "jepa-hub" for words in block.lines)]
CHECKS = [(block.page, words) for block in ALL if block.language in ("bash", "sbatch") for words in block.lines]
YAML = [block for block in ALL if block.language == "yaml"]


@pytest.fixture(autouse=True)
def _commands_of_this_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands that pyproject.toml names, whenever the environment was installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    group = cli.ENTRY_POINTS
    named = {name: EntryPoint(name, where, group) for name, where in project["entry-points"][group].items()}
    found = {**named, **{name: entry for name, entry in cli.extensions().items() if name in cli._OWN}}
    monkeypatch.setattr(cli, "extensions", lambda: found)


def _slow(values: list[Any], is_slow: Callable[[Any], bool]) -> list[Any]:
    return [pytest.param(each, marks=pytest.mark.slow if is_slow(each) else ()) for each in values]


def _name(value: Any) -> str:
    if isinstance(value, Block):
        return f"{value.page}: {' '.join(value.lines[0])[:70]}"
    return value if isinstance(value, str) else f"{value[0]}: {' '.join(value[1])[:70]}"


def _is_slow(block: Block) -> bool:
    ours = [words[1:] for words in block.lines if words[0] == "jepa-hub"]
    return any(words[0] in SLOW_COMMANDS or (words[0] == "physics" and words[1] != "score") for words in ours)


# Python ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("page", _slow(PYTHON, SLOW_PAGES.__contains__), ids=_name)
def test_python(page: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if page in SLOW_PAGES:
        _run([["jepa-hub", "export", "my_model"], ["jepa-hub", "export", "my_model", "--precision", "int8"]])
    names: dict[str, Any] = {"__name__": "page"}
    for number, block in enumerate(each for each in blocks(page) if each.language == "python" and each.runs):
        exec(compile(block.text, f"{page}, Python block {number + 1}", "exec"), names)
    tensors = [getattr(value, "tokens", value) for value in names.values()]
    assert all(each.isfinite().all() for each in tensors if isinstance(each, torch.Tensor) and each.is_floating_point())
    assert not re.search(r"\bnan\b", capsys.readouterr().out)


# Commands -------------------------------------------------------------------------------------------------------------
def _run(commands: list[list[str]]) -> None:
    for words in commands:
        result = CliRunner().invoke(app, words[1:])
        expected = (0, 1) if "doctor" in words else (0,)  # doctor reports what this machine lacks
        assert result.exit_code in expected, f"{shlex.join(words)}\n{result.output}{result.exception!r}"
        assert result.output.strip()


@pytest.mark.parametrize("block", _slow(RUN, _is_slow), ids=_name)
def test_commands_run(block: Block, workplace: Path) -> None:
    """The commands of a block one after the other, as someone would type them."""
    _run([words for words in block.lines if words[0] == "jepa-hub"])


class _Parsed(Exception):
    """A command line was accepted."""


@contextmanager
def _parse_only() -> Iterator[None]:
    """Command lines are parsed, and the program stops there."""
    parse = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> NoReturn:
        parse(self, args, namespace)
        raise _Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        with pytest.raises(_Parsed):
            yield


def _is_a_recipe(words: list[str]) -> None:
    """The words behind training/train.py name a recipe that exists, and settings that it has."""
    from training.recipe import load_recipe
    from training.train import parse

    chosen = parse([re.sub(r"\$\w+", "x", word) for word in words])
    if chosen.recipe not in ("settings.yaml", "my_recipe.yaml"):
        load_recipe(chosen.recipe, chosen.overrides)


def _accelerate(words: list[str]) -> None:
    from accelerate.commands.launch import launch_command_parser

    chosen = launch_command_parser().parse_args([re.sub(r"\$\(\(.*?\)\)|\$\w+", "2", word) for word in words])
    assert chosen.training_script == "training/train.py"
    _is_a_recipe(chosen.training_script_args)


def _torchrun(words: list[str]) -> None:
    from torch.distributed.run import get_args_parser

    chosen = get_args_parser().parse_args(words)
    assert chosen.training_script == "training/train.py"
    _is_a_recipe(chosen.training_script_args)


def _python(words: list[str]) -> None:
    if words[0] == "-m":
        module = importlib.import_module(words[1])
        rest = words[2:]
    else:
        assert (ROOT / words[0]).is_file(), f"there is no {words[0]}"
        spec = importlib.util.spec_from_file_location(Path(words[0]).stem, ROOT / words[0])
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str((ROOT / words[0]).parent))  # where Python looks first for a script run by path
            patch.setitem(sys.modules, spec.name, module)
            spec.loader.exec_module(module)
        rest = words[1:]
    if words[:2] == ["-m", "training.train"]:
        _is_a_recipe(rest)
        return
    if words[:2] == ["-m", "training.plan"]:
        module.main(rest)  # the whole of it takes no time
        return
    if not hasattr(module, "argparse"):  # a script without arguments
        assert callable(module.main) and not rest
        return
    with _parse_only(), pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [words[0], *rest])
        module.main(rest) if words[0] == "-m" else module.main()


def _make(words: list[str]) -> None:
    targets = re.search(r"^\.PHONY:(.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert targets is not None and {word for word in words if "=" not in word} <= set(targets[1].split())


def _pip(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for word in words:
        for named in re.findall(r"(?:^\.|jepa-hub)\[(.*)\]", word):
            assert set(named.split(",")) <= set(extras), word
    assert "-c" not in words or (ROOT / words[words.index("-c") + 1]).is_file()


def _jepa_hub(words: list[str]) -> None:
    """The command exists and takes these words."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("jepa-hub", list(words))
    name, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
    while hasattr(found, "resolve_command"):
        context = found.make_context(name, list(rest), parent=context)
        name, found, rest = found.resolve_command(context, [*context._protected_args, *context.args])
    if name == "train":
        _is_a_recipe(rest)
    elif name != "probe":  # passed on to training.probe
        found.make_context(name, list(rest), parent=context)


def _shell(words: list[str]) -> None:
    """`bash -c '...'`: what stands between the quotes."""
    _check(shlex.split(re.sub(r"\$\(\(.*?\)\)|\$\([^)]*\)", "2", words[-1])))


PROGRAMS: dict[str, Callable[[list[str]], None]] = {
    "jepa-hub": _jepa_hub,
    "accelerate": lambda words: _accelerate(words[1:]),
    "torchrun": _torchrun,
    "python": _python,
    "make": _make,
    "pip": _pip,
    "srun": _shell,
    ".ci/run": lambda words: None,
    "git": lambda words: None,
    "cd": lambda words: None,
}


def _check(words: list[str]) -> None:
    assert words[0] in PROGRAMS, f"say in tests/test_docs.py how `{words[0]}` is checked"
    PROGRAMS[words[0]](words[1:])


@pytest.mark.parametrize("command", CHECKS, ids=_name)
def test_commands_are_real(command: tuple[str, list[str]], template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(template)
    _check(command[1])


@pytest.mark.parametrize(
    "line",
    [
        "jepa-hub embed photos --modle x",
        "jepa-hub lits",
        "jepa-hub physics eval --suite worlds --modle x",
        "accelerate launch training/train.py ijepa/tiny_scene",
        "accelerate launch --multi_gpus training/train.py ijepa/tiny_scenes",
        "torchrun --standalone training/train.py ijepa/tiny_scenes optim.learning_rate=1",
        "python -m training.plan ijepa/tiny_scenes --gpus 2",
        "python benchmarks/no_such_file.py",
        "make tests",
        "pip install -e '.[trian]'",
        "npm install",
    ],
)
def test_a_wrong_command_is_found(line: str, template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(template)
    with pytest.raises((AssertionError, Exception, SystemExit, pytest.fail.Exception)):
        _check(shlex.split(line))


# Settings -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("block", YAML, ids=lambda block: block.page)
def test_yaml_is_settings(block: Block, tmp_path: Path) -> None:
    """The block's sections, laid over a small recipe of its method and of the family that it names."""
    from training.recipe import find_recipe, load_recipe, recipe_names

    written = yaml.safe_load(block.text)
    method = (written.get("method") or {}).get("name", "jepa")
    bases = {name: yaml.safe_load(find_recipe(name).read_text(encoding="utf-8")) for name in recipe_names()}
    family = (written.get("model") or {}).get("name")
    base = next(
        tree
        for name, tree in bases.items()
        if "/tiny_" in name and tree["method"]["name"] == method and family in (None, tree["model"]["name"])
    )
    laid = {**base, **{key: {**(base.get(key) or {}), **value} for key, value in written.items()}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(laid), encoding="utf-8")
    load_recipe(str(tmp_path / "recipe.yaml"))


# Links ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("page", pages())
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert (ROOT / page).parent.joinpath(target).exists(), f"{page} links to {target}, which is not there"


def test_the_index_names_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    missing = [page for page in DOCS if page != "docs/README.md" and f"]({Path(page).name})" not in index]
    assert not missing
