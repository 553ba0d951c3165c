"""Learning rate and averaging as functions of the samples seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.config import OptimConfig
from trainer.learn.schedule import ema_decay, learning_rate

CONFIG = OptimConfig(lr=0.4, lr_end=0.001, warmup_epochs=2)


def test_the_rate_rises_then_falls_along_a_cosine() -> None:
    rates = [learning_rate(CONFIG, seen, 1000, 100) for seen in range(0, 1001, 50)]
    assert rates[0] == pytest.approx(0.4 / 201)
    assert rates[4] == pytest.approx(0.4)
    assert rates[12] == pytest.approx((0.4 + 0.001) / 2)
    assert rates[20] == pytest.approx(0.001)
    assert rates[:5] == sorted(rates[:5])
    assert rates[4:] == sorted(rates[4:], reverse=True)


@given(st.integers(0, 10_000), st.integers(1, 10_000), st.integers(1, 5000), st.floats(0, 50))
def test_the_rate_is_positive_and_never_above_its_peak(
    seen: int, total: int, epoch_samples: int, warmup: float
) -> None:
    config = OptimConfig(lr=0.1, warmup_epochs=warmup)
    assert 0 <= learning_rate(config, min(seen, total), total, epoch_samples) <= 0.1


def test_half_of_the_average_is_left_after_a_half_life() -> None:
    left = 1.0
    for update in range(1000, 1050):
        left *= ema_decay(6400, 128, update)
    assert left == pytest.approx(0.5)


def test_the_first_updates_are_averaged_over_fewer() -> None:
    assert ema_decay(1e9, 128, 0) == pytest.approx(0.1)
    assert ema_decay(1e9, 128, 89) == pytest.approx(90 / 99)
    assert ema_decay(0, 128, 50) == 0
