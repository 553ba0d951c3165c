"""Intervals of GPU time from pods as the API server tells of them."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.budget.pods import Sight, gpus_of, interval_of, moment_ms, owner_of

T0 = "2026-11-25T10:00:00Z"
NOW_MS = moment_ms("2026-11-25T12:00:00Z")


def sight(**changes: Any) -> Sight:
    facts: dict[str, Any] = {"cluster": "c", "now_ms": NOW_MS, "node_labels": {}}
    return Sight(**facts | changes)


def container(gpus: int, **more: Any) -> dict[str, Any]:
    return {"name": "a", "resources": {"limits": {"nvidia.com/gpu": str(gpus)}}} | more


def pod(
    phase: str = "Running", states: tuple[dict[str, Any], ...] = (), **metadata: Any
) -> dict[str, Any]:
    labels = {
        "launcher.dev/job": "a", "launcher.dev/budget": "webvision", "launcher.dev/stage": "train",
        "launcher.dev/model": "senet154", "launcher.dev/user": "ada",
    }  # fmt: skip
    owner = {"uid": "uid-a", "controller": True, "kind": "PyTorchJob"}
    return {
        "metadata": {"uid": "p", "namespace": "ml", "labels": labels, "ownerReferences": [owner]}
        | metadata,
        "spec": {"nodeName": "n", "containers": [container(8)]},
        "status": {
            "phase": phase,
            "conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": T0},
            ],
            "containerStatuses": [
                {"name": "a", "containerID": "x", "state": state} for state in states
            ],
        },
    }


RUNNING = {"running": {"startedAt": "2026-11-25T10:00:05Z"}}


def ended(at: str) -> dict[str, Any]:
    return {"terminated": {"exitCode": 0, "finishedAt": at}}


def test_a_running_pod_is_charged_from_its_node_on() -> None:
    found = interval_of(pod(states=(RUNNING,)), sight())
    assert found is not None
    assert (found.start_ms, found.through_ms, found.source) == (moment_ms(T0), NOW_MS, "open")
    assert found.gpu_ms == 8 * 7_200_000


def test_a_pod_waits_for_its_nodes_labels_unless_it_is_gone() -> None:
    assert interval_of(pod(states=(RUNNING,)), sight(node_labels=None)) is None
    assert interval_of(pod("Failed", (ended(T0),)), sight(node_labels=None)) is None
    gone = interval_of(pod("Failed", (ended(T0),)), sight(node_labels=None, is_gone=True))
    assert gone is not None
    assert gone.owner.gpu_type == "unknown"


def test_a_pod_that_waits_for_a_node_is_not() -> None:
    waiting = pod("Pending")
    waiting["status"]["conditions"][0]["status"] = "False"
    assert interval_of(waiting, sight()) is None
    assert interval_of(pod("Pending"), sight()) is not None, "it pulls its image on the GPU's node"


def test_a_pod_without_a_gpu_is_not() -> None:
    rendezvous = pod(states=(RUNNING,))
    rendezvous["spec"]["containers"] = [{"name": "rendezvous"}]
    assert interval_of(rendezvous, sight()) is None


@pytest.mark.parametrize(
    ("found", "end", "source"),
    [
        (pod("Succeeded", (ended("2026-11-25T11:00:00Z"),)), "11:00:00", "containers"),
        (
            pod("Failed", (ended("2026-11-25T11:00:00Z"), ended("2026-11-25T11:00:09Z"))),
            "11:00:09",
            "containers",
        ),
        (
            pod("Running", (ended("2026-11-25T11:00:00Z"),), deletionTimestamp=T0),
            "11:00:00",
            "containers",
        ),
        (pod("Running", (ended("2026-11-25T11:00:00Z"),)), "12:00:00", "open"),
        (pod("Running", (RUNNING,), deletionTimestamp=T0), "12:00:00", "open"),
        (
            pod("Running", (ended("2026-11-25T11:00:00Z"), RUNNING), deletionTimestamp=T0),
            "12:00:00",
            "open",
        ),
        (pod("Failed"), "12:00:00", "sight"),
    ],
)
def test_an_end_is_told_by_the_last_container(found: Any, end: str, source: str) -> None:
    interval = interval_of(found, sight())
    assert interval is not None
    assert (interval.through_ms, interval.source) == (moment_ms(f"2026-11-25T{end}Z"), source)


def test_a_container_that_is_started_again_keeps_its_pod() -> None:
    """The GPU stays with the pod between two lives of its container."""
    crashing = pod(states=({"waiting": {"reason": "CrashLoopBackOff"}},))
    crashing["status"]["containerStatuses"][0]["lastState"] = ended("2026-11-25T11:00:00Z")
    found = interval_of(crashing, sight())
    assert found is not None
    assert found.source == "open"


def test_an_evicted_pod_whose_containers_nobody_told_of() -> None:
    gone = pod("Failed")
    gone["status"]["conditions"].append(
        {"type": "DisruptionTarget", "status": "True", "lastTransitionTime": "2026-11-25T11:30:00Z"}
    )
    found = interval_of(gone, sight())
    assert found is not None
    assert (found.through_ms, found.source) == (moment_ms("2026-11-25T11:30:00Z"), "sight")


@pytest.mark.parametrize(
    ("changes", "deleted_at", "source"),
    [
        ({"is_gone": True}, None, "sight"),
        ({"is_node_lost": True}, None, "open"),
        ({"is_node_lost": True}, "2026-11-25T11:00:00Z", "sight"),
        ({"is_node_lost": True}, "2026-11-25T12:30:00Z", "open"),
        ({}, "2026-11-25T11:00:00Z", "open"),
    ],
)
def test_a_pod_that_cannot_tell_its_end(
    changes: dict[str, bool], deleted_at: str | None, source: str
) -> None:
    metadata = {"deletionTimestamp": deleted_at} if deleted_at else {}
    found = interval_of(pod(states=(RUNNING,), **metadata), sight(**changes))
    assert found is not None
    assert (found.through_ms, found.source) == (NOW_MS, source)


def test_a_clock_that_went_back_charges_nothing() -> None:
    found = interval_of(pod(states=(RUNNING,)), sight(now_ms=moment_ms(T0) - 5000))
    assert found is not None
    assert found.gpu_ms == 0


@pytest.mark.parametrize(
    ("init", "main", "gpus"),
    [
        ([], [1, 2], 3),
        ([container(4)], [1, 2], 4),
        ([container(4), container(5)], [1], 5),
        ([container(1, restartPolicy="Always"), container(4)], [3], 5),
        ([container(4), container(1, restartPolicy="Always")], [3], 4),
        ([container(2, restartPolicy="Always")], [3], 5),
    ],
)
def test_gpus_are_what_the_scheduler_reserves(
    init: list[dict[str, Any]], main: list[int], gpus: int
) -> None:
    spec = {"initContainers": init, "containers": [container(count) for count in main]}
    assert gpus_of({"spec": spec}) == gpus


def test_other_makers_count_too() -> None:
    limits = {"amd.com/gpu": "2"}
    assert gpus_of({"spec": {"containers": [{"name": "a", "resources": {"limits": limits}}]}}) == 2


def test_the_owner_is_read_off_labels_and_the_node() -> None:
    found = owner_of(pod(), sight(node_labels={"nvidia.com/gpu.product": "NVIDIA-H200"}))
    assert (found.budget, found.job, found.job_uid) == ("webvision", "a", "uid-a")
    assert (found.model, found.user, found.stage, found.gpu_type) == (
        "senet154", "ada", "train", "NVIDIA-H200"
    )  # fmt: skip
    bare = pod()
    bare["metadata"] = {"uid": "p", "namespace": "ml"}
    assert owner_of(bare, sight()).gpu_type == "unknown"


UNKNOWN_END = {"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown"}}
"""What a kubelet says of a container whose end it has missed."""


def test_an_end_that_the_node_has_missed_is_not_that_of_another_container() -> None:
    found = interval_of(pod("Failed", (ended(T0), UNKNOWN_END)), sight())
    assert found is not None
    assert (found.through_ms, found.source) == (NOW_MS, "sight")


def test_a_deleted_pod_whose_container_may_just_be_made_has_not_ended() -> None:
    """Its init container has ended."""
    deleted = pod("Pending", (ended(T0), {"waiting": {}}), deletionTimestamp="2026-11-25T11:59:30Z")
    del deleted["status"]["containerStatuses"][1]["containerID"]
    found = interval_of(deleted, sight())
    assert found is not None
    assert not found.is_closed
    later = interval_of(deleted, sight(now_ms=moment_ms("2026-11-25T12:00:31Z")))
    assert later is not None
    assert (later.through_ms, later.source) == (moment_ms(T0), "containers")


@pytest.mark.parametrize(("text", "gpus"), [("8", 8), ("1e1", 10), ("1k", 1000), ("2Ki", 2048)])
def test_gpus_are_counts_as_the_api_server_writes_them(text: str, gpus: int) -> None:
    limits = {"limits": {"nvidia.com/gpu": text}}
    assert gpus_of({"spec": {"containers": [{"name": "a", "resources": limits}]}}) == gpus
