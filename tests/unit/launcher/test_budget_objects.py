"""Budgets as objects: what is read of them, and what is written to their status."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from launcher.budget.asked import corrections_due, read_refunds, read_reservations
from launcher.budget.budgets import DAY_MS, Budget, Hold, Reservation, State
from launcher.budget.ledger import Ledger
from launcher.budget.objects import (
    allows,
    iso,
    read_budget,
    read_holds,
    read_state,
    why_closed,
    with_condition,
    with_figures,
    with_hold,
    with_refusal,
    without_holds,
)
from launcher.budget.periods import Calendar, Period
from launcher.budget.records import Interval, Owner, Refund
from launcher.errors import UsageError

NOW_MS = 1_790_000_000_123
AS_OF = "2026-09-21T14:13:20Z"
HOLD = Hold("u-1", "ml", "a", 64, 7)


def thing(**spec: Any) -> dict[str, Any]:
    metadata = {"name": "b", "generation": 3, "creationTimestamp": "2026-01-02T03:04:05Z"}
    return {"metadata": metadata, "spec": {"gpuDays": 500, **spec}}


def test_what_was_decided() -> None:
    found = read_budget(
        thing(
            gpuDays=0.5,
            mode="hard",
            onExhaustion="shrink",
            graceSeconds=60,
            period={"every": "month", "from": "2026-01-01T00:00:00Z"},
        )
    )
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    assert found == Budget("b", DAY_MS // 2, Calendar("month", begin), "hard", "shrink", 60)


def test_without_a_beginning_it_begins_with_the_object() -> None:
    found = read_budget(thing(period={"until": "2026-06-01T00:00:00+02:00"}))
    assert found.calendar.anchor == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert found.calendar.end == datetime(2026, 5, 31, 22, tzinfo=UTC)
    assert (found.mode, found.on_exhaustion, found.grace_s) == ("safe", "suspend", 600)


def test_an_end_before_its_beginning_is_told() -> None:
    with pytest.raises(UsageError, match=r"budget b: the end .* is not after"):
        read_budget(thing(period={"until": "2025-06-01T00:00:00Z"}))


def test_namespaces() -> None:
    assert allows(thing(), "ml")
    assert allows(thing(namespaces=["ml"]), "ml")
    assert not allows(thing(namespaces=["ml"]), "vision")


def test_a_jobs_hold_is_there_once() -> None:
    held = with_hold(with_hold(thing(), Hold("u-1", "ml", "a", 8, 1), NOW_MS), HOLD, NOW_MS)
    held = with_hold(held, Hold("u-2", "ml", "b", 1, 2), NOW_MS)
    assert read_holds(held) == {"u-1": HOLD, "u-2": Hold("u-2", "ml", "b", 1, 2)}
    assert read_holds(without_holds(held, {"u-1", "u-9"})).keys() == {"u-2"}
    assert read_holds(thing()) == {}


def test_refusals_are_counted_by_reason() -> None:
    told = with_refusal(with_refusal(thing(), "OverBudget", 0), "OverBudget", NOW_MS)
    told = with_refusal(told, "NoDeadline", NOW_MS)
    assert told["status"]["refusals"] == [
        {"reason": "OverBudget", "count": 2, "lastAt": "2026-09-21T14:13:20Z"},
        {"reason": "NoDeadline", "count": 1, "lastAt": "2026-09-21T14:13:20Z"},
    ]


def test_figures_are_rounded_and_the_rest_stays() -> None:
    held = with_hold(thing(), HOLD, NOW_MS)
    state = State(read_budget(held), DAY_MS // 3, {"u-1": Hold("u-1", "ml", "a", 1, DAY_MS)})
    shown = with_figures(held, state, Period(0, DAY_MS), 1, NOW_MS)["status"]
    assert shown["gpuDays"] == {"used": 0.333, "reserved": 1.0, "remaining": 498.667}
    assert shown["period"] == {"from": "1970-01-01T00:00:00Z", "until": "1970-01-02T00:00:00Z"}
    assert (shown["observedGeneration"], shown["jobs"]) == (3, 1)
    assert shown["holds"] == held["status"]["holds"]
    endless = with_figures(held, state, Period(0, 1 << 62), 1, NOW_MS)["status"]
    assert endless["period"] == {"from": "1970-01-01T00:00:00Z"}


def test_what_submit_decides_by_is_what_was_written() -> None:
    written = with_figures(
        with_hold(thing(), HOLD, NOW_MS),
        State(read_budget(thing()), 7 * DAY_MS + 1, {"u-1": HOLD}, {"u-1": 5}),
        Period(0, DAY_MS),
        1,
        NOW_MS,
    )
    found = read_state(written, NOW_MS)
    assert (found.used, found.holds, found.used_by_job) == (
        7 * DAY_MS + 1,
        {"u-1": HOLD},
        {"u-1": 5},
    )
    again = with_hold(written, replace(HOLD, gpus=HOLD.gpus + 1), NOW_MS)
    assert read_state(again, NOW_MS).used_by_job == {"u-1": 5}, "used time stays with the hold"


def test_refunds_and_reservations_are_read() -> None:
    entry = {"id": "r-1", "gpuDays": 0.5, "reason": "node lost", "author": "ann", "at": AS_OF}
    asked = thing(
        refunds=[entry, entry | {"id": "r-2", "podUID": "p"}],
        reservations=[
            {"job": "final", "gpuDays": 2, "until": "2026-09-21T14:13:21Z"},
            {"job": "late", "gpuDays": 3, "until": AS_OF},
            {"job": "open", "gpuDays": 0.25},
        ],
    )
    first, second = read_refunds(asked, "c")
    assert first == Refund("r-1", "c", "b", DAY_MS // 2, "node lost", "ann", NOW_MS // 1000 * 1000)
    assert (second.refund_id, second.pod_uid) == ("r-2", "p")
    assert read_reservations(asked, NOW_MS // 1000 * 1000) == [
        Reservation("final", 2 * DAY_MS), Reservation("open", DAY_MS // 4)
    ]  # fmt: skip


def accounted(as_of: str = AS_OF, status: bool = True, **spec: Any) -> dict[str, Any]:
    told = with_condition(thing(**spec), "Accounted", status, "Ledger", "the store is away", NOW_MS)
    return {**told, "status": {**told["status"], "asOf": as_of}}


@pytest.mark.parametrize(
    ("budget", "kind", "words"),
    [
        (accounted(namespaces=["a", "b"]), "NotAllowed", "not for namespace ml; it is for a, b"),
        (
            accounted(period={"from": "2026-01-01T00:00:00Z", "until": "2026-06-01T00:00:00Z"}),
            "NotAllowed",
            "ended on 2026-06-01",
        ),
        (accounted(period={"from": "2027-01-01T00:00:00Z"}), "NotAllowed", "begins on 2027-01-01"),
        (thing(), "NoLedger", "no controller with --ledger has written its status"),
        (accounted(status=False), "NoLedger", "the store is away"),
        (accounted(as_of="2026-09-21T14:08:00Z"), "NoLedger", "its figures are 320 s old"),
    ],
)
def test_why_nothing_starts(budget: dict[str, Any], kind: str, words: str) -> None:
    found = why_closed(budget, "ml", NOW_MS)
    assert found is not None
    assert (found.kind, words in found.reason) == (kind, True), found.reason


def test_jobs_may_start_on_an_accounted_budget() -> None:
    assert why_closed(accounted(), "ml", NOW_MS) is None


def test_a_conditions_time_is_that_of_its_last_change() -> None:
    told = with_condition(accounted(), "Accounted", True, "NoFinalizer", "", NOW_MS + 5000)
    (only,) = told["status"]["conditions"]
    assert (only["reason"], only["lastTransitionTime"]) == ("NoFinalizer", AS_OF)
    (changed,) = with_condition(told, "Accounted", False, "x", "", NOW_MS + 5000)["status"][
        "conditions"
    ]
    assert changed["lastTransitionTime"] == "2026-09-21T14:13:25Z"


def test_moments_are_whole_seconds() -> None:
    assert iso(NOW_MS) == "2026-09-21T14:13:20Z"


def test_corrections_are_of_the_budgets_own_ended_pods_and_the_later_one_holds() -> None:
    def pod(uid: str, budget: str = "webvision", source: Any = "sight") -> Interval:
        owner = Owner("c", budget, "ml", "a", "u-1", "ada", "senet154", "train", "H200")
        return Interval(uid, owner, "n", 8, NOW_MS, NOW_MS + 5000, source)

    def asked(number: int, uid: str, end_ms: int) -> dict[str, Any]:
        return {
            "id": str(number), "podUID": uid, "end": iso(end_ms), "author": "ada",
            "reason": f"reason {number}", "at": iso(NOW_MS + 1000 * number),
        }  # fmt: skip

    ledger = Ledger([pod("p"), pod("q", "another"), pod("r", source="open"), pod("s")])
    corrections = [
        asked(2, "p", NOW_MS + 3_600_000),
        asked(1, "p", NOW_MS + 60_000),
        *(asked(3, uid, NOW_MS + 1000) for uid in ("q", "r", "unknown")),
        asked(4, "s", NOW_MS - 60_000),
    ]
    thing = {"metadata": {"name": "webvision"}, "spec": {"corrections": corrections}}
    found = {each.pod_uid: each for each in corrections_due(thing, ledger)}
    assert set(found) == {"p", "s"}
    assert found["p"].note == "ada: reason 2"
    assert (found["p"].source, found["p"].revision) == ("correction", 1)
    assert found["s"].gpu_ms == 0, "it does not end before its start"
    for each in found.values():
        assert ledger.add(each)
    assert corrections_due(thing, ledger) == []
    corrections.append(asked(5, "p", NOW_MS + 7000))
    (again,) = corrections_due(thing, ledger)
    assert (again.revision, again.note) == (2, "ada: reason 5")
