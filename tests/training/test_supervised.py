"""Supervised training: mixing, numbers, fine-tuning of other families' encoders, accuracy of a finished run. 12 s."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from jepa_hub.models.base import JEPAModel
from jepa_hub.models.pit import PiTModel
from tests.official import tiny_config, tiny_model
from training import few_labels
from training.config import Settings
from training.data.digits import NAMES
from training.data.source import Label
from training.loop import Run
from training.methods.labelled import classified, labelled_pictures, names_of
from training.methods.mixing import mix
from training.methods.supervised import Supervised, SupervisedSettings
from training.objectives import number_error
from training.probing.features import default_processor
from training.probing.splits import build_source
from training.recipe import RecipeError, check_settings

PIT: dict[str, Any] = {
    "model__name": "pit",
    "model__image_size": 8,
    "model__patch_size": 4,
    "method": {"name": "supervised", "label": "digit", "num_classes": 10},
    "masks": None,
    "data": {"source": {"name": "digits", "size": 8}, "views": {"crop_scale": None}, "batch_size": 64},
}


def parts(seed: int = 0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return torch.randn(6, 3, 1, 8, 10), torch.nn.functional.one_hot(torch.arange(6), 6).float()


def test_mixup_is_a_weighted_sum_of_pictures_and_of_targets() -> None:
    pixels, targets = parts()
    mixed, shares = mix(pixels, targets, 1.0, 0.0)
    share = shares.diagonal()[0]
    assert 0 < share < 1 and torch.allclose(shares.sum(1), torch.ones(6))
    assert torch.allclose(mixed, share * pixels + (1 - share) * pixels.flip(0), atol=1e-6)
    assert torch.allclose(shares, share * targets + (1 - share) * targets.flip(0))


def test_cutmix_pastes_a_rectangle_and_counts_its_area() -> None:
    for seed in range(20):
        pixels, targets = parts(seed)
        mixed, shares = mix(pixels, targets, 0.0, 1.0)
        same, other = (mixed == pixels)[0, 0, 0], (mixed == pixels.flip(0))[0, 0, 0]  # [8, 10]
        assert torch.equal(same, ~other)
        assert shares.diagonal()[0].item() == pytest.approx(same.float().mean().item())
        rows, columns = other.any(1), other.any(0)
        assert torch.equal(other, rows[:, None] & columns)  # a rectangle, or nothing
        for line in (rows, columns):
            assert line.int().diff().clamp_min(0).sum() + line[0] <= 1


def test_either_kind_of_mixing_is_drawn_and_none_changes_nothing() -> None:
    pixels, targets = parts()
    assert mix(pixels, targets, 0.0, 0.0) == (pixels, targets)
    kinds = set()
    for seed in range(20):
        torch.manual_seed(seed)
        mixed, _ = mix(pixels, targets, 1.0, 1.0)
        kinds.add(bool(((mixed == pixels) | (mixed == pixels.flip(0))).all()))
    assert kinds == {True, False}


def test_mixing_is_for_training_only_and_smoothing_is_torchs() -> None:
    model = tiny_model("pit", image_size=8, patch_size=2)
    method = Supervised(model, SupervisedSettings(label="kind", num_classes=3, mixup=1.0, label_smoothing=0.1))
    assert method.model.classifier is not None
    torch.nn.init.normal_(method.model.classifier.weight)
    batch: dict[str, Any] = {"pixels": torch.randn(4, 3, 1, 8, 8), "labels": {"kind": torch.tensor([0, 1, 2, 1])}}
    logits = method.model.logits(batch["pixels"])
    expected = torch.nn.functional.cross_entropy(logits, batch["labels"]["kind"], label_smoothing=0.1)
    assert torch.allclose(method.eval()(batch)["loss"], expected)
    torch.manual_seed(0)
    assert not torch.allclose(method.train()(batch)["loss"], expected)


def test_metrics_of_shares_and_labels() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    hard, soft = torch.tensor([0, 1, 1]), torch.tensor([[0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
    assert classified(logits, hard)["accuracy"] == classified(logits, soft)["accuracy"] == pytest.approx(2 / 3)
    by_hand = -(soft * logits.log_softmax(1)).sum(1).mean()
    assert torch.allclose(classified(logits, soft)["loss"], by_hand)


def test_numbers_are_learned_in_their_own_units() -> None:
    method = Supervised(tiny_model("pit"), SupervisedSettings(label="depth", offset=5.0, scale=2.0))
    pixels, depth = torch.randn(2, 3, 1, 32, 32), torch.tensor([3.0, 9.0])
    loss = method({"pixels": pixels, "labels": {"depth": depth}})["loss"]
    assert loss.item() == pytest.approx((1 + 4) / 2)  # the head starts at the offset
    loss.backward()
    assert method.model.regressor is not None and method.model.regressor.weight.grad is not None
    assert method.model.regressor.weight.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="differ"):
        number_error(torch.zeros(3), torch.zeros(3, 1))


def test_a_support_is_read_view_by_view() -> None:
    support = {"pixels": torch.arange(8.0), "labels": torch.tensor([4, 5, 4, 5]), "classes": torch.tensor([7, 2])}
    pixels, labels = labelled_pictures({"support": support}, "kind")
    assert torch.equal(pixels, support["pixels"]) and labels.tolist() == [7, 2, 7, 2] * 2


def test_a_run_learns_is_scored_and_goes_on(settings_of: Callable[..., Settings], tmp_path: Path) -> None:
    """A second run starts from the first one's model, keeps its head and trains nothing else."""
    settings = settings_of(**PIT, optim__lr=3e-3, run__steps=160, run__log_every=40, run__save_every=160)
    final = Run(settings).train()
    model = JEPAModel.from_pretrained(final)
    assert isinstance(model, PiTModel) and model.config.num_classes == 10 and list(model.config.networks) == ["encoder"]
    assert list(model.config.class_names) == list(NAMES)  # the source's, said by classify
    found = few_labels.evaluate(model, settings)
    assert found.top1 > 0.6 and found.count == 269
    again = settings_of(
        **{**PIT, "method": {**PIT["method"], "train": "head"}},
        model__checkpoint=str(final),
        run__steps=2,
        out=tmp_path / "again",
        probe={"every": 2, "kind": "classifier", "label": "digit", "num_train": 32, "num_test": 64},
    )
    tuned = JEPAModel.from_pretrained(Run(again).train())
    same = [
        torch.equal(one, two) for one, two in zip(model.encoder.parameters(), tuned.encoder.parameters(), strict=True)
    ]
    assert model.classifier is not None and tuned.classifier is not None
    assert all(same) and not torch.equal(model.classifier.weight, tuned.classifier.weight)
    assert (tmp_path / "again" / "best").is_dir()


def test_another_familys_encoder_is_fine_tuned(settings_of: Callable[..., Settings], tmp_path: Path) -> None:
    """From I-JEPA weights, whose target encoder is what features come from."""
    source = tiny_model("ijepa", image_size=32, licence="apache-2.0")
    source.save_pretrained(tmp_path / "start")
    config = tiny_config("ijepa")
    given = {f"model__{name}": getattr(config, name) for name in ("hidden_size", "intermediate_size", "patch_size")}
    settings = settings_of(
        **given,
        model__num_hidden_layers=2,
        model__num_attention_heads=2,
        model__predictor_hidden_size=24,
        model__predictor_num_hidden_layers=1,
        model__checkpoint=str(tmp_path / "start"),
        method={"name": "supervised", "label": "phase", "offset": 0.5, "scale": 0.3},
        masks=None,
        run__steps=1,
        optim__warmup_steps=0,
        optim__lr=1e-8,
    )
    tuned = JEPAModel.from_pretrained(Run(settings).train())
    assert isinstance(tuned, PiTModel) and tuned.config.pool == "mean" and tuned.config.num_values == 1
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.allclose(tuned.encode(pixels).tokens, source.encode(pixels).tokens, atol=1e-4)
    assert tuned.regress(pixels).shape == (2, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": {"name": "supervised", "label": "phase", "mixup": 0.2}}, "are for classes"),
        ({"method": {"name": "supervised", "label": "phase"}, "data__support": {"label": "phase"}}, "are for classes"),
        ({"data__support": {"label": "phase"}}, "are both the class to learn"),
        ({"method": {"name": "supervised", "label": "digit", "num_clases": 10}}, "did you mean 'num_classes'"),
    ],
)
def test_wrong_recipes(changes: dict[str, Any], message: str) -> None:
    from tests.training.patterns import recipe

    with pytest.raises(RecipeError, match=message):
        check_settings(recipe("unused", **{**PIT, **changes}), "test")


def test_names_of_classes_come_from_the_source() -> None:
    labels = {"kind": Label("class", 2, ("cat", "dog")), "size": Label("number", unit="cm")}
    assert names_of(labels, "kind", 2) == ["cat", "dog"]
    assert names_of(labels, "kind", 3) == names_of(labels, "size", 0) == []
    for label, num_classes, message in (
        ("knd", 2, "'knd' is none of the source's: kind, size"),
        ("kind", 0, "is a class of 2: set method.num_classes=2"),
        ("size", 2, "is a number"),
        ("kind", 1, "has 2 classes, the recipe 1"),
    ):
        with pytest.raises(ValueError, match=message):
            names_of(labels, label, num_classes)


def test_numbers_of_unseen_pictures_are_scored() -> None:
    own = {"size": 16, "num_samples": 30, "cache": None}
    source = build_source("scenes", {**own, "split": "test"})
    model = tiny_model("pit", image_size=16, patch_size=4, num_values=1, value_offset=9.0, pool="mean")
    assert isinstance(model, PiTModel)
    found = few_labels.regressor_errors(model, (source, None), "depth")
    samples = [source.read(index, 0) for index in range(30)]
    truth = torch.tensor([sample.labels["depth"] for sample in samples])
    processor = default_processor(model)
    said = model.regress(processor([each.pixels.permute(1, 2, 0).numpy() for each in samples]))[:, 0]
    error = (said - truth).square().mean()
    assert found.rmse == pytest.approx(error.sqrt().item(), rel=1e-4) and (found.unit, found.count) == (
        "scene units",
        30,
    )
    assert found.unit == "scene units"
    assert found.r2 == pytest.approx(1 - (error / truth.var(correction=0)).item(), abs=1e-4)
    with pytest.raises(ValueError, match="no regressor"):
        few_labels.regressor_errors(tiny_model("pit"), (source, None), "depth")


def test_only_vision_transformers_are_trained_so() -> None:
    with pytest.raises(ValueError, match="heads go on a vision transformer; PAWSModel has a ResNet"):
        Supervised(tiny_model("paws"), SupervisedSettings(label="kind", num_classes=3))
