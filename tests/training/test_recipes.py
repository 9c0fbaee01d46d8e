"""Every shipped recipe: it loads, builds, says what it costs, and reaches the published figures. 15 seconds."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from jepa_hub.models.paws import PAWSModel
from training import build
from training.config import Named, Settings
from training.flops import training_flops_per_sample
from training.optimizers import build_optimizer, schedule
from training.plan import cost_lines, plan
from training.recipe import RECIPES, RecipeError, find_recipe, load_recipe, recipe_names, to_yaml
from training.schedules import linear_between
from training.whole_costs import num_tokens

NAMES = recipe_names()
SIZE = r"tiny|small|vit[a-z]+\d+|resnet\d+|wide_resnet\d+w\d"
NAME = re.compile(rf"(?P<family>[a-z0-9]+)/(({SIZE})(_[a-z0-9]+)+|digits(_[a-z]+)?)")
OWN = [name for name in NAMES if re.search(r"/((tiny|small)_|digits)", name)]
FAMILY = {"suncet": "paws"}  # papers whose models are of another's family

# name: (parameters of the encoder and the predictor in millions, global batch, steps). Source: the official code and
# configurations; the predictor's count has no mask tokens. Steps of IN22k follow from its number of pictures.
PUBLISHED: dict[str, tuple[float, float, int, int]] = {
    "ijepa/vith14_in1k": (630.43, 22.28, 2048, 187500),
    "ijepa/vith16_448_in1k": (630.66, 22.28, 2048, 187500),
    "ijepa/vith14_in22k": (630.43, 22.28, 2048, 66 * (14197122 // 2048)),
    "ijepa/vitg16_in22k": (1011.09, 29.48, 2048, 44 * (14197122 // 2048)),
    "vjepa/vitl16_videomix2m": (303.89, 22.08, 3072, 90000),
    "vjepa/vith16_videomix2m": (631.65, 22.28, 3072, 90000),
    "vjepa/vith16_384_videomix2m": (631.65, 22.28, 2400, 90000),
    "vjepa2/vitl16_videomix2m": (303.89, 22.08, 3072, 240000),
    "vjepa2/vith16_videomix2m": (631.65, 22.28, 3072, 240000),
    "vjepa2/vitg16_videomix2m": (1012.17, 22.38, 3072, 240000),
    "vjepa2/vitl16_cooldown_videomix2m": (303.89, 22.08, 3072, 12000),
    "vjepa2/vith16_cooldown_videomix2m": (631.65, 22.28, 3072, 12000),
    "vjepa2/vitg16_cooldown_videomix2m": (1012.17, 22.38, 3072, 12000),
    "vjepa2/vitg16_384_cooldown_videomix2m": (1012.17, 22.38, 3072, 12000),
    "flexpredict/vitb16_in1k": (85.65, 11.24, 2048, 375000),
    "flexpredict/vitl16_in1k": (303.10, 22.08, 2048, 375000),
    "flexpredict/vith16_in1k": (630.66, 22.28, 2048, 187500),
    "iwm/vitb16_in1k": (85.65, 32.98, 1024, 375300),
    "iwm/vitb16_shallow_in1k": (85.65, 22.33, 1024, 375300),
    "pit/vitt1_mae_cifar100": (5.536, 3.794, 1024, 1600 * (50000 // 1024)),
    "pit/vits1_mae_cifar100": (21.689, 3.831, 1024, 1600 * (50000 // 1024)),
    "iwm/vitl16_in1k": (303.10, 115.33, 1024, 375300),
}


# Recipes of whole pictures: (parameters of the trunk in millions, global batch, steps). Source: as above.
PICTURES: dict[str, tuple[float, int, int]] = {
    **{
        f"paws/resnet50_{share}pct_{epochs}ep_in1k": (23.508, 4096, epochs * (1281167 // 4096))
        for share in (1, 10)
        for epochs in (100, 200, 300)
    },
    "paws/resnet50_1pct_finetune_in1k": (23.508, 1024, 50 * (12811 // 1024)),
    "paws/resnet50_10pct_finetune_in1k": (23.508, 1024, 50 * (128116 // 1024)),
    "paws/wide_resnet28w2_cifar10": (1.468, 256, 600 * (50000 // 256)),
    "paws/wide_resnet28w2_finetune_cifar10": (1.468, 32, 30 * (4000 // 640)),
    **{f"suncet/resnet50_10pct_{epochs}ep_in1k": (23.508, 2816, epochs * 454) for epochs in (100, 200, 300, 500)},
    **{
        f"suncet/resnet50_simclr_{epochs}ep_in1k": (23.508, 4096, epochs * (1281167 // 4096))
        for epochs in (100, 200, 300, 500, 1000)
    },
}

# Recipes whose method sees every pixel: (parameters of the encoder in millions, tokens, global batch, steps). Counted
# by hand: 12 D^2 + 13 D a block (18 D^2 + 15 D with adaLN-zero), learned positions, embeddings. Steps: see the headers.
PIXELS: dict[str, tuple[float, int, int, int]] = {
    "pit/vitt1_cifar100": (5.536, 1024, 1024, 2400 * (50000 // 1024)),
    "pit/vits1_cifar100": (21.689, 1024, 1024, 2400 * (50000 // 1024)),
    "pit/vitt1_finetune_cifar100": (5.536, 1024, 1024, 100 * (50000 // 1024)),
    "pit/vits1_finetune_cifar100": (21.689, 1024, 1024, 100 * (50000 // 1024)),
    "pit/vits1_28_in1k": (21.597, 784, 4096, 300 * (1281167 // 4096)),
    "pit/vitb1_28_in1k": (85.660, 784, 4096, 300 * (1281167 // 4096)),
    "pit/vits1_64_in1k": (22.869, 4096, 4096, 300 * (1281167 // 4096)),
    "pit/vitl1_64_in1k": (306.509, 4096, 4096, 300 * (1281167 // 4096)),
    "pit/vits1_flowers102": (21.689, 1024, 256, 9600),
    "dit/vitl1_256_in1k": (458.848, 1024, 256, 400000),
}

# Recipes of pictures and texts: (all parameters in millions, global batch, steps). Source: the official configurations.
PAIRS: dict[str, tuple[float, int, int]] = {
    "llip/vitb32_metaclip": (201.837, 32768, 390625),
    "llip/vitb16_metaclip": (200.180, 32768, 390625),
    "llip/vitl14_metaclip": (528.802, 32768, 390625),
    "llip/vith14_metaclip": (1154.835, 32768, 390625),
    "llip/vitgigantic14_metaclip": (2813.561, 32768, 390625),
}

_SAMPLERS: dict[tuple[str, Any], Any] = {}


@pytest.fixture(autouse=True)
def _masks_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samplers never change, and building one for 64 frames takes a second."""
    make = build.build_masks

    def cached(named: Named, config: Any) -> Any:
        key = (str(named.model_dump()), (config.base_grid, config.tubelet_size))
        if key not in _SAMPLERS:
            _SAMPLERS[key] = make(named, config)
        return _SAMPLERS[key]

    monkeypatch.setattr(build, "build_masks", cached)


@cache
def recipe(name: str) -> Settings:
    return load_recipe(name)


def header(name: str) -> list[str]:
    """The comment that a recipe opens with."""
    lines = find_recipe(name).read_text(encoding="utf-8").splitlines()
    return lines[: next(index for index, line in enumerate(lines) if not line.startswith("#"))]


def processes(name: str) -> int:
    """How many the line "Run:" starts."""
    found = re.search(r"--num_processes (\d+)", "\n".join(header(name)))
    return int(found[1]) if found else 1


def at(settings: Settings, step: int) -> dict[str, float]:
    """Learning rate, weight decay and momentum of the step that is number `step`, counted from 1."""
    values = schedule(build_optimizer(nn.Linear(2, 2), settings.optim), settings, step - 1)
    start, final = settings.method.own["momentum"]
    return values | {"momentum": linear_between((step - 1) / settings.total_steps, start=start, final=final)}


def test_all_published_configurations_are_there() -> None:
    assert sorted({*PUBLISHED, *PICTURES, *PIXELS, *PAIRS, *OWN}) == NAMES
    assert {"ijepa/tiny_scenes", "ijepa/tiny_digits", "mae/small_scenes", "vjepa/small_moving_scenes"} <= set(OWN)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_named_after_its_family_size_and_data(name: str) -> None:
    settings, match = recipe(name), NAME.fullmatch(name)
    assert match and FAMILY.get(match["family"], match["family"]) == settings.model.name
    assert settings.run.out == f"runs/{name.replace('/', '-')}"  # no two recipes share a folder
    if name in OWN:
        assert settings.data.source.name in name
    mode = settings.masks.own.get("mode", "corrected") if settings.masks else None
    assert mode == ("corrected" if settings.masks else None)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_opens_with_what_it_is(name: str) -> None:
    lines = header(name)
    text = "\n".join(lines)
    assert all(len(line) <= 120 or line.startswith("# Run:") for line in lines)  # a command is copied whole
    assert re.search(r"(Source|Method): arXiv:\d{4}\.\d{5}", text.replace("\n# ", " "))
    run = next(line for line in lines if line.startswith("# Run:    "))
    assert run.endswith(name)
    expect = next(line for line in lines if line.startswith("# Expect: "))
    if name in PUBLISHED and recipe(name).masks:
        assert "not run here" in expect
        assert "masks.mode=faithful" in text or name.startswith(("iwm/", "pit/"))  # of which there is no official code


@pytest.mark.parametrize("name", NAMES)
def test_the_cost_in_the_header_is_what_the_plan_computes(name: str) -> None:
    lines = header(name)
    first = next(index for index, line in enumerate(lines) if line.startswith("# Cost:   "))
    found = re.search(r"on (\d+) x (\S+) at (\S+) % MFU", "\n".join(lines))
    gpu, mfu = (found[2], float(found[3]) / 100) if found else (None, 0.4)
    devices = processes(name)
    assert not found or int(found[1]) == devices
    expected = cost_lines(plan(recipe(name), name=name, devices=devices, gpu=gpu, mfu=mfu))
    written = [line[len("# Cost:   ") :] for line in lines[first : first + len(expected)]]
    hint = f"python -m training.plan {name} --header --devices {devices} --gpu {gpu or 'none'} --mfu {mfu:g}"
    assert written == expected, f"stale: paste the output of {hint}"


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_builds(name: str) -> None:
    settings = recipe(name)
    fresh = settings.model_copy(update={"model": settings.model.model_copy(update={"checkpoint": None})})
    with torch.device("meta"):
        model = build.build_model(fresh)
        method = build.build_method(fresh, model)
    assert set(model.config.networks) == set(method.networks)
    if settings.masks is None:
        assert not method.needs_masks
        if name in PICTURES:
            trunk, batch, steps = PICTURES[name]
            assert isinstance(model, PAWSModel)
            count = sum(each.numel() for each in model.encoder.parameters()) / 1e6
            assert count == pytest.approx(trunk, abs=0.001) and settings.run.steps == steps
            assert settings.data.batch_size * processes(name) == batch
            assert any("not run here" in line for line in header(name))
        if name in PIXELS:
            millions, tokens, batch, steps = PIXELS[name]
            assert model.encoder is not None and settings.run.activation_checkpointing
            count = sum(each.numel() for each in model.encoder.parameters()) / 1e6
            assert count == pytest.approx(millions, abs=0.006) and settings.run.steps == steps
            assert num_tokens(model.config) == tokens
            assert settings.data.batch_size * settings.run.accumulation * processes(name) == batch
            assert any("not run here" in line for line in header(name))
        if name in PAIRS:
            whole, batch, steps = PAIRS[name]
            assert sum(each.numel() for each in model.parameters()) / 1e6 == pytest.approx(whole, abs=0.001)
            assert settings.data.batch_size * processes(name) == batch and settings.run.steps == steps
            assert batch * steps == 12_800_000_000 and any("not run here" in line for line in header(name))
        return
    for groups in build.build_masks(settings.masks, model.config).lengths:
        assert groups and min(context for context, _ in groups) >= 8, "a context of a few tokens predicts nothing"
    if name in PUBLISHED:
        encoder, predictor, batch, steps = PUBLISHED[name]
        found = {part: sum(each.numel() for each in network.parameters()) for part, network in method.parts().items()}
        assert found["encoder"] / 1e6 == pytest.approx(encoder, abs=0.006)
        assert found["predictor"] / 1e6 == pytest.approx(predictor, abs=0.01)
        assert settings.data.batch_size * settings.run.accumulation * processes(name) == batch
        assert settings.run.steps == steps


@pytest.mark.parametrize("name", NAMES)
def test_a_resolved_recipe_reads_back_equal(name: str, tmp_path: Any) -> None:
    settings = recipe(name)
    path = tmp_path / "settings.yaml"
    path.write_text(to_yaml(settings), encoding="utf-8")
    again = load_recipe(str(path))
    assert again.model_dump(mode="json") == settings.model_dump(mode="json")


def test_settings_of_paws_and_suncet() -> None:
    settings = recipe("paws/resnet50_10pct_300ep_in1k")
    support, small = settings.data.support, settings.data.small_views
    assert support is not None and small is not None and settings.total_steps == 93600
    assert (support.classes, support.images, support.unique_classes, support.num_views) == (15, 7, True, 1)
    assert (small.count, small.size, small.crop_scale) == (6, 96, (0.05, 0.14))
    assert settings.data.views.crop_scale == (0.14, 1.0) and settings.data.views.jitter == 0.8
    optimizer = build_optimizer(nn.Linear(2, 2), settings.optim)
    rates = [schedule(optimizer, settings, step)["lr"] for step in (0, 3120, 93599)]
    assert rates[0] == pytest.approx(0.3, rel=0.01) and rates[1:] == pytest.approx([6.4, 0.064], rel=0.01)
    cifar = recipe("paws/wide_resnet28w2_cifar10")
    assert cifar.data.support is not None and cifar.data.support.num_views == 2 and cifar.data.support.images == 64
    assert build.model_config(cifar).projection_size == 128 and not build.model_config(cifar).prediction
    for epochs, switched_off in ((100, 100), (200, 200), (300, 250), (500, 250)):
        support = recipe(f"suncet/resnet50_10pct_{epochs}ep_in1k").data.support
        assert support is not None and round(support.until * epochs) == switched_off


def test_schedules_of_ijepa() -> None:
    settings = recipe("ijepa/vith14_in1k")
    assert at(settings, 1)["lr"] == pytest.approx(2e-4 + 8e-4 / 25000)
    assert at(settings, 25000)["lr"] == pytest.approx(1e-3)
    assert at(settings, 187500)["lr"] == pytest.approx(1e-6)
    half = at(settings, 93750)
    assert half["weight_decay"] == pytest.approx(0.22)
    assert half["momentum"] == pytest.approx(0.998, abs=1e-7)
    assert 1 - at(settings, 187500)["momentum"] == pytest.approx(2.1e-8, rel=0.02)
    assert settings.optim.clip_norm is None and settings.method.own["distance"] == "smooth_l1"


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("vjepa/")])
def test_schedules_of_vjepa(name: str) -> None:
    settings = recipe(name)
    assert at(settings, 12000)["lr"] == pytest.approx(6.25e-4)
    last = at(settings, 90000)
    assert last["lr"] == pytest.approx(7.5e-5, rel=0.01)
    assert last["weight_decay"] == pytest.approx(0.366, abs=0.001)
    assert last["momentum"] == pytest.approx(0.9996, abs=1e-6)
    assert settings.optim.clip_norm == 10 and settings.optim.clip_after == 41 * 300  # epochs after the 40th, from 0


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("vjepa2/")])
def test_schedules_of_vjepa2(name: str) -> None:
    settings = recipe(name)
    last = at(settings, settings.run.steps)
    if "cooldown" in name:
        assert settings.model.own["num_frames"] == settings.data.source.own["frames"] == 64
        assert at(settings, 1)["lr"] == pytest.approx(5.25e-4, rel=1e-4)
        assert last["lr"] == pytest.approx(1.06e-4, rel=0.005)
        before = re.sub(r"(_384)?_cooldown", "", name)
        assert settings.model.checkpoint == f"{recipe(before).run.out}/final"
    else:
        assert settings.model.own["num_frames"] == settings.data.source.own["frames"] == 16
        assert at(settings, 12000)["lr"] == last["lr"] == pytest.approx(5.25e-4)
        assert at(settings, 1)["lr"] == pytest.approx(1e-4, rel=1e-3)
    assert last["weight_decay"] == pytest.approx(0.04) and last["momentum"] == pytest.approx(0.99925)
    assert settings.optim.clip_norm is None and settings.run.activation_checkpointing
    assert settings.data.source.own["weights"] == [0.335, 0.1, 0.565]


@pytest.mark.parametrize("kind", ["ijepa", "vjepa"])
def test_a_pixel_baseline_differs_in_its_target_only(kind: str) -> None:
    data = "scenes" if kind == "ijepa" else "sliding_scenes"
    jepa, mae = recipe(f"{kind}/tiny_{data}"), recipe(f"mae/tiny_{data}")
    fields = ("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size", "tubelet_size", "image_size")
    configs = [build.model_config(settings) for settings in (jepa, mae)]
    assert [getattr(configs[0], each) for each in fields] == [getattr(configs[1], each) for each in fields]
    assert jepa.data == mae.data
    spent = []
    for settings, config in zip((jepa, mae), configs, strict=True):
        assert settings.masks is not None  # both predict masked tokens
        each = training_flops_per_sample(settings, config, build.build_masks(settings.masks, config))
        assert each is not None
        spent.append(each * settings.run.steps)
    assert spent[0] == pytest.approx(spent[1], rel=0.02)  # the comparison is at equal cost


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optim.lrr=1e-3", "unknown setting optim.lrr (did you mean 'lr'?)"),
        ("masks.num_target=3", "unknown setting masks.num_target (did you mean 'num_targets'?)"),
        ("model.hiden_size=64", "has no setting 'hiden_size' (did you mean 'hidden_size'?)"),
        ("data.source.sise=64", "unknown setting data.source.sise (did you mean 'size'?)"),
        ("method.momentun=0.9", "unknown setting method.momentun (did you mean 'momentum'?)"),
        ("data.views.crop_scal=1", "unknown setting data.views.crop_scal (did you mean 'crop_scale'?)"),
        ("run.step=5", "unknown setting run.step (did you mean 'steps'?)"),
        ("mask.num_targets=3", "unknown setting mask (did you mean 'masks'?)"),
        ("run.steps=-1", "run.steps: Input should be greater than 0 (got -1)"),
        ("optim.warmup_steps=9999", "optim.warmup_steps (9999) is longer than the schedule (5000 steps x 1)"),
        ("masks.name=multiblock_2d", "unknown masks 'multiblock_2d' (did you mean 'multi_block_2d'?)"),
        ("optim", "is not key.path=value"),
    ],
)
def test_misspelt_settings_name_the_nearest(override: str, words: str) -> None:
    with pytest.raises(RecipeError) as told:
        load_recipe("ijepa/tiny_scenes", [override])
    assert words in str(told.value)


def test_a_misspelt_setting_of_a_folder_of_pictures() -> None:
    with pytest.raises(RecipeError, match=r"unknown setting data.source.rooot \(did you mean 'root'\?\)"):
        load_recipe("ijepa/vith14_in1k", ["data.source.rooot=here"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ijepa/vith14_in1", "unknown recipe 'ijepa/vith14_in1' (did you mean 'ijepa/vith14_in1k'?)"),
        ("nowhere.yaml", "there is no recipe file nowhere.yaml"),
    ],
)
def test_unknown_recipes(name: str, words: str) -> None:
    with pytest.raises(RecipeError) as told:
        load_recipe(name)
    assert words in str(told.value)


def test_overrides_reach_every_section() -> None:
    changed = load_recipe(
        "ijepa/tiny_scenes", ["optim.lr=2e-3", "model.hidden_size=64", "data.source.size=96", "masks.num_targets=2"]
    )
    assert changed.optim.lr == 2e-3 and changed.model.own["hidden_size"] == 64
    assert changed.data.source.own["size"] == 96 and changed.masks is not None and changed.masks.own["num_targets"] == 2


def test_recipes_travel_with_the_package() -> None:
    assert RECIPES.parent.name == "training" and all((RECIPES / f"{name}.yaml").is_file() for name in NAMES)
