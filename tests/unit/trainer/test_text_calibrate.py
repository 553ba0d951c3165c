"""A score of pictures becomes a probability by texts that err on their own: synthetic truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from trainer.text.calibrate import BINS, calibrated

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Drawn:
    right: NDArray[np.bool_]
    texts: Floats
    """The posterior by the texts alone, exact."""
    scores: Floats
    posterior: Floats
    """By the score alone, exact."""


def drawn(count: int, share: float, clear: float, seen: float = 1.5) -> Drawn:
    """Texts and pictures each give a normal number around +-clear and +-seen, independently."""
    draw = np.random.default_rng(1)
    right = draw.random(count) < share
    sign = np.where(right, 1.0, -1.0)
    prior = np.log(share / (1 - share))
    told, scores = draw.normal(clear * sign, 1.0), draw.normal(seen * sign, 1.0)
    # Of two normal distributions around +-m with spread 1 the odds are exp(2 m x).
    texts, posterior = (
        1 / (1 + np.exp(-(prior + 2 * m * x))) for m, x in ((clear, told), (seen, scores))
    )
    return Drawn(right, texts, scores, posterior)


@pytest.mark.parametrize(("share", "clear"), [(0.6, 1.0), (0.6, 0.5), (0.85, 0.8), (0.3, 1.5)])
def test_the_calibrated_probability_is_right(share: float, clear: float) -> None:
    made = drawn(60_000, share, clear)
    found = calibrated(made.scores, made.texts, np.ones(60_000, np.bool_))
    assert found is not None
    assert found.mean() == pytest.approx(share, abs=0.02)
    assert np.abs(found - made.posterior).mean() < 0.03
    for low in np.arange(0, 1, 0.1):
        mine = (found >= low) & (found < low + 0.1)
        if mine.sum() > 1000:
            assert made.right[mine].mean() == pytest.approx(found[mine].mean(), abs=0.06)


def test_it_never_falls_and_any_rising_scale_of_the_score_is_the_same() -> None:
    made = drawn(20_000, 0.6, 1.0)
    everyone = np.ones(20_000, np.bool_)
    found = calibrated(made.scores, made.texts, everyone)
    assert found is not None
    assert (np.diff(found[np.argsort(made.scores)]) >= 0).all()
    assert ((found >= 0) & (found <= 1)).all()
    other = calibrated(1000 + 7 * made.scores, made.texts, everyone)
    assert other == pytest.approx(found, abs=1e-6)


def test_those_without_telling_texts_are_judged_but_teach_nothing() -> None:
    made = drawn(40_000, 0.6, 1.0)
    tells = np.random.default_rng(2).random(40_000) < 0.5
    texts = np.where(tells, made.texts, 0.999)
    found = calibrated(made.scores, texts, tells)
    alone = calibrated(made.scores[tells], made.texts[tells], np.ones(tells.sum(), np.bool_))
    assert found is not None
    assert alone is not None
    assert found[tells].tolist() == alone.tolist()
    assert np.abs(found - made.posterior)[~tells].mean() < 0.03


def test_a_score_that_knows_nothing_gives_the_share_of_right_labels() -> None:
    made = drawn(40_000, 0.7, 1.0, seen=0.0)
    found = calibrated(made.scores, made.texts, np.ones(40_000, np.bool_))
    assert found is not None
    assert found == pytest.approx(np.full(40_000, 0.7), abs=0.08)
    assert found.mean() == pytest.approx(0.7, abs=0.01)


def test_where_texts_tell_too_little_there_is_none() -> None:
    made = drawn(5000, 0.6, 0.05)
    everyone = np.ones(5000, np.bool_)
    assert calibrated(made.scores, made.texts, everyone) is None, "the texts know next to nothing"
    assert calibrated(made.scores, np.full(5000, 0.6), everyone) is None
    clear = drawn(5000, 0.6, 1.0)
    assert calibrated(clear.scores, clear.texts, np.zeros(5000, np.bool_)) is None
    few = np.arange(5000) < 2 * BINS - 1
    assert calibrated(clear.scores, clear.texts, few) is None
    assert calibrated(np.zeros(5000), clear.texts, everyone) is None, "all scores are equal"


def test_many_equal_scores_are_no_trouble() -> None:
    made = drawn(20_000, 0.6, 1.0)
    steps = np.round(made.scores)
    found = calibrated(steps, made.texts, np.ones(20_000, np.bool_))
    assert found is not None
    for value in (-1.0, 0.0, 1.0):
        mine = steps == value
        assert found[mine].mean() == pytest.approx(made.right[mine].mean(), abs=0.05)
