"""PAWS models: upstream's numbers, official files, heads, the classifier by support, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jepa_hub.models.base import JEPAModel
from jepa_hub.models.paws import RESNETS, PAWSConfig, PAWSModel
from jepa_hub.nn.resnet import soft_neighbours
from tests.official import golden, tiny_config, tiny_model, tiny_pixels


def golden_checkpoint() -> dict[str, Any]:
    """The checkpoint of the golden, drawn from its seed by the rule of resnets."""
    spec, _ = golden("paws_wrn28w2")
    rng = np.random.default_rng(spec["seed"])
    state: dict[str, Tensor] = {}
    for key in sorted(spec["filled"]):
        shape = spec["filled"][key]
        if key.endswith("num_batches_tracked"):
            state["module." + key] = torch.tensor(0)
            continue
        drawn = rng.standard_normal(shape)
        if key.endswith("running_var"):
            drawn = 1 + 0.1 * abs(drawn)
        elif len(shape) == 1:
            drawn = 1 + 0.05 * drawn if key.endswith("weight") else 0.05 * drawn
        else:
            drawn = drawn / np.sqrt(np.prod(shape[1:]))
        state["module." + key] = torch.from_numpy(np.asarray(drawn, dtype=np.float32))
    return {"encoder": state, "epoch": 3}


def official_resnet(fine_tuned: bool = False) -> dict[str, Any]:
    """A file of the layout of the ImageNet checkpoints, small."""
    model = tiny_model(
        "paws",
        num_classes=7 if fine_tuned else 0,
        **({"projection_size": 0, "prediction": False} if fine_tuned else {}),
    )
    names = {"encoder.": "", "projection.": "fc.", "classifier.": "fc.", "prediction.": "pred."}
    state = {}
    for name, tensor in model.state_dict().items():
        part = next(each for each in names if name.startswith(each))
        state["module." + names[part] + name.removeprefix(part)] = tensor
    return {"encoder": state, "opt": {}, "epoch": 300, "lr": 0.06, "temperature": 0.1, "amp": True}


def test_golden_wide_resnet(tmp_path: Path) -> None:
    _, tensors = golden("paws_wrn28w2")
    path = tmp_path / "wrn.pth.tar"
    torch.save(golden_checkpoint(), path)
    model = JEPAModel.from_pretrained(path)
    assert isinstance(model, PAWSModel)
    assert (model.config.block, model.config.depths, model.config.base_width) == ("wide", [4, 4, 4], 32)
    features = model.encode(tensors["pixel_values"])
    assert features.grid_size == (1, 8, 8)
    for name in ("out_0", "out_1"):
        assert (features.pooled - tensors[name]).abs().max() < 1e-4
    assert (model.embed(tensors["pixel_values"]).predicted - tensors["out_1"]).abs().max() < 1e-4


@pytest.mark.parametrize("fine_tuned", [False, True])
def test_official_files(tmp_path: Path, fine_tuned: bool) -> None:
    path, again = tmp_path / "paws_imgnt.pth.tar", tmp_path / "again.pth.tar"
    official = official_resnet(fine_tuned)
    torch.save(official, path)
    model = PAWSModel.from_pretrained(path, image_size=32)
    assert model.config.num_classes == (7 if fine_tuned else 0) and model.config.prediction == (not fine_tuned)
    model.save_official(again)
    written = torch.load(again, weights_only=True)["encoder"]
    assert written.keys() == official["encoder"].keys()
    assert all(torch.equal(written[key], value) for key, value in official["encoder"].items())
    pixels = tiny_pixels("paws")
    if fine_tuned:
        expected = model.classifier(model.encode(pixels).pooled).softmax(-1)
        found = model.classify(pixels, top=7)
        assert torch.allclose(found.probabilities, expected.sort(descending=True).values, atol=1e-6)
        assert found.labels[0][0] == str(int(expected[0].argmax()))
    official["encoder"]["module.layer1.0.extra"] = torch.zeros(1)
    torch.save(official, path)
    with pytest.raises(ValueError, match=r"unexpected: encoder.layer1.0.extra"):
        JEPAModel.from_pretrained(path)
    with pytest.raises(ValueError, match=r"residual network.*not ijepa"):
        JEPAModel.from_pretrained(path, family="ijepa")


@pytest.mark.parametrize("size", RESNETS)
def test_published_sizes(size: str) -> None:
    # millions of parameters of the trunks: torchvision's counts without the final layer for 1x, 4x the width squared
    known = {"resnet18": 11.177, "resnet50": 23.508, "resnet101": 42.500, "wide_resnet28w2": 1.47}
    config = PAWSConfig.of_size(size)
    with torch.device("meta"):
        model = PAWSModel(config)
    count = sum(each.numel() for each in model.encoder.parameters()) / 1e6
    if size in known:
        assert count == pytest.approx(known[size], rel=0.002)
    assert config.hidden_size == model.encoder.width and config.patch_size == model.encoder.stride
    if size == "resnet50w2":
        assert model.projection is not None
        assert config.hidden_size == 4096 and model.projection.fc1.weight.shape == (4096, 4096)


def test_heads_are_upstreams() -> None:
    with torch.device("meta"):
        model = PAWSModel(PAWSConfig.of_size("resnet50"))
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert [shapes[f"projection.fc{index}.weight"] for index in (1, 2, 3)] == [(2048, 2048)] * 3
    assert shapes["prediction.bn1.weight"] == (2048,) and shapes["prediction.fc1.weight"] == (512, 2048)
    assert shapes["prediction.fc2.weight"] == (2048, 512) and shapes["projection.bn2.weight"] == (2048,)
    two = PAWSConfig(projection_layers=2, projection_size=128, prediction=False)
    with torch.device("meta"):
        head = PAWSModel(two).projection
    assert head is not None
    names = set(head.state_dict())
    assert names == {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}


def test_a_resnet_encodes_any_size() -> None:
    model = tiny_model("paws")
    for height, width, grid in ((32, 32, (1, 8, 8)), (33, 18, (1, 9, 5)), (5, 7, (1, 2, 2))):
        features = model.encode(torch.randn(2, 3, height, width))
        assert features.grid_size == grid and features.tokens.shape == (2, grid[1] * grid[2], 48)
    with pytest.raises(ValueError, match="8 frames"):
        model.encode(torch.randn(1, 3, 8, 32, 32))
    with pytest.raises(ValueError, match=r"permute\(0, 2, 1, 3, 4\)"):
        model.encode(torch.randn(1, 8, 3, 32, 32))
    with pytest.raises(ValueError, match="without layers="):
        model.encode(torch.randn(1, 3, 32, 32), layers=[0])


def test_predict_says_what_it_does_instead() -> None:
    model, pixels = tiny_model("paws"), tiny_pixels("paws")
    for call in (lambda: model.predict(pixels, context=[0], target=[1]), lambda: model(pixels, masks=[])):
        with pytest.raises(ValueError, match=r"predicts no tokens.*classify"):
            call()


def support_of(model: PAWSModel) -> tuple[Tensor, Tensor]:
    return torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(5)), torch.tensor([0, 1, 2] * 2)


def test_classify_is_the_formula() -> None:
    model, pixels = tiny_model("paws"), tiny_pixels("paws", batch=5)
    images, labels = support_of(model)
    found = model.classify(pixels, images, labels, top=3, batch_size=2)
    query = torch.nn.functional.normalize(model.embed(pixels).predicted, dim=1)
    keys = torch.nn.functional.normalize(model.embed(images).predicted, dim=1)
    weights = (query @ keys.T / 0.1).exp()  # the plain formula, sum by sum
    expected = torch.stack([weights[:, labels == k].sum(1) / weights.sum(1) for k in range(3)], dim=1)
    assert torch.allclose(found.probabilities, expected.sort(descending=True).values, atol=1e-5)
    assert [row[0] for row in found.labels] == [str(int(k)) for k in expected.argmax(1)]
    kept = model.support(images, ["cat", "dog", "eel"] * 2)
    named = model.classify(pixels, kept, top=1)
    assert [row[0] for row in named.labels] == [kept.names[int(k)] for k in expected.argmax(1)]
    # supports in another order, or longer embeddings, change nothing
    order = torch.tensor([5, 3, 1, 0, 2, 4])
    one_hot = torch.nn.functional.one_hot(labels).float()
    plain = soft_neighbours(query, keys, one_hot)
    assert torch.allclose(soft_neighbours(3 * query, 7 * keys[order], one_hot[order]), plain, atol=1e-6)


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        ([0, 1, 2, 0, 1], None, "6 pictures and 5 labels"),
        ([0, 1, 2, 0, 1, 3], 3, r"labels 3 are out of range: there are 3 classes, 0 \.\. 2"),
        ([0, 1, 2, 0, 1, -1], 3, "labels -1 are out of range"),
        ([0, 2, 2, 0, 0, 2], 3, r"1 of 3 classes have no picture.*\(1\); pictures per class: 0: 3, 1: 0, 2: 3"),
        (["a", "b", "a", "b", "a", "b"], ["a", "b", "c"], r"1 of 3 classes.*\(c\).*a: 3, b: 3, c: 0"),
        (["a", "b", "a", "b", "a", "z"], ["a", "b"], "labels z are none of the 2 classes a, b"),
        (["a", 1, "a", "b", "a", "z"], None, "all names or all numbers"),
    ],
)
def test_wrong_support_is_refused_with_the_counts(labels: list[Any], classes: Any, message: str) -> None:
    model = tiny_model("paws")
    images, _ = support_of(model)
    with pytest.raises(ValueError, match=message):
        model.classify(images, images, labels, classes=classes)


def test_classify_needs_a_support_or_a_classifier() -> None:
    model, pixels = tiny_model("paws"), tiny_pixels("paws")
    with pytest.raises(ValueError, match="no classifier of its own: give support_images"):
        model.classify(pixels)
    with pytest.raises(ValueError, match="need support_labels"):
        model.classify(pixels, pixels)


def test_configurations_are_checked() -> None:
    for settings, message in (
        ({"num_attention_heads": 3}, "no setting num_attention_heads: a ResNet has no attention"),
        ({"block": "baisc"}, "block is one of"),
        ({"hidden_size": 100}, "hidden_size follows from"),
        ({"networks": ["encoder", "target_encoder"]}, "has one network"),
        ({"projection_size": 30}, "that 4 divides"),
        ({"projection_siz": 32}, "did you mean 'projection_size'"),
    ):
        with pytest.raises(ValueError, match=message):
            PAWSConfig(**settings)
    with pytest.raises(ValueError, match="unknown size 'resnet5'"):
        PAWSConfig.of_size("resnet5")
    for written in (tiny_config("paws").settings(), json.loads(tiny_config("paws").to_json_string())):
        assert "num_attention_heads" not in written and "position_type" not in written and written["base_width"] == 12
