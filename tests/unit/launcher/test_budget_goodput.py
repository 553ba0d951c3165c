"""What GPU time was spent on: parts add up to what was allocated, whatever is read and missed."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace

import hypothesis.strategies as st
from hypothesis import given, settings

from launcher.budget.goodput import Tally, Told
from launcher.budget.records import Effort, described, joined, parse

NOTHING = Effort("uid-a", "c", "webvision", "ml", "a")
GPUS = 8


def at(seconds: float) -> int:
    """GPU-milliseconds of the job after so many seconds."""
    return round(seconds * GPUS * 1000)


def test_a_calm_run_is_good_but_for_its_start_and_its_waits() -> None:
    tally = Tally(NOTHING)
    tally.hear(Told(1, 10, update_s=70, data_wait_s=10, checkpoint_s=5), GPUS, 100_000, at(100))
    after = tally.settle(at(100), GPUS, 100_000)
    # 100 s: 60 computing, 10 waiting, 5 saving; the first 25 went by before.
    assert after == replace(
        NOTHING, good_ms=at(60), data_wait_ms=at(10), checkpoint_ms=at(5), startup_ms=at(25)
    )
    tally.hear(Told(1, 20, update_s=125, data_wait_s=15, checkpoint_s=5, evaluation_s=5), GPUS,
               160_000, at(160))  # fmt: skip
    after = tally.settle(at(160), GPUS, 160_000)
    assert (after.good_ms, after.data_wait_ms) == (at(60 + 50 + 5), at(15))
    assert after.total_ms == at(160)


def test_until_the_first_update_it_starts() -> None:
    tally = Tally(NOTHING)
    tally.hear(Told(1), GPUS, 30_000, at(30))
    assert tally.settle(at(30), GPUS, 30_000).startup_ms == at(30)
    tally.hear(Told(1, 2, update_s=20), GPUS, 60_000, at(60))
    after = tally.settle(at(60), GPUS, 60_000)
    assert (after.startup_ms, after.good_ms, after.idle_ms) == (at(30), at(20), at(10))


def test_updates_that_were_lost_are_done_again() -> None:
    tally = Tally(NOTHING)
    tally.hear(Told(1, 10, update_s=100), GPUS, 100_000, at(100))
    tally.settle(at(100), GPUS, 100_000)
    tally.hear(Told(2, 2, update_s=20, lost_updates=3), GPUS, 120_000, at(120))
    assert tally.settle(at(120), GPUS, 120_000).recompute_ms == at(20)
    tally.hear(Told(2, 6, update_s=60, lost_updates=3), GPUS, 160_000, at(160))
    after = tally.settle(at(160), GPUS, 160_000)
    assert (after.recompute_ms, after.good_ms, after.idle_ms) == (at(30), at(100 + 30), 0)


def test_a_job_that_hangs_is_idle_and_one_that_is_silent_starts_again() -> None:
    tally = Tally(NOTHING)
    hung = Told(1, 10, update_s=100)
    tally.hear(hung, GPUS, 100_000, at(100))
    tally.settle(at(100), GPUS, 100_000)
    tally.hear(hung, GPUS, 200_000, at(200))
    assert tally.settle(at(200), GPUS, 200_000).idle_ms == at(100)
    assert tally.settle(at(230), GPUS, 230_000).total_ms == at(200), "the next reading may tell"
    assert tally.settle(at(300), GPUS, 300_000).startup_ms == at(100)


def test_time_that_counted_as_a_start_is_not_told_of_again() -> None:
    tally = Tally(NOTHING)
    tally.hear(Told(1, 10, update_s=100), GPUS, 100_000, at(100))
    tally.settle(at(100), GPUS, 100_000)
    tally.settle(at(200), GPUS, 200_000)  # nobody answered
    tally.hear(Told(1, 21, update_s=210), GPUS, 210_000, at(210))
    after = tally.settle(at(210), GPUS, 210_000)
    assert (after.startup_ms, after.good_ms) == (at(100), at(110))
    assert tally.settle(at(240), 0, 240_000).idle_ms == at(30)


def test_what_nobody_has_read_is_in_no_part() -> None:
    assert Tally(NOTHING).settle(at(100), GPUS, 100_000) == NOTHING
    assert Tally(NOTHING).settle(at(100), 0, 100_000) == NOTHING


def test_another_controller_shares_out_what_it_finds_missing() -> None:
    first = Tally(NOTHING)
    first.hear(Told(1, 10, update_s=100), GPUS, 100_000, at(100))
    stored = first.settle(at(100), GPUS, 100_000)
    second = Tally(stored)
    second.hear(Told(1, 20, update_s=200, data_wait_s=50), GPUS, 220_000, at(220))
    after = second.settle(at(220), GPUS, 220_000)
    assert (after.good_ms, after.data_wait_ms) == (at(100 + 90), at(30)), "in the same proportions"
    third = Tally(after)
    assert third.settle(at(230), 0, 230_000).idle_ms == at(10), "it ended while nobody looked"


def test_a_record_of_it_is_stored_and_read() -> None:
    effort = replace(NOTHING, good_ms=3, idle_ms=4)
    assert parse(described(effort)) == effort


@dataclass(frozen=True)
class Step:
    """Some seconds of a job, and whether it was read or settled after them."""

    seconds: float
    kind: str
    gpus: int
    is_read: bool
    is_settled: bool
    is_new_process: bool
    is_new_controller: bool


steps = st.builds(
    Step,
    seconds=st.floats(0, 200),
    kind=st.sampled_from(["update", "data_wait", "evaluation", "checkpoint", "nothing"]),
    gpus=st.integers(0, 8),
    is_read=st.booleans(),
    is_settled=st.booleans(),
    is_new_process=st.sampled_from([False, False, False, True]),
    is_new_controller=st.sampled_from([False, False, False, True]),
)


@settings(max_examples=500)
@given(st.lists(steps, max_size=30))
def test_parts_only_grow_and_add_up_to_what_was_allocated(history: list[Step]) -> None:
    tally, stored, told = Tally(NOTHING), NOTHING, Told(1)
    allocated = now_ms = 0
    for step in history:
        allocated += round(step.seconds * 1000) * step.gpus
        now_ms += round(step.seconds * 1000)
        told = after(told, step)
        if step.is_new_controller:
            tally = Tally(stored)
        if step.is_read:
            tally.hear(told, step.gpus, now_ms, allocated)
        if step.is_settled:
            before, stored = stored, joined(stored, tally.settle(allocated, step.gpus, now_ms))
            assert all(
                new >= old for new, old in zip(numbers(stored), numbers(before), strict=True)
            )
            assert stored.total_ms <= allocated
    stored = joined(stored, tally.settle(allocated, 0, now_ms))
    if tally.told is not None or stored.total_ms:
        assert stored.total_ms == allocated


def after(told: Told, step: Step) -> Told:
    """The counters after a step."""
    if step.is_new_process:
        told = Told(told.generation + 1, lost_updates=told.updates // 2)
    match step.kind:
        case "update":
            return replace(told, updates=told.updates + 5, update_s=told.update_s + step.seconds)
        case "data_wait":
            return replace(told, update_s=told.update_s + step.seconds,
                           data_wait_s=told.data_wait_s + step.seconds)  # fmt: skip
        case "evaluation":
            return replace(told, evaluation_s=told.evaluation_s + step.seconds)
        case "checkpoint":
            return replace(told, checkpoint_s=told.checkpoint_s + step.seconds)
    return told


efforts = st.builds(
    Effort, *(st.just(text) for text in astuple(NOTHING)[:5]), *([st.integers(0, 9)] * 6)
)


@given(efforts, efforts, efforts)
def test_joining_knows_no_order(one: Effort, two: Effort, three: Effort) -> None:
    assert joined(one, two) == joined(two, one)
    assert joined(joined(one, two), three) == joined(one, joined(two, three))
    assert joined(one, one) == one


def numbers(effort: Effort) -> list[int]:
    return [effort.good_ms, *effort.wasted().values()]
