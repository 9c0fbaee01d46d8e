"""What is special about image world models: how they are told a change, whole pictures, and tasks after fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from jepa_hub import photometry
from jepa_hub.masks import Masks
from jepa_hub.models.base import JEPAModel
from jepa_hub.models.iwm import IWMConfig, IWMModel, whole_masks
from tests.official import tiny_config, tiny_model, tiny_pixels

TOLD = ["feature", "sequence"]


@pytest.mark.parametrize("conditioning", TOLD)
def test_named_changes_are_their_encoding_and_change_the_prediction(conditioning: str) -> None:
    model, pixels = tiny_model("iwm", conditioning=conditioning), tiny_pixels("iwm")
    plain = model.predict(pixels)
    assert plain.shape == (2, 1, 16, 48)
    assert torch.equal(model.predict(pixels, conditioning={}), plain)
    named = model.predict(pixels, conditioning={"brightness": 0.3, "hue": [0.1, 0.0]})
    encoded = photometry.named_conditioning({"brightness": 0.3, "hue": [0.1, 0.0]})
    assert torch.equal(model.predict(pixels, conditioning=encoded), named)
    assert not torch.allclose(named, plain, atol=1e-3)
    for name in photometry.NAMES:  # every number is heard
        assert not torch.allclose(model.predict(pixels, conditioning={name: 1.0}), plain, atol=1e-4), name


@pytest.mark.parametrize("conditioning", TOLD)
def test_each_picture_hears_its_own_change(conditioning: str) -> None:
    model, pixels = tiny_model("iwm", conditioning=conditioning), tiny_pixels("iwm")
    both = model.predict(pixels, conditioning={"contrast": [0.4, -0.4]})
    for row, amount in enumerate((0.4, -0.4)):
        alone = model.predict(pixels[row : row + 1], conditioning={"contrast": amount})
        torch.testing.assert_close(both[row : row + 1], alone, atol=1e-5, rtol=1e-5)


def test_many_targets_hear_the_same_change() -> None:
    model, pixels = tiny_model("iwm"), tiny_pixels("iwm")
    order = torch.arange(16).repeat(2, 1)
    masks = Masks(order[:, :6], order[:, 6:14].view(2, 2, 4))
    together = model.predict(pixels, masks=masks, conditioning={"hue": [0.1, -0.1]})
    for index in range(2):
        one = Masks(masks.context, masks.target[:, index : index + 1])
        alone = model.predict(pixels, masks=one, conditioning={"hue": [0.1, -0.1]})
        torch.testing.assert_close(together[:, index : index + 1], alone, atol=1e-5, rtol=1e-5)


def test_a_deaf_model_hears_nothing() -> None:
    model, pixels = tiny_model("iwm", conditioning="none"), tiny_pixels("iwm")
    assert torch.equal(model.predict(pixels, conditioning={"hue": 0.3}), model.predict(pixels))
    assert model.predictor.mixer is None and model.predictor.action_tokens is None


def test_sequence_conditioning_adds_a_token_per_number() -> None:
    model, pixels = tiny_model("iwm", conditioning="sequence"), tiny_pixels("iwm")
    lengths = []
    model.predictor.blocks[0].register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    model.predict(pixels)
    assert lengths == [7 + 16 + 16]


def test_changes_are_checked() -> None:
    model, pixels = tiny_model("iwm"), tiny_pixels("iwm")
    with pytest.raises(ValueError, match="did you mean 'saturation'"):
        model.predict(pixels, conditioning={"saturaton": 0.1})
    with pytest.raises(ValueError, match=r"conditioning is \[2, 7\]"):
        model.predict(pixels, conditioning=torch.zeros(2, 4))
    with pytest.raises(ValueError, match="conditioning is one of"):
        IWMConfig(conditioning="both")
    with pytest.raises(ValueError, match="rotary"):
        IWMConfig(position_type="rotary_tiled")
    with pytest.raises(ValueError, match="two classes"):
        IWMConfig(tasks={"shape": 1})
    outside = Masks(torch.tensor([[0, 99]]), torch.tensor([[[0]]]))
    with pytest.raises(ValueError, match="token 99"):
        model.predict(pixels[:1], masks=outside)


def test_positions_survive_the_mixer_at_the_start_of_training() -> None:
    torch.manual_seed(0)
    # as initialised, nothing added
    predictor: Any = IWMModel(tiny_config("iwm", predictor_hidden_size=64)).predictor
    query = predictor.positions((1, 4, 4), torch.device("cpu"))[None]  # [1, 16, P]
    change = photometry.named_conditioning({"hue": 0.1})
    mixed = predictor.mixer(query, change)
    assert mixed[0].std(dim=0).mean() > 0.1  # with a deviation of 0.02 it would be about 0.001
    assert (mixed - predictor.mixer(query, change * 0)).abs().mean() > 0.02


def test_tasks_are_read_through_the_predictor_saved_and_loaded(tmp_path: Path) -> None:
    model, pixels = tiny_model("iwm"), tiny_pixels("iwm")
    with pytest.raises(ValueError, match="unknown task 'shape'; this model was fine-tuned for none"):
        model.read(pixels, "shape")
    torch.manual_seed(0)
    model.start_tasks({"shape": 4, "colour": 8})
    shape, colour = model.read(pixels, "shape"), model.read(pixels, "colour")
    assert shape.shape == (2, 4) and colour.shape == (2, 8)
    torch.testing.assert_close(shape.sum(1), torch.ones(2))
    model.save_pretrained(tmp_path / "tasks")
    again = JEPAModel.from_pretrained(tmp_path / "tasks")
    assert again.config.tasks == {"shape": 4, "colour": 8}
    torch.testing.assert_close(again.read(pixels, "shape"), shape, atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        again.predictor.task_tokens.tokens[1, ::2] += 3  # names in order: colour, shape
    assert (again.task_logits(pixels, "shape") - model.task_logits(pixels, "shape")).abs().max() > 1e-5
    # the other task asks with its own token, and predictions ask for none
    torch.testing.assert_close(again.read(pixels, "colour"), colour, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(again.predict(pixels), model.predict(pixels), atol=1e-6, rtol=1e-5)


def test_whole_masks() -> None:
    masks = whole_masks(5, 2)
    assert masks.context.tolist() == [[0, 1, 2, 3, 4]] * 2 and masks.target.shape == (2, 1, 5)
    masks.validate(5, overlap=True)
    with pytest.raises(ValueError, match="would see its answer"):
        masks.validate(5)
