"""PAWS, SimCLR and SuNCEt objectives: what the official code computed, plain formulas, and invariants."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from jepa_hub.nn.resnet import soft_neighbours
from tests.official import golden
from training.objectives import negative_entropy, nt_xent, paws_consistency, paws_targets, sharpen, suncet


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_golden_paws() -> None:
    spec, given = golden("paws_loss_multicrop6")
    anchors, supports = given["anchor_views"].requires_grad_(), given["supports"].requires_grad_()
    labels, sharpening = given["support_labels"], spec["sharpen_T"]
    probabilities = soft_neighbours(anchors, supports, labels, spec["tau"])
    large = soft_neighbours(given["target_views"], supports, labels, spec["tau"])
    targets = paws_targets(large, spec["multicrop"], sharpening)
    consistency = paws_consistency(probabilities, targets)
    balance = negative_entropy(sharpen(probabilities, sharpening).mean(dim=0))
    assert abs(consistency.item() - given["loss"].item()) < 1e-5
    assert abs(balance.item() - given["me_max"].item()) < 1e-5
    (consistency + balance).backward()
    assert anchors.grad is not None and supports.grad is not None
    assert (anchors.grad - given["grad_anchor_views"]).abs().max() < 1e-5
    assert (supports.grad - given["grad_supports"]).abs().max() < 1e-5


def test_golden_simclr_and_suncet() -> None:
    spec, given = golden("suncet_losses")
    z = given["simclr_z"].requires_grad_()
    loss = nt_xent(z, z.detach(), spec["temperature"])
    loss.backward()
    assert z.grad is not None
    assert abs(loss.item() - given["simclr_loss"].item()) < 1e-5
    assert (z.grad - given["simclr_grad"]).abs().max() < 1e-5
    z, labels = given["suncet_z"].requires_grad_(), given["suncet_labels"]
    loss = suncet(z, z, labels, labels, spec["temperature"])
    loss.backward()
    assert z.grad is not None
    assert abs(loss.item() - given["suncet_loss"].item()) < 1e-5
    assert (z.grad - given["suncet_grad"]).abs().max() < 1e-5


def test_suncet_is_its_sum_over_positives_and_does_not_care_what_classes_are_called() -> None:
    z, classes = rows(9, 5), torch.tensor([0, 1, 2] * 3)
    labels = F.one_hot(classes).float()
    unit = F.normalize(z, dim=1)
    weights = (unit @ unit.T / 0.1).exp()
    terms = []
    for i in range(9):
        others = [k for k in range(9) if k != i]
        same = torch.stack([weights[i, k] for k in others if classes[k] == classes[i]]).sum()
        terms.append(-torch.log(same / sum(weights[i, k] for k in others)))
    assert torch.isclose(suncet(z, z, labels, labels), torch.stack(terms).mean(), atol=1e-5)
    renamed = F.one_hot((classes + 1) % 3).float()
    assert torch.isclose(suncet(z, z, renamed, renamed), suncet(z, z, labels, labels))
    lone = F.one_hot(torch.tensor([0, 1, 1])).float()
    with pytest.raises(ValueError, match=r"sample\(s\) 0 have no other of their label"):
        suncet(z[:3], z[:3], lone, lone)


def test_nt_xent_is_its_formula() -> None:
    z = rows(8, 5)
    unit = F.normalize(z, dim=1)
    logits = unit @ unit.T / 0.1
    terms = []
    for i in range(8):
        others = [k for k in range(8) if k != i]
        terms.append(-logits[i, (i + 4) % 8] + torch.stack([logits[i, k] for k in others]).logsumexp(0))
    assert torch.isclose(nt_xent(z, z), torch.stack(terms).mean(), atol=1e-5)
    assert nt_xent(z, z, 1e6).item() == pytest.approx(math.log(7), abs=1e-4)  # all keys alike
    keys = rows(8, 5, seed=2).requires_grad_()
    alone = z.clone().requires_grad_()
    nt_xent(alone, keys.detach()).backward()
    assert alone.grad is not None and keys.grad is None
    with pytest.raises(ValueError, match="even number"):
        nt_xent(z[:3], z)
    with pytest.raises(ValueError, match="do not hold queries"):
        nt_xent(z, z, offset=1)


def test_paws_invariants() -> None:
    queries, supports, labels = rows(6, 5), rows(8, 5, seed=1), F.one_hot(torch.arange(8) % 4).float()

    def loss(first: Tensor, second: Tensor) -> Tensor:
        large = soft_neighbours(torch.cat([second, first]), supports, labels)
        return paws_consistency(soft_neighbours(torch.cat([first, second]), supports, labels), paws_targets(large))

    first, second = queries[:3], queries[3:]
    assert torch.isclose(loss(first, second), loss(second, first))
    assert torch.isclose(loss(2 * first, 5 * second), loss(first, second), atol=1e-6)
    uniform = torch.full((4,), 0.25)
    assert negative_entropy(uniform).item() == pytest.approx(-math.log(4))
    assert negative_entropy(torch.tensor([1.0, 0.0])).item() == 0
    probabilities = soft_neighbours(queries.clone().requires_grad_(), supports, labels)
    assert not paws_targets(probabilities, 2).requires_grad


def test_targets_of_small_views_and_tiny_entries() -> None:
    large = torch.tensor([[0.7, 0.2, 0.1], [0.05, 0.05, 0.9]])
    targets = paws_targets(large, num_small=2)
    raised = large**4 / (large**4).sum(1, keepdim=True)
    expected = torch.where(raised < 1e-4, 0.0, raised)
    assert torch.allclose(targets[:2], expected) and (targets[1] == 0).sum() == 2
    middle = raised.mean(0)
    assert torch.allclose(targets[2:], torch.where(middle < 1e-4, 0.0, middle).expand(2, 3))
    assert paws_consistency(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]])).item() == 0  # 0 log 0 is 0
    with pytest.raises(ValueError, match="differ"):
        paws_consistency(torch.zeros(2, 3), torch.zeros(2, 4))
