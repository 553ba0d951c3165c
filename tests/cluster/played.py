"""What a kubelet would write into a pod's status, for a control plane that has no node."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

from tests.cluster.control_plane import ControlPlane

Object = dict[str, Any]
PATIENCE_S = 90.0
"""The garbage collector looks for new kinds every 30 s, and ours are new in a fresh cluster."""


def workers(plane: ControlPlane, namespace: str, job: str, count: int) -> list[Object]:
    """The worker pods of a job, by index, once there are so many."""
    ends_at = time.monotonic() + PATIENCE_S
    while True:
        selector = f"training.kubeflow.org/job-name={job}"
        answer = plane.kubectl("-n", namespace, "get", "pods", "-l", selector, "-o", "json")
        found: list[Object] = json.loads(answer)["items"]
        if len(found) == count:
            label = "training.kubeflow.org/replica-index"
            return sorted(found, key=lambda pod: int(pod["metadata"]["labels"][label]))
        assert time.monotonic() < ends_at, f"{len(found)} pods of {job}, not {count}"
        time.sleep(0.1)


def parts(plane: ControlPlane, namespace: str, job: str, count: int) -> list[Object]:
    """The pods of an Indexed Job that have not ended, by index, once there are so many."""
    ends_at = time.monotonic() + PATIENCE_S
    selector = f"batch.kubernetes.io/job-name={job}"
    label = "batch.kubernetes.io/job-completion-index"
    while True:
        answer = plane.kubectl("-n", namespace, "get", "pods", "-l", selector, "-o", "json")
        found: list[Object] = [
            pod
            for pod in json.loads(answer)["items"]
            if pod["status"].get("phase") not in ("Succeeded", "Failed")
            and "deletionTimestamp" not in pod["metadata"]
        ]
        if len(found) == count:
            return sorted(found, key=lambda pod: int(pod["metadata"]["labels"][label]))
        assert time.monotonic() < ends_at, f"{len(found)} pods of {job}, not {count}"
        time.sleep(0.1)


def write(plane: ControlPlane, pod: Object, **status: Any) -> None:
    """Merges fields into a pod's status."""
    metadata = pod["metadata"]
    plane.kubectl(
        *("-n", metadata["namespace"], "patch", "pod", metadata["name"]),
        *("--subresource=status", "--type=merge", "-p", json.dumps({"status": status})),
    )


def container(
    state: Object, *, restarts: int = 0, last: Object | None = None, name: str = "pytorch"
) -> list[Object]:
    """The status of the trainer's container."""
    return [
        {
            "name": name,
            "image": "registry.example/trainer:1",
            "imageID": "",
            "ready": "running" in state,
            "restartCount": restarts,
            "state": state,
            "lastState": last or {},
        }
    ]


def run(plane: ControlPlane, pod: Object, *, restarts: int = 0, last: Object | None = None) -> None:
    """The pod is placed and its container runs."""
    placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": now()}
    state = {"running": {"startedAt": now()}}
    statuses = container(state, restarts=restarts, last=last, name=_name(pod))
    write(
        plane,
        pod,
        phase="Running",
        startTime=now(),
        conditions=[placed],
        containerStatuses=statuses,
    )


def wait_for(plane: ControlPlane, pod: Object, reason: str, message: str) -> None:
    """The pod is placed, but its container does not start."""
    placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": now()}
    state = {"waiting": {"reason": reason, "message": message}}
    write(plane, pod, conditions=[placed], containerStatuses=container(state))


def ended(code: int, *, reason: str = "Error", message: str = "") -> Object:
    """The state of a container that has ended."""
    moments = {"startedAt": now(), "finishedAt": now()}
    return {"terminated": {"exitCode": code, "reason": reason, "message": message, **moments}}


def end(plane: ControlPlane, pod: Object, code: int = 0, message: str = "") -> None:
    """The pod's container ends for good."""
    phase = "Failed" if code else "Succeeded"
    state = ended(code, reason="Error" if code else "Completed", message=message)
    write(plane, pod, phase=phase, containerStatuses=container(state, name=_name(pod)))


def _name(pod: Object) -> str:
    """What its container is called."""
    return str(pod["spec"]["containers"][0]["name"])


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
