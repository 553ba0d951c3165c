"""Whether a budget lets a job start, and when it ends those that run."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from launcher.budget.budgets import (
    DAY_MS,
    Admitted,
    Ask,
    Budget,
    Hold,
    Refused,
    State,
    admit,
    exhausted_at_ms,
    is_exhausted,
    without,
)
from launcher.budget.periods import Calendar

BUDGET = Budget("webvision", 500 * DAY_MS, Calendar("once", datetime(2026, 1, 1, tzinfo=UTC)))
ASK = Ask("uid-a", "ml", "a", 64, 8 * 86_400)


def test_safe_refuses_what_cannot_run_to_its_deadline() -> None:
    state = State(BUDGET, used=189 * DAY_MS)
    found = admit(state, ASK)
    assert found == Refused(
        'budget "webvision" has 311.0 GPU-days left and this job may cost 512.0 '
        "(64 GPUs × 8 days); lower --gpus or --deadline, or raise the budget"
    )


def test_safe_holds_all_that_a_job_may_take() -> None:
    found = admit(State(BUDGET, used=0), replace(ASK, deadline_s=7 * 86_400))
    assert found == Admitted(Hold("uid-a", "ml", "a", 64, 448 * DAY_MS))


def test_safe_wants_a_deadline() -> None:
    found = admit(State(BUDGET, used=0), replace(ASK, deadline_s=0))
    assert isinstance(found, Refused)
    assert "give --deadline" in found.reason


def test_what_a_job_has_used_of_its_hold_is_not_counted_twice() -> None:
    hold = Hold("uid-b", "ml", "b", 8, 100 * DAY_MS)
    state = State(BUDGET, 60 * DAY_MS, {"uid-b": hold}, {"uid-b": 60 * DAY_MS})
    assert state.reserved == 40 * DAY_MS
    assert state.remaining == 400 * DAY_MS
    over = replace(state, used=130 * DAY_MS, used_by_job={"uid-b": 130 * DAY_MS})
    assert (over.reserved, over.remaining) == (0, 370 * DAY_MS)


def test_a_repeated_submit_does_not_hold_twice() -> None:
    asked = replace(ASK, deadline_s=7 * 86_400)
    first = admit(State(BUDGET, 0), asked)
    assert isinstance(first, Admitted)
    assert first.hold is not None
    assert admit(State(BUDGET, 0, {"uid-a": first.hold}), asked) == first
    lowered = replace(BUDGET, limit_gpu_ms=DAY_MS)
    assert admit(State(lowered, 0, {"uid-a": first.hold}), asked) == first, "it was promised"
    larger = admit(State(lowered, 0, {"uid-a": first.hold}), replace(asked, gpus=65))
    assert isinstance(larger, Refused)


@pytest.mark.parametrize(
    ("mode", "used", "allowed", "words"),
    [
        ("hard", 499, True, ""),
        ("hard", 500, False, "is used up: 500.0 of 500.0 GPU-days; raise it"),
        ("soft", 499, True, ""),
        ("soft", 700, True, "is used up: 700.0 of 500.0 GPU-days; it only warns"),
    ],
)
def test_hard_and_soft(mode: str, used: int, allowed: bool, words: str) -> None:
    budget = replace(BUDGET, mode=mode)  # type: ignore[arg-type]
    found = admit(State(budget, used * DAY_MS), replace(ASK, deadline_s=0))
    assert isinstance(found, Admitted) == allowed
    assert words in (found.warning if isinstance(found, Admitted) else found.reason)


def test_hard_ends_jobs_in_time_for_their_grace() -> None:
    budget = replace(BUDGET, mode="hard", grace_s=600)
    in_grace = 64 * 600_000
    assert not is_exhausted(State(budget, BUDGET.limit_gpu_ms - in_grace - 1, gpus=64))
    assert is_exhausted(State(budget, BUDGET.limit_gpu_ms - in_grace, gpus=64))
    assert not is_exhausted(State(BUDGET, 600 * DAY_MS, gpus=64)), "safe never ends a job"
    assert not is_exhausted(State(replace(budget, mode="soft"), 600 * DAY_MS, gpus=64))


def test_when_nothing_will_be_left() -> None:
    assert exhausted_at_ms(State(BUDGET, 0, gpus=50), 7) == 7 + 10 * DAY_MS
    assert exhausted_at_ms(State(BUDGET, 0), 7) is None
    assert exhausted_at_ms(State(BUDGET, 501 * DAY_MS), 7) == 7


asks = st.lists(
    st.tuples(st.integers(0, 5), st.integers(1, 64), st.integers(1, 10 * 86_400)), max_size=20
)


@settings(max_examples=300)
@given(asks, st.lists(st.integers(0, 5), max_size=5))
def test_safe_never_promises_more_than_there_is(
    wanted: list[tuple[int, int, int]], ended: list[int]
) -> None:
    """Whoever asks, in whatever order: all that is held and used fits the limit."""
    state = State(BUDGET, 0)
    for number, gpus, deadline_s in wanted:
        found = admit(state, Ask(f"uid-{number}", "ml", "a", gpus, deadline_s))
        if isinstance(found, Admitted):
            assert found.hold is not None
            state = replace(state, holds={**state.holds, found.hold.job_uid: found.hold})
        assert state.used + state.reserved <= BUDGET.limit_gpu_ms
        assert state.remaining >= 0
    left = without(state.holds, (f"uid-{number}" for number in ended))
    assert all(uid not in left for uid in (f"uid-{number}" for number in ended))
    assert replace(state, holds=left).remaining >= state.remaining


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(86_400, "1 days"), (129_600, "1.5 days"), (7200, "2 hours"), (90, "1.5 minutes"), (5, "5 s")],
)
def test_spans_are_told_in_their_unit(seconds: int, words: str) -> None:
    poor = replace(BUDGET, limit_gpu_ms=0)
    found = admit(State(poor, 0), replace(ASK, deadline_s=seconds))
    assert isinstance(found, Refused)
    assert f"(64 GPUs × {words}" in found.reason
