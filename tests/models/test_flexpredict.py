"""What is special about FlexPredict: noise on masked positions alone, exact in eval mode, and its ablations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from jepa_hub.masks import Masks
from jepa_hub.models.flexpredict import NOISES, FlexPredictConfig
from tests.official import tiny_model, tiny_pixels

ORDER = torch.arange(16).repeat(2, 1)
MASKS = Masks(ORDER[:, :8], ORDER[:, 8:].view(2, 2, 4))


def flexible(noise: str = "tied", std: float = 0.25, **settings: Any) -> Any:
    return tiny_model("flexpredict", position_noise=noise, position_noise_std=std, **settings)


def predicted(model: Any, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    with torch.no_grad():
        found: Tensor = model(tiny_pixels("flexpredict"), MASKS).predicted
    return found


@pytest.mark.parametrize("noise", NOISES)
def test_noise_is_drawn_in_training_and_absent_in_eval(noise: str) -> None:
    model = flexible(noise)
    assert torch.equal(predicted(model, 0), predicted(model, 1))
    model.train()
    assert not torch.allclose(predicted(model, 0), predicted(model, 1), atol=1e-4)
    assert torch.equal(predicted(model, 0), predicted(model, 0))


@pytest.mark.parametrize("noise", NOISES)
def test_without_deviation_training_is_exact(noise: str) -> None:
    model = flexible(noise, std=0.0)
    exact = predicted(model)
    assert torch.equal(predicted(model.train()), exact)


def test_fixed_noise_without_deviation_is_ijepa() -> None:
    ours, theirs = flexible("fixed", std=0.0), tiny_model("ijepa")
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(predicted(ours.train()), predicted(theirs))


def test_the_mean_query_is_the_bias_and_its_spread_the_tied_matrix() -> None:
    model = flexible(std=0.5).train()
    many = Masks(ORDER[:1, :1], torch.zeros(1, 1, 20000, dtype=torch.int64))
    torch.manual_seed(0)
    with torch.no_grad():
        queries = model.predictor.query(many)[0, 0]  # [20000, P]
    weight, bias = model.predictor.embed.weight.detach(), model.predictor.embed.bias.detach()
    torch.testing.assert_close(queries.mean(0), bias, atol=0.02, rtol=0)
    covariance = 0.25 * weight @ weight.T
    assert (queries.T.cov() - covariance).abs().max() < 0.03 * covariance.abs().max()


@pytest.mark.parametrize("noise", NOISES)
def test_gradients_reach_what_spreads_the_noise(noise: str) -> None:
    model = flexible(noise).train()
    predictor = model.predictor
    torch.manual_seed(0)
    draw = torch.randn(2, 2, 4, 24 if noise == "fixed" else 48)
    queries = predictor.query(MASKS, noise=draw)
    queries.square().sum().backward()
    matrices = {"tied": predictor.embed.weight, "untied": getattr(predictor.spread, "weight", None)}
    for name, matrix in matrices.items():
        if matrix is not None:
            assert (matrix.grad is not None and bool(matrix.grad.any())) == (name == noise), name
    assert predictor.mask_tokens.requires_grad == (noise != "tied")  # tied: the projection's bias plays its part


def test_context_positions_are_exact() -> None:
    model = flexible(std=1.0).train()
    seen: list[Tensor] = []
    model.predictor.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    predicted(model, 0), predicted(model, 1)
    assert torch.equal(seen[0][:, :8], seen[1][:, :8]) and not torch.allclose(seen[0][:, 8:], seen[1][:, 8:], atol=0.1)


def test_places_are_told_less_often_the_more_noise_there_is() -> None:
    grid = (1, 4, 4)
    shares = [flexible("fixed", std=std).predictor.identifiability(grid) for std in (0.01, 0.5, 1.0, 100.0)]
    assert shares[0] == 1.0 and 0.15 < shares[2] < shares[1] < 1.0
    assert shares[3] == pytest.approx(1 / 16, abs=0.04)  # nothing but noise: a guess
    tied = flexible(std=0.25)
    sure = tied.predictor.identifiability(grid)
    with torch.no_grad():
        tied.predictor.embed.weight.mul_(20)
    assert tied.predictor.identifiability(grid) < sure
    assert flexible(position_type="none").predictor.noise_matrix().shape == (24, 48)
    with pytest.raises(ValueError, match="positions that are added"):
        flexible(position_type="none").predictor.identifiability(grid)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="position_noise is one of tied, untied, fixed"):
        FlexPredictConfig(position_noise="free")
    with pytest.raises(ValueError, match="position_noise_std is 0 or more"):
        FlexPredictConfig(position_noise_std=-0.1)
    with pytest.raises(ValueError, match="takes no conditioning"):
        flexible().predict(tiny_pixels("flexpredict"), masks=MASKS, conditioning=torch.zeros(2, 7))
