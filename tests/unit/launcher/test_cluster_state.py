"""From the objects of a job to its state and to the sentence that says why it does not run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from launcher.cluster import reasons
from launcher.cluster.bundling import BLOT, blotted
from launcher.cluster.state import gpus_of, read_status
from launcher.cluster.trainjobs import as_pytorchjob
from launcher.cluster.usage import by_job, by_node

Object = dict[str, Any]
NOW = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
AT = "2026-11-24T11:00:00Z"
LATER = "2026-11-24T11:30:00Z"


def job(
    *conditions: str,
    suspend: bool = False,
    notes: dict[str, str] | None = None,
    labels: dict[str, str] | None = None,
    active: int = 0,
) -> Object:
    told = [
        {"type": each.lstrip("-"), "status": "False" if each[0] == "-" else "True",
         "lastTransitionTime": LATER, "message": "as the operator says"}
        for each in conditions
    ]  # fmt: skip
    container = {"name": "pytorch", "resources": {"limits": {"nvidia.com/gpu": "8"}}}
    return {
        "metadata": {
            "name": "j", "namespace": "ml", "uid": "u", "creationTimestamp": AT,
            "annotations": notes, "labels": labels or {},
        },
        "spec": {
            "runPolicy": {"suspend": suspend},
            "elasticPolicy": {"minReplicas": 2, "maxReplicas": 4},
            "pytorchReplicaSpecs": {
                "Worker": {"replicas": 3, "template": {"spec": {"containers": [container]}}}
            },
        },
        "status": {"conditions": told, "replicaStatuses": {"Worker": {"active": active}}},
    }  # fmt: skip


def pod(index: int = 0, *, state: Object | None = None, last: Object | None = None,
        phase: str = "Running", restarts: int = 0, **more: Any) -> Object:  # fmt: skip
    container = {
        "name": "pytorch", "image": "r.example/t:1", "restartCount": restarts,
        "state": {"running": {}} if state is None else state, "lastState": last or {},
    }  # fmt: skip
    placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": AT}
    limits = {"limits": {"memory": "64Gi"}}
    return {
        "metadata": {
            "name": f"j-worker-{index}",
            "namespace": "ml",
            "labels": {"training.kubeflow.org/replica-index": str(index)},
            **({"deletionTimestamp": LATER} if more.pop("is_leaving", False) else {}),
        },
        "spec": {"containers": [{"name": "pytorch", "resources": limits}], "nodeName": "n1"},
        "status": {
            "phase": phase, "conditions": [placed], "containerStatuses": [container], **more
        },
    }  # fmt: skip


def ended(code: int, reason: str = "Error", message: str = "") -> Object:
    return {
        "terminated": {
            "exitCode": code, "reason": reason, "message": message, "finishedAt": LATER
        }
    }  # fmt: skip


CRASH = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}}
CANCELLED = {"launcher.dev/cancelled-at": LATER}
STOPPED = {"launcher.dev/ended": "Failed", "launcher.dev/ended-reason": "21 restarts in an hour"}
QUEUE = {"kueue.x-k8s.io/queue-name": "q"}
STATES: dict[str, tuple[Object, list[Object] | None, str]] = {
    "not seen yet": (job(), [], "Created"),
    "fewer than the least": (job("Created", "Running"), [pod(0)], "Starting"),
    "the least": (job("Created", "Running"), [pod(0), pod(1)], "Running"),
    "by the operator's count": (job("Created", "Running", active=3), None, "Running"),
    "a crash": (job("Running"), [pod(0), pod(1), pod(2, state=CRASH)], "Restarting"),
    "operator restarts": (job("Created", "-Running", "Restarting"), [pod(0)], "Restarting"),
    "suspended, Running still listed": (
        job("Created", "-Running", "Suspended", suspend=True), [], "Suspended"
    ),
    "Failed is sticky": (job("Running", "Failed"), [pod(0), pod(1)], "Failed"),
    "any worker's success": (job("Created", "-Running", "Succeeded"), [], "Succeeded"),
    "still saving": (job("Running", suspend=True, notes=CANCELLED), [pod(0)], "Running"),
    "cancelled": (job("Suspended", suspend=True, notes=CANCELLED), [], "Cancelled"),
    "stopped by the controller": (job("Suspended", suspend=True, notes=STOPPED), [], "Failed"),
    "in a queue": (job("Suspended", suspend=True, labels=QUEUE), [], "Queued"),
    "leaving pods do not count": (job("Running"), [pod(0), pod(1, is_leaving=True)], "Starting"),
}  # fmt: skip


@pytest.mark.parametrize("case", STATES)
def test_the_state_is_read_by_priority(case: str) -> None:
    thing, pods, state = STATES[case]
    assert read_status(thing, pods, NOW).state == state


def test_a_job_paused_by_its_user_is_no_queued_one() -> None:
    thing = job("Suspended", suspend=True, labels=QUEUE, notes={"launcher.dev/suspended-at": LATER})
    assert read_status(thing, [], NOW).state == "Suspended"


def test_counts_times_and_restarts() -> None:
    pods = [
        pod(1, restarts=2),
        pod(0),
        pod(2, state=ended(0, "Completed"), phase="Succeeded"),
    ]
    found = read_status(job("Running", notes={"launcher.dev/restarts": "5"}), pods, NOW)
    assert [worker.index for worker in found.workers] == [0, 1, 2]
    assert (found.workers_running, found.workers_desired, found.gpus) == (2, 3, 16)
    assert found.restarts == 5  # pods that were replaced are gone; the controller has counted them
    assert found.worker_s == 2 * 3600 + 1800  # two until now, one until its end
    assert (found.workers_least, found.workers_most) == (2, 4)


def test_a_stopped_job_ends_when_and_why_the_controller_says() -> None:
    thing = job("Suspended", suspend=True, notes=STOPPED | {"launcher.dev/ended-at": LATER})
    found = read_status(thing, [], NOW)
    assert (found.reason, found.ended_at) == ("21 restarts in an hour", LATER)


def unplaced(reason: str, message: str) -> list[Object]:
    return [{"type": "PodScheduled", "status": "False", "reason": reason, "message": message}]


TROUBLES: dict[str, tuple[Object, tuple[str, ...]]] = {
    "no room": (
        pod(phase="Pending", conditions=unplaced("Unschedulable", "0/3 nodes: 3 Insufficient gpu")),
        ("worker-0 cannot be placed", "3 Insufficient gpu"),
    ),
    "gates": (
        pod(phase="Pending", conditions=unplaced("SchedulingGated", "")),
        ("waits for its scheduling gates",),
    ),
    "image": (
        pod(phase="Pending", state={"waiting": {"reason": "ErrImagePull", "message": "denied"}}),
        ("cannot get its image r.example/t:1: denied", "pull secret"),
    ),
    "configuration": (
        pod(state={"waiting": {"reason": "CreateContainerConfigError", "message": "no secret s3"}}),
        ("cannot be started: no secret s3",),
    ),
    "memory": (
        pod(state=CRASH, last=ended(137, "OOMKilled")),
        ("ends again and again: out of memory (its limit is 64Gi)", "memory_per_gpu_gib"),
    ),
    "own words": (
        pod(state=ended(2, message="fatal: no\nsuch data")),
        ("worker-0 ended: fatal: no such data",),
    ),
    "silent": (pod(state=ended(139)), ("Error, exit code 139",)),
    "evicted": (
        pod(phase="Failed", state=ended(0), reason="Evicted", message="low on memory"),
        ("was ended (Evicted): low on memory",),
    ),
    "drained": (
        pod(
            conditions=[
                {
                    "type": "DisruptionTarget",
                    "status": "True",
                    "reason": "EvictionByEvictionAPI",
                    "message": "Eviction API: evicting",
                }
            ]
        ),
        ("is being moved away (EvictionByEvictionAPI)",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TROUBLES)
def test_each_trouble_of_a_pod_is_one_sentence(case: str) -> None:
    thing, words = TROUBLES[case]
    said = reasons.of_pod(thing)
    for word in words:
        assert word in said
    assert "\n" not in said


def test_a_healthy_pod_has_no_trouble() -> None:
    assert reasons.of_pod(pod()) == ""
    assert reasons.of_pod(pod(state=ended(0, "Completed"), phase="Succeeded")) == ""


def creation(message: str) -> list[Object]:
    return [{"type": "Warning", "reason": "FailedCreatePod", "message": message}]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ('forbidden: exceeded quota: gpus, used: 8, limited: 8', "the namespace's quota"),
        ('violates PodSecurity "restricted:latest": host namespaces', "pod security"),
        ('admission webhook "a.b" denied the request: no', "a webhook refuses its pods"),
        ("something else", "its pods cannot be created: something else"),
    ],
)  # fmt: skip
def test_what_keeps_pods_from_being_created(message: str, said: str) -> None:
    assert said in reasons.of_job(job("Created"), [], creation(message))


def test_volumes_and_conditions_come_after_pods() -> None:
    mount = {
        "type": "Warning", "reason": "FailedMount", "message": "no such volume",
        "involvedObject": {"name": "j-worker-1"},
    }  # fmt: skip
    assert reasons.of_job(job("Created"), [pod()], [mount]) == "j-worker-1: no such volume"
    assert reasons.of_job(job("Failed"), [], []) == "as the operator says"


WORKLOADS = {
    "no quota": (
        {"conditions": [{"type": "QuotaReserved", "status": "False", "message": "2 more needed"}]},
        "the queue has no room: 2 more needed",
    ),
    "preempted": (
        {"conditions": [{"type": "Evicted", "status": "True", "reason": "Preempted",
                         "message": "by a higher priority"}]},
        "the queue took its place away (Preempted): by a higher priority",
    ),
    "admitted": ({"conditions": [{"type": "Admitted", "status": "True", "message": ""}]}, ""),
    "new": ({}, "the queue has not looked at it yet"),
}  # fmt: skip


@pytest.mark.parametrize("case", WORKLOADS)
def test_why_a_queue_holds_a_job_back(case: str) -> None:
    status, said = WORKLOADS[case]
    assert reasons.of_workload({"spec": {"active": True}, "status": status}).startswith(said)
    assert "deactivated" in reasons.of_workload({"spec": {"active": False}, "status": status})


def test_pods_that_leave_for_the_queue_are_not_why_a_job_waits() -> None:
    thing = job("Suspended", suspend=True, labels=QUEUE)
    leaving = pod(state=ended(143, message="terminated on request"), phase="Failed")
    workload = {"spec": {"active": True}, "status": WORKLOADS["preempted"][0]}
    found = read_status(thing, [leaving], NOW, workload=workload)
    assert (found.state, found.reason) == ("Queued", WORKLOADS["preempted"][1])


def test_a_trainjob_reads_like_a_pytorchjob() -> None:
    thing = {
        "metadata": job()["metadata"],
        "spec": {"trainer": {"numNodes": 2, "numProcPerNode": 8}, "suspend": False},
        "status": {"jobsStatus": [{"name": "node", "active": 1}]},
    }
    found = read_status(as_pytorchjob(thing), None, NOW)
    assert (found.state, found.workers_running, found.gpus) == ("Running", 2, 16)
    thing["status"] = {"conditions": [{"type": "Complete", "status": "True",
                                       "lastTransitionTime": LATER}]}  # fmt: skip
    found = read_status(as_pytorchjob(thing), None, NOW)
    assert (found.state, found.ended_at) == ("Succeeded", LATER)


def test_gpus_are_counted_by_job_and_node() -> None:
    limits = {"limits": {"nvidia.com/gpu": "4"}}

    def placed(name: str, node: str | None, phase: str = "Running") -> Object:
        return {
            "metadata": {"namespace": "ml", "labels": {"launcher.dev/job": name}},
            "spec": {"nodeName": node, "containers": [{"name": "pytorch", "resources": limits}]},
            "status": {"phase": phase},
        }

    pods = [
        placed("a", "n1"),
        placed("a", None, "Pending"),
        placed("b", "n1"),
        placed("b", "n2", "Succeeded"),
    ]
    assert [(use.name, use.gpus, use.waiting) for use in by_job(pods)] == [("a", 4, 4), ("b", 4, 0)]
    node = {
        "metadata": {"name": "n1", "labels": {"nvidia.com/gpu.product": "H100"}},
        "status": {
            "allocatable": {"nvidia.com/gpu": "8"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
    (seen,) = by_node([node, {"metadata": {"name": "cpu"}}], pods)
    assert (seen.name, seen.is_ready, seen.product, seen.gpus, seen.used) == (
        "n1", True, "H100", 8, 8
    )  # fmt: skip
    assert gpus_of(placed("a", "n1")["spec"]) == 4


def test_a_bundle_blots_out_what_looks_like_a_secret() -> None:
    thing = {
        "env": [
            {"name": "AWS_SECRET_ACCESS_KEY", "value": "hunter2"},
            {"name": "AWS_SECRET_ACCESS_KEY", "valueFrom": {"secretKeyRef": {"name": "s3"}}},
            {"name": "PROXY", "value": "http://me:hunter2@proxy.example:3128"},
            {"name": "EPOCHS", "value": "3"},
        ],
        "metadata": {"managedFields": [1], "name": "j"},
    }
    kept = blotted(thing)
    assert "hunter2" not in str(kept)
    assert kept["env"][0]["value"] == BLOT
    assert kept["env"][1]["valueFrom"] == {"secretKeyRef": {"name": "s3"}}
    assert kept["env"][2]["value"] == f"http://{BLOT}@proxy.example:3128"
    assert kept["env"][3]["value"] == "3"
    assert kept["metadata"] == {"name": "j"}
