"""Scores to probabilities: drawn mixtures are found again, and odd ones have an outcome."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from trainer.text.mixture import LEAST, MOST, combine, expit, fit, logit

UNHURRIED = settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
MEANS = ((-0.10, 0.20), (-0.05, 0.15), (0.0, 0.35))
SPREADS = ((0.08, 0.07), (0.05, 0.06), (0.10, 0.06))
RIGHT = (0.8, 0.3, 0.6)


def drawn(count: int) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Scores of `count` samples in each of three classes, their labels, and which are right."""
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), count)
    right = draw.random(len(labels)) < np.array(RIGHT)[labels]
    part = labels, right.astype(int)
    return draw.normal(np.array(MEANS)[part], np.array(SPREADS)[part]), labels, right


def density(score: float, mean: float, spread: float) -> float:
    return float(np.exp(-(((score - mean) / spread) ** 2) / 2) / spread)


def test_the_mixture_of_each_class_is_found_again() -> None:
    scores, labels, right = drawn(20_000)
    found = fit(scores, labels, 3)
    assert found.right.tolist() == pytest.approx(RIGHT, abs=0.04)
    assert found.means == pytest.approx(np.array(MEANS), abs=0.02)
    assert found.spreads == pytest.approx(np.array(SPREADS), abs=0.01)
    probability = found.probability(scores, labels)
    bins = np.minimum((10 * probability).astype(int), 9)
    counts = np.bincount(bins, minlength=10)
    off = np.abs(np.bincount(bins, right - probability, 10)) / counts
    assert off.max() < 0.1, "in doubt it leans on the mixture of all"
    assert (off * counts).sum() / counts.sum() < 0.01


def test_a_probability_is_bayes_rule_the_long_way() -> None:
    scores, labels, _ = drawn(500)
    found = fit(scores, labels, 3)
    probability = found.probability(scores, labels)
    for i in range(0, len(scores), 50):
        k = labels[i]
        wrong, right = (
            density(scores[i], found.means[k, part], found.spreads[k, part]) for part in (0, 1)
        )
        right, wrong = right * found.right[k], wrong * (1 - found.right[k])
        near = found.means[k, 0] < scores[i] < found.means[k, 1]  # where odds rise for certain
        if near:
            assert probability[i] == pytest.approx(right / (right + wrong), abs=1e-6)


def test_a_small_class_leans_on_all_and_one_without_samples_is_as_all() -> None:
    scores, labels, _ = drawn(2000)
    whole = fit(scores, np.zeros(len(scores), np.int64), 1)
    few = np.concatenate([labels, [3, 3]])
    found = fit(np.concatenate([scores, [0.9, 0.9]]), few, 5)
    assert found.means[4].tolist() == pytest.approx(whole.means[0].tolist(), abs=0.01)
    assert found.right[4] == pytest.approx(whole.right[0], abs=0.02)
    assert found.means[3].tolist() == pytest.approx(found.means[4].tolist(), abs=0.02)


@pytest.mark.parametrize("scores", [[0.3], [0.3] * 50, [-1.0, 1.0], [0.0, 0.0, 1e-9], [1e6, 0.0]])
def test_scores_that_say_little_have_an_outcome(scores: list[float]) -> None:
    given_ = np.array(scores)
    labels = np.arange(len(scores)) % 2
    found = fit(given_, labels, 3)
    probability = found.probability(given_, labels)
    assert np.isfinite(found.means).all()
    assert (found.spreads > 0).all()
    assert ((probability >= LEAST) & (probability <= MOST)).all()
    if len(set(scores)) == 1:
        assert probability == pytest.approx(np.full(len(scores), 0.5), abs=0.01)


COUNT = 24
SCORES = npst.arrays(np.float64, COUNT, elements=st.floats(-2, 2, width=32))
LABELS = npst.arrays(np.int64, COUNT, elements=st.integers(0, 2))


@UNHURRIED
@given(SCORES, LABELS, st.lists(st.floats(-3, 3), min_size=2, max_size=20))
def test_the_probability_never_falls_as_the_score_rises(
    scores: NDArray[np.float64], labels: NDArray[np.int64], asked: list[float]
) -> None:
    found = fit(scores, labels, 4)
    assert (found.means[:, 0] <= found.means[:, 1]).all()
    rising = np.sort(np.array(asked + scores.tolist()))
    for label in range(4):
        probability = found.probability(rising, np.full(len(rising), label))
        assert (np.diff(probability) >= -1e-8).all()
        assert ((probability >= LEAST) & (probability <= MOST)).all()


PROBABILITIES = npst.arrays(np.float64, 8, elements=st.floats(0.01, 0.99))


@UNHURRIED
@given(PROBABILITIES, PROBABILITIES, PROBABILITIES)
def test_sources_are_combined_as_independent_witnesses(
    first: NDArray[np.float64], second: NDArray[np.float64], prior: NDArray[np.float64]
) -> None:
    assert combine(first, prior, prior) == pytest.approx(first, abs=1e-9), "it says nothing"
    both = combine(first, second, prior)
    assert both == pytest.approx(combine(second, first, prior), abs=1e-9)
    odds = first / (1 - first) * second / (1 - second) / (prior / (1 - prior))
    assert both == pytest.approx(np.clip(odds / (1 + odds), LEAST, MOST), abs=1e-6)


def test_odds_and_probabilities_are_each_others_inverse_within_the_limits() -> None:
    given_ = np.array([0.0, LEAST, 0.2, 0.5, 0.9, MOST, 1.0])
    assert expit(logit(given_)) == pytest.approx(np.clip(given_, LEAST, MOST))
    assert expit(np.array([-1e9, 1e9])).tolist() == [LEAST, MOST]
