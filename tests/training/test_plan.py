"""`python -m training.plan`: what it prints for shipped recipes. 6 seconds."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from training.plan import amount, main, plan
from training.recipe import load_recipe


def costs_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    main([*arguments, "--json"])
    return json.loads(capsys.readouterr().out)


def test_the_published_run_of_ijepa(capsys: pytest.CaptureFixture[str]) -> None:
    costs = costs_of(capsys, "ijepa/vith14_in1k", "--devices", "16", "--gpu", "a100-80gb", "--mfu", "0.4")
    assert costs["step_size"] == 2048 and costs["samples"] == 2048 * 187500
    assert costs["tokens"]["all"] == 256 and costs["tokens"]["groups"][0]["targets"] == 4
    assert costs["flops"]["total"] == pytest.approx(costs["flops"]["sample"] * costs["samples"])
    # 72 hours at the implied share are as much work as the predicted hours at 40 %.
    assert costs["published"]["mfu"] * 72 == pytest.approx(0.4 * costs["time"]["hours"])
    assert 0.15 < costs["published"]["mfu"] < 0.35
    # By hand: the target encoder sees 256 tokens, with 2 operations per weight, and attends in 32 layers.
    by_hand = 2 * 256 * 630.4e6 + 32 * 4 * 256**2 * 1280
    assert costs["flops"]["forward"]["target_encoder"] == pytest.approx(by_hand, rel=0.002)


def test_faithful_masks_have_the_lengths_of_the_published_log(capsys: pytest.CaptureFixture[str]) -> None:
    costs = costs_of(capsys, "ijepa/vith14_in1k", "masks.mode=faithful")
    group = costs["tokens"]["groups"][0]
    assert group["context"] == pytest.approx(69, abs=2)  # upstream's log shows mask lengths near 69 and 44
    assert group["target"] == pytest.approx(44, abs=1)


def test_devices_share_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    few = costs_of(capsys, "ijepa/tiny_scenes", "run.precision=bf16", "--devices", "2", "--gpu", "h100", "--mfu", "0.5")
    many = costs_of(capsys, "ijepa/tiny_scenes", "run.precision=bf16", "--devices", "8", "--gpu", "h100")
    assert many["flops"]["total"] == 4 * few["flops"]["total"]  # the batch is per device
    assert few["time"]["hours"] == pytest.approx(few["flops"]["total"] / (2 * 0.5 * 989.5e12) / 3600)
    assert many["memory"]["fsdp2"]["weights"] == few["memory"]["fsdp2"]["weights"] / 4
    assert many["memory"]["ddp"]["total"] == few["memory"]["ddp"]["total"]


def test_a_json_plan_holds_plain_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    def walk(value: Any) -> None:
        if isinstance(value, dict):
            for each in value.values():
                walk(each)
        elif isinstance(value, float):
            assert math.isfinite(value)

    costs = costs_of(capsys, "mae/tiny_scenes", "--gpu", "none")
    walk(costs)
    assert costs["time"] is None and costs["published"] is None
    assert "target_encoder" not in costs["parameters"] and "target_encoder" not in costs["flops"]["forward"]


def test_the_report_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    main(["ijepa/vith14_in1k", "run.activation_checkpointing=true", "data.batch_size=256", "--devices", "8"])
    text = capsys.readouterr().out
    for words in (
        "encoder 630.4 M, predictor 22.28 M",
        "a grid of 1 x 16 x 16",
        "are recomputed)",
        "a step of 2048 (8 x 256)",
        "per device, DDP, too much for 80 GiB",
        "per device, FSDP2, activations recomputed:",
        "312 TFLOP/s dense bf16",
        "under 72 h on 16 x a100 (arXiv:2301.08243, abstract)",
    ):
        assert words in text


def test_one_device_has_no_kind_of_sharing(capsys: pytest.CaptureFixture[str]) -> None:
    main(["vjepa/small_moving_scenes", "--gpu", "none"])
    text = capsys.readouterr().out
    assert "FSDP2" not in text and "communication" not in text and "published" not in text
    assert "masks 1" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ijepa/tiny_scene"], "did you mean 'ijepa/tiny_scenes'"),
        (["ijepa/tiny_scenes", "optim.lrr=1"], "did you mean 'lr'"),
        (["ijepa/tiny_scenes", "--gpu", "a1000"], "unknown GPU 'a1000'; there are v100-pcie, "),
        (["ijepa/tiny_scenes", "--gpu", "v100", "run.precision=bf16"], "no peak is known for v100 in bf16"),
        (["ijepa/tiny_scenes", "--devices", "0"], "--devices must be 1 or more"),
        (["ijepa/tiny_scenes", "--mfu", "40"], "--mfu in (0, 1], got 1 and 40"),
    ],
)
def test_mistakes_are_told(arguments: list[str], words: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert words in str(stopped.value)


def test_a_run_without_masks_has_no_formula() -> None:
    settings = load_recipe("ijepa/tiny_scenes").model_copy(update={"masks": None})
    with pytest.raises(ValueError, match="no cost is known for the method jepa"):
        plan(settings)


@pytest.mark.parametrize(
    ("value", "text"),
    [(780e9, "780 GFLOP"), (1.598e15, "1.6 PFLOP"), (999.9e9, "1000 GFLOP"), (3e20, "300 EFLOP"), (12.0, "12 FLOP")],
)
def test_amounts(value: float, text: str) -> None:
    assert amount(value, "FLOP") == text
