"""Sums that the ledger keeps up to date, against the same sums the long way."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from launcher.budget.ledger import SPANS_MOST, Ledger, allotment_of
from launcher.budget.objects import held_at_ms, iso, read_holds
from launcher.budget.records import Interval, Owner
from launcher.budget.standing import standings

BEGIN_MS = 1_790_000_000_000
NOW_MS = BEGIN_MS + 200_000

owners = st.builds(
    Owner,
    cluster=st.just("c"),
    budget=st.sampled_from(["one", "two", ""]),
    namespace=st.sampled_from(["ml", "lab"]),
    job=st.sampled_from(["a", "b"]),
    job_uid=st.sampled_from(["u1", "u2", "u3"]),
    user=st.just("ada"),
    model=st.sampled_from(["senet154", "dpn98"]),
    stage=st.just("train"),
    gpu_type=st.sampled_from(["H200", "unknown"]),
)
intervals = st.builds(
    Interval,
    pod_uid=st.sampled_from([f"pod-{number}" for number in range(6)]),
    owner=owners,
    node=st.just("n"),
    gpus=st.integers(0, 8),
    start_ms=st.integers(0, 100_000).map(lambda ms: BEGIN_MS + ms),
    through_ms=st.integers(0, 250_000).map(lambda ms: BEGIN_MS + ms),
    source=st.sampled_from(["open", "open", "sight", "containers", "correction"]),
)
spans = st.tuples(st.integers(0, 250_000), st.integers(0, 250_000)).map(
    lambda pair: (BEGIN_MS + min(pair), BEGIN_MS + max(pair))
)


def long_way(ledger: Ledger, budget: str, span: tuple[int, int]) -> int:
    mine = (each for each in ledger.intervals() if each.owner.budget == budget)
    return sum(each.within(*span) for each in mine)


@settings(max_examples=500)
@given(st.lists(intervals, max_size=20), st.lists(spans, min_size=1, max_size=SPANS_MOST + 3))
def test_kept_sums_equal_those_of_a_walk(
    records: list[Interval], asked: list[tuple[int, int]]
) -> None:
    ledger = Ledger()
    for record in records:
        ledger.add(record)
        for budget in ("one", "two"):
            for span in asked:
                assert ledger.used(budget, *span) == long_way(ledger, budget, span)
        counted = ledger.counted(allotment_of)
        assert {k: v for k, v in ledger.allotted().items() if v} == {
            k: v for k, v in counted.items() if v
        }
        every = list(ledger.intervals())
        assert {each.pod_uid for each in ledger.open()} == {
            each.pod_uid for each in every if not each.is_closed
        }
        for namespace in ("ml", "lab"):
            for job in ("a", "b"):
                found = Counter(each.pod_uid for each in ledger.of_job(namespace, job))
                assert found == Counter(
                    each.pod_uid
                    for each in every
                    if (each.owner.namespace, each.owner.job) == (namespace, job)
                )


holds = st.lists(
    st.tuples(
        st.sampled_from(["u1", "u2", "u9"]),
        st.sampled_from(["ml", "lab"]),
        st.sampled_from(["a", "b"]),
        st.integers(0, 100),
    ),
    max_size=4,
    unique_by=lambda each: each[0],
)


@settings(max_examples=500)
@given(st.lists(intervals, max_size=12), holds)
def test_where_a_budget_stands_is_what_a_walk_through_all_says(
    records: list[Interval], held: list[tuple[str, str, str, int]]
) -> None:
    ledger = Ledger(records)
    found = [thing(name, held) for name in ("one", "two")]
    for budget, standing in zip(found, standings(found, ledger, NOW_MS), strict=True):
        name = budget["metadata"]["name"]
        mine = [each for each in ledger.intervals() if each.owner.budget == name]
        assert standing.period is not None
        span = (standing.period.begin_ms, standing.period.end_ms)
        live = [
            each if each.is_closed else replace(each, through_ms=max(each.through_ms, NOW_MS))
            for each in mine
        ]
        assert standing.stored.used == sum(each.within(*span) for each in mine)
        assert standing.live.used == sum(each.within(*span) for each in live)
        running = [each for each in mine if not each.is_closed]
        assert standing.stored.gpus == sum(each.gpus for each in running)
        assert standing.running == {(each.owner.namespace, each.owner.job) for each in running}
        expected: defaultdict[str, int] = defaultdict(int)
        for each in mine:
            if uid := holder(budget, each):
                expected[uid] += each.gpu_ms
        used = standing.stored.used_by_job
        assert {k: v for k, v in used.items() if v} == {k: v for k, v in expected.items() if v}


def holder(budget: dict[str, Any], interval: Interval) -> str:
    """The holding job that a pod counts for."""
    owner, held_at = interval.owner, held_at_ms(budget)
    found = ""
    for uid, hold in read_holds(budget).items():
        if (hold.namespace, hold.job) == (owner.namespace, owner.job):
            if owner.job_uid in held_at:
                return owner.job_uid
            found = uid  # of two holds of one name the later one
    return found if found and interval.start_ms >= held_at[found] else ""


def thing(name: str, held: list[tuple[str, str, str, int]]) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "creationTimestamp": iso(BEGIN_MS)},
        "spec": {"gpuDays": 10},
        "status": {
            "holds": [
                {
                    "jobUID": uid, "namespace": namespace, "job": job, "gpus": 1,
                    "gpuMilliseconds": 1000, "heldAt": iso(BEGIN_MS + seconds * 1000),
                }
                for uid, namespace, job, seconds in held
            ]
        },
    }  # fmt: skip
