"""Ways to combine: against sums by hand, their fits against brute force, their limits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.config import Objective
from trainer.infer.answers import probabilities
from trainer.infer.candidates import MOST, Candidates, likeliest, ranked
from trainer.infer.methods import METHODS, Method, applied, combined
from trainer.infer.scores import (
    hits,
    interval,
    places,
    score,
    shares,
)
from trainer.infer.search import advised, folds_of, search
from trainer.infer.temperature import calibration_error

BY_NAME = {method.name: method for method in METHODS}


def sharp(draw: np.random.Generator, labels: np.ndarray, classes: int, good: float) -> np.ndarray:
    """(n, K) probabilities that favour the label in proportion to `good`."""
    logits = draw.normal(0, 1, (len(labels), classes))
    logits[np.arange(len(labels)), labels] += good
    p = np.exp(logits)
    return (p / p.sum(1, keepdims=True)).astype(np.float32)


def made(goods: list[float], count: int = 300, classes: int = 8, seed: int = 0) -> Candidates:
    """Candidates of members of these strengths."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(classes, size=count)
    p = np.stack([sharp(draw, labels, classes, good) for good in goods])
    every = np.tile(np.arange(classes), (count, 1))
    ranks = np.stack([ranked(each, every) for each in p])
    return Candidates(np.arange(count), labels, every, p, ranks, classes)


def worth(method: Method, of: Candidates, objective: Objective = "top1") -> float:
    found = applied(method, method.fit(of, objective), of)
    return score(places(found, of.classes, of.labels), of.labels, objective)


def test_combined_are_the_sums_by_hand() -> None:
    p = np.array([[[0.5, 0.3, 0.2]], [[0.1, 0.6, 0.3]]], np.float32)
    ranks = np.array([[[0, 1, 2]], [[2, 0, 1]]], np.float32)
    weights = np.array([0.25, 0.75])
    assert combined("arithmetic", weights, p)[0] == pytest.approx([0.2, 0.525, 0.275])
    by_hand = [0.25 * math.log(a) + 0.75 * math.log(b) for a, b in zip(*p[:, 0], strict=True)]
    assert combined("geometric", weights, p)[0] == pytest.approx(by_hand)
    rank = [-1.5 + 0.0002, -0.25 + 0.000525, -1.25 + 0.000275]
    assert combined("rank", weights, p, ranks)[0] == pytest.approx(rank, abs=1e-6)
    of_class = np.array([[[0.5, 0, 1]], [[0.5, 1, 0]]])
    assert combined("arithmetic", of_class, p)[0] == pytest.approx([0.3, 0.6, 0.2])


def test_a_lone_member_is_itself_in_every_way() -> None:
    of = made([1.5])
    alone = worth(BY_NAME["single"], of)
    for method in METHODS:
        assert worth(method, of) == pytest.approx(alone, abs=1 / len(of))


@pytest.mark.parametrize("objective", ["top1", "class-top1", "class-top5"])
def test_fits_are_no_worse_than_what_they_begin_from(objective: Objective) -> None:
    of = made([0.5, 1.0, 1.5, 0.2])
    plain, single = (worth(BY_NAME[name], of, objective) for name in ("arithmetic", "single"))
    assert worth(BY_NAME["weights"], of, objective) >= plain
    assert worth(BY_NAME["greedy"], of, objective) >= single
    assert worth(BY_NAME["subset"], of, objective) >= max(plain, single)


def test_the_subset_is_the_best_of_all() -> None:
    of = made([0.5, 1.0, 1.5, 0.2])
    every = [np.array([float(number >> i & 1) for i in range(4)]) for number in range(1, 16)]
    scores = [
        score(
            places(combined("arithmetic", w / w.sum(), of.p), of.classes, of.labels),
            of.labels,
            "top1",
        )
        for w in every
    ]
    assert worth(BY_NAME["subset"], of) == max(scores)


def test_weights_stay_on_the_simplex_and_leave_out_noise() -> None:
    of = made([2.0, 2.0, 0.0], count=600)
    for name in ("single", "arithmetic", "subset", "greedy", "weights"):
        weights = BY_NAME[name].fit(of, "top1")
        assert weights.sum() == pytest.approx(1)
        assert (weights >= 0).all()
    assert BY_NAME["subset"].fit(of, "top1")[2] == 0
    by_class = BY_NAME["per-class"].fit(of, "top1")
    assert by_class.shape == (3, 8)
    assert by_class.sum(0) == pytest.approx(np.ones(8))
    assert (by_class[2] < by_class[0]).all()


def test_weights_by_class_find_who_knows_a_class() -> None:
    draw = np.random.default_rng(3)
    labels = draw.integers(6, size=900)
    knows_low, knows_high = labels < 3, labels >= 3
    p = np.stack([sharp(draw, labels, 6, 0.0) for _ in range(2)])
    p[0, knows_low] = sharp(draw, labels, 6, 3.0)[knows_low]
    p[1, knows_high] = sharp(draw, labels, 6, 3.0)[knows_high]
    every = np.tile(np.arange(6), (900, 1))
    of = Candidates(np.arange(900), labels, every, p, np.zeros_like(p), 6)
    weights = BY_NAME["per-class"].fit(of, "top1")
    assert (weights[0, :3] > 0.6).all()
    assert (weights[1, 3:] > 0.6).all()
    assert worth(BY_NAME["per-class"], of) > worth(BY_NAME["arithmetic"], of) + 0.02


def test_held_out_scores_do_not_flatter() -> None:
    """Where members are alike and pictures few, the best on the fit is not the best elsewhere."""
    of = made([1.0] * 8, count=120)
    found = {each.method.name: each for each in search(of, folds_of(of.labels, 5, 0), "top1")}
    assert worth(BY_NAME["subset"], of) > found["subset"].score.value
    assert found["arithmetic"].score.value == pytest.approx(worth(BY_NAME["arithmetic"], of))
    assert found["arithmetic"].gain.value == found["arithmetic"].gain.high == 0
    assert advised(list(found.values())).method.name == "arithmetic"


def test_what_is_surely_better_is_advised() -> None:
    of = made([3.0, 0.0, 0.0, 0.0, 0.0], count=1500)
    found = search(of, folds_of(of.labels, 5, 0), "top1")
    best = advised(found)
    assert best.method.name != "arithmetic"
    assert best.gain.low > 0
    assert best.score.value == max(each.score.value for each in found if each.gain.low > 0)


@given(st.integers(2, 300), st.integers(2, 7), st.integers(1, 9), st.integers(0, 5))
def test_folds_spread_each_class(count: int, folds: int, classes: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(classes, size=count)
    fold = folds_of(labels, folds, seed)
    for each in np.unique(labels):
        sizes = np.bincount(fold[labels == each], minlength=folds)
        assert sizes.max() - sizes.min() <= 1


@given(st.data())
def test_places_are_those_of_a_sorted_list(data: st.DataObject) -> None:
    classes = data.draw(st.integers(2, 9))
    scores = np.array(
        data.draw(
            st.lists(st.lists(st.integers(0, 4), min_size=classes, max_size=classes), min_size=1)
        ),
        np.float32,
    )
    labels = np.array([data.draw(st.integers(0, classes - 1)) for _ in scores])
    every = np.tile(np.arange(classes), (len(scores), 1))
    order = np.argsort(-scores, 1, kind="stable")
    expected = [list(row).index(label) for row, label in zip(order, labels, strict=True)]
    assert places(scores, every, labels).tolist() == expected


def test_a_label_that_is_no_candidate_is_no_hit() -> None:
    scores, classes = np.array([[0.0, 0.0]]), np.array([[3, 5]])
    (place,) = places(scores, classes, np.array([4]))
    assert place == 2
    assert not hits(np.array([place + 3]), "top5")[0]


@pytest.mark.parametrize("objective", ["top1", "class-top1"])
def test_scores_are_means_over_pictures_or_classes(objective: Objective) -> None:
    labels = np.array([0, 0, 0, 1])
    place = np.array([0, 0, 1, 1])
    assert score(place, labels, objective) == pytest.approx(0.5 if objective == "top1" else 1 / 3)
    assert shares(labels, objective).sum() == pytest.approx(1)


def test_the_interval_is_the_binomials() -> None:
    right = np.zeros(1000, np.int64)
    right[:600] = 1
    found = interval(right, np.zeros(1000, np.int64), "top1")
    spread = 1.96 * math.sqrt(0.6 * 0.4 / 1000)
    assert found.value == pytest.approx(0.6)
    assert found.low == pytest.approx(0.6 - spread, abs=0.005)
    assert found.high == pytest.approx(0.6 + spread, abs=0.005)


def test_candidates_hold_every_class_that_could_be_among_the_first_five() -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(500, size=40)
    p = np.stack([sharp(draw, labels, 500, 2.0) for _ in range(4)])
    chosen = likeliest(np.maximum.reduce(p))
    assert chosen.shape == (40, MOST)
    assert (np.diff(chosen, axis=1) > 0).all()
    whole = np.argsort(-p.mean(0), 1)[:, :5]
    assert all(set(row) <= set(kept) for row, kept in zip(whole, chosen, strict=True))
    exact = (p[0][:, None, :] > np.take_along_axis(p[0], chosen, 1)[:, :, None]).sum(2)
    assert np.array_equal(ranked(p[0], chosen), np.minimum(exact, MOST))


@given(st.floats(0.3, 4), st.integers(0, 99))
def test_a_temperature_keeps_the_order(temperature: float, seed: int) -> None:
    p = sharp(np.random.default_rng(seed), np.zeros(5, np.int64), 7, 1.0)
    found = probabilities(p.astype(np.float16), "probabilities", temperature)
    assert found.sum(1) == pytest.approx(np.ones(5), abs=1e-5)
    kept = p.astype(np.float16)
    assert np.array_equal(np.argsort(-kept, 1, kind="stable"), np.argsort(-found, 1, kind="stable"))


def test_probabilities_are_those_of_the_logits() -> None:
    logits: Any = np.random.default_rng(1).normal(0, 3, (4, 6)).astype(np.float32)
    expected = np.exp(logits / 2) / np.exp(logits / 2).sum(1, keepdims=True)
    assert probabilities(logits, "logits", 2.0) == pytest.approx(expected, abs=1e-6)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert probabilities(p, "probabilities", 2.0) == pytest.approx(expected, abs=1e-5)


def test_calibration_error_by_hand() -> None:
    sure = np.array([0.95, 0.95, 0.55, 0.55])
    right = np.array([True, False, True, True])
    assert calibration_error(sure, right) == pytest.approx(0.5 * 0.45 + 0.5 * 0.45)
    assert calibration_error(np.full(10, 0.5), np.arange(10) < 5) == pytest.approx(0)
