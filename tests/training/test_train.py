"""The entry file of the package `training`: how it finds its package, what it prints, and how it fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from jepa_hub.models.base import JEPAModel
from tests.training.patterns import recipe
from training import train
from training.recipe import load_recipe

FILE = Path(train.__file__)
SHADOW = "raise SystemExit('the wrong training was imported')"


def _run(command: list[str], folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environ},
    )


@pytest.fixture
def recipe_file(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe(tmp_path / "run")))
    return str(path)


def test_help_names_recipe_and_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        train.main(["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "vjepa/tiny_sliding_scenes" in shown and "key.path=value" in shown and "--push-to-hub" in shown


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    code = f"""if True:
        import runpy, sys
        sys.argv = ["train.py", "--help"]
        try:
            runpy.run_path({str(FILE)!r}, run_name="__main__")
        finally:
            print("LOADED", *{{name.split(".")[0] for name in sys.modules}})"""
    loaded = _run(["-c", code], tmp_path).stdout.partition("LOADED")[2].split()
    assert not {"torch", "transformers", "numpy", "accelerate", "pydantic"} & set(loaded)


def test_a_recipe_trains_and_the_settings_beside_it_train_it_again(
    recipe_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main([recipe_file, "run.steps=4"])
    assert f"finished after step 4: {tmp_path / 'run' / 'final'}" in capsys.readouterr().out
    assert JEPAModel.from_pretrained(tmp_path / "run" / "final").config.hidden_size == 32
    written = load_recipe(str(tmp_path / "run" / "settings.yaml"))
    assert written == load_recipe(recipe_file, ["run.steps=4"])
    train.main([str(tmp_path / "run" / "settings.yaml")])  # nothing is left to do, and nothing is broken
    with pytest.raises(SystemExit, match="holds checkpoints of an earlier run"):
        train.main([recipe_file, "--resume", "never"])


def test_settings_can_be_printed_and_tried_dry(
    recipe_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main([recipe_file, "optim.lr=2e-3", "--print-settings"])
    assert yaml.safe_load(capsys.readouterr().out)["optim"]["lr"] == 2e-3
    train.main([recipe_file, "--dry-run"])
    shown = capsys.readouterr().out
    assert "64 samples, 8 per step, 8 steps per epoch" in shown and "ready for 6 steps" in shown
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optim.lrr=1", r"unknown setting optim\.lrr \(did you mean 'lr'\?\)"),
        ("model.hiden_size=3", "did you mean 'hidden_size'"),
        ("model.name=jepa3", "unknown family 'jepa3'"),
        ("masks.num_target=3", "did you mean 'num_targets'"),
        ("method.momentun=3", "did you mean 'momentum'"),
        ("data.source.sizee=3", "did you mean 'size'"),
        ("data.batch_size=0", "greater than or equal to 1|greater than 0"),
        ("run.steps=many", r"run\.steps: .* \(got 'many'\)"),
        ("run.steps", "is not key.path=value"),
        ("optim.warmup_steps=100", "longer than the schedule"),
        ("model.patch_size=32", "grid"),
    ],
)
def test_wrong_settings_are_told_in_words(override: str, said: str, recipe_file: str) -> None:
    with pytest.raises(SystemExit, match=said):
        train.main([recipe_file, override])


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(SystemExit, match="unknown recipe 'ijepa/tiny_scene' \\(did you mean 'ijepa/tiny_scenes'"):
        train.main(["ijepa/tiny_scene"])


def test_by_path_in_a_folder_that_has_a_training_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").write_text(SHADOW)
    done = _run([str(FILE), "ijepa/tiny_scene"], tmp_path)
    assert done.returncode == 1 and "did you mean 'ijepa/tiny_scenes'" in done.stderr


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


@pytest.mark.slow
def test_accelerate_and_torchrun_launch_it(tmp_path: Path) -> None:
    settings = ["ijepa/tiny_digits", "run.steps=4", "run.log_every=2", "optim.warmup_steps=1"]
    tools = Path(sys.executable).parent
    for number, launcher in enumerate(
        (
            [str(tools / "accelerate"), "launch", "--cpu", "--num_processes", "1", str(FILE)],
            [str(tools / "accelerate"), "launch", "--cpu", "--num_processes", "1", "-m", "training.train"],
            [str(tools / "torchrun"), "--standalone", "--nproc-per-node", "2", str(FILE)],
        )
    ):
        out = tmp_path / str(number)
        done = subprocess.run(
            [*launcher, *settings, f"run.out={out}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert JEPAModel.from_pretrained(out / "final").config.networks == ["encoder", "predictor", "target_encoder"]
