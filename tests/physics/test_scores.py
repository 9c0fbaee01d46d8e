"""Scores against plain formulas and scikit-learn, and a regression test for each fault of the published evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score, roc_auc_score

from jepa_hub.physics.scores import (
    FILTERED,
    ORACLE,
    Raw,
    Video,
    accuracy_at,
    auprc,
    auroc,
    best_threshold,
    by_context,
    group_accuracy,
    held_out_accuracy,
    margin,
    pairs,
    quantile_threshold,
    reduced,
    relative_accuracy,
)
from jepa_hub.physics.tables import markdown, score_table


def quadruplets(count: int, kind: str = "permanence") -> list[Video]:
    videos = []
    for number in range(count):
        for place in range(4):
            side = place % 2
            videos.append(
                Video(
                    f"{kind}/{number}/{place}",
                    kind,
                    str(number),
                    pair=f"{number}/{side}",
                    possible=place < 2,
                    ending=f"{number}/{1 - side if place >= 2 else side}",
                    direction=("disappears", "appears")[side],
                )
            )
    return videos


def raw_of(videos: Sequence[Video], values: np.ndarray, contexts: Sequence[int] = (2,)) -> Raw:
    """Values [V] or [V, C], as one window of one step."""
    table = values.reshape(len(videos), len(contexts), 1, 1).astype(np.float64)
    return Raw(videos, table, contexts)


def test_content_alone_scores_nothing() -> None:
    """A clip with an object at its end is always more surprising: one direction all right, the other all wrong."""
    videos = quadruplets(6)
    ends_with_object = np.array([1.0, 0.0, 0.0, 1.0] * 6)  # first, second, like first, like second
    (row,) = score_table(raw_of(videos, ends_with_object), ["mean"])
    assert row.directions == {"appears": 100.0, "disappears": 0.0}
    assert row.relative.value == 50 and row.group.value == 50 and row.matched.value == 50
    assert row.auroc.value == 50


def test_a_little_knowledge_shows_in_content_matched_numbers() -> None:
    videos = quadruplets(6)
    surprised = np.array([1.0, 0.0, 0.0, 1.0] * 6) + np.array([0, 0, 0.1, 0.1] * 6)
    (row,) = score_table(raw_of(videos, surprised), ["mean"])
    assert row.relative.value == 50 and row.matched.value == 100 and row.group.value == 100
    assert row.margin.value == pytest.approx(100 * 0.1 / 0.5)


def test_order_of_rows_does_not_matter() -> None:
    """Upstream: pairs are whatever stands at the same place of two lists, after a gather that deals rows out."""
    videos = quadruplets(8)
    rng = np.random.default_rng(0)
    score = rng.normal(size=32) + np.array([not video.possible for video in videos])
    order = rng.permutation(32)
    ours = relative_accuracy(score, pairs(videos))
    assert relative_accuracy(score[order], pairs([videos[index] for index in order])) == ours
    by_hand = [
        score[4 * quadruplet + side] < score[4 * quadruplet + side + 2] for quadruplet in range(8) for side in (0, 1)
    ]
    assert ours.value == pytest.approx(100 * np.mean(by_hand))


def test_absent_windows_do_not_dilute() -> None:
    """Upstream: shorter videos are filled up with zero windows, which lower their mean."""
    table = np.full((2, 1, 4, 3), np.nan)
    table[0, 0, :, 1:] = 0.5
    table[1, 0, :2, 1:] = 0.5  # half as many windows, as surprising
    assert reduced(table, "mean").ravel().tolist() == [0.5, 0.5]
    table[1, 0, 1, 2] = 0.9
    assert reduced(table, "max")[1, 0] == pytest.approx(0.7) and reduced(table, "step_max")[1, 0] == 0.9


@pytest.mark.parametrize("count", [1, 2, 3, 9, 10, 11])
def test_a_quantile_threshold_exists_for_few_videos(count: int) -> None:
    """Upstream: the index ceil(0.9 n) is out of range for small n."""
    values = np.arange(count, dtype=np.float64)
    threshold = quantile_threshold(values)
    assert threshold in values and (values <= threshold).mean() >= 0.9
    with pytest.raises(ValueError, match="at least one"):
        quantile_threshold(values[:0])


def test_accuracy_divides_by_all_videos() -> None:
    """Upstream: the number of possible videos counts twice, so unequal halves give the wrong accuracy."""
    possible, impossible = np.array([0.0, 0.1]), np.array([1.0, 1.1, 1.2, 1.3, 0.05, 0.02])
    assert accuracy_at(0.5, possible, impossible) == pytest.approx(100 * 6 / 8)
    assert accuracy_at(best_threshold(possible, impossible), possible, impossible) == pytest.approx(100 * 7 / 8)


def test_the_oracle_is_named_and_stands_beside_fixed_contexts() -> None:
    """Upstream: the headline is the best of all contexts on the very videos it is reported on, without saying so."""
    videos = quadruplets(10)
    noise = np.random.default_rng(1).normal(size=(40, 5))
    rows = score_table(raw_of(videos, noise, (2, 4, 6, 8, 10)), ["mean"])
    fixed = {row.context: row.relative.value for row in rows}
    assert set(fixed) == {"2", "4", "6", "8", "10", FILTERED, ORACLE}
    assert fixed[ORACLE] == max(value for name, value in fixed.items() if name != ORACLE)
    assert fixed[ORACLE] > np.mean([fixed[name] for name in ("2", "4", "6", "8", "10")])  # why it must be named
    assert f"{fixed[ORACLE]:.1f}" in markdown(rows, context="4") and "oracle context" in markdown(rows)


def test_filtered_is_the_least_of_contexts_window_by_window() -> None:
    table = np.random.default_rng(2).normal(size=(3, 2, 4, 2))
    raw = Raw([Video(str(row), "a", str(row)) for row in range(3)], table, (2, 4))
    windows = table.mean(-1).min(1)
    found = by_context(raw, "mean")[FILTERED]
    assert found == pytest.approx(windows.mean(1)) and by_context(raw, "max")[FILTERED] == pytest.approx(windows.max(1))
    assert list(by_context(raw, "mean")) == ["2", "4", FILTERED]


def test_held_out_thresholds_do_not_flatter_noise() -> None:
    rng = np.random.default_rng(3)
    good = np.tile([True, False], 30)
    groups = [str(index // 2) for index in range(60)]
    held_out, chosen_on_itself = [], []
    for _ in range(20):
        score = rng.normal(size=60)
        held_out.append(held_out_accuracy(score, good, groups).value)
        threshold = best_threshold(score[good], score[~good])
        chosen_on_itself.append(accuracy_at(threshold, score[good], score[~good]))
    assert abs(np.mean(held_out) - 50) < 4 and np.mean(chosen_on_itself) > 55
    separate = np.where(good, 0.0, 1.0) + 0.1 * rng.random(60)
    assert held_out_accuracy(separate, good, groups).value == 100


@given(arrays(np.float64, 24, elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])), st.integers(1, 23))
def test_rankings_are_those_of_scikit_learn(score: np.ndarray, count: int) -> None:
    possible = np.arange(24) < count
    assert auroc(score, possible) == pytest.approx(100 * roc_auc_score(~possible, score))
    assert auprc(score, possible) == pytest.approx(100 * average_precision_score(possible, -score))


def test_intervals_resample_groups() -> None:
    """Quadruplets that agree within themselves give the interval of their number, not of the number of pairs."""
    videos = quadruplets(16)
    right = np.repeat(np.arange(16) % 2 == 0, 4)
    impossible = np.array([not video.possible for video in videos])
    score = np.where(right, impossible, ~impossible).astype(np.float64)
    found = relative_accuracy(score, pairs(videos))
    expected = 1.96 * 100 * math.sqrt(0.25 / 16)
    assert found.value == 50 and abs((found.high - found.low) / 2 - expected) < 5
    assert found == relative_accuracy(score, pairs(videos))  # the same each time
    assert group_accuracy(score, pairs(videos)).value == 50 and margin(score + 1, pairs(videos)).value == 0


def test_rounding_is_no_difference() -> None:
    """Sums that are equal but for their order are a tie: the groups of the motion baseline sit at 50."""
    videos = quadruplets(20)
    values = np.random.default_rng(4).random((20, 2))
    score = np.stack([values[:, 0] + 0.1, values[:, 1], 0.1 + values[:, 0], values[:, 1]], 1).ravel()
    score[2::4], score[3::4] = score[3::4].copy(), score[2::4].copy()
    assert group_accuracy(score, pairs(videos)).value == 50


def test_broken_pairs_are_named() -> None:
    videos = quadruplets(1)
    twice = [videos[0], Video("x", "permanence", "0", pair="0/0", possible=True)]
    with pytest.raises(ValueError, match="2 possible and 0 impossible"):
        pairs(twice)
    assert len(pairs(videos[:3])) == 1  # a partner that could not be read leaves no pair
    with pytest.raises(ValueError, match=r"surprises are \[V, C, W, T\]"):
        Raw(videos, np.zeros((4, 2, 1, 1)), (2,))
