"""Means over nearest neighbours of the same class, against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from trainer.text.graph import Gathered, of_neighbours

UNHURRIED = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
Floats = NDArray[np.float64]


def gathered(vectors: NDArray[np.float16]) -> Gathered:
    """The vectors in two parts."""
    made = Gathered(len(vectors), vectors.shape[1])
    middle = len(vectors) // 2
    made.fill(slice(0, middle), vectors[:middle])
    made.fill(slice(middle, len(vectors)), vectors[middle:])
    return made


def cosines(vectors: NDArray[np.float16], i: int, others: list[int]) -> list[float]:
    exact = vectors.astype(np.float64)
    lengths = np.maximum(np.linalg.norm(exact, axis=1), 1e-12)
    return [float(exact[i] @ exact[j] / lengths[i] / lengths[j]) for j in others]


def bounds(
    values: Floats, labels: list[int], among: list[bool], vectors: NDArray[np.float16], count: int
) -> list[tuple[float, float]]:
    """The least and the largest mean that each may have: equally near ones may stand for others."""
    found = []
    for i, label in enumerate(labels):
        others = [j for j, other in enumerate(labels) if other == label and among[j] and j != i]
        if not among[i] or not others:
            found.append((values[i], values[i]))
            continue
        near = cosines(vectors, i, others)
        count_here = min(count, len(others))
        last = sorted(near, reverse=True)[count_here - 1]
        sure = [values[j] for j, cosine in zip(others, near, strict=True) if cosine > last + 1e-6]
        tied = sorted(
            values[j] for j, cosine in zip(others, near, strict=True) if abs(cosine - last) <= 1e-6
        )
        left = count_here - len(sure)
        least, most = sum(sure) + sum(tied[:left]), sum(sure) + sum(tied[len(tied) - left :])
        found.append((least / count_here, most / count_here))
    return found


# Few different coordinates, so that equal vectors, zeros and ties occur.
COUNT = 14
VECTORS = npst.arrays(np.float16, (COUNT, 3), elements=st.sampled_from([-1.0, 0.0, 0.5, 2.0]))
VALUES = npst.arrays(np.float64, COUNT, elements=st.floats(-1, 1, width=32))


@UNHURRIED
@given(
    VECTORS,
    VALUES,
    st.lists(st.integers(0, 2), min_size=COUNT, max_size=COUNT),
    st.lists(st.booleans(), min_size=COUNT, max_size=COUNT),
    st.integers(1, COUNT + 2),
)
def test_the_mean_of_the_nearest_is_that_of_brute_force(
    vectors: NDArray[np.float16], values: Floats, labels: list[int], among: list[bool], count: int
) -> None:
    found = of_neighbours(values, np.array(labels), np.array(among), gathered(vectors), count)
    expected = bounds(values, labels, among, vectors, count)
    for value, (least, most) in zip(found.tolist(), expected, strict=True):
        assert least - 1e-6 <= value <= most + 1e-6


def test_without_ties_it_is_exact_and_a_sample_is_no_neighbour_of_its_own() -> None:
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(200, 8)).astype(np.float16)
    values, labels = draw.normal(size=200), draw.integers(0, 4, 200)
    among = draw.random(200) < 0.8
    found = of_neighbours(values, labels, among, gathered(vectors), 5)
    expected = bounds(values, labels.tolist(), among.tolist(), vectors, 5)
    assert found.tolist() == pytest.approx([least for least, _ in expected], abs=1e-9)
    longer = of_neighbours(values, labels, among, gathered(vectors * np.float16(8)), 5)
    assert longer == pytest.approx(found), "cosines do not know lengths"


def test_many_equal_vectors_still_leave_the_sample_out_of_its_mean() -> None:
    vectors = np.ones((40, 4), np.float16)
    values = np.zeros(40)
    values[7] = 1.0
    everyone = np.ones(40, np.bool_)
    found = of_neighbours(values, np.zeros(40, np.int64), everyone, gathered(vectors), 39)
    assert found[7] == 0.0
    assert np.delete(found, 7) == pytest.approx(np.full(39, 1 / 39))


def test_the_only_one_of_a_class_and_who_takes_no_part_keep_their_values() -> None:
    vectors = np.eye(4, dtype=np.float16)
    values = np.array([1.0, 2.0, 3.0, 4.0])
    labels, among = np.array([0, 1, 1, 1]), np.array([True, True, True, False])
    found = of_neighbours(values, labels, among, gathered(vectors), 3)
    assert found.tolist() == [1.0, 3.0, 2.0, 4.0]
    assert values.tolist() == [1.0, 2.0, 3.0, 4.0]
    nobody = of_neighbours(values, labels, np.zeros(4, np.bool_), gathered(vectors), 3)
    assert nobody.tolist() == values.tolist()
