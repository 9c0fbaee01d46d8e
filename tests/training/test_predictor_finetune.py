"""Predictor fine-tuning: what is trained and what stays, where it starts, and labels it can learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from jepa_hub.models.base import JEPAModel
from tests.official import tiny_model, tiny_pixels
from training.config import Settings
from training.loop import Run
from training.methods.predictor_finetune import PredictorFineTune, PredictorFineTuneSettings
from training.recipe import RecipeError

TASKS = {"kind": 3, "shade": 4}


def method_of(**settings: Any) -> PredictorFineTune:
    torch.manual_seed(0)
    return PredictorFineTune(tiny_model("iwm"), PredictorFineTuneSettings(tasks=TASKS, **settings)).train()


def batch(count: int = 6) -> dict[str, Any]:
    numbers = torch.arange(count)
    return {"pixels": tiny_pixels("iwm", batch=count), "labels": {"kind": numbers % 3, "shade": numbers % 4}}


@pytest.mark.parametrize(
    ("train", "parts"),
    [
        ("predictor", ["predictor", "heads"]),
        ("encoder", ["target_encoder", "heads"]),
        ("all", ["target_encoder", "predictor", "heads"]),
    ],
)
def test_what_is_trained(train: str, parts: list[str]) -> None:
    method = method_of(train=train)
    assert list(method.parts()) == parts and method.model.encoder is None
    before = {name: value.clone() for name, value in method.state_dict().items()}
    optimizer = torch.optim.SGD([each for each in method.parameters() if each.requires_grad], 0.5)
    metrics = method(batch())
    assert {"accuracy_kind", "accuracy_shade"} < metrics.keys()
    metrics["loss"].backward()
    optimizer.step()
    after = method.state_dict()
    moved = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    assert moved == set(parts)


def test_a_pretrained_predictor_is_kept_and_a_random_one_is_new() -> None:
    weight = tiny_model("iwm").predictor.blocks[0].attn.qkv.weight
    kept: Any = method_of().model.predictor
    new: Any = method_of(start="random").model.predictor
    assert torch.equal(kept.blocks[0].attn.qkv.weight, weight)
    assert not torch.equal(new.blocks[0].attn.qkv.weight, weight)
    assert new.blocks[0].attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.1)  # as initialised
    assert new.mixer.fc1.weight.std().item() == pytest.approx((2 / 31) ** 0.5, rel=0.1)
    assert sum(each.numel() for each in new.parameters()) == sum(each.numel() for each in kept.parameters())


def test_the_encoder_is_the_moving_average() -> None:
    model = tiny_model("iwm")
    target = model.target_encoder.blocks[0].attn.qkv.weight.clone()
    method = PredictorFineTune(model, PredictorFineTuneSettings(tasks=TASKS))
    encoder: Any = method.model.feature_encoder
    assert torch.equal(encoder.blocks[0].attn.qkv.weight, target)
    assert method.model.config.networks == ["predictor", "target_encoder"]


def test_tasks_share_the_predictor_and_ask_by_their_tokens() -> None:
    method = method_of()
    pixels = tiny_pixels("iwm")
    model: Any = method.model
    kind = model.task_logits(pixels, "kind")
    predictor: Any = method.model.predictor
    with torch.no_grad():
        predictor.task_tokens.tokens[1, ::2] += 3  # in the order of names: kind, shade
    assert torch.equal(model.task_logits(pixels, "kind"), kind)


def test_it_learns_runs_and_loads(settings_of: Callable[..., Settings]) -> None:
    settings = settings_of(
        model__name="iwm", masks=None, run__steps=60, run__save_every=60, optim__lr=3e-3, data__batch_size=16,
        method={"name": "predictor_finetune", "train": "all", "tasks": {"angle": 4}},
    )  # fmt: skip
    run = Run(settings)
    first: list[float] = []
    run.bare_method.register_forward_hook(lambda *each: first.append(float(each[-1]["loss"].detach())))
    model = JEPAModel.from_pretrained(run.train())
    assert model.config.tasks == {"angle": 4} and model.config.networks == ["predictor", "target_encoder"]
    assert sum(first[-5:]) < 0.7 * sum(first[:5])
    assert model.read(tiny_pixels("iwm"), "angle").shape == (2, 4)


def test_bad_settings_are_refused(settings_of: Callable[..., Settings]) -> None:
    method = {"name": "predictor_finetune", "tasks": {"kind": 4}}
    with pytest.raises(RecipeError, match=r"leave out masks and data\.photometry"):
        settings_of(model__name="iwm", method=method)
    with pytest.raises(RecipeError, match="tasks"):
        settings_of(model__name="iwm", masks=None, method={"name": "predictor_finetune", "tasks": {}})
    with pytest.raises(ValueError, match="trains the family iwm, not IJepaModel"):
        PredictorFineTune(tiny_model("ijepa"), PredictorFineTuneSettings(tasks=TASKS))
    with pytest.raises(ValueError, match="no label 'shade'; it has kind"):
        method_of()({"pixels": tiny_pixels("iwm"), "labels": {"kind": torch.tensor([0, 1])}})
