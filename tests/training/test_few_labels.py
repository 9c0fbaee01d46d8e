"""PAWS, SuNCEt and fine-tuning: workers, batches, runs from recipes, protocols, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from jepa_hub.models.base import JEPAModel
from tests.official import tiny_model, tiny_pixels
from tests.training.neighbour_worker import batch_of, gradients, method_of, work
from tests.training.worker import CONTEXT, finish
from training import few_labels
from training.config import Settings
from training.loop import Run
from training.methods.finetune import FineTune, FineTuneSettings
from training.methods.paws import PAWS, PAWSSettings
from training.methods.residual import label_rows

SMALL: dict[str, Any] = {
    "model": {
        "name": "paws",
        "block": "basic",
        "stem": "small",
        "depths": [1, 1, 1],
        "base_width": 8,
        "image_size": 16,
        "projection_size": 16,
    },
    "method": {"name": "paws"},
    "masks": None,
    "data": {
        "source": {"name": "digits", "size": 16},
        "num_views": 2,
        "views": {"crop_scale": [0.6, 1.0]},
        "support": {"label": "digit", "per_class": 3},
        "batch_size": 16,
    },
}


def two_workers(name: str, unique: bool, out: Path) -> dict[str, Any]:
    processes = [CONTEXT.Process(target=work, args=(rank, name, unique, str(out))) for rank in range(2)]
    for process in processes:
        process.start()
    finish(processes)
    return torch.load(out, weights_only=True)


@pytest.mark.parametrize(
    ("name", "unique"), [pytest.param("paws", False, marks=pytest.mark.slow), ("paws", True), ("suncet", False)]
)
def test_two_workers_are_one_with_the_joined_batch(name: str, unique: bool, tmp_path: Path) -> None:
    found = two_workers(name, unique, tmp_path / "found.pt")
    method = method_of(name)
    loss = method(batch_of(None, unique))["loss"]
    loss.backward()
    assert abs(loss.item() - found["loss"].item()) < 1e-5
    expected = gradients(method)
    assert expected.keys() == found["gradients"].keys() and len(expected) > 10
    scale = max(float(each.abs().max()) for each in expected.values())
    assert scale > 1e-2
    for key, gradient in expected.items():
        assert (gradient - found["gradients"][key]).abs().max() < 1e-5 * max(scale, 1), key


def test_label_rows_are_upstreams() -> None:
    hot = label_rows(torch.tensor([1, 0]), 4, 0.1, repeats=2)
    assert torch.allclose(hot[0], torch.tensor([0.025, 0.925, 0.025, 0.025])) and torch.equal(hot[2:], hot[:2])


def test_targets_come_from_the_projection_and_anchors_from_the_prediction() -> None:
    batch, method = batch_of(None, False), method_of("paws")
    before = method(batch)
    with torch.no_grad():  # the prediction head moves anchors, never targets
        method.model.prediction.fc2.weight.mul_(-1.0)
    after = method(batch)
    assert before["confidence"] == after["confidence"] and before["loss"] != after["loss"]
    for parameter in method.parameters():
        parameter.grad = None
    after["loss"].backward()
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in method.parameters())


def test_me_max_and_sharpening_are_switches() -> None:
    batch = batch_of(None, False)
    method = method_of("paws")
    full = method(batch)
    plain = PAWS(method.model, PAWSSettings(me_max=0)).eval()(batch)
    assert torch.isclose(full["loss"], plain["loss"] - full["entropy"])
    blunt = PAWS(method.model, PAWSSettings(sharpening=1)).eval()(batch)
    assert blunt["confidence"] < full["confidence"]


def test_pseudo_labels_are_compared_with_the_truth_of_classes_that_are_there() -> None:
    method, batch = method_of("paws"), batch_of(None, False)
    batch["support"] |= {"label": "kind", "classes": torch.tensor([7, 4, 2])}
    with torch.no_grad():
        supports = method.model.embed(batch["support"]["pixels"]).projected
        h = [method.model.embed(view).projected for view in batch["views"][:2]]
    labels = label_rows(batch["support"]["labels"], 3, 0.1, 2)
    cosines = F.normalize(torch.cat([h[1], h[0]]), dim=1) @ F.normalize(supports, dim=1).T
    best = torch.tensor([7, 4, 2])[((cosines / 0.1).softmax(1) @ labels.double()).argmax(1)]
    truth = best[:6].clone()
    truth[0] = 99  # a class that is not in this support does not count
    batch["labels"] = {"kind": truth}
    expected = (best == truth.repeat(2))[truth.repeat(2) != 99].double().mean()
    assert method(batch)["pseudo_label_accuracy"].item() == pytest.approx(expected.item())


def test_looking_at_features_leaves_the_batch_norms_alone() -> None:
    method = PAWS(tiny_model("paws"), PAWSSettings()).train()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    features = method.features(tiny_pixels("paws"))
    assert features.shape == (2, 64, 48) and method.model.encoder.bn1.training
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


def run(settings_of: Callable[..., Settings], out: Path, **changes: Any) -> tuple[Any, Settings]:
    tree = {**SMALL, **{key: changes.pop(key) for key in list(changes) if key in SMALL}}
    settings = settings_of(
        out=out,
        **tree,
        run__steps=changes.pop("steps", 30),
        run__log_every=10,
        run__save_every=100,
        optim__lr=5e-3,
        **changes,
    )
    Run(settings).train()
    return JEPAModel.from_pretrained(out / "final"), settings


def test_a_run_learns_and_its_model_classifies(settings_of: Callable[..., Settings], tmp_path: Path) -> None:
    probe = {"every": 40, "kind": "support", "label": "digit"}
    model, settings = run(settings_of, tmp_path / "run", probe=probe, steps=120)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    hits = [entry["pseudo_label_accuracy"] for entry in log if "loss" in entry]
    assert hits[-1] > hits[0] + 0.05 and len([entry for entry in log if "probe_digit" in entry]) == 3
    assert (tmp_path / "run" / "best").is_dir()
    found = few_labels.evaluate(model, settings, "test")
    assert found.count == 269 and found.top1 > 0.2 and found.top5 > 0.7
    _, indices, label = few_labels.labelled_part(settings)
    assert len(indices) == 30 and label == "digit"
    # the same by the model's own classify: one formula
    test = few_labels.unseen_source(settings, "test", {})
    shown, truth = few_labels.read(model, test, range(20), label, "embedding")
    assert shown.shape == (20, 16) and truth.tolist() == test.label_values("digit")[:20].tolist()

    tuned = {"name": "finetune", "label": "digit", "num_classes": 10}
    again = {**SMALL["model"], "checkpoint": str(tmp_path / "run" / "final")}
    data = {**SMALL["data"], "num_views": 1}
    kind = {"every": 10, "kind": "classifier", "label": "digit"}
    linear, settings = run(
        settings_of, tmp_path / "tuned", model=again, method={**tuned, "train": "linear"}, data=data, probe=kind
    )
    before, after = model.state_dict(), linear.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("encoder."))
    assert torch.equal(after["classifier.fc1.weight"], before["projection.fc1.weight"])
    assert after["classifier.fc2.weight"].abs().sum() > 0 and linear.projection is None
    assert few_labels.evaluate(linear, settings, "test").top1 > 0.2
    assert len(linear.classify(torch.randn(2, 3, 16, 16)).labels[0]) == 5


def test_suncet_switches_off(settings_of: Callable[..., Settings], tmp_path: Path) -> None:
    model = {**SMALL["model"], "prediction": False}
    support = {"label": "digit", "per_class": 3, "until": 0.5}
    data = {**SMALL["data"], "support": support}
    on, _ = run(settings_of, tmp_path / "on", model=model, method={"name": "suncet"}, data=data, steps=20)
    lines = (tmp_path / "on" / "log.jsonl").read_text().splitlines()
    assert "suncet" in lines[0] and '"suncet"' not in lines[1] and "nt_xent" in lines[1]
    never = {**data, "support": {**support, "until": 0.0}}
    off, _ = run(settings_of, tmp_path / "off", model=model, method={"name": "suncet"}, data=never, steps=5)
    without = {**data, "support": None}
    simclr, _ = run(settings_of, tmp_path / "simclr", model=model, method={"name": "suncet"}, data=without, steps=5)
    assert all(torch.equal(value, simclr.state_dict()[name]) for name, value in off.state_dict().items())
    assert not torch.equal(on.encoder.conv1.weight, off.encoder.conv1.weight)


def test_linear_fine_tuning_trains_one_layer() -> None:
    method = FineTune(tiny_model("paws"), FineTuneSettings(label="kind", num_classes=3, train="linear")).train()
    assert [name for name, each in method.named_parameters() if each.requires_grad] == [
        "model.classifier.fc2.weight",
        "model.classifier.fc2.bias",
    ]
    mean = method.model.encoder.bn1.running_mean
    assert mean is not None
    before = mean.clone()
    found = method({"pixels": tiny_pixels("paws"), "labels": {"kind": torch.tensor([0, 2])}})
    assert found["loss"].item() == pytest.approx(torch.log(torch.tensor(3.0)).item())  # the layer starts at zero
    assert torch.equal(mean, before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__num_views": 1}, "paws compares two large views"),
        ({"data__support": None}, "needs labelled samples at every step"),
        ({"model__name": "ijepa", "model__patch_size": 8}, "model"),
        ({"method__name": "suncet"}, "set model.prediction=false"),
        ({"method__name": "suncet", "model__prediction": False, "data__num_views": 1}, "compares two views"),
        ({"data__support__imgs": 3}, "unknown setting data.support.imgs"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(
    changes: dict[str, Any], message: str, settings_of: Callable[..., Settings]
) -> None:
    tree = {key: ({**value} if isinstance(value, dict) else value) for key, value in SMALL.items()}
    tree["data"] = {**SMALL["data"], "support": dict(SMALL["data"]["support"])}
    with pytest.raises(ValueError, match=message):
        settings_of(**tree, **changes)


def test_unseen_pictures_must_be_others(settings_of: Callable[..., Settings]) -> None:
    settings = settings_of(**SMALL)
    with pytest.raises(ValueError, match="not 'tset'"):
        few_labels.unseen_source(settings, "tset", {})
    with pytest.raises(ValueError, match="no classifier"):
        few_labels.classifier_accuracy(
            tiny_model("paws"), (few_labels.unseen_source(settings, "test", {}), None), "digit"
        )
