"""What is kept, and what each sample counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trainer.config import SelectConfig
from trainer.text.select import loss_weights, sampling_weights, select

PROBABILITY = np.array([0.9, 0.2, 0.5, 0.4, 0.7, 0.1, 0.5, 0.3])
LABELS = np.array([0, 0, 1, 1, 0, 1, 1, 3])


def kept(least: int = 0, **more: object) -> list[int]:
    config = SelectConfig(**({"least_per_class": least} | more))  # type: ignore[arg-type]
    found = select(PROBABILITY, LABELS, 4, config)
    assert found.dtype == np.int64
    return found.tolist()


@pytest.mark.parametrize(
    ("way", "ids"),
    [
        ({"by": "threshold", "threshold": 0.5}, [0, 2, 4, 6]),
        ({"by": "threshold", "threshold": 0.0}, list(range(8))),
        ({"by": "threshold", "threshold": 0.95}, []),
        ({"by": "share", "share": 0.5}, [0, 2, 4, 6, 7]),
        ({"by": "share", "share": 0.01}, [0, 2, 7]),
        ({"by": "share", "share": 1.0}, list(range(8))),
        ({"by": "count", "count": 1}, [0, 2, 7]),
        ({"by": "count", "count": 3}, [0, 1, 2, 3, 4, 6, 7]),
    ],
)
def test_each_way_keeps_its_own(way: dict[str, object], ids: list[int]) -> None:
    assert kept(**way) == ids


def test_the_best_of_each_class_are_kept_whatever_they_score() -> None:
    assert kept(1, by="threshold", threshold=0.95) == [0, 2, 7]
    assert kept(2, by="threshold", threshold=0.8) == [0, 2, 4, 6, 7]
    assert kept(2, by="count", count=1) == [0, 2, 4, 6, 7]
    assert kept(99, by="share", share=0.01) == list(range(8))


def test_a_share_is_not_more_by_rounding() -> None:
    """0.07 of 100 is 7.000000000000001 in floating point."""
    labels = np.zeros(100, np.int64)
    probability = np.linspace(0, 1, 100)
    for percent in range(1, 101):
        config = SelectConfig(by="share", share=percent / 100, least_per_class=0)
        assert len(select(probability, labels, 1, config)) == percent


CASES = st.lists(
    st.tuples(st.sampled_from([0.1, 0.5, 0.50001, 0.9]), st.integers(0, 3)), min_size=1
)
CONFIGS = st.builds(
    SelectConfig,
    by=st.sampled_from(["threshold", "share", "count"]),
    threshold=st.floats(0, 1),
    share=st.floats(0.01, 1),
    count=st.integers(1, 9),
    least_per_class=st.integers(0, 5),
    weight_floor=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
)


@given(CASES, CONFIGS)
def test_in_each_class_the_kept_are_those_before_all_others(
    cases: list[tuple[float, int]], config: SelectConfig
) -> None:
    probability, labels = np.array([p for p, _ in cases]), np.array([k for _, k in cases])
    found = select(probability, labels, 5, config)
    assert (np.diff(found) > 0).all()
    chosen = set(found.tolist())
    for label in range(4):
        ids = np.flatnonzero(labels == label).tolist()
        ranked = sorted(ids, key=lambda i: (-probability[i], i))
        count = len(chosen & set(ids))
        assert set(ranked[:count]) == chosen & set(ids)
        assert count >= min(config.least_per_class, len(ids))
        wanted = {
            "threshold": sum(probability[i] >= config.threshold for i in ids),
            "share": min(len(ids), int(np.ceil(round(config.share * len(ids), 9)))),
            "count": min(config.count, len(ids)),
        }[config.by]
        assert count == max(wanted, min(config.least_per_class, len(ids)))


def means_by_class(weights: NDArray[np.float32], labels: NDArray[np.int64]) -> list[float]:
    return [float(weights[labels == label].mean()) for label in np.unique(labels)]


@given(CASES, CONFIGS)
def test_weights_are_in_proportion_to_the_probabilities_and_of_mean_1(
    cases: list[tuple[float, int]], config: SelectConfig
) -> None:
    probability, labels = np.array([p for p, _ in cases]), np.array([k for _, k in cases])
    held = np.maximum(probability, config.weight_floor)
    loss = loss_weights(probability, config)
    sampling = sampling_weights(probability, labels, config)
    assert loss.dtype == sampling.dtype == np.float32
    assert loss.mean() == pytest.approx(1, abs=1e-5)
    assert loss == pytest.approx(held / held.mean(), rel=1e-5)
    assert means_by_class(sampling, labels) == pytest.approx([1] * len(set(labels)), abs=1e-5)
    for label in set(labels.tolist()):
        mine = labels == label
        assert sampling[mine] == pytest.approx(held[mine] / held[mine].mean(), rel=1e-5)


def test_a_class_with_unclear_texts_is_seen_as_often_as_one_with_clear_ones() -> None:
    probability = np.array([0.9, 0.9, 0.1, 0.3])
    labels = np.array([0, 0, 1, 1])
    found = sampling_weights(probability, labels, SelectConfig())
    assert found.tolist() == pytest.approx([1, 1, 0.5, 1.5])
    none = sampling_weights(np.zeros(2), np.zeros(2, np.int64), SelectConfig())
    assert none.tolist() == [0, 0]
