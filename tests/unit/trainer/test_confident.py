"""Which labels are wrong by a network's probabilities, against the long way and planted noise."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from trainer.learn.confident import UNCLEAR, Opinions, judge, worst

K = 4


def opinions(probabilities: NDArray[np.float64], labels: list[int], kept: int = K) -> Opinions:
    likely = np.argsort(-probabilities, axis=1, kind="stable")[:, :kept]
    rows = np.arange(len(labels))
    return Opinions(
        np.array(labels),
        probabilities[rows, labels].astype(np.float32),
        likely.astype(np.int64),
        np.take_along_axis(probabilities, likely, 1).astype(np.float32),
        np.ones(len(labels), np.bool_),
    )


def planted(count: int, share: float) -> tuple[NDArray[np.float64], list[int], NDArray[np.int64]]:
    """Probabilities around the true class, labels of which a share is wrong, and the truth."""
    draw = np.random.default_rng(0)
    truth = draw.integers(0, K, count)
    logits = draw.normal(0, 1, (count, K)) + 4 * np.eye(K)[truth]
    wrong = draw.random(count) < share
    labels = np.where(wrong, (truth + draw.integers(1, K, count)) % K, truth)
    exact = np.exp(logits)
    return exact / exact.sum(1, keepdims=True), labels.tolist(), truth


def long_way(probabilities: NDArray[np.float64], labels: list[int]) -> NDArray[np.float64]:
    thresholds = [
        np.mean([p[k] for p, label in zip(probabilities, labels, strict=True) if label == k])
        for k in range(K)
    ]
    counts = np.zeros((K, K))
    for p, label in zip(probabilities, labels, strict=True):
        above = [k for k in range(K) if p[k] >= thresholds[k]]
        if above:
            counts[label][max(above, key=lambda k: p[k])] += 1
    totals = np.bincount(labels, minlength=K)
    return counts / counts.sum(1, keepdims=True) * totals[:, None]


def test_the_joint_is_the_long_way() -> None:
    probabilities, labels, _ = planted(400, 0.3)
    noise = judge(opinions(probabilities, labels), K)
    assert noise.joint == pytest.approx(long_way(probabilities, labels), rel=1e-6)
    assert noise.joint.sum(1).tolist() == pytest.approx(np.bincount(labels).tolist())


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4])
def test_planted_noise_is_estimated_and_found(share: float) -> None:
    probabilities, labels, truth = planted(4000, share)
    noise = judge(opinions(probabilities, labels), K)
    assert noise.rate() == pytest.approx(share, abs=0.03)
    assert noise.rates().tolist() == pytest.approx([share] * K, abs=0.05)
    if share:
        wrong = truth != np.array(labels)
        assert noise.weights[wrong].mean() < 0.15
        assert noise.weights[~wrong].mean() > 0.97
        suspects = worst(opinions(probabilities, labels), noise, 100)
        assert wrong[suspects].all()
        assert len(suspects) == 100


def test_the_kept_classes_are_enough_and_the_label_counts_though_it_is_not_among_them() -> None:
    probabilities, labels, _ = planted(400, 0.3)
    whole, cut = (judge(opinions(probabilities, labels, kept), K) for kept in (K, 2))
    assert (whole.confident == cut.confident).mean() > 0.97
    low = np.array([[0.1, 0.6, 0.2, 0.1]] * 2)
    found = judge(opinions(low, [0, 0], kept=1), K)
    assert found.thresholds.tolist() == pytest.approx([0.1, 1, 1, 1])
    assert found.confident.tolist() == [0, 0]


def test_what_could_not_be_read_counts_nowhere() -> None:
    probabilities, labels, _ = planted(40, 0.3)
    given = opinions(probabilities, labels)
    given.seen[:] = False
    noise = judge(given, K)
    assert (noise.confident == UNCLEAR).all()
    assert (noise.weights == 1).all()
    assert (noise.rate(), noise.rates().tolist()) == (0, [0] * K)


def test_the_worst_are_those_of_the_lowest_margin_where_margins_are_known() -> None:
    probabilities, labels, _ = planted(400, 0.3)
    given = opinions(probabilities, labels)
    noise = judge(given, K)
    suspects = np.flatnonzero(noise.weights < 1)
    margins = np.full(400, np.nan, np.float32)
    margins[suspects[:3]] = [-1.0, -3.0, -2.0]
    assert worst(given, noise, 5, margins).tolist() == suspects[[1, 2, 0]].tolist()
