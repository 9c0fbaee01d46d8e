"""Ranks, ties and banks: counted by hand, with oracles that must be perfect and deaf models that must guess."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from jepa_hub import photometry
from jepa_hub.processing import IMAGENET_MEAN, IMAGENET_STD
from jepa_hub.ranking import chance_level, draw_changes, mean_reciprocal_rank, rank_changes, rank_pixels, ranks
from jepa_hub.world_pictures import neighbour_sheet, neighbours
from tests.official import tiny_model

PIXELS = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_ranks_count_what_is_nearer_and_ties_by_rule() -> None:
    distances = torch.tensor([[0.3, 0.1, 0.2, 0.3], [0.5, 0.5, 0.5, 0.5], [0.9, 0.0, 0.1, 0.2]])
    truth = torch.tensor([0, 2, 1])
    assert ranks(distances, truth).tolist() == [4, 4, 1]  # ties count against the truth unless asked otherwise
    assert ranks(distances, truth, "best").tolist() == [3, 1, 1]
    assert ranks(distances, truth, "mean").tolist() == [3.5, 2.5, 1]
    assert mean_reciprocal_rank(torch.tensor([1.0, 2.0, 4.0])) == pytest.approx((1 + 0.5 + 0.25) / 3)
    with pytest.raises(ValueError, match="ties is one of"):
        ranks(distances, truth, "random")
    with pytest.raises(ValueError, match="truth"):
        ranks(distances, truth[:2])
    with pytest.raises(ValueError, match="not numbers"):
        ranks(distances.log().sqrt(), truth)


def test_chance_is_what_guessing_gets() -> None:
    assert chance_level(256) == pytest.approx(0.0239, abs=5e-5) and chance_level(64) == pytest.approx(0.0741, abs=5e-5)
    guesses = torch.rand(20000, 16, generator=torch.Generator().manual_seed(0))
    found = mean_reciprocal_rank(ranks(guesses, torch.zeros(20000, dtype=torch.int64)))
    assert found == pytest.approx(chance_level(16), abs=0.01)


def test_banks_of_changes() -> None:
    table = draw_changes(500, 1.5)
    reach = 1.5 * torch.tensor([0.4, 0.4, 0.2, 0.1])
    assert table.shape == (500, 7) and not table[:, 4:].any()
    assert (table[:, :4].abs() <= reach).all() and (table[:, :4].abs().amax(0) > 0.95 * reach).all()
    assert torch.equal(table, draw_changes(500, 1.5)) and not torch.equal(table, draw_changes(500, 1.5, seed=1))
    only = draw_changes(5, only="hue")
    torch.testing.assert_close(only[:, 3], torch.tensor([-0.1, -0.05, 0.0, 0.05, 0.1]))
    assert not only[:, :3].any()
    with pytest.raises(ValueError, match="only is one of"):
        draw_changes(5, only="blur")
    with pytest.raises(ValueError, match="one strength or four"):
        draw_changes(5, [1.0, 2.0])


class Oracle:
    """Predicts by changing the pixels themselves; its latents are pixels, or their mean colour."""

    def prediction_targets(self, pixels: Tensor) -> Tensor:
        return pixels.flatten(2).transpose(1, 2)  # [B, H*W, 3]

    def predict(self, pixels: Tensor, conditioning: Tensor) -> Tensor:
        table = torch.zeros_like(conditioning)
        table[:, :4] = conditioning[:, :4] * torch.tensor(list(photometry.JITTER.values()))
        changed = photometry.apply_normalised(pixels, table, IMAGENET_MEAN, IMAGENET_STD)
        return self.prediction_targets(changed)[:, None]


def test_an_oracle_is_perfect_and_a_lied_to_one_is_not() -> None:
    model: Any = Oracle()
    changes = draw_changes(16, 1.5)
    found = rank_changes(model, PIXELS, changes)
    assert found.mrr == {"tokens": 1.0, "pooled": 1.0} and found.ranks["tokens"].shape == (3, 16)
    lied = rank_changes(model, PIXELS, changes, told=changes.roll(3, 0))
    assert lied.mrr["tokens"] < 0.5 and found.chance == chance_level(16)


def test_a_deaf_model_is_at_chance_exactly() -> None:
    model = tiny_model("iwm", conditioning="none")
    found = rank_changes(model, PIXELS, draw_changes(16, 1.5))
    # one prediction for all 16 changes: whatever it is, the ranks are 1 to 16
    assert found.ranks["tokens"].sort(dim=1).values.tolist() == [list(range(1, 17))] * 3
    assert found.mrr["tokens"] == pytest.approx(chance_level(16)) == found.mrr["pooled"]


def test_pixel_controls() -> None:
    pixels = PIXELS.sigmoid()
    assert rank_pixels(pixels, draw_changes(16, 1.5)).mrr == {"pixels": 1.0}
    colour = rank_pixels(pixels, draw_changes(16, 1.5), pooled=True).mrr["colour"]
    assert colour == 1.0  # every jitter is linear, so that the mean colour tells of all of them
    same = torch.zeros(4, 7)
    assert rank_pixels(pixels, same).mrr == {"pixels": 0.25}  # indistinguishable: ties count against


def test_neighbours_of_an_oracle_are_what_was_asked_for() -> None:
    model: Any = Oracle()
    asked = [{"brightness": 0.3}, {"hue": -0.1, "contrast": 0.2}, {}]
    found = neighbours(model, PIXELS[0], asked, count=3, bank=32)
    assert found.nearest[:, 0].tolist() == [0, 1, 2] and found.rank.tolist() == [1, 1, 1]
    assert found.bank.shape == (32, 7) and torch.equal(found.bank[:3], photometry.parameters({}, 3) + found.asked)
    sheet = neighbour_sheet(PIXELS[0], found)
    greens = {sheet.getpixel((190 + column * 104 - 2, 34 + 40)) for column in (2, 3)}
    assert greens == {(32, 140, 70), (255, 255, 255)}  # the first neighbour is framed, the second is not
    seen, wanted, first = (sheet.crop((190 + c * 104, 34, 190 + c * 104 + 96, 34 + 96)).tobytes() for c in (0, 1, 2))
    assert wanted == first and seen != wanted
    with pytest.raises(ValueError, match="larger bank"):
        neighbours(model, PIXELS[0], asked, bank=4)
