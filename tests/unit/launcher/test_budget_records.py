"""Records of GPU time: merged in any order, corrected, given back, cut into periods, stored."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from launcher.budget.ledger import Ledger
from launcher.budget.periods import Calendar, Every, Period
from launcher.budget.records import (
    BadRecord,
    Interval,
    Owner,
    Record,
    Refund,
    corrected,
    described,
    merge,
    parse,
)

OWNER = Owner("c", "webvision", "ml", "a", "uid-a", "ada", "senet154", "train", "H200")
DAY_MS = 86_400_000


def interval(**changes: object) -> Interval:
    facts = {"pod_uid": "p", "owner": OWNER, "node": "n", "gpus": 8, "start_ms": 1000}
    return Interval(**facts | {"through_ms": 5000} | changes)  # type: ignore[arg-type]


owners = st.builds(
    lambda budget, job, gpu_type: replace(OWNER, budget=budget, job=job, gpu_type=gpu_type),
    st.sampled_from(["one", "two"]),
    st.sampled_from(["a", "b"]),
    st.sampled_from(["H200", "unknown"]),
)
intervals = st.builds(
    Interval,
    pod_uid=st.sampled_from(["p", "q"]),
    owner=owners,
    node=st.sampled_from(["n", "m"]),
    gpus=st.integers(0, 8),
    start_ms=st.integers(0, 50),
    through_ms=st.integers(0, 100),
    source=st.sampled_from(["open", "sight", "containers", "correction"]),
    revision=st.integers(0, 2),
)
refunds = st.builds(
    Refund,
    refund_id=st.sampled_from(["r", "s"]),
    cluster=st.just("c"),
    budget=st.sampled_from(["one", "two"]),
    gpu_ms=st.integers(0, 100),
    reason=st.sampled_from(["node lost", "defect"]),
    author=st.just("ada"),
    at_ms=st.integers(0, 100),
)


@settings(max_examples=500)
@given(intervals, intervals, intervals)
def test_merging_is_commutative_associative_and_idempotent(
    one: Interval, two: Interval, three: Interval
) -> None:
    one, two, three = (replace(each, pod_uid="p") for each in (one, two, three))
    assert merge(one, one) == one
    assert merge(one, two) == merge(two, one)
    assert merge(merge(one, two), three) == merge(one, merge(two, three))


@settings(max_examples=300)
@given(st.lists(intervals | refunds, max_size=8), st.randoms())
def test_a_ledger_is_the_same_whatever_came_first_or_twice(
    records: list[Record], random: object
) -> None:
    again = records + records[::2]
    random.shuffle(again)  # type: ignore[attr-defined]
    one, other = Ledger(records), Ledger(again)
    assert sorted(map(repr, one.records())) == sorted(map(repr, other.records()))
    assert one.counted(by_budget) == other.counted(by_budget)


@settings(max_examples=300)
@given(st.lists(intervals, max_size=10))
def test_counters_never_fall_while_owners_stay(records: list[Interval]) -> None:
    shown: dict[tuple[str, ...], int] = {}
    ledger = Ledger()
    for record in records:
        known = ledger.of_pod(record.pod_uid)
        if known is not None:  # what a pod is never changes
            record = replace(record, owner=known.owner, gpus=known.gpus, start_ms=known.start_ms)
        ledger.add(record)
        counted = ledger.counted(by_budget)
        assert all(counted[key] >= value for key, value in shown.items())
        shown = counted


def by_budget(each: Interval) -> tuple[str, ...]:
    return (each.owner.budget,)


@pytest.mark.parametrize(
    ("less", "more"),
    [
        (interval(), interval(through_ms=6000)),
        (interval(through_ms=9000), interval(source="sight")),
        (interval(through_ms=9000, source="sight"), interval(source="containers")),
        (interval(through_ms=9000, source="containers"), interval(source="correction")),
        (
            interval(through_ms=9000, source="correction", revision=1),
            interval(source="correction", revision=2),
        ),
    ],
)
def test_the_better_known_end_holds(less: Interval, more: Interval) -> None:
    held = merge(less, more)
    assert held.through_ms == more.through_ms
    assert held.gpu_ms == 8 * (more.through_ms - 1000)
    assert held.counted_gpu_ms == 8 * (max(less.through_ms, more.through_ms) - 1000)


def test_what_one_observer_knew_of_the_node_holds() -> None:
    known, unknown = interval(), interval(owner=replace(OWNER, gpu_type="unknown"), through_ms=9000)
    for held in (merge(known, unknown), merge(unknown, known)):
        assert (held.owner.gpu_type, held.through_ms) == ("H200", 9000)


def test_a_charge_is_never_negative() -> None:
    assert interval(through_ms=500).gpu_ms == 0


def test_a_correction_holds_against_the_containers_and_names_its_author() -> None:
    known = interval(source="containers")
    right = corrected(known, 2000, "ada", "the node's clock was wrong")
    assert merge(known, right).gpu_ms == 8000
    again = corrected(right, 3000, "ada", "not so wrong")
    assert merge(merge(known, again), right).gpu_ms == 16_000
    with pytest.raises(BadRecord, match="author"):
        corrected(known, 2000, "", "why")


def test_a_refund_lowers_what_is_used_and_not_what_was_counted() -> None:
    ledger = Ledger([interval(through_ms=3 * DAY_MS)])
    counted = ledger.counted(by_budget)
    refund = Refund("r", "c", "webvision", DAY_MS, "node lost", "ada", 2 * DAY_MS)
    assert ledger.add(refund)
    assert not ledger.add(refund)
    assert ledger.used("webvision") == 8 * (3 * DAY_MS - 1000) - DAY_MS
    assert ledger.used("webvision", 0, DAY_MS) == 8 * (DAY_MS - 1000), "given back on another day"
    assert ledger.counted(by_budget) == counted
    assert ledger.counted_refunds() == {("c", "webvision", "node lost"): DAY_MS}
    assert ledger.add(Refund("r2", "c", "webvision", -DAY_MS, "node lost", "ada", 2 * DAY_MS))
    assert ledger.used("webvision") == 8 * (3 * DAY_MS - 1000)
    assert ledger.counted_refunds() == {("c", "webvision", "node lost"): DAY_MS}
    assert ledger.used("another") == 0


@settings(max_examples=200)
@given(st.lists(intervals, max_size=6), st.lists(st.integers(0, 110), max_size=5))
def test_parts_of_a_charge_add_up_to_it(records: list[Interval], cuts: list[int]) -> None:
    ledger = Ledger(records)
    edges = sorted({0, *cuts, 200})
    for budget in ("one", "two"):
        parts = [ledger.used(budget, *span) for span in itertools.pairwise(edges)]
        assert sum(parts) == ledger.used(budget)


@given(intervals | refunds)
def test_records_come_back_from_json(record: Record) -> None:
    assert parse(json.loads(json.dumps(described(record)))) == record


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gpus": "8"}, "gpus is '8', not a int"),
        ({"gpus": -1}, "gpus is -1"),
        ({"source": "guess"}, "source is 'guess'; allowed: open, sight"),
        ({"through_ms": 1.5}, "through_ms is 1.5"),
        ({"colour": "red"}, "no record"),
    ],
)
def test_records_that_are_none(change: dict[str, object], words: str) -> None:
    with pytest.raises(BadRecord, match=words):
        parse(described(interval()) | change)


def test_a_record_that_lacks_its_owner() -> None:
    content = described(interval())
    del content["budget"]
    with pytest.raises(BadRecord, match="no record"):
        parse(content)


# -- periods


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def ms(text: str) -> int:
    return round(moment(text).timestamp() * 1000)


@pytest.mark.parametrize(
    ("every", "anchor", "now", "begin", "end"),
    [
        ("day", "2026-01-01", "2026-03-05T13:00", "2026-03-05", "2026-03-06"),
        ("day", "2026-01-01T06:00", "2026-03-05T05:59", "2026-03-04T06:00", "2026-03-05T06:00"),
        ("week", "2026-01-05", "2026-01-12", "2026-01-12", "2026-01-19"),
        ("month", "2026-01-31", "2026-02-27T23:00", "2026-01-31", "2026-02-28"),
        ("month", "2026-01-31", "2026-02-28", "2026-02-28", "2026-03-31"),
        ("quarter", "2025-11-15", "2026-02-14", "2025-11-15", "2026-02-15"),
        ("year", "2024-02-29", "2025-02-28", "2025-02-28", "2026-02-28"),
        ("once", "2026-01-01", "2026-05-01", "2026-01-01", "2026-06-01"),
    ],
)
def test_a_period(every: Every, anchor: str, now: str, begin: str, end: str) -> None:
    last = moment("2026-06-01") if every == "once" else None
    found = Calendar(every, moment(anchor), last).at(ms(now))
    assert found == Period(ms(begin), ms(end))


def test_before_and_after_there_is_none() -> None:
    year = Calendar("month", moment("2026-01-15"), moment("2026-03-01"))
    assert year.at(ms("2026-01-14")) is None
    assert year.at(ms("2026-02-20")) == Period(ms("2026-02-15"), ms("2026-03-01"))
    assert year.at(ms("2026-03-01")) is None
    assert Calendar("once", moment("2026-01-01")).at(ms("2036-01-01")) is not None


@settings(max_examples=300)
@given(
    st.sampled_from(["day", "week", "month", "quarter", "year"]),
    st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)),
    st.timedeltas(timedelta(0), timedelta(days=3000)),
)
def test_periods_follow_each_other_without_a_gap(
    every: Every, anchor: datetime, later: timedelta
) -> None:
    anchor = anchor.replace(microsecond=0, tzinfo=UTC)
    calendar = Calendar(every, anchor)
    now = round((anchor + later).timestamp() * 1000)
    period = calendar.at(now)
    assert period is not None
    assert period.begin_ms <= now < period.end_ms
    after = calendar.at(period.end_ms)
    assert after is not None
    assert after.begin_ms == period.end_ms
    if period.begin_ms > round(anchor.timestamp() * 1000):
        before = calendar.at(period.begin_ms - 1)
        assert before is not None
        assert before.end_ms == period.begin_ms


def test_calendars_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        Calendar("day", datetime(2026, 1, 1))
    with pytest.raises(ValueError, match="is not after"):
        Calendar("once", moment("2026-01-01"), moment("2026-01-01"))
