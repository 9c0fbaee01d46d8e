"""The attentive probe learns what the mean token hides, and is saved as a Probe (8 s)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jepa_hub.models.probe import Probe
from training.data.source import Label
from training.probing.attentive import attentive_probe
from training.probing.linear import linear_probe
from training.probing.tables import FeatureTable

TOKENS, WIDTH = 6, 16
Tables = tuple[FeatureTable, FeatureTable, FeatureTable]


def tables() -> Tables:
    """One token of six is marked; only it says the class and the number. The others' noise drowns the mean."""

    def one(rows: int, seed: int) -> FeatureTable:
        generator = torch.Generator().manual_seed(seed)
        tokens = 3 * torch.randn(rows, TOKENS, WIDTH, generator=generator)
        where = torch.randint(TOKENS, (rows,), generator=generator)
        classes = torch.randint(3, (rows,), generator=generator)
        size = torch.rand(rows, generator=generator)
        tokens[torch.arange(rows), where] = 0.0
        tokens[torch.arange(rows), where, 0] = 12.0
        tokens[torch.arange(rows), where, 1 + classes] = 4.0
        tokens[torch.arange(rows), where, 5] = 12 * size
        info = {"kind": Label("class", 3, ("red", "green", "blue")), "size": Label("number", unit="mm")}
        labels = {"kind": classes, "size": 100 + 20 * size.double()}
        return FeatureTable(tokens, labels, torch.arange(rows) + 10_000 * seed, info)

    return one(400, 0), one(150, 1), one(200, 2)


def test_classes_are_found_in_the_token_that_holds_them(tmp_path: Path) -> None:
    train, validation, test = tables()
    grid = {"learning_rates": (3e-3, 1e-6), "weight_decays": (0.01,)}
    found = attentive_probe(train, validation, test, "kind", epochs=15, batch_size=32, **grid)  # type: ignore[arg-type]
    pooled = linear_probe(train, validation, test, "kind")
    assert found.result.value > 0.9 > 0.7 > pooled.value
    assert found.result.chosen["learning_rate"] == 3e-3 and found.result.chance == pytest.approx(1 / 3)
    scores = {each["learning_rate"]: each["validation"] for each in found.grid}
    assert found.result.validation == scores[3e-3] > scores[1e-6]
    found.probe.save_pretrained(tmp_path / "probe")
    loaded = Probe.from_pretrained(tmp_path / "probe")
    assert torch.equal(loaded(test.features), found.probe(test.features))
    assert loaded.config.id2label == {0: "red", 1: "green", 2: "blue"}
    right = (loaded(test.features).argmax(dim=1) == test.labels["kind"]).double().mean()
    assert found.result.value == pytest.approx(float(right), abs=1e-12)


def test_numbers_come_back_in_their_unit(tmp_path: Path) -> None:
    train, validation, test = tables()
    found = attentive_probe(
        train, validation, test, "size", epochs=15, batch_size=32, learning_rates=(3e-3,), weight_decays=(0.01,)
    )
    assert found.result.metric == "r2" and found.result.value > 0.7
    found.probe.save_pretrained(tmp_path / "probe")
    said = Probe.from_pretrained(tmp_path / "probe")(test.features)[:, 0].double()
    assert float((said.detach() - test.labels["size"]).abs().mean()) == pytest.approx(
        found.result.metrics["mae"], rel=1e-4
    )


def test_the_seed_decides_everything() -> None:
    state = torch.get_rng_state()
    settings = {"epochs": 1, "learning_rates": (1e-3,), "weight_decays": (0.1,)}
    first, same, other = (attentive_probe(*tables(), "kind", seed=seed, **settings) for seed in (0, 0, 1))  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), state)
    tokens = tables()[2].features
    assert torch.equal(first.probe(tokens), same.probe(tokens))
    assert not torch.allclose(first.probe(tokens), other.probe(tokens))


def test_pooled_features_are_refused() -> None:
    train, validation, test = (each.pooled() for each in tables())
    with pytest.raises(ValueError, match="pooled=False"):
        attentive_probe(train, validation, test, "kind")
