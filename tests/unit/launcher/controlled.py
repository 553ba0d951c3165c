"""Objects of a job as the controller keeps them of the API server's, for its pure parts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from launcher.cluster.kinds import JOB, NODE, POD, PYTORCHJOB, SERVICE, Object
from launcher.controller.brief import brief
from launcher.controller.view import Reading, View

NOW = 1_800_000_000
"""Seconds since 1970 at which the tests look."""
STARTED = NOW - 7200
GRACE_S = 60.0


def at(moment_s: float) -> str:
    """RFC 3339 as the API server writes it."""
    return datetime.fromtimestamp(moment_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def job(
    *,
    suspended: bool = False,
    conditions: dict[str, float] | None = None,
    started: float | None = STARTED,
    replicas: int = 2,
    queue: str = "",
    ttl_s: int | None = None,
    completed: float | None = None,
    deleted: bool = False,
    created: float = STARTED - 10,
    **notes: str,
) -> Object:
    """A PyTorchJob. conditions: those that hold, since when. notes: launcher.dev/ annotations."""
    metadata: dict[str, Any] = {
        "name": "a",
        "namespace": "ml",
        "uid": "job-uid",
        "resourceVersion": "1",
        "creationTimestamp": at(created),
        "labels": {"launcher.dev/job": "a"},
        "annotations": {f"launcher.dev/{k.replace('_', '-')}": v for k, v in notes.items()},
    }
    if queue:
        metadata["labels"]["kueue.x-k8s.io/queue-name"] = queue
    if deleted:
        metadata["deletionTimestamp"] = at(NOW)
    policy: dict[str, Any] = {"suspend": suspended}
    if ttl_s is not None:
        policy["ttlSecondsAfterFinished"] = ttl_s
    status: dict[str, Any] = {
        "conditions": [
            {"type": kind, "status": "True", "lastTransitionTime": at(since)}
            for kind, since in (conditions or {}).items()
        ]
    }
    if started is not None:
        status["startTime"] = at(started)
    if completed is not None:
        status["completionTime"] = at(completed)
    spec = {
        "runPolicy": policy,
        "elasticPolicy": {"minReplicas": 1, "maxReplicas": 8},
        "pytorchReplicaSpecs": {"Worker": {"replicas": replicas, "template": {"spec": {}}}},
    }
    return brief(PYTORCHJOB, {"metadata": metadata, "spec": spec, "status": status})


def pod(
    index: int = 0,
    uid: str = "",
    *,
    restarts: int = 0,
    message: str = "",
    reason: str = "Error",
    failed: float = NOW - 5,
    created: float = STARTED,
    since: float | None = None,
    node: str = "n1",
    deleted: bool = False,
    phase: str = "Running",
) -> Object:
    """A worker's pod that runs. failed: when it last did, if it has. since: when it last began."""
    container: dict[str, Any] = {
        "name": "pytorch",
        "restartCount": restarts,
        "state": {"running": {"startedAt": at(created if since is None else since)}},
        "lastState": {},
    }
    if restarts:
        ended = {"exitCode": 1, "reason": reason, "message": message, "finishedAt": at(failed)}
        container["lastState"] = {"terminated": ended}
    metadata: dict[str, Any] = {
        "name": f"a-worker-{index}",
        "namespace": "ml",
        "uid": uid or f"uid-{index}-a",
        "creationTimestamp": at(created),
        "labels": {"launcher.dev/job": "a", "training.kubeflow.org/replica-index": str(index)},
    }
    if deleted:
        metadata["deletionTimestamp"] = at(NOW)
    port = {"name": "metrics", "containerPort": 9090}
    spec = {"nodeName": node, "containers": [{"name": "pytorch", "ports": [port]}]}
    status = {"phase": phase, "podIP": f"10.0.0.{index}", "containerStatuses": [container]}
    return brief(POD, {"metadata": metadata, "spec": spec, "status": status})


def node(name: str, silent_since: float | None = None) -> tuple[str, Object]:
    """A node by its name, which answers unless it is silent since then."""
    status = "True" if silent_since is None else "Unknown"
    since = at(STARTED if silent_since is None else silent_since)
    condition = {"type": "Ready", "status": status, "lastTransitionTime": since}
    whole = {"metadata": {"name": name}, "status": {"conditions": [condition]}}
    return name, brief(NODE, whole)


def helper(kind: str = "Job", *, suspended: bool = False, owned: bool = True) -> Object:
    """The rendezvous' Job or Service."""
    metadata: dict[str, Any] = {"name": "a-rendezvous", "namespace": "ml", "resourceVersion": "1"}
    if owned:
        metadata["ownerReferences"] = [{"uid": "job-uid"}]
    whole = {"metadata": metadata, "spec": {"suspend": suspended}, "status": {}}
    return brief(JOB if kind == "Job" else SERVICE, whole)


def view(
    of: Object | None = None,
    *pods: Object,
    helpers: tuple[Object, ...] = (),
    nodes: dict[str, Object] | None = None,
    reading: Reading | None = None,
    absent_since: dict[str, float] | None = None,
) -> View:
    """What the controller sees; two well nodes unless told otherwise."""
    known = dict([node("n1"), node("n2")]) if nodes is None else nodes
    return View(of or job(), pods, helpers, known, absent_since or {}, reading)
