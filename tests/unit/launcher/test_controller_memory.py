"""What the controller remembers: exact and monotone, in whatever order it is told."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.cluster.kinds import POD, PYTORCHJOB, Object
from launcher.controller.act import PROGRESS_EVERY_S, is_news
from launcher.controller.brief import brief
from launcher.controller.decide import decide
from launcher.controller.memory import MEMORY, RESTART_TIMES, Memory, Progress, Worker, read, write
from launcher.controller.observe import is_reading_due, observe, signature
from launcher.controller.scrape import parse
from launcher.controller.view import UNREACHABLE, Reading, View
from tests.unit.launcher.controlled import GRACE_S, NOW, STARTED, helper, job, pod, view

BRIEF = settings(max_examples=50)
TIMES = st.integers(0, NOW)
WORKERS = st.builds(
    Worker,
    uid=st.text("abcdef0123456789", max_size=8),
    before=st.text("abcdef0123456789", max_size=8),
    created=TIMES,
    restarts=st.integers(0, 99),
    signature=st.text(max_size=20),
    failed_at=st.lists(TIMES, max_size=3).map(tuple),
)
FIGURES = st.floats(0, 1e12)
MEMORIES = st.builds(
    Memory,
    restarts=st.integers(0, 10**6),
    restart_times=st.lists(TIMES, max_size=9).map(tuple),
    first_started_at=st.sampled_from(["", "2026-01-01T00:00:00Z"]),
    stretch=st.sampled_from(["", "2026-01-01T00:00:00Z"]),
    is_closed=st.booleans(),
    ran_s=st.integers(0, 10**8),
    workers=st.dictionaries(st.integers(0, 99), WORKERS, max_size=4),
    progress=st.builds(Progress, updates=FIGURES, updates_at=TIMES, stamp=FIGURES, at=TIMES),
    hangs=st.integers(0, 2),
    hang_at=TIMES,
    is_blind=st.booleans(),
)


@BRIEF
@given(MEMORIES)
def test_what_is_written_is_read(memory: Memory) -> None:
    assert read(write(memory)) == memory


ODD = (
    '{"workers": {"x": {}}}',
    '{"workers": {"0": {"uid": 3, "b": 1}}}',
    '{"workers": 3}',
    '{"progress": []}',
    '{"a": 1}',
    "[1]",
)


@BRIEF
@given(st.text() | st.sampled_from(ODD))
def test_what_somebody_else_wrote_is_forgotten_not_tripped_over(text: str) -> None:
    notes = {MEMORY: text, RESTART_TIMES: text, "launcher.dev/restarts": "7"}
    assert read(notes).restarts == 7


def test_a_fleet_of_workers_fits_the_annotations() -> None:
    worker = Worker("01234567", "89abcdef", NOW, 99, "x" * 120, (NOW, NOW, NOW))
    full = Memory(workers=dict.fromkeys(range(256), worker), restart_times=(NOW,) * 200)
    assert sum(map(len, write(full).values())) < 100_000  # of 256 KiB in all


def test_progress_alone_is_written_now_and_then() -> None:
    known = Memory(restarts=1, progress=Progress(3, NOW, NOW, NOW))
    soon, later = (
        Memory(restarts=1, progress=Progress(9, NOW + span, NOW + span, NOW + span))
        for span in (PROGRESS_EVERY_S - 1, PROGRESS_EVERY_S)
    )
    assert not is_news(known, soon)
    assert is_news(known, later)
    assert is_news(known, Memory(restarts=2, progress=known.progress))


# -- counting


def seen(*pods: Object, replicas: int = 2, **more: str) -> View:
    return view(job(replicas=replicas, **more), *pods)


def watched(*views: View) -> Memory:
    memory = Memory()
    for each in views:
        memory = read(write(observe(memory, each, NOW)))
    return memory


def test_what_failed_before_anybody_looked_counts() -> None:
    assert watched(seen(pod(0, restarts=2), pod(1))).restarts == 2


def test_a_pod_of_another_uid_at_an_index_is_a_lost_worker() -> None:
    new = pod(0, "b", created=NOW - 7)
    memory = watched(seen(pod(0, "a")), seen(), seen(new), seen(new))
    assert (memory.restarts, memory.restart_times) == (1, (NOW - 7,))


def test_growing_and_shrinking_lose_nobody() -> None:
    again = pod(1, "c", created=NOW - 7)
    memory = watched(
        seen(pod(0)), seen(pod(0), pod(1, "b")), seen(pod(0), replicas=1), seen(pod(0), again)
    )
    assert memory.restarts == 0


def test_pods_of_the_next_stretch_are_no_replacements() -> None:
    suspended = view(job(suspended=True), pod(0, "a", restarts=1))
    new = pod(0, "b", created=NOW - 7)
    memory = watched(seen(pod(0, "a", restarts=1)), suspended, suspended, seen(new))
    assert memory.restarts == 1
    assert watched(seen(pod(0, "a", restarts=1)), suspended, seen(pod(0, "a", restarts=2))
                   ).restarts == 2  # fmt: skip


def test_a_suspension_that_nobody_saw_is_known_by_the_new_start() -> None:
    later = view(job(started=NOW - 9), pod(0, "b", created=NOW - 7))
    assert watched(seen(pod(0, "a")), later).restarts == 0


def test_an_older_observation_is_known_as_such() -> None:
    old, new = pod(0, "a", restarts=3), pod(0, "b", created=NOW - 7)
    memory = watched(seen(old), seen(new))
    assert memory.restarts == 4
    assert watched(seen(old), seen(new), seen(old), seen(new)).restarts == 4
    assert watched(seen(old), seen(pod(0, "a", restarts=2)), seen(old)).restarts == 3
    same_second = pod(0, "c", created=STARTED)
    assert watched(seen(old), seen(same_second), seen(old), seen(same_second)).restarts == 4


HISTORY = st.lists(
    st.sampled_from(["fail 0", "fail 1", "lose 0", "lose 1", "nothing"]), max_size=12
)


def played(history: list[str]) -> tuple[list[View], int]:
    """The states that a job goes through, and how often a worker was lost or failed."""
    pods = {index: [f"{index}-0", 0, STARTED] for index in (0, 1)}
    views, count = [seen(pod(0, "0-0"), pod(1, "1-0"))], 0
    for step, event in enumerate(history, 1):
        verb, _, index = event.partition(" ")
        if verb != "nothing":
            count += 1
            uid, restarts, created = pods[int(index)]
            if verb == "fail":
                pods[int(index)] = [uid, int(restarts) + 1, created]
            else:
                pods[int(index)] = [f"{index}-{step}", 0, STARTED + step]
        views.append(
            seen(
                *(
                    pod(each, str(uid), restarts=int(restarts), created=float(created))
                    for each, (uid, restarts, created) in pods.items()
                )
            )
        )
    return views, count


@BRIEF
@given(HISTORY, st.data())
def test_counts_are_exact_over_repetition_and_changes_of_leader(
    history: list[str], data: st.DataObject
) -> None:
    """Leaders look at each state any number of times, and at an older one in between."""
    views, count = played(history)
    memory, counts = Memory(), []
    for number, each in enumerate(views):
        earlier = data.draw(st.integers(max(0, number - 1), number))
        for look in (each, *([views[earlier], each] * data.draw(st.integers(0, 2)))):
            memory = read(write(observe(memory, look, NOW)))  # as if by another leader
            counts.append(memory.restarts)
    assert memory.restarts == count
    assert counts == sorted(counts)


@BRIEF
@given(st.lists(st.integers(0, 3), max_size=20), st.integers(0, 50))
def test_a_healthy_job_is_never_ended(order: list[int], step: int) -> None:
    """Whatever is seen again, late or in another order."""
    of = job(restarts_allowed="0", hang_s="600", deadline_s="100000", restart_window_s="3600")
    states = [
        view(of, pod(0), pod(1), helpers=(helper(),), reading=reading)
        for reading in (None, UNREACHABLE, Reading(step, NOW - 30), Reading(step + 1, NOW - 10))
    ]
    memory = Memory()
    for late, number in enumerate(order):
        decision = decide(states[number], NOW + late, GRACE_S, memory)
        assert decision.ended_reason == ""
        assert all(type(action).__name__ == "Tell" for action in decision.actions)
        memory = read(write(decision.memory))
    assert memory.restarts == 0


def test_many_restarts_of_a_large_budget_are_all_remembered() -> None:
    memory = watched(seen(pod(0, restarts=1000), restarts_allowed="900"))
    assert len(memory.restart_times) == 901


# -- signatures and figures


def test_figures_that_differ_each_time_make_no_other_failure() -> None:
    first, second = (
        signature({"message": f"rank {rank}: CUDA error at 0x7f{rank}\n after {rank}.5 s"})
        for rank in (3, 4)
    )
    assert first == second == "rank #: CUDA error at # after # s"
    assert signature({"exitCode": 1, "reason": "Error"}) == ""
    assert len(signature({"message": "x" * 9999})) == 120


def test_metrics_are_read_from_prometheus_text() -> None:
    text = (
        "# HELP trainer_updates_total Optimiser steps since the run began.\n"
        "# TYPE trainer_updates_total counter\n"
        'trainer_updates_total{run="a"} 1.2e+03\n'
        'trainer_updates_total_created{run="a"} 9e9\n'
        'trainer_update_last_timestamp_seconds{run="a"} 1.8e+09\n'
    )
    assert parse(text) == Reading(1200, 1.8e9)
    assert parse("") == Reading(0, 0)


def test_a_job_that_is_well_is_read_less_often() -> None:
    well = view(job(hang_s="1800"), pod())
    assert is_reading_due(well)
    assert [is_reading_due(well, age_s) for age_s in (29, 30)] == [False, True]
    hasty = view(job(hang_s="60"), pod())
    assert [is_reading_due(hasty, age_s) for age_s in (2, 3)] == [False, True]
    failed = job(hang_s="1800", **{"restart-times": f"[{NOW}]"})
    assert is_reading_due(view(failed, pod()), 0)
    assert not is_reading_due(view(job(), pod()))
    assert not is_reading_due(view(job(hang_s="1800"), pod(phase="Pending", deleted=True)))


def test_of_an_object_only_what_is_looked_at_is_kept() -> None:
    applied = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "other": "kept"}
    container = {
        "name": "pytorch",
        "env": [{"name": "RUN_CONFIG", "value": "long"}],
        "ports": [{"name": "metrics"}],
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
    }
    template = {"metadata": {}, "spec": {"containers": [container], "volumes": []}}
    metadata = {"name": "a", "managedFields": [{}], "annotations": applied}
    worker = {"Worker": {"replicas": 2, "template": template}}
    kept = brief(PYTORCHJOB, {"metadata": metadata, "spec": {"pytorchReplicaSpecs": worker}})
    assert kept["metadata"] == {"name": "a", "annotations": {"other": "kept"}}
    (left,) = kept["spec"]["pytorchReplicaSpecs"].values()
    resources = {"resources": container["resources"]}
    assert left == {"replicas": 2, "template": {"spec": {"containers": [resources]}}}
    status = {"phase": "Running", "qosClass": "Burstable", "containerStatuses": [
        {"name": "pytorch", "imageID": "x", "restartCount": 1}
    ]}  # fmt: skip
    kept = brief(POD, {"metadata": metadata, "spec": template["spec"], "status": status})
    assert kept == {
        "kind": "Pod",
        "metadata": {"name": "a"},
        "spec": {"containers": [{"name": "pytorch", "ports": [{"name": "metrics"}], **resources}]},
        "status": {
            "phase": "Running",
            "containerStatuses": [{"name": "pytorch", "restartCount": 1}],
        },
    }
