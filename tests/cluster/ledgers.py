"""Pods with GPUs whose node is the test, and what the ledger says of them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from launcher.budget.ledger import Ledger
from launcher.budget.pods import FINALIZER
from launcher.budget.storage import LedgerStore
from launcher.cluster.client import Api
from launcher.cluster.kinds import NODE, POD, Object
from launcher.errors import LauncherError
from trainer.storage import open_store

CLUSTER = "test"
GPU_TYPE = "NVIDIA-H200"


def stored(folder: Path) -> Ledger:
    """What a reader finds."""
    return LedgerStore(open_store(str(folder)), CLUSTER).load()


@contextlib.contextmanager
def living_node(api: Api, name: str = "node-of-test", gpu_type: str = GPU_TYPE) -> Iterator[None]:
    """A node with many GPUs that says of itself every few seconds that it is well."""
    resources = {"cpu": "256", "memory": "2Ti", "pods": "500", "nvidia.com/gpu": "4000"}
    labels = {"nvidia.com/gpu.product": gpu_type}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
    with contextlib.suppress(KeyError):
        api._ask("POST", NODE, "", body=node)
    began, stopping = now(), threading.Event()

    def live() -> None:
        while True:
            condition = {"type": "Ready", "status": "True", "reason": "Test"}
            condition |= {"lastHeartbeatTime": now(), "lastTransitionTime": began}
            status = {"conditions": [condition], "allocatable": resources, "capacity": resources}
            with contextlib.suppress(LauncherError):  # the API server is down at times
                api.patch(NODE, name, {"status": status}, subresource="status")
            if stopping.wait(5):
                return

    thread = threading.Thread(target=live)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
        api.delete(NODE, name)


def make_pod(
    api: Api,
    name: str,
    gpus: int = 8,
    finalizers: tuple[str, ...] = (FINALIZER,),
    gpu_type: str = GPU_TYPE,
    **labels: str,
) -> Object:
    """A pod of a job's worker that waits for a node."""
    marks = {"launcher.dev/job": "a", "launcher.dev/budget": "webvision"}
    limits = {"resources": {"limits": {"nvidia.com/gpu": gpus}}} if gpus else {}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": marks | labels, "finalizers": list(finalizers)},
        "spec": {
            "containers": [{"name": "pytorch", "image": "x", **limits}],
            "terminationGracePeriodSeconds": 1,
            "tolerations": [{"operator": "Exists"}],
            "nodeSelector": {"nvidia.com/gpu.product": gpu_type},
        },
    }
    return api.create(pod)


def start_pod(api: Api, name: str) -> None:
    """Says what a kubelet would once the container runs."""
    _say(api, name, "Running", {"running": {"startedAt": now()}})


def end_pod(api: Api, name: str, phase: str = "Succeeded") -> None:
    """Says what a kubelet would once the container has ended."""
    ended = {
        "exitCode": 0,
        "startedAt": now(),
        "finishedAt": now(),
        "containerID": "containerd://x",
    }
    _say(api, name, phase, {"terminated": ended})


def _say(api: Api, name: str, phase: str, state: dict[str, Any]) -> None:
    (own,) = api.get(POD, name)["spec"]["containers"]
    container = {
        "name": own["name"],
        "image": "x",
        "imageID": "x",
        "containerID": "containerd://x",
        "ready": False,
        "restartCount": 0,
        "state": state,
        "lastState": {},
    }
    status = {"phase": phase, "containerStatuses": [container]}
    api.patch(POD, name, {"status": status}, subresource="status")


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
