"""Pixel transformers' claims: arms at equal cost, and pictures that find a grid where there is one. 5 seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from jepa_hub.models.pit import PiTConfig, PiTModel
from training.claims import pit, pit_diffusion, pit_mae, pit_pictures, pit_supervised, registry
from training.claims.base import Results
from training.claims.pit_pictures import Trained
from training.reproduce import RESULTS, load_results


def trained(order: Tensor | None = None, **settings: object) -> Trained:
    config = PiTConfig(
        image_size=8,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        pool="mean",
        networks=["encoder"],
        num_classes=3,
        **settings,
    )
    torch.manual_seed(0)
    return Trained(PiTModel(config).eval(), torch.randn(4, 3, 1, 8, 8), order)


def table_of(one: Trained) -> Tensor:
    positions: Any = one.model.encoder.positions
    table: Tensor = positions.table
    return table


def qkv(one: Trained, layer: int) -> Any:
    block: Any = one.model.encoder.blocks[layer]
    return block.attn.qkv


def waves() -> Tensor:
    """Positions that tell row and column smoothly [64, 32]."""
    rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    each = [
        f(x * k / 8) for x in (rows.flatten(), columns.flatten()) for k in range(1, 9) for f in (torch.sin, torch.cos)
    ]
    return torch.stack(each, 1)


@torch.no_grad()
def test_a_grid_is_found_where_there_is_one_also_behind_shuffled_pixels() -> None:
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    for one, table in ((trained(), waves()), (trained(order), waves()[order])):
        table_of(one).copy_(table)
        cosines = pit_pictures.position_cosines(one)
        hit, chance = pit_pictures.neighbour_score(cosines, *one.grid)
        assert hit == 100 and chance == pytest.approx(100 * 420 / 64 / 63)  # 420 ordered pairs are neighbours
        assert pit_pictures.distance_correlation(cosines, *one.grid) < -0.6
    wrong = Trained(one.model, one.pixels)  # as if nothing had been shuffled
    cosines = pit_pictures.position_cosines(wrong)
    assert pit_pictures.neighbour_score(cosines, 8, 8)[0] < 40
    assert abs(pit_pictures.distance_correlation(cosines, 8, 8)) < 0.1


@torch.no_grad()
def test_attention_distance_is_that_of_what_is_looked_at() -> None:
    one = trained()
    for layer in range(2):
        qkv(one, layer).weight.zero_()
        qkv(one, layer).bias.zero_()
    alike = pit_pictures.attention_distances(one)
    assert alike.shape == (2, 2) and torch.allclose(alike, one.apart.mean().expand(2, 2), atol=1e-5)
    table = 5.0 * torch.nn.functional.one_hot(torch.arange(64) % 16, 32)
    table_of(one).copy_(table)
    one.model.encoder.patch_embed.proj.weight.zero_()
    # queries and keys of both heads are the positions, so each looks at itself and the pixels 2, 4, 6 rows away
    qkv(one, 0).weight[:64] = 20 * torch.eye(16, 32).repeat(4, 1)
    assert torch.allclose(pit_pictures.attention_distances(one)[0], torch.tensor([2.5, 2.5]), atol=1e-2)


def test_windows_and_other_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="within windows"):
        pit_pictures.attention_distances(trained(attention_window=3))
    with pytest.raises(ValueError, match="not learned"):
        pit_pictures.position_cosines(trained(position_type="sincos"))


def test_pictures_are_drawn(tmp_path: Path) -> None:
    models = {"one": trained(), "two": trained(torch.randperm(64))}
    pit_pictures.draw_positions(models, tmp_path / "a.png")
    pit_pictures.draw_distances(models, tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 300 and len(picture.convert("RGB").getcolors(1 << 20) or []) > 10


def test_wide_patches_cost_what_single_pixels_cost() -> None:
    for recipe, wide in ((pit_supervised.RECIPE, pit.WIDE), (pit_diffusion.RECIPE, pit_diffusion.WIDE)):
        pixels, patches = pit.costs(recipe, ()), pit.costs(recipe, wide)
        assert patches["tflops"] == pytest.approx(pixels["tflops"], rel=0.03)
        assert (pixels["tokens"], patches["tokens"]) == (64, 16)


def test_the_long_run_spends_what_pretraining_and_fine_tuning_spend() -> None:
    first, second = pit_mae.PRETRAINED[1]
    both = pit.costs(pit_mae.PRETRAIN, first)["tflops"] + pit.costs(pit_mae.FINE_TUNE, second)["tflops"]
    steps = pit.steps_for(pit_mae.FINE_TUNE, pit_mae.SCRATCH[1], both)
    assert pit.costs(pit_mae.FINE_TUNE, [*pit_mae.SCRATCH[1], f"run.steps={steps}"])["tflops"] == pytest.approx(
        both, rel=0.002
    )


@pytest.mark.parametrize("module", [pit_supervised, pit_mae, pit_diffusion])
def test_each_claim_draws_what_is_there(module: object, tmp_path: Path) -> None:
    claim = module.CLAIM  # type: ignore[attr-defined]
    metrics = dict.fromkeys(claim.metrics, 50.0) | {
        "tflops": 1.0,
        "tokens": 4.0,
        "curve_200": 40.0,
        "curve_400": 60.0,
    }
    results: Results = {arm.name: {0: {"metrics": metrics}} for arm in claim.arms[:3]}
    claim.picture(results, tmp_path / "some.png")
    claim.picture({}, tmp_path / "none.png")
    assert (tmp_path / "some.png").stat().st_size > (tmp_path / "none.png").stat().st_size > 1000


@pytest.mark.parametrize("name", ["pit_supervised", "pit_mae", "pit_diffusion"])
def test_the_committed_grids_are_whole_and_say_what_each_arm_costs(name: str) -> None:
    claim, results = registry.claim(name), load_results(RESULTS, name)
    assert set(claim.grid(full=False)) == {(arm, seed) for arm, seeds in results.items() for seed in seeds}
    assert min(len(results[each.better]) for each in claim.comparisons if each.decisive) >= 5
    for arm, seeds in results.items():
        if arm != "real":
            assert all(entry["metrics"]["tokens"] >= 1 and entry["metrics"]["tflops"] > 0 for entry in seeds.values())


def test_a_classifier_of_real_digits_sees_the_digits_that_were_asked_for() -> None:
    runs = load_results(RESULTS, "pit_diffusion")["p1"].values()
    assert all(run["metrics"]["judge_accuracy"] >= 97 and run["metrics"]["agreement"] >= 85 for run in runs)


def test_two_arms_of_the_same_law_say_how_far_chance_reaches() -> None:
    results: Results = {
        arm: {seed: {"metrics": {"accuracy": 95.0 + seed + shift}} for seed in range(2)}
        for arm, shift in (("p1", 0.0), ("p1_permuted", -1.0))
    }
    assert "-1.0 ± 0.0" in pit_supervised.remark(results) and "once run" in pit_supervised.remark({})
