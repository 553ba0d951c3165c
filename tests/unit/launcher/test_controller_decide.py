"""The controller's duties, each alone and at its edges."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.cluster.kinds import Object
from launcher.controller.actions import (
    Adopt,
    Deactivate,
    Decision,
    DeleteJob,
    DeletePod,
    SuspendRendezvous,
    Tell,
)
from launcher.controller.decide import (
    BLIND_AFTER_S,
    FATAL,
    HANG_GRACE_S,
    SETTLED_S,
    UNSTARTED_S,
    decide,
)
from launcher.controller.memory import Memory, Progress, read, write
from launcher.controller.view import UNREACHABLE, Reading, View, addresses
from tests.unit.launcher.controlled import GRACE_S, NOW, STARTED, helper, job, node, pod, view
from trainer import exits


def decided(seen: View, memory: Memory | None = None, now: float = NOW) -> Decision:
    return decide(seen, now, GRACE_S, memory)


def after(*views: View) -> Memory:
    """What is remembered after these looks, by way of annotations."""
    memory = Memory()
    for each in views:
        decision = decided(each, memory)
        assert decision.ended_reason == ""
        memory = read(write(decision.memory))
    return memory


def kinds(decision: Decision) -> list[str]:
    return [type(action).__name__ for action in decision.actions]


def test_a_healthy_job_is_left_alone() -> None:
    seen = view(None, pod(0), pod(1), helpers=(helper(), helper("Service")))
    decision = decided(seen)
    assert (decision.actions, decision.ended_reason, decision.cleared) == ((), "", ())
    assert decided(seen, decision.memory).memory == decision.memory


def test_a_job_that_is_being_deleted_is_left_alone() -> None:
    bad = pod(0, restarts=1, message="fatal: x")
    seen = view(job(deleted=True, restarts_allowed="0"), bad, helpers=(helper(owned=False),))
    assert decided(seen) == Decision(Memory())


# -- the restart budget


@pytest.mark.parametrize(("restarts", "ends"), [(2, False), (3, True)])
def test_the_budget(restarts: int, ends: bool) -> None:
    of = job(restarts_allowed="2", restart_window_s="3600")
    decision = decided(view(of, pod(0, restarts=restarts, message="it burns"), pod(1)))
    assert decision.memory.restarts == restarts
    assert bool(decision.ended_reason) is ends
    if ends:
        assert decision.ended_reason == (
            "workers were lost or failed 3 times within 3600 s; 2 are allowed; the last said: "
            "it burns"
        )


def test_only_restarts_within_the_window_count() -> None:
    of = job(restarts_allowed="1", restart_window_s="3600")
    memory = after(view(of, pod(0, restarts=1, failed=NOW - 3601)))
    assert memory.restart_times == ()
    memory = decided(view(of, pod(0, restarts=2, failed=NOW - 3599)), memory).memory
    assert (memory.restarts, memory.restart_times) == (2, (NOW - 3599,))


def test_without_a_budget_any_number_is_allowed() -> None:
    assert decided(view(job(), pod(0, restarts=500))).ended_reason == ""


def test_what_led_to_the_end_is_forgotten_with_it() -> None:
    of = job(restarts_allowed="0")
    ended = decided(view(of, pod(0, restarts=1)))
    assert ended.ended_reason
    assert (ended.memory.restarts, ended.memory.restart_times) == (1, ())
    again = decided(view(of, pod(0, "new", created=NOW)), ended.memory)
    assert again.ended_reason == ""
    assert again.memory.restarts == 1


@pytest.mark.parametrize("annotation", ["-1", "many", "1.5", ""])
def test_a_budget_that_is_no_number_is_none(annotation: str) -> None:
    assert decided(view(job(restarts_allowed=annotation), pod(0, restarts=9))).ended_reason == ""


# -- what starting again cannot cure


def test_fatal_is_the_trainers_word() -> None:
    assert exits.FATAL == FATAL


@pytest.mark.parametrize("key", ["state", "lastState"])
def test_a_fatal_message_ends_at_once(key: str) -> None:
    bad = pod(1)
    status = bad["status"]["containerStatuses"][0]
    status[key] = {"terminated": {"exitCode": 1, "message": "fatal: no data\nat s3://x"}}
    assert decided(view(job(), pod(0), bad)).ended_reason == "worker-1: no data at s3://x"


@pytest.mark.parametrize(
    "bad",
    [
        pod(1, restarts=1, message="fatal: x", deleted=True),
        pod(7, restarts=1, message="fatal: x"),
        pod(1, restarts=1, message="not fatal: x"),
    ],
    ids=["being ended", "beyond the replicas", "in mid-text"],
)
def test_a_message_that_is_not_the_jobs_end(bad: Object) -> None:
    assert decided(view(job(), pod(0), bad)).ended_reason == ""


def failures(*times: float, message: str = "CUDA out of memory: {} GiB", **more: Any) -> list[View]:
    return [
        view(job(), pod(0, restarts=n, failed=when, message=message.format(n), **more))
        for n, when in enumerate(times, 1)
    ]


def test_the_same_failure_three_times_ends_the_job() -> None:
    *before, last = failures(NOW - 600, NOW - 100, NOW)
    decision = decided(last, after(*before))
    assert decision.ended_reason == (
        "worker-0 failed 3 times within 600 s in the same way, without progress between: "
        "CUDA out of memory: # GiB"
    )


@pytest.mark.parametrize(
    "looks",
    [
        failures(NOW - 601, NOW - 100, NOW),
        failures(NOW - 600, NOW - 100),
        failures(NOW - 3, NOW - 2, NOW - 1, message=""),
        [
            view(job(), pod(0, restarts=n, failed=NOW - 9 + n, message=text))
            for n, text in enumerate(["a", "b", "a"], 1)
        ],
        [view(job(), pod(n, restarts=1, message="x"), pod(1 - n)) for n in (0, 1)] * 2,
    ],
    ids=["too far apart", "twice", "says nothing", "another between", "each of another worker"],
)
def test_failures_that_do_not_end_the_job(looks: list[View]) -> None:
    after(*looks)


def test_out_of_memory_needs_no_message() -> None:
    *before, last = failures(NOW - 9, NOW - 8, NOW - 7, message="", reason="OOMKilled")
    assert decided(last, after(*before)).ended_reason.endswith(": OOMKilled")


def test_progress_between_forgives() -> None:
    first, second, last = failures(NOW - 300, NOW - 200, NOW)
    memory = after(first, second)
    moved = decided(view(job(), *second.pods, reading=Reading(7, NOW - 150)), memory, NOW - 150)
    assert moved.memory.progress.updates_at == NOW - 150
    assert decided(last, moved.memory).ended_reason == ""


def test_going_over_the_same_updates_again_is_no_progress() -> None:
    *before, last = failures(NOW - 300, NOW - 200, NOW)
    memory = after(*before)
    known = Progress(updates=90, updates_at=NOW - 400, stamp=NOW - 400, at=NOW - 400)
    memory = Memory(**{**memory.__dict__, "progress": known})
    moved = decided(view(job(), *before[1].pods, reading=Reading(80, NOW - 150)), memory)
    assert decided(last, moved.memory).ended_reason


# -- the deadline


@pytest.mark.parametrize(("deadline_s", "ends"), [("7200", False), ("7199", True), ("0", False)])
def test_the_deadline(deadline_s: str, ends: bool) -> None:
    assert bool(decided(view(job(deadline_s=deadline_s), pod(0))).ended_reason) is ends


def test_suspended_time_does_not_count() -> None:
    memory = after(
        view(job(), pod(0)),
        view(job(suspended=True, conditions={"Suspended": STARTED + 1000})),
        view(job(suspended=False, started=NOW - 500)),
    )
    assert memory.ran_s == 1000
    late = job(deadline_s="1499", started=NOW - 500)
    assert decided(view(late), memory).ended_reason
    assert not decided(view(job(deadline_s="1501", started=NOW - 500)), memory).ended_reason


def test_between_unsuspending_and_the_operators_new_start_nothing_counts() -> None:
    memory = after(
        view(job(), pod(0)), view(job(suspended=True, conditions={"Suspended": STARTED + 1000}))
    )
    seen = view(job(deadline_s="1001", conditions={"Suspended": STARTED + 1000}))
    assert decided(seen, memory).ended_reason == ""


def test_a_job_that_has_not_started_has_no_deadline() -> None:
    assert decided(view(job(deadline_s="1", started=None))).ended_reason == ""


# -- hangs


HANGING = Reading(40, NOW - 5000)


def hanging(*pods: Object, reading: Reading | None = HANGING, hang_s: str = "600") -> View:
    return view(job(hang_s=hang_s), *(pods or (pod(0), pod(1))), reading=reading)


OLD = Memory(stretch=job()["status"]["startTime"], progress=Progress(40, NOW - 5000, NOW - 5000,
                                                                    NOW - 5000))  # fmt: skip


def test_a_hanging_run_is_started_again() -> None:
    decision = decided(hanging(), OLD)
    found = deletions(decision)
    assert [(a.pod["metadata"]["name"], a.reason, a.is_forced, a.grace_s) for a in found] == [
        ("a-worker-0", "Hanging", False, HANG_GRACE_S),
        ("a-worker-1", "Hanging", False, HANG_GRACE_S),
    ]
    assert (decision.memory.hangs, decision.memory.hang_at) == (1, NOW)


def deletions(decision: Decision) -> list[DeletePod]:
    return [action for action in decision.actions if isinstance(action, DeletePod)]


def test_who_takes_over_ends_the_pods_that_are_left() -> None:
    memory = read(write(decided(hanging(), OLD).memory))
    left, new = pod(1), pod(0, "new", created=NOW + 2)
    decision = decided(hanging(left, new), memory, NOW + 3)
    assert [action.pod for action in deletions(decision)] == [left]
    assert decision.memory.hangs == 1


def test_a_second_hang_in_a_row_ends_the_job() -> None:
    memory = decided(hanging(), OLD).memory
    pods = [pod(n, "new", created=NOW + 2) for n in (0, 1)]
    assert decided(hanging(*pods), memory, NOW + 602).ended_reason == ""
    assert decided(hanging(*pods), memory, NOW + 603).ended_reason == (
        "it makes no progress: 2 times in a row no update within 600 s, its workers were started "
        "again between"
    )


def test_progress_between_starts_the_count_again() -> None:
    memory = decided(hanging(), OLD).memory
    pods = [pod(n, "new", created=NOW + 2) for n in (0, 1)]
    moved = decided(hanging(*pods, reading=Reading(39, NOW + 100)), memory, NOW + 101)
    assert moved.memory.hangs == 0
    again = decided(hanging(*pods, reading=Reading(39, NOW + 100)), moved.memory, NOW + 1000)
    assert again.ended_reason == ""
    assert len(deletions(again)) == 2


@pytest.mark.parametrize(
    "seen",
    [
        hanging(reading=None),
        hanging(reading=UNREACHABLE),
        hanging(hang_s="0"),
        hanging(pod(0, since=NOW - 500), pod(1)),
        hanging(pod(0, phase="Pending", deleted=True)),
        hanging(reading=Reading(40, NOW - 4999)),
    ],
    ids=["not read", "unreachable", "off", "just begun", "none runs", "an update more"],
)
def test_what_is_no_hang(seen: View) -> None:
    decision = decided(seen, OLD)
    assert deletions(decision) == []
    assert decision.ended_reason == ""


def test_unreachable_metrics_are_told_once() -> None:
    seen = hanging(reading=UNREACHABLE)
    decision = decided(seen, OLD)
    assert kinds(decision) == ["Tell"]
    assert decided(seen, decision.memory).actions == ()
    read_again = decided(hanging(), decision.memory).memory
    assert not read_again.is_blind


def test_metrics_that_are_not_there_yet_are_not_missed() -> None:
    young = [pod(0, since=NOW - BLIND_AFTER_S), pod(1)]
    assert decided(hanging(*young, reading=UNREACHABLE), OLD).actions == ()


def test_where_metrics_are() -> None:
    assert addresses(view(None, pod(0), pod(1), pod(2))) == ["10.0.0.0:9090", "10.0.0.1:9090"]
    six = pod(0)
    six["status"]["podIP"] = "fd00::1"
    assert addresses(view(None, six, pod(1, deleted=True))) == ["[fd00::1]:9090"]


# -- nodes


SILENT = dict([node("n1", NOW - 61), node("n2")])


def test_pods_on_a_silent_node_are_deleted_then_forced() -> None:
    first = decided(view(None, pod(0), pod(1, node="n2"), nodes=SILENT))
    (action,) = deletions(first)
    assert (action.pod["metadata"]["name"], action.is_forced) == ("a-worker-0", False)
    assert action.message == "node n1 has not answered for 61 s; made anew elsewhere"
    (forced,) = deletions(decided(view(None, pod(0, deleted=True), nodes=SILENT)))
    assert forced.is_forced


def test_the_rendezvous_pod_too() -> None:
    store = pod(0)
    del store["metadata"]["labels"]["training.kubeflow.org/replica-index"]
    assert len(deletions(decided(view(None, store, nodes=SILENT)))) == 1


@pytest.mark.parametrize(
    ("of", "nodes"),
    [
        (pod(0), dict([node("n1", NOW - 60), node("n2")])),
        (pod(0), dict([node("n1", NOW - 61), node("n2", NOW - 61)])),
        (pod(0, phase="Succeeded"), SILENT),
        (pod(0, node=""), SILENT),
        (pod(0, node="gone"), SILENT),
    ],
    ids=["within grace", "no node answers", "is done", "not placed", "gone, just noticed"],
)
def test_pods_that_stay(of: Object, nodes: dict[str, Object]) -> None:
    assert deletions(decided(view(None, of, nodes=nodes))) == []


@pytest.mark.parametrize(("noticed_s", "count"), [(60, 0), (61, 1)])
def test_a_node_that_is_gone_counts_from_when_that_was_noticed(noticed_s: int, count: int) -> None:
    seen = view(None, pod(0, node="gone"), absent_since={"gone": NOW - noticed_s})
    assert len(deletions(decided(seen))) == count


def test_pods_of_a_suspended_job_leave_silent_nodes_too() -> None:
    seen = view(job(suspended=True), pod(0, deleted=True), nodes=SILENT)
    assert [action.is_forced for action in deletions(decided(seen))] == [True]


# -- the rendezvous


def test_helpers_without_an_owner_are_adopted() -> None:
    free = helper("Service", owned=False)
    decision = decided(view(None, pod(0), helpers=(helper(), free)))
    (action,) = decision.actions
    assert isinstance(action, Adopt)
    assert action.helper is free
    assert action.kind.name == "Service"


PAUSED = {"Suspended": NOW - SETTLED_S - 1}


@pytest.mark.parametrize(
    ("of", "pods", "is_suspended", "wanted"),
    [
        (job(), [pod(0)], True, False),
        (job(), [pod(0)], False, None),
        (job(suspended=True, conditions=PAUSED), [], False, True),
        (job(suspended=True, conditions=PAUSED), [], True, None),
        (job(suspended=True, conditions=PAUSED), [pod(0, deleted=True)], False, None),
        (job(suspended=True, conditions=PAUSED), [pod(0, phase="Failed")], False, True),
        (job(suspended=True, conditions={"Suspended": NOW - SETTLED_S}), [], False, None),
        (job(suspended=True, started=None, created=NOW - UNSTARTED_S), [], False, None),
        (
            job(
                suspended=True,
                conditions=PAUSED,
                started=None,
                created=NOW - 30,
                first_started_at="2026-01-01T00:00:00Z",
            ),
            [],
            False,
            True,
        ),
        (job(suspended=True, started=None, created=NOW - UNSTARTED_S - 1), [], False, True),
        (job(conditions={"Failed": NOW}), [], False, True),
        (job(conditions={"Succeeded": NOW}, completed=NOW), [], False, True),
        (job(ended="Failed", suspended=True, conditions=PAUSED), [], False, True),
    ],
)
def test_the_rendezvous_runs_while_the_job_does(
    of: Object, pods: list[Object], is_suspended: bool, wanted: bool | None
) -> None:
    store = helper(suspended=is_suspended)
    decision = decided(view(of, *pods, helpers=(store, helper("Service"))))
    expected = () if wanted is None else (SuspendRendezvous(store, wanted),)
    assert decision.actions == expected


def test_a_rendezvous_that_is_complete_is_left_alone() -> None:
    store = helper()
    store["status"]["conditions"] = [{"type": "Complete", "status": "True"}]
    seen = view(job(conditions={"Succeeded": NOW}), helpers=(store,))
    assert decided(seen).actions == ()


# -- ended jobs


def test_an_ended_job_is_not_judged() -> None:
    of = job(ended="Failed", suspended=True, restarts_allowed="0", deadline_s="1")
    decision = decided(view(of, pod(0, restarts=9, message="fatal: x")))
    assert decision.ended_reason == ""


def test_an_ended_job_that_was_let_go_by_hand_runs_again() -> None:
    decision = decided(view(job(ended="Failed", restarts_allowed="0"), pod(0, restarts=9)))
    assert decision.cleared == (
        "launcher.dev/ended",
        "launcher.dev/ended-reason",
        "launcher.dev/ended-at",
    )
    assert decision.ended_reason == ""
    assert [action.reason for action in decision.actions if isinstance(action, Tell)] == ["Resumed"]


def test_a_queue_is_asked_to_end_what_it_admits() -> None:
    of = job(ended="Failed", queue="train")
    assert decided(view(of, pod(0))).actions == (Deactivate(),)
    assert decided(view(job(ended="Failed", queue="train", suspended=True))).actions == ()


@pytest.mark.parametrize(
    ("of", "expired"),
    [
        (job(conditions={"Failed": NOW - 101}, ttl_s=100), True),
        (job(conditions={"Failed": NOW - 100}, ttl_s=100), False),
        (job(conditions={"Failed": NOW - 999}, completed=NOW - 999, ttl_s=100), False),
        (job(conditions={"Failed": NOW - 999}), False),
        (job(conditions={"Running": NOW - 999}, ttl_s=0), False),
        (job(suspended=True, ttl_s=0), False),
        (job(suspended=True, ended="Failed", ended_at="2020-01-01T00:00:00Z", ttl_s=9), True),
        (job(suspended=True, cancelled_at="2020-01-01T00:00:00Z", ttl_s=9), True),
    ],
)
def test_ended_jobs_go_after_their_time(of: Object, expired: bool) -> None:
    assert (kinds(decided(view(of))) == ["DeleteJob"]) is expired


def test_the_deletion_says_why() -> None:
    of = job(conditions={"Failed": NOW - 101}, ttl_s=100)
    (action,) = decided(view(of)).actions
    assert action == DeleteJob(
        "it ended (Failed) more than 100 s ago (runPolicy.ttlSecondsAfterFinished)"
    )
