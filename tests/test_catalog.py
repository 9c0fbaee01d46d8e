"""The catalog: complete, consistent, and findable under every name a user would type."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors import safe_open

from jepa_hub.catalog import CHECKPOINTS, find, nearest
from jepa_hub.catalog_row import ALL_NETWORKS, COMMERCIAL_LICENCES, Checkpoint
from jepa_hub.models.base import JEPAModel
from jepa_hub.models.llip import LlipModel
from jepa_hub.models.llip_config import LlipConfig
from jepa_hub.models.paws import PAWSConfig, PAWSModel
from jepa_hub.processing import JEPAProcessor
from tests.hub_server import ROOT, run_python

ROWS = list(CHECKPOINTS.values())
SHIPPED = [row for row in ROWS if row.source.startswith("package:")]
PUBLISHED = [row for row in ROWS if row not in SHIPPED]
OTHERS = ("paws", "llip")  # whose encoders are no plain ViT
MODELS = [row for row in PUBLISHED if row.kind == "model" and row.unsupported is None and row.family not in OTHERS]
PROBES = [row for row in ROWS if row.kind == "probe"]


def encoder_parameters(width: int, depth: int, hidden: int, patch_values: int) -> int:
    """Patch embedding, blocks and final norm of a ViT with biases; fixed positions have none."""
    block = 3 * width * width + 3 * width + width * width + width + 2 * width * hidden + hidden + width + 4 * width
    return patch_values * width + width + depth * block + 2 * width


SIZES = {"vitl": (1024, 24, 4096), "vith": (1280, 32, 5120), "vitg": (1408, 40, 6144)}


def test_what_is_published_is_listed() -> None:
    def count(family: str, kind: str, layout: str) -> int:
        rows = [row for row in ROWS if row.unsupported is None]
        return sum((row.family, row.kind, row.layout) == (family, kind, layout) for row in rows)

    assert count("ijepa", "model", "official") == 4
    assert count("ijepa", "model", "transformers") == 4
    assert count("vjepa", "model", "official") == 3
    assert count("vjepa", "probe", "official") == 15
    assert count("vjepa2", "model", "official") == 4
    assert count("paws", "model", "official") == 8
    assert count("llip", "model", "official") == 2
    assert count("vjepa2", "model", "transformers") == 4
    assert count("vjepa2", "probe", "transformers") == 4
    assert count("vjepa2", "probe", "official") == 4  # the two EK100 probes are listed as unsupported
    assert sorted({row.name.split("-")[0] for row in ROWS if row.unsupported}) == ["vjepa2", "vjepa2.1"]


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row.name)
def test_row(row: Checkpoint) -> None:
    assert CHECKPOINTS[row.name] is row
    assert re.fullmatch(r"[a-z0-9.-]+", row.name) and row.name.startswith(row.family)
    is_url = row.source.startswith("https://dl.fbaipublicfiles.com/")
    assert is_url if row.layout == "official" else re.fullmatch(r"[\w-]+/[\w.-]+", row.source)
    assert row.licence in COMMERCIAL_LICENCES | {"cc-by-nc-4.0"} and row.licence_source
    assert re.fullmatch(r"\d{4}\.\d{5}", row.paper)
    assert set(row.networks) <= set(ALL_NETWORKS)
    side = row.preprocessing.image_size
    assert row.preprocessing.resize == (side if row.family == "llip" else int(side * 256 / 224))
    assert row.sha256 is None  # a hash appears only with a file that was read
    for score in row.scores:
        assert 0 < score.value < 100 and score.protocol and score.source.startswith("README of ")
    if row.layout == "transformers":
        assert not row.scores and row.note  # conversions of one encoder were not what the README measured


@pytest.mark.parametrize("row", MODELS, ids=lambda row: row.name)
def test_parameters_and_grid_follow_from_the_shapes(row: Checkpoint) -> None:
    size = re.search(r"vit[lhg]", row.name)
    assert size and row.grid_size and row.parameters
    steps, height, width = row.grid_size
    patch = row.preprocessing.image_size // height
    assert patch == (14 if "vith14" in row.name else 16) and height == width
    tubelet = 1 if row.family == "ijepa" else 2
    assert steps * tubelet == (row.preprocessing.num_frames or 1)
    assert row.parameters == encoder_parameters(*SIZES[size[0]], 3 * tubelet * patch * patch)


@pytest.mark.parametrize("row", [row for row in MODELS if row.layout == "official"], ids=lambda row: row.name)
def test_official_files_hold_three_networks_and_tell_their_heads(row: Checkpoint) -> None:
    assert row.networks == ALL_NETWORKS
    heads = 22 if row.family == "vjepa2" and "vitg" in row.name else 16
    assert row.config["num_attention_heads"] == heads
    assert row.config["predictor_num_attention_heads"] == (12 if row.family == "vjepa2" else 16)
    assert row.config["image_size"] == row.preprocessing.image_size


@pytest.mark.parametrize("row", [row for row in PUBLISHED if row.family == "paws"], ids=lambda row: row.name)
def test_paws_rows(row: Checkpoint) -> None:
    with torch.device("meta"):
        encoder = PAWSModel(PAWSConfig.of_size("resnet50")).encoder
    assert row.parameters == sum(each.numel() for each in encoder.parameters())
    assert row.grid_size == (1, 7, 7) and row.networks == ("encoder",) and row.licence == "mit"
    assert row.scores and ("fine-tuned" in row.scores[0].protocol) == row.name.endswith("finetuned")


@pytest.mark.parametrize("row", [row for row in PUBLISHED if row.family == "llip"], ids=lambda row: row.name)
def test_llip_rows(row: Checkpoint) -> None:
    size = {"vitb16": "vit_base_patch16", "vitgigantic14": "vit_gigantic_patch14"}[row.name.split("-")[1]]
    config = LlipConfig.of_size(size, num_mixture_tokens=int(row.name.split("-k")[1]))
    with torch.device("meta"):
        encoder = LlipModel(config).encoder
    assert row.parameters == sum(each.numel() for each in encoder.parameters())
    assert row.grid_size == config.base_grid and row.licence == "cc-by-nc-4.0"
    assert row.config["mixing_temperature"] == config.mixing_temperature == 5.0


def test_licences() -> None:
    by_family = {family: {row.licence for row in PUBLISHED if row.family == family} for family in ("ijepa", "vjepa")}
    assert by_family == {"ijepa": {"cc-by-nc-4.0"}, "vjepa": {"cc-by-nc-4.0"}}
    assert {row.licence for row in ROWS if row.family == "vjepa2"} <= {"mit", "apache-2.0"}


def test_scores_are_those_of_the_readme() -> None:
    assert [score.value for score in CHECKPOINTS["vjepa-vith16-384"].scores] == [81.9, 72.2, 77.4, 62.8, 72.6]
    assert [score.value for score in CHECKPOINTS["vjepa2-vitg-384"].scores] == [77.3, 90.2, 39.7]
    assert not any(row.scores for row in ROWS if row.family == "ijepa")  # known from memory only


@pytest.mark.parametrize("row", PROBES, ids=lambda row: row.name)
def test_probes_name_their_backbone(row: Checkpoint) -> None:
    assert row.backbone is not None
    backbone = CHECKPOINTS[row.backbone]
    assert (
        backbone.kind == "model" and backbone.family == row.family and backbone.licence in {row.licence, "apache-2.0"}
    )
    assert backbone.preprocessing.image_size == row.preprocessing.image_size
    if row.layout == "official":
        assert row.scores[0] in backbone.scores


@pytest.mark.parametrize("row", SHIPPED, ids=lambda row: row.name)
def test_shipped_weights_are_here_load_as_float32_and_are_what_their_row_says(row: Checkpoint) -> None:
    model, processor = JEPAModel.from_pretrained(row.name), JEPAProcessor.from_pretrained(row.name)
    assert model.dtype == torch.float32 and tuple(model.config.networks) == row.networks
    assert row.parameters == sum(each.numel() for each in model.feature_encoder.parameters())
    assert model.config.base_grid == row.grid_size and model.config.licence == row.licence == "apache-2.0"
    assert processor.image_size == row.preprocessing.image_size == model.config.image_size
    folder = ROOT / "jepa_hub" / "weights" / row.source.removeprefix("package:")
    assert folder.joinpath("model.safetensors").stat().st_size < 12_000_000
    with safe_open(folder / "model.safetensors", "pt") as stored:
        kinds = {stored.get_tensor(name).dtype for name in stored.keys()}  # noqa: SIM118
        assert kinds - {torch.int64} == {torch.float16}  # batch norms count batches in whole numbers
    card = folder.joinpath("README.md").read_text()
    assert "license: apache-2.0" in card and row.name in card and "How it was made" in card
    pixels = torch.randn(3, 3, model.config.num_frames, *[model.config.image_size] * 2)
    features = model.encode(pixels)
    assert features.tokens.isfinite().all() and features.tokens.flatten(0, 1).std(0).mean() > 0.1


def test_the_shipped_weights_are_all_listed_and_within_budget() -> None:
    folders = {
        path.parent.name: path.stat().st_size for path in (ROOT / "jepa_hub" / "weights").glob("*/*.safetensors")
    }
    assert {row.source.removeprefix("package:") for row in SHIPPED} == set(folders)
    assert sum(folders.values()) < 42_000_000


def test_find() -> None:
    row = CHECKPOINTS["vjepa2-vitl-256-hub"]
    for name in (row.name, row.source, f"https://huggingface.co/{row.source}", f" {row.source}/ "):
        assert find(name) is row
    official = CHECKPOINTS["vjepa2-vitg-384"]
    for name in (official.source, "vitg-384.pt"):
        assert find(name) is official
    for name in ("k400-probe.pth.tar", "vjepa2", "", "owner/name", "https://example.com/vitl.pt"):
        assert find(name) is None  # the first is the name of three files


def test_sources_are_unique() -> None:
    assert len({row.source for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("vjepa2-vitl", "vjepa2-vitl-256"),
        ("vjepa2_vitl_256", "vjepa2-vitl-256"),
        ("facebook/vjepa2-vitl-fpc64-265", "vjepa2-vitl-256-hub"),
        ("ijepa-vith14-in1", "ijepa-vith14-in1k"),
        ("IJEPA-ViTH14-IN1K", "ijepa-vith14-in1k"),
        ("vitl16.pth.ta", "vjepa-vitl16"),
    ],
)
def test_nearest(typed: str, meant: str) -> None:
    assert nearest(typed)[0] == meant


def test_nearest_of_nonsense_is_nothing() -> None:
    assert nearest("resnet50") == () and nearest("") == ()


def test_importing_it_needs_the_standard_library_only() -> None:
    code = (
        "import jepa_hub.catalog, sys; print({'torch', 'numpy', 'transformers', 'huggingface_hub'} & set(sys.modules))"
    )
    assert run_python(["-c", code]).stdout.strip() == "set()"
