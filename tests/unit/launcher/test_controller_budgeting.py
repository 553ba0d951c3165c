"""What a budget asks of its jobs, by what its ledger says."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.budget.budgets import DAY_MS
from launcher.budget.ledger import Ledger
from launcher.budget.pods import moment_ms
from launcher.budget.records import Interval, Owner, Refund
from launcher.budget.standing import Standing, standings
from launcher.cluster.kinds import Object
from launcher.controller.budgeting import Judge, Order, Pause, Shrink, Warn, orders
from launcher.controller.view import View
from tests.unit.launcher import controlled

NOW_MS = controlled.NOW * 1000
HOUR_MS = 3_600_000


def budget(gpu_days: float = 1, **spec: Any) -> Object:
    metadata = {"name": "webvision", "creationTimestamp": controlled.at(controlled.NOW - 86_400)}
    return {"metadata": metadata, "spec": {"gpuDays": gpu_days, **spec}, "status": {}}


def interval(uid: str = "p", gpus: int = 8, hours: float = 1, **facts: Any) -> Interval:
    """A pod of job `a` that still runs, stored as running until five minutes ago."""
    owner = Owner("c", "webvision", "ml", "a", "job-uid", "ann", "m", "train", "H200")
    start_ms = NOW_MS - round(hours * HOUR_MS)
    given = {"through_ms": max(start_ms, NOW_MS - 300_000)} | facts
    return Interval(pod_uid=uid, owner=owner, node="n", gpus=gpus, start_ms=start_ms, **given)


def job(replicas: int = 8, gpus: int = 1, queue: str = "", **notes: str) -> View:
    made = controlled.job(replicas=replicas, queue=queue, **notes)
    made["metadata"]["labels"]["launcher.dev/budget"] = "webvision"
    worker = made["spec"]["pytorchReplicaSpecs"]["Worker"]
    limits = {"resources": {"limits": {"nvidia.com/gpu": str(gpus)}}}
    worker["template"] = {"spec": {"containers": [limits]}}
    return View(made)


def standing(thing: Object, *intervals: Interval) -> Standing:
    (found,) = standings([thing], Ledger(intervals), NOW_MS)
    return found


def asked(thing: Object, view: View, *intervals: Interval, was_told: bool = False) -> list[Order]:
    gpus = {"job-uid": sum(each.gpus for each in intervals)}
    return orders(standing(thing, *intervals), [view], gpus, was_told)


def test_what_runs_on_is_counted_up_to_now_for_enforcement_alone() -> None:
    found = standing(budget(), interval(hours=2))
    assert found.stored.used == 8 * (2 * HOUR_MS - 300_000)
    assert found.live.used == 8 * 2 * HOUR_MS
    assert (found.live.gpus, found.running) == (8, frozenset({("ml", "a")}))


def test_refunds_of_the_period_are_taken_off() -> None:
    ledger = Ledger([interval(), Refund("r", "c", "webvision", 7, "x", "ann", NOW_MS - 1)])
    (found,) = standings([budget()], ledger, NOW_MS)
    assert found.live.used == 8 * HOUR_MS - 7


def test_a_holders_use_is_known_by_its_uid_or_by_its_name() -> None:
    thing = budget()
    hold = {"jobUID": "job-uid", "namespace": "ml", "job": "a", "gpus": 8,
            "gpuMilliseconds": DAY_MS, "heldAt": controlled.at(controlled.NOW - 7200)}  # fmt: skip
    thing["status"]["holds"] = [hold]
    assert standing(thing, interval()).stored.used_by_job == {"job-uid": 8 * (HOUR_MS - 300_000)}
    thing["status"]["holds"] = [hold | {"jobUID": "of-a-trainjob"}]
    used = standing(thing, interval(), interval("q", hours=3)).stored.used_by_job
    assert used == {"of-a-trainjob": 8 * (HOUR_MS - 300_000)}, "q came before the hold"


@pytest.mark.parametrize(
    ("hours", "is_ended"),
    [(1, False), (2.8, False), (2.9, True)],  # of 3 hours on 8 GPUs, less 10 minutes of grace
)
def test_hard_ends_in_time_to_save(hours: float, is_ended: bool) -> None:
    found = asked(budget(mode="hard"), job(admitted_by="webvision"), interval(hours=hours))
    assert [type(each) for each in found] == ([Pause] if is_ended else [])


def test_hard_shrinks_first_where_that_leaves_time() -> None:
    thing = budget(mode="hard", onExhaustion="shrink")
    view = job(admitted_by="webvision")
    (order,) = asked(thing, view, interval(hours=2.9))
    assert isinstance(order, Shrink)
    assert (order.workers, "nearly used up" in order.reason) == (1, True)
    (order,) = asked(thing, view, interval(hours=2.9999))
    assert isinstance(order, Pause), "even one GPU needs what is left to save"
    (order,) = asked(thing, job(queue="q", admitted_by="webvision"), interval(hours=2.9))
    assert isinstance(order, Pause), "the queue would put it back"


@pytest.mark.parametrize("mode", ["safe", "soft"])
def test_others_end_nobody(mode: str) -> None:
    found = asked(budget(mode=mode), job(admitted_by="webvision"), interval(hours=50))
    assert not [each for each in found if isinstance(each, (Pause, Shrink))]


def test_soft_tells_once() -> None:
    thing, view = budget(mode="soft"), job(admitted_by="webvision")
    (order,) = asked(thing, view, interval(hours=4))
    assert isinstance(order, Warn)
    assert asked(thing, view, interval(hours=4), was_told=True) == []


def test_who_did_not_ask_is_judged() -> None:
    (order,) = asked(budget(), job(deadline_s="3600"))
    assert isinstance(order, Judge)
    assert (order.applicant.workers, order.applicant.deadline_s) == (tuple(range(8, 0, -1)), 3600)
    assert asked(budget(), job(admitted_by="webvision")) == []
    assert len(asked(budget(), job(admitted_by="another"))) == 1
    assert asked(budget(), job(ended="Failed")) == []


def test_a_hard_budget_that_is_over_ends_what_runs() -> None:
    over = {"until": controlled.at(controlled.NOW - 60)}
    (order,) = asked(budget(mode="hard", period=over), job(admitted_by="webvision"), interval())
    assert isinstance(order, Pause)
    assert "ended on" in order.reason
    assert asked(budget(period=over), job(admitted_by="webvision"), interval()) == []


def test_moments_of_tests_are_whole() -> None:
    assert moment_ms(controlled.at(controlled.NOW)) == NOW_MS
