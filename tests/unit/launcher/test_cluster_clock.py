"""The API server's clock: the true time lies within the bounds, and the bounds become narrow."""

from __future__ import annotations

from email.utils import formatdate

import hypothesis.strategies as st
import pytest
from hypothesis import given

from launcher.cluster.clock import DRIFT, ServerClock
from launcher.errors import Unreachable

BEGIN_S = 1_790_000_000.0
TINY_S = 1e-5
"""Seconds since 1970 as a float are good to a quarter of a microsecond."""


class Machine:
    """A steady clock, one on the wall, and a server whose clock runs at a rate of its own."""

    def __init__(self, offset_s: float = 0.0, rate: float = 1.0) -> None:
        self.offset_s, self.rate = BEGIN_S + offset_s, rate
        self.now_s = 100.0
        self.wall_s = BEGIN_S
        self.clock = ServerClock(lambda: self.now_s, lambda: self.wall_s)

    def server_s(self) -> float:
        return self.offset_s + self.now_s * self.rate

    def ask(self, there_s: float, back_s: float) -> None:
        """A request that takes so long each way; the server's Date is a whole second."""
        asked_at = self.now_s
        self.now_s += there_s
        date = formatdate(int(self.server_s()), usegmt=True)
        self.now_s += back_s
        self.clock.hear(date, asked_at, self.now_s)


way = st.floats(0, 3)


@given(
    st.floats(-1e6, 1e6),
    st.floats(-DRIFT / 2, DRIFT / 2),
    st.lists(st.tuples(way, way, st.floats(0, 4000)), min_size=1, max_size=40),
)
def test_the_true_time_is_always_within_the_bounds(
    offset_s: float, drift: float, asked: list[tuple[float, float, float]]
) -> None:
    machine = Machine(offset_s, 1 + drift)
    for there_s, back_s, pause_s in asked:
        machine.ask(there_s, back_s)
        machine.now_s += pause_s
        low, high = machine.clock.bounds_s()
        assert low - TINY_S <= machine.server_s() <= high + TINY_S
        assert machine.clock.now_ms() <= machine.server_s() * 1000 + 1
    assert machine.clock.steps == 0


def test_many_answers_tell_more_than_the_second_of_each() -> None:
    machine = Machine(0.37)
    for _ in range(30):
        machine.ask(0.004, 0.004)
        machine.now_s += 0.317
    low, high = machine.clock.bounds_s()
    assert high - low < 0.1


def test_a_clock_that_was_set_is_followed_at_once() -> None:
    machine = Machine()
    for step_s in (0.0, -7200.0, 90.0):
        machine.offset_s += step_s
        machine.ask(0.01, 0.01)
        low, high = machine.clock.bounds_s()
        assert low - TINY_S <= machine.server_s() <= high + TINY_S
    assert machine.clock.steps == 2


def test_nothing_is_known_before_the_first_answer() -> None:
    clock = ServerClock()
    clock.hear("", 0, 1)
    clock.hear("yesterday", 0, 1)
    assert not clock.is_known
    assert clock.skew_s == 0
    with pytest.raises(Unreachable, match="has not told its time"):
        clock.now_ms()


@pytest.mark.parametrize(("ahead_s", "told_s"), [(5.0, 4.0), (-5.0, -4.0), (0.3, 0.0)])
def test_the_skew_is_what_the_bounds_leave_no_doubt_of(ahead_s: float, told_s: float) -> None:
    machine = Machine()
    machine.ask(0, 0)
    machine.wall_s = machine.server_s() + ahead_s
    assert machine.clock.skew_s == pytest.approx(told_s, abs=1.01)
    assert abs(machine.clock.skew_s) <= abs(ahead_s)
