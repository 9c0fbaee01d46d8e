"""The command line, as a user types it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from jepa_hub import cli, doctor
from jepa_hub.catalog import CHECKPOINTS
from jepa_hub.doctor import Finding
from tests.hub_server import run_python

SIZE = 32


def call(*arguments: str | Path, code: int = 0) -> Any:
    """Run a command in this process and check its exit code."""
    result = CliRunner().invoke(cli.app, [str(each) for each in arguments])
    assert result.exit_code == code, f"{result.exit_code}: {result.output}{result.stderr} {result.exception!r}"
    return result


def fails(*arguments: str | Path) -> str:
    """Run a command that must fail with one clear line on stderr."""
    result = call(*arguments, code=1)
    lines = result.stderr.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in result.stderr, result.stderr
    return errors[0]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `ijepa` and `vjepa2` with tiny models, an image and a broken one."""
    from jepa_hub.models.registry import model_class

    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    for family, clips in (("ijepa", {}), ("vjepa2", {"num_frames": 4})):
        config = model_class(family).config_class(
            hidden_size=48,
            num_hidden_layers=1,
            num_attention_heads=4,
            patch_size=16,
            image_size=SIZE,
            predictor_hidden_size=24,
            predictor_num_hidden_layers=1,
            licence="mit",
            **clips,
        )
        model_class(family)(config).save_pretrained(folder / family)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    (folder / "media").mkdir()
    Image.fromarray(pixels).save(folder / "media" / "photo.png")
    (folder / "broken").mkdir()
    Image.fromarray(pixels).save(folder / "broken" / "photo.png")
    (folder / "broken" / "bad.jpg").write_bytes(b"no picture")
    return folder


# list -----------------------------------------------------------------------------------------------------------------
def names(*arguments: str) -> list[str]:
    return [row["name"] for row in json.loads(call("list", "--json", *arguments).stdout)]


def test_list_is_a_table_of_models() -> None:
    lines = call("list").stdout.splitlines()
    assert lines[0].split() == ["NAME", "ENCODER", "INPUT", "LICENCE", "HOLDS", "SOURCE"]
    listed = [line.split()[0] for line in lines[1:]]
    assert listed == [row.name for row in CHECKPOINTS.values() if row.kind == "model"]
    assert sum("not supported" in line for line in lines) == 5
    assert any("304M" in line and "64 x 256" in line and "facebook/vjepa2-vitl-fpc64-256" in line for line in lines)


def test_list_filters() -> None:
    assert set(names("--kind", "all")) == set(CHECKPOINTS)
    assert len(names("--kind", "probe")) == 25
    assert all(name.startswith("ijepa-") for name in names("--family", "ijepa"))
    assert names("--licence", "apache-2.0") == names("--license", "Apache-2.0") != []
    commercial = names("--commercial")
    assert commercial and all(CHECKPOINTS[name].licence != "cc-by-nc-4.0" for name in commercial)
    small = names("--max-parameters", "400M")
    assert small and all((CHECKPOINTS[name].parameters or 0) <= 400e6 for name in small)
    assert names("--max-parameters", "1.2B", "--size", "vitg", "--family", "vjepa2") == [
        "vjepa2-vitg-256",
        "vjepa2-vitg-256-hub",
        "vjepa2-vitg-384",
        "vjepa2-vitg-384-hub",
    ]


def test_list_says_when_nothing_fits() -> None:
    result = call("list", "--commercial", "--family", "vjepa", "--kind", "probe")
    assert result.stdout == "" and "no row" in result.stderr


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--family", "dino", "dit, ijepa, iwm, llip, mae, paws, pit, vjepa, vjepa2"),
        ("--licence", "gpl", "apache-2.0, cc-by-nc-4.0, mit"),
        ("--kind", "weights", "model, probe"),
        ("--max-parameters", "many", "400M"),
    ],
)
def test_list_refuses_with_the_choices(option: str, value: str, words: str) -> None:
    assert words in fails("list", option, value)


# info -----------------------------------------------------------------------------------------------------------------
def test_info_of_a_catalog_row() -> None:
    text = call("info", "vjepa-vitl16").stdout
    for words in (
        "cc-by-nc-4.0 (no commercial use)",
        "encoder, predictor, target_encoder",
        "1568 = 8 x 14 x 14",
        "303,885,312",
        "shortest edge 256, centre crop 224",
        "Kinetics-400 top-1 accuracy 80.8",
        "README of github.com/facebookresearch/jepa",
        "vjepa-vitl16-k400-probe",
        "https://arxiv.org/abs/2404.08471",
    ):
        assert words in text
    data = json.loads(call("info", "facebook/vjepa2-vitl-fpc64-256", "--json").stdout)
    assert data["name"] == "vjepa2-vitl-256-hub" and data["commercial_use"] is True


def test_info_says_why_something_cannot_be_loaded() -> None:
    assert "robot actions" in call("info", "vjepa2-ac-vitg.pt").stdout


def test_info_of_a_folder_counts_its_networks(saved: Path) -> None:
    data = json.loads(call("info", saved / "vjepa2", "--json").stdout)
    assert data["networks"] == ["encoder", "predictor", "target_encoder"] and data["licence"] == "mit"
    assert data["grid_size"] == [2, 2, 2]
    assert data["parameters"]["encoder"] == data["parameters"]["target_encoder"] > 70_000
    text = call("info", saved / "vjepa2").stdout
    assert "8 = 2 x 2 x 2" in text and "in predictor" in text


def test_info_of_an_official_file(saved: Path, tmp_path: Path) -> None:
    call("convert", saved / "ijepa", tmp_path / "mine.pth.tar", "--to", "official")
    data = json.loads(call("info", tmp_path / "mine.pth.tar", "--json").stdout)
    folder = json.loads(call("info", saved / "ijepa", "--json").stdout)
    assert data["networks"] == folder["networks"] and data["parameters"] == folder["parameters"]


def test_info_suggests_names(tmp_path: Path) -> None:
    assert "vjepa2-vitl-256" in fails("info", "vjepa2-vitl-265")
    (tmp_path / "empty").mkdir()
    assert "config.json" in fails("info", tmp_path / "empty")
    (tmp_path / "config.json").write_text("{")
    assert "not readable JSON" in fails("info", tmp_path)


# embed ----------------------------------------------------------------------------------------------------------------
def test_embed_writes_vectors_and_goes_on(saved: Path, tmp_path: Path) -> None:
    command = ("embed", saved / "media", "-m", saved / "ijepa", "--image-size", str(SIZE), "-o", tmp_path / "out.npz")
    assert "1 rows; 1 files embedded" in call(*command, "--quiet").stdout
    with np.load(tmp_path / "out.npz") as archive:
        assert archive["pooled"].shape == (1, 48) and np.isfinite(archive["pooled"]).all()
    assert "1 kept from an earlier run" in call(*command).stdout
    assert "tokens was False, now True" in fails(*command, "--tokens")
    assert "1 files embedded" in call(*command, "--tokens", "--overwrite").stdout


def test_embed_loads_the_features_network_only(saved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from jepa_hub.models.base import JEPAModel

    asked = []
    original = JEPAModel.from_pretrained.__func__  # type: ignore[attr-defined]

    def spy(cls: Any, /, name: Any, **settings: Any) -> Any:
        asked.append(settings.get("networks"))
        return original(cls, name, **settings)

    monkeypatch.setattr(JEPAModel, "from_pretrained", classmethod(spy))
    call("embed", saved / "media", "-m", saved / "vjepa2", "--image-size", str(SIZE), "-o", tmp_path / "out.npz")
    assert asked[0] == ("target_encoder",)


def test_embed_draws_a_picture(saved: Path, tmp_path: Path) -> None:
    photo = saved / "media" / "photo.png"
    command = ("embed", photo, "--model", saved / "ijepa", "--image-size", str(SIZE))
    assert "wrote" in call(*command, "--picture", tmp_path / "pca.png").stdout
    assert Image.open(tmp_path / "pca.png").width > 700
    assert "--picture" in fails(*command)
    assert "pictures end in" in fails(*command, "--picture", tmp_path / "pca.gif")


def test_embed_strict_fails_after_doing_the_rest(saved: Path, tmp_path: Path) -> None:
    command = ("embed", saved / "broken", "-m", saved / "ijepa", "--image-size", str(SIZE), "-o", tmp_path / "out.npz")
    assert "1 could not be read" in call(*command).stdout
    assert "bad.jpg" in (tmp_path / "out.npz.errors.jsonl").read_text()
    assert "1 could not be read" in call(*command, "--strict", code=1).stdout
    assert (tmp_path / "out.npz").is_file()


def test_embed_errors(saved: Path, tmp_path: Path) -> None:
    model = ("-m", saved / "ijepa", "--image-size", str(SIZE))
    assert "gone.png" in fails("embed", tmp_path / "gone.png", *model, "-o", tmp_path / "out.npz")
    assert "safetensors, npz, parquet" in fails("embed", saved / "media", *model, "-o", tmp_path / "out.csv")
    assert "nowhere" in fails("embed", saved / "media", "-m", "nowhere", "-o", tmp_path / "out.npz")
    assert "float32, bfloat16, float16" in fails(
        "embed", saved / "media", *model, "-o", tmp_path / "out.npz", "--dtype", "int8"
    )
    assert not list(tmp_path.iterdir())


# convert --------------------------------------------------------------------------------------------------------------
def test_convert_there_and_back(saved: Path, tmp_path: Path) -> None:
    from jepa_hub.models.base import JEPAModel

    pixels = torch.randn(1, 3, 4, SIZE, SIZE)
    expected = JEPAModel.from_pretrained(saved / "vjepa2").encode(pixels).tokens
    official = tmp_path / "model.pth.tar"
    said = call("convert", saved / "vjepa2", official, "--to", "official").stdout
    assert "official layout" in said and "licence mit" in said
    told = ("--family", "vjepa2", "--num-frames", "4", "--image-size", str(SIZE))
    assert "num_attention_heads" in fails("convert", official, tmp_path / "ours", *told)
    heads = ("--set", "num_attention_heads=4", "--set", "predictor_num_attention_heads=4")
    call("convert", official, tmp_path / "ours", *told, *heads)
    call("convert", saved / "vjepa2", tmp_path / "hf", "--to", "transformers", "--network", "target_encoder")
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["model_type"] == "vjepa2"
    for folder in ("ours", "hf"):
        again = JEPAModel.from_pretrained(tmp_path / folder).encode(pixels).tokens
        assert torch.allclose(again, expected, atol=1e-5), folder


def test_convert_takes_the_preprocessing_along(saved: Path, tmp_path: Path) -> None:
    from jepa_hub.processing import JEPAProcessor

    source = shutil.copytree(saved / "ijepa", tmp_path / "source")
    assert "no preprocessing was written" in call("convert", source, tmp_path / "without").stderr
    processor = JEPAProcessor(image_size=SIZE, patch_size=16, mean=(0.5,) * 3, std=(0.25,) * 3)
    processor.save_pretrained(source)
    assert "note" not in call("convert", source, tmp_path / "with").stderr
    assert JEPAProcessor.from_pretrained(tmp_path / "with") == processor


def test_convert_refuses(saved: Path, tmp_path: Path) -> None:
    assert "jepa_hub, transformers, official" in fails("convert", saved / "ijepa", tmp_path / "out", "--to", "onnx")
    assert "--network" in fails("convert", saved / "ijepa", tmp_path / "out", "--network", "encoder")
    assert "NAME=VALUE" in fails("convert", saved / "ijepa", tmp_path / "out", "--set", "num_frames")
    assert "did you mean 'num_frames'" in fails("convert", saved / "ijepa", tmp_path / "out", "--set", "num_frame=4")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "config.json").write_text("{}")
    assert "--overwrite" in fails("convert", saved / "ijepa", tmp_path / "there")
    assert "one file" in fails("convert", saved / "ijepa", tmp_path / "there", "--to", "official", "--overwrite")
    assert (tmp_path / "there" / "config.json").read_text() == "{}"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    assert "they stay" in fails("convert", saved / "ijepa", tmp_path / "mine", "--to", "transformers", "--overwrite")
    assert "choose another place" in fails("convert", saved / "ijepa", saved / "ijepa", "--overwrite")
    assert "is a folder" in fails(
        "convert", saved / "ijepa", tmp_path / "mine" / "thesis.tex", "--to", "transformers", "--overwrite"
    )
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


# doctor ---------------------------------------------------------------------------------------------------------------
def test_doctor_exits_by_what_it_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: [Finding("torch", "ok", "2.13.0"), Finding("gradio", "absent", "-")])
    assert "0 errors" in call("doctor").stdout
    monkeypatch.setattr(doctor, "examine", lambda: [Finding("av", "error", "missing", "pip install av")])
    assert "pip install av" in call("doctor", code=1).stdout
    data = json.loads(call("doctor", "--json", code=1).stdout)
    assert data["ok"] is False and data["findings"][0]["fix"] == "pip install av"


# Commands of other packages -------------------------------------------------------------------------------------------
@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module that adds commands, in place of an installed package."""
    module = ModuleType("a_plugin")
    app = typer.Typer()

    @app.command()
    def small(times: int = 1) -> None:
        """Say something."""
        typer.echo("small " * times)

    def function(name: str) -> None:
        if name == "bad":
            raise ValueError("this name\nis bad")
        typer.echo(f"hello {name}")

    module.app, module.function = app, function  # type: ignore[attr-defined]
    entries = {
        "train": EntryPoint("train", "a_plugin:app", cli.ENTRY_POINTS),
        "probe": EntryPoint("probe", "a_plugin:function", cli.ENTRY_POINTS),
        "export": EntryPoint("export", "no_such_module:app", cli.ENTRY_POINTS),
        "list": EntryPoint("list", "a_plugin:function", cli.ENTRY_POINTS),
    }
    monkeypatch.setattr(cli, "extensions", lambda: entries)
    yield module
    sys.modules.pop("a_plugin", None)


def test_help_lists_commands_of_other_packages_without_importing_them(plugins: ModuleType) -> None:
    text = call("--help").stdout
    assert "train" in text and "(from a_plugin)" in text and "(from no_such_module)" in text
    assert "a_plugin" not in sys.modules and text.count("\n  list ") == 1


def test_commands_of_other_packages_run(plugins: ModuleType) -> None:
    sys.modules["a_plugin"] = plugins
    assert call("train", "--times", "2").stdout.split() == ["small", "small"]
    assert call("probe", "you").stdout == "hello you\n"
    assert call("list").stdout.startswith("NAME")  # ours cannot be replaced
    assert fails("probe", "bad") == "error: this name is bad"
    assert "no_such_module" in fails("export")


# All of it ------------------------------------------------------------------------------------------------------------
def test_debug_shows_the_traceback() -> None:
    result = CliRunner().invoke(cli.app, ["--debug", "list", "--family", "dino"])
    assert isinstance(result.exception, ValueError) and result.exit_code == 1


def test_no_other_commands() -> None:
    from typer.main import get_command

    found = list(get_command(cli.app).commands)  # type: ignore[attr-defined]
    assert found == ["list", "info", "embed", "classify", "convert", "doctor"]


def test_a_misspelt_command_names_the_right_one() -> None:
    assert "'doctor'" in call("docter", code=2).stderr


def test_version() -> None:
    assert call("--version").stdout.startswith("jepa-hub ")


def test_in_a_process_of_its_own() -> None:
    code = (
        "import sys\n"
        "from jepa_hub.cli import main\n"
        "sys.argv[0] = 'jepa-hub'\n"
        "try:\n    main()\n"
        "finally:\n"
        "    print(sorted({'torch', 'transformers', 'numpy', 'huggingface_hub'} & set(sys.modules)), file=sys.stderr)\n"
    )
    shown = run_python(["-c", code, "--help"])
    assert shown.returncode == 0 and shown.stderr.strip() == "[]"
    assert "embed" in shown.stdout and "Usage: jepa-hub" in shown.stdout
    wrong = run_python(["-m", "jepa_hub.cli", "list", "--family", "dino"])
    assert wrong.returncode == 1 and wrong.stdout == ""
    families = "dit, ijepa, iwm, llip, mae, paws, pit, vjepa, vjepa2"
    assert wrong.stderr == f"error: no family 'dino' in the catalog; it has {families}\n"
