"""An Indexed Job as the verbs, the budget and the controller read it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from launcher.budget.ledger import Ledger
from launcher.budget.pods import Sight, interval_of, is_uncharged
from launcher.budget.records import Interval, Owner
from launcher.budget.standing import standings
from launcher.cli.follow import in_words
from launcher.cluster import marks
from launcher.cluster.admission import Applicant
from launcher.cluster.fields import before, latest
from launcher.cluster.forms import is_job, resize, seen, suspend
from launcher.cluster.indexedjobs import count_of
from launcher.cluster.kinds import JOB, POD, PYTORCHJOB, Object
from launcher.cluster.state import read_status
from launcher.cluster.watch import Change
from launcher.controller.actions import DeleteJob
from launcher.controller.brief import brief
from launcher.controller.budgeting import Pause, Shrink, orders
from launcher.controller.decide import decide
from launcher.controller.store import Store
from launcher.controller.view import View
from launcher.render import render
from launcher.request import IndexedRequest
from launcher.spec import PROGRAM
from launcher.status import Indexes, JobStatus
from tests import parts
from tests.unit.launcher.controlled import NOW, at, helper, view
from tests.unit.launcher.goldens import GIVEN, indexed

HOUR_S = 3600


def job(
    *conditions: str,
    gpus: int = 1,
    suspended: bool = False,
    deadline_s: int | None = None,
    queue: str = "",
    notes: dict[str, str] | None = None,
    ttl_s: int | None = None,
    **status: Any,
) -> Object:
    """A job of eight parts, four at once, that began two hours ago, as the API server has it."""
    asked = IndexedRequest(
        name="a", namespace="ml", gpus=gpus, parallelism=4, budget="webvision", queue=queue,
        deadline_s=deadline_s, image=GIVEN["image"], checkpoints=GIVEN["checkpoints"],
    )  # fmt: skip
    (made,) = render(indexed(asked, parts.work(8)))
    made["metadata"] |= {
        "uid": "job-uid", "resourceVersion": "1", "creationTimestamp": at(NOW - 2 * HOUR_S)
    }  # fmt: skip
    made["metadata"]["annotations"] |= notes or {}
    made["spec"]["suspend"] = suspended
    if ttl_s is not None:
        made["spec"]["ttlSecondsAfterFinished"] = ttl_s
    told = [
        {"type": each, "status": "True", "message": "as the Job says",
         "lastTransitionTime": at(NOW - HOUR_S)}
        for each in conditions
    ]  # fmt: skip
    started = {} if suspended else {"startTime": at(NOW - 2 * HOUR_S)}
    return {**made, "status": {"conditions": told, **started, **status}}


def pod(index: int, attempt: int = 0, *, code: int | None = None, message: str = "") -> Object:
    """A pod of an index, that runs or has ended."""
    state: Object = {"running": {"startedAt": at(NOW - HOUR_S)}}
    if code is not None:
        end = {"exitCode": code, "message": message, "finishedAt": at(NOW - 60)}
        state = {"terminated": end}
    container = {"name": PROGRAM, "restartCount": 0, "state": state, "lastState": {}}
    phase = "Running" if code is None else "Failed" if code else "Succeeded"
    placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": at(NOW - HOUR_S)}
    limits = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
    return {
        "metadata": {
            "name": f"a-{index}-{attempt}xyz", "namespace": "ml", "uid": f"{index}-{attempt}",
            "creationTimestamp": at(NOW - HOUR_S + attempt),
            "labels": {marks.COMPLETION_INDEX: str(index), "launcher.dev/job": "a"},
            "ownerReferences": [{"kind": "Job", "uid": "job-uid", "controller": True}],
        },
        "spec": {"containers": [{"name": PROGRAM, **limits}], "nodeName": "n1"},
        "status": {"phase": phase, "conditions": [placed], "containerStatuses": [container]},
    }  # fmt: skip


def status(of: Object, *pods: Object, events: tuple[Object, ...] = ()) -> JobStatus:
    return read_status(seen(of, JOB), pods, datetime.fromtimestamp(NOW, UTC), events=events)


# -- status


def test_it_is_told_from_the_parts_of_other_jobs() -> None:
    assert is_job(job(), JOB)
    assert not is_job(helper(), JOB)


@pytest.mark.parametrize(
    ("thing", "pods", "state"),
    [
        (job(), (), "Created"),
        (job(active=2), (), "Starting"),
        (job(active=2), (pod(0), pod(1)), "Running"),
        (job(active=1, succeeded=3), (pod(0, code=0), pod(3)), "Running"),
        (job("Suspended", suspended=True), (pod(0, code=0),), "Suspended"),
        (job(suspended=True, active=1), (pod(0),), "Running"),
        (job("Suspended", suspended=True, notes={marks.CANCELLED: at(NOW)}), (), "Cancelled"),
        (job("Suspended", suspended=True, notes={marks.ENDED: "Failed"}), (), "Failed"),
        (job("Suspended", suspended=True, queue="q"), (), "Queued"),
        (job("SuccessCriteriaMet", active=1), (pod(0),), "Running"),
        (job("SuccessCriteriaMet", "Complete", succeeded=8), (pod(7, code=0),), "Succeeded"),
        (job("FailureTarget", "Failed", failed=4), (pod(7, code=1),), "Failed"),
    ],
)
def test_its_state_in_the_words_of_the_other_kinds(
    thing: Object, pods: tuple[Object, ...], state: str
) -> None:
    assert status(thing, *pods).state == state


def test_it_tells_how_far_it_is_and_with_how_many_pods() -> None:
    found = status(
        job(active=2, ready=2, succeeded=3, failed=5, failedIndexes="2,5-6"),
        pod(0, code=0), pod(2, code=1, message="disk full"), pod(3, code=1), pod(3, 1), pod(4),
    )  # fmt: skip
    assert found.indexes == Indexes(8, 3, "2,5-6")
    assert in_words(found.indexes) == "3/8 indexes done, failed: 2,5-6"
    assert (found.workers_running, found.workers_desired) == (2, 4)
    assert (found.workers_least, found.workers_most, found.gpus) == (1, 8, 2)
    assert found.restarts == 2  # five pods failed, and three were the last of their indexes
    assert [(each.index, each.state) for each in found.workers] == [
        (0, "Succeeded"), (2, "Failed"), (3, "Running"), (4, "Running")
    ]  # fmt: skip
    assert found.reason == "3 of 8 indexes failed (2,5-6): worker-2 ended: disk full"
    assert found.checkpoints == f"{GIVEN['checkpoints']}/a"


def test_a_list_counts_ready_pods_without_asking_for_them() -> None:
    thing = seen(job(active=4, ready=3), JOB)
    found = read_status(thing, None, datetime.fromtimestamp(NOW, UTC))
    assert (found.state, found.workers_running) == ("Running", 3)


@pytest.mark.parametrize(
    ("message", "pods", "reason"),
    [
        ("", (pod(1, code=2, message="fatal: lr is -1"),), "worker-1 ended: fatal: lr is -1"),
        ("", (), "as the Job says"),
    ],
)
def test_a_failed_one_says_why(message: str, pods: tuple[Object, ...], reason: str) -> None:
    assert status(job("Failed", failed=1), *pods).reason == reason


def test_out_of_memory_names_the_flag() -> None:
    killed = pod(1, code=137)
    killed["status"]["containerStatuses"][0]["state"]["terminated"]["reason"] = "OOMKilled"
    found = status(job(active=1), killed)
    assert "out of memory; give --memory-gib more" in found.reason
    assert found.workers[0].reason == found.reason.replace("worker-1 ended", "it ended")


def test_events_of_its_pods_are_told_by_their_index() -> None:
    told = {"involvedObject": {"kind": "Pod", "name": "a-3-0xyz"}, "reason": "FailedMount",
            "message": "no volume", "lastTimestamp": at(NOW), "metadata": {}}  # fmt: skip
    (event,) = status(job(active=1), pod(3), events=(told,)).events
    assert event.object == "worker-3"


def test_lists_of_indexes_are_counted() -> None:
    assert [count_of(text) for text in ("", "4", "1,3-5", "0-9,11")] == [0, 1, 4, 11]


def test_the_last_pod_of_an_index_counts_and_the_one_before_is_found() -> None:
    first, second, other = pod(1, code=1), pod(1, 1), pod(0)
    pods = [second, other, first]
    assert [each["metadata"]["uid"] for each in latest(pods)] == ["0-0", "1-1"]
    assert before(pods, second) is first
    assert before(pods, first) is None


# -- budgets


def test_it_asks_for_the_pods_at_once_and_may_start_with_fewer() -> None:
    applicant = Applicant.of(job(gpus=2, deadline_s=HOUR_S), JOB)
    assert applicant is not None
    assert (applicant.workers, applicant.gpus_per_worker) == ((4, 3, 2, 1), 2)
    assert [ask.gpus for ask in applicant.asks()] == [8, 6, 4, 2]
    made = job()
    resize(made, JOB, 3)
    suspend(made, JOB)
    assert (made["spec"]["parallelism"], made["spec"]["suspend"]) == (3, True)


def test_without_gpus_it_takes_nothing_of_a_budget() -> None:
    assert Applicant.of(job(gpus=0), JOB) is None
    ended = pod(1, code=0)
    ended["spec"]["containers"][0].pop("resources")
    sight = Sight("c", NOW * 1000, {})
    assert interval_of(ended, sight) is None
    assert is_uncharged(ended, sight)


def test_its_pods_are_charged_under_its_own_uid() -> None:
    charged = interval_of(pod(1, code=0), Sight("c", NOW * 1000, {}))
    assert charged is not None
    assert (charged.owner.job, charged.owner.job_uid, charged.gpus) == ("a", "job-uid", 1)
    assert charged.through_ms - charged.start_ms == (HOUR_S - 60) * 1000


def used_up(on_exhaustion: str, hours: float) -> list[Any]:
    """What a budget of one GPU-day, in which four GPUs have run for so long, orders."""
    budget = {
        "metadata": {"name": "webvision", "creationTimestamp": at(NOW - 86_400)},
        "spec": {"gpuDays": 1, "mode": "hard", "onExhaustion": on_exhaustion,
                 "graceSeconds": 60},
        "status": {},
    }  # fmt: skip
    owner = Owner("c", "webvision", "ml", "a", "job-uid", "", "", "parts", "H200")
    start_ms = round(NOW * 1000 - hours * HOUR_S * 1000)
    running = Interval("p", owner, "n", 4, start_ms, NOW * 1000)
    (standing,) = standings([budget], Ledger([running]), NOW * 1000)
    noted = job(active=4, notes={marks.ADMITTED: "webvision"})
    found = View(brief(JOB, noted))
    return orders(standing, [found], {"job-uid": 4}, False)


def test_an_exhausted_budget_suspends_it_or_leaves_it_one_pod() -> None:
    (paused,) = used_up("suspend", 6)
    assert isinstance(paused, Pause)
    (shrunk,) = used_up("shrink", 5.986)
    assert isinstance(shrunk, Shrink)
    assert shrunk.workers == 1
    assert used_up("suspend", 1) == []


# -- the controller


def test_it_is_a_job_to_the_store_and_its_pods_are_its_workers() -> None:
    due: list[tuple[str, str]] = []
    store = Store(due.append)
    store.tell(JOB, Change("ADDED", brief(JOB, job(active=1))))
    store.tell(POD, Change("ADDED", brief(POD, pod(1, code=1))))
    store.tell(POD, Change("ADDED", brief(POD, pod(1, 1))))
    assert store.jobs() == [("ml", "a")]
    assert set(due) == {("ml", "a")}
    found = store.view(("ml", "a"), NOW, None)
    assert found is not None
    assert (found.kind, found.is_group, found.helpers) == (JOB, False, [])
    assert [each["metadata"]["uid"] for each in found.workers] == ["1-1"]
    store.tell(JOB, Change("DELETED", brief(JOB, job())))
    assert store.jobs() == []


def test_a_rendezvous_stays_a_part_of_its_job() -> None:
    store = Store(lambda _: None)
    part = helper()
    part["metadata"] |= {"uid": "h", "labels": {"launcher.dev/job": "a"}}
    store.tell(JOB, Change("ADDED", part))
    assert store.jobs() == []


def seen_by_controller(of: Object, *pods: Object) -> View:
    return view(brief(JOB, of), *(brief(POD, each) for each in pods))


def test_a_healthy_one_is_left_alone_whatever_fails() -> None:
    pods = [pod(index, attempt, code=1) for index in range(8) for attempt in range(3)]
    found = decide(seen_by_controller(job(active=4), *pods), NOW, 60.0)
    assert (found.actions, found.ended_reason) == ((), "")
    assert found.memory.restarts == 0
    assert found.memory.workers == {}


def test_its_deadline_counts_the_time_before_a_suspension() -> None:
    found = decide(seen_by_controller(job(active=1, deadline_s=HOUR_S)), NOW, 60.0)
    assert "its deadline of 3600 s is over" in found.ended_reason
    first = decide(seen_by_controller(job(active=1, deadline_s=3 * HOUR_S)), NOW, 60.0)
    paused = job("Suspended", suspended=True, deadline_s=3 * HOUR_S)
    second = decide(seen_by_controller(paused), NOW, 60.0, first.memory)
    assert second.memory.ran_s == HOUR_S
    later = job(active=1, deadline_s=3 * HOUR_S)
    later["status"]["startTime"] = at(NOW)
    third = decide(seen_by_controller(later), NOW + 2 * HOUR_S + 1, 60.0, second.memory)
    assert "its deadline of 10800 s is over" in third.ended_reason


def test_a_fatal_message_ends_it() -> None:
    found = decide(seen_by_controller(job(active=1), pod(1, code=1, message="fatal: no")), NOW, 60)
    assert found.ended_reason == "worker-1: no"


def test_one_that_was_cancelled_goes_after_its_time() -> None:
    stopped = {marks.CANCELLED: at(NOW - HOUR_S)}
    gone = job("Suspended", suspended=True, notes=stopped, ttl_s=60)
    (action,) = decide(seen_by_controller(gone), NOW, 60.0).actions
    assert isinstance(action, DeleteJob)
    kept = job("Suspended", suspended=True, notes=stopped, ttl_s=2 * HOUR_S)
    assert decide(seen_by_controller(kept), NOW, 60.0).actions == ()


def test_a_pytorchjob_is_seen_as_it_is() -> None:
    thing = {"metadata": {"name": "a"}, "spec": {}}
    assert seen(thing, PYTORCHJOB) is thing
