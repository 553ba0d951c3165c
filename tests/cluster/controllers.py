"""Controllers as processes with the rights of a ServiceAccount, and jobs whose pods nobody runs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

import yaml

from launcher.cluster.client import Api
from launcher.cluster.kinds import EVENT, JOB, POD, PYTORCHJOB, Object
from launcher.cluster.objects import pods_of
from launcher.render import render
from launcher.request import Request
from tests.cluster.control_plane import ControlPlane
from tests.unit.launcher.goldens import GIVEN, spec

PATIENT_S = 60.0
SYSTEM = "controllers"
"""Namespace of ServiceAccount and Lease."""
RIGHTS = (
    ("kubeflow.org", "pytorchjobs", "get list watch patch delete"),
    ("trainer.kubeflow.org", "trainjobs", "get"),
    ("", "pods", "get list watch patch delete"),
    ("", "pods/status", "patch"),
    ("", "nodes", "get list watch"),
    ("", "services", "get list watch patch"),
    ("batch", "jobs", "get list watch patch delete"),
    ("kueue.x-k8s.io", "workloads", "get list watch patch"),
    ("kueue.x-k8s.io", "workloads/status", "patch"),
    ("kueue.x-k8s.io", "admissionchecks", "get list watch"),
    ("kueue.x-k8s.io", "admissionchecks/status", "patch"),
    ("launcher.dev", "budgets", "get list watch"),
    ("launcher.dev", "budgets/status", "get patch update"),
    ("", "events", "create patch"),
    ("coordination.k8s.io", "leases", "get create update"),
)
"""All that the controller needs."""
_T = TypeVar("_T")


def install(plane: ControlPlane, file: Path) -> None:
    """Makes the ServiceAccount with its rights, and a kubeconfig of its token."""
    name = {"name": "launcher-controller"}
    account = {"kind": "ServiceAccount", **name, "namespace": SYSTEM}
    rules = [
        {"apiGroups": [group], "resources": [plural], "verbs": verbs.split()}
        for group, plural, verbs in RIGHTS
    ]
    rbac = "rbac.authorization.k8s.io"
    plane.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": name | {"namespace": SYSTEM}},
        {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": name, "rules": rules},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": name,
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", **name},
            "subjects": [account],
        },
    )
    token = plane.kubectl("-n", SYSTEM, "create", "token", "launcher-controller").strip()
    config = yaml.safe_load(plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    file.touch(0o600)
    file.write_text(yaml.safe_dump(config))


@dataclass
class Process:
    """A controller that runs."""

    identity: str
    process: subprocess.Popen[bytes]
    log: Path

    def said(self) -> str:
        return self.log.read_text()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENT_S)


@contextlib.contextmanager
def controller(kubeconfig: Path, namespace: str, identity: str, *flags: str) -> Iterator[Process]:
    """A controller of one namespace, looking at each job twice a second; its Lease is its own."""
    log = kubeconfig.with_name(f"{identity}.log")
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "launcher", "controller", "-n", namespace),
                *("--lease-namespace", SYSTEM, "--lease-name", namespace),
                *("--identity", identity, "--tick", "500ms", "--node-grace", "2s"),
                *("--metrics-port", "0", *flags),
            ],
            stdout=out,
            stderr=out,
            env=os.environ | {"KUBECONFIG": str(kubeconfig)},
        )
    try:
        yield Process(identity, process, log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENT_S)


def until(look: Callable[[], _T | None], what: str, timeout_s: float = PATIENT_S) -> _T:
    """The first result that is something."""
    ends_at = time.monotonic() + timeout_s
    while time.monotonic() < ends_at:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {timeout_s:.0f} s: {what}")


@dataclass
class Subject:
    """A job of three workers whose pods only exist; the test says how they fare."""

    api: Api
    name: str
    namespace: str

    def notes(self) -> dict[str, str]:
        found: dict[str, str] = self.job()["metadata"].get("annotations", {})
        return found

    def job(self) -> Object:
        return self.api.get(PYTORCHJOB, self.name)

    def rendezvous(self) -> Object:
        return self.api.get(JOB, f"{self.name}-rendezvous")

    def pods(self, count: int = 3) -> list[Object]:
        """The workers, once there are so many that nobody is ending."""

        def look() -> list[Object] | None:
            found = [p for p in pods_of(self.api, self.name) if not _is_ending(p)]
            return found if len(found) == count else None

        return until(look, f"{count} pods of {self.name}")

    def is_suspended(self) -> bool:
        return bool(self.job()["spec"]["runPolicy"].get("suspend"))

    def events(self, reason: str) -> list[Object]:
        found = self.api.listing(EVENT, fields=f"involvedObject.name={self.name}").items
        return [each for each in found if each["reason"] == reason]

    def ended(self) -> str:
        """Waits until the controller has ended the job; returns why."""
        return until(lambda: self.notes().get("launcher.dev/ended-reason"), "the job's end")


def make_job(api: Api, name: str, metrics_port: int = 0, **notes: str) -> Subject:
    """Creates the objects of a job as kubectl would. notes: annotations launcher.dev/KEY."""
    objects = objects_of(name, metrics_port, **notes)
    for thing in objects:
        api.create(thing)
    return Subject(api, name, api.namespace)


def objects_of(name: str, metrics_port: int = 0, **notes: str) -> list[Object]:
    """What is rendered for a job of three workers that may run with one."""
    overrides = (f"log.metrics_port={metrics_port}", "job.gpus_per_worker=1", "job.grace_s=241")
    request = Request(
        model="resnet18", name=name, gpus=3, min_gpus=1, max_gpus=4, overrides=overrides, **GIVEN
    )
    objects = render(spec(request))
    annotations = objects[-1]["metadata"]["annotations"]
    for key in ("deadline-s", "restarts-allowed", "restart-window-s", "hang-s"):
        annotations.pop(f"launcher.dev/{key}", None)
    for key, value in notes.items():
        annotations[f"launcher.dev/{key.replace('_', '-')}"] = value
    return objects


def run_pod(api: Api, pod: Object, restarts: int = 0, message: str = "", ip: str = "") -> None:
    """Says what a kubelet would of a running pod that has failed so often."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ended = {
        "exitCode": 1,
        "reason": "Error",
        "message": message,
        "startedAt": now,
        "finishedAt": now,
        "containerID": "containerd://x",
    }
    container = {
        "name": "pytorch",
        "image": "x",
        "imageID": "x",
        "ready": True,
        "restartCount": restarts,
        "state": {"running": {"startedAt": now}},
        "lastState": {"terminated": ended} if restarts else {},
    }
    status: dict[str, Any] = {"phase": "Running", "containerStatuses": [container]}
    if ip:
        status |= {"podIP": ip, "podIPs": [{"ip": ip}]}
    name = pod["metadata"]["name"]
    api.patch(POD, name, {"status": status}, subresource="status")


def vanish(api: Api, pod: Object) -> None:
    """A pod that is gone at once, as after its node was removed."""
    metadata = pod["metadata"]
    api.delete(POD, metadata["name"], uid=metadata["uid"], grace_s=0)


class Metrics:
    """What rank 0 serves: real HTTP, figures that the test sets."""

    def __init__(self) -> None:
        self.updates, self.stamp, self.asked = 0, 0.0, 0
        metrics = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                metrics.asked += 1
                body = (
                    f'trainer_updates_total{{run="r"}} {metrics.updates}\n'
                    f'trainer_update_last_timestamp_seconds{{run="r"}} {metrics.stamp}\n'
                ).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self.server.server_address[1])
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self._thread.start()

    def step(self) -> None:
        """One update more."""
        self.updates, self.stamp = self.updates + 1, time.time()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


def _is_ending(pod: Object) -> bool:
    return bool(pod["metadata"].get("deletionTimestamp"))
