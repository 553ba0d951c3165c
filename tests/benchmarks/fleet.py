"""Running jobs by the thousand: real objects, pods that kwok plays, and rank 0's metrics.

The operator would take a quarter of an hour to make 8,000 pods: they are made here, as it would.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import resource
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from launcher.cluster.client import Api
from launcher.cluster.kinds import JOB, POD, PYTORCHJOB, Object
from launcher.cluster.submit import owned
from launcher.render import render
from launcher.request import Request
from launcher.spec import JOB_LABEL
from tests.cluster.fake_nodes import FakeNodes
from tests.cluster.network import find_network
from tests.servers import BUCKET, S3Server
from tests.unit.launcher.goldens import GIVEN, spec

WORKERS = 8
PODS = WORKERS + 1
"""Of a job, its rendezvous too."""
PODS_A_NODE = 200
THREADS = 8
NAMESPACE = "default"
PATIENCE_S = 600.0
_BEGAN = time.time()


class Fleet:
    """job-0, job-1, … of WORKERS workers of one GPU each."""

    def __init__(
        self, api: Api, nodes: FakeNodes, s3: S3Server, metrics_port: int, budget: str = ""
    ) -> None:
        self.api, self.nodes, self.size = api, nodes, 0
        _put_progress(s3)
        overrides = (f"log.metrics_port={metrics_port}", "job.gpus_per_worker=1")
        given = GIVEN | {"checkpoints": f"s3://{BUCKET}/runs", "budget": budget}
        request = Request(model="resnet18", name="job", gpus=WORKERS, overrides=overrides, **given)
        self._objects = render(spec(request))

    def grow(self, size: int) -> None:
        """Makes jobs until there are so many; returns when all their pods run."""
        self.nodes.add(-(-size * PODS // PODS_A_NODE), gpus=1000)
        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(self._make, range(self.size, size)))
        self.size = size
        self._wait_until_running()

    def leaders(self) -> list[str]:
        """The addresses of the pods of rank 0."""
        labels = "training.kubeflow.org/replica-index=0"
        return self.api.each(POD, lambda pod: str(pod["status"]["podIP"]), labels=labels)

    def _make(self, number: int) -> None:
        name = f"job-{number}"
        *helpers, job = (_renamed(each, name) for each in self._objects)
        created = self.api.create(job)
        for helper in helpers:
            self.api.create(owned(helper, created))
        self.api.patch(PYTORCHJOB, name, {"status": _running()}, subresource="status")
        for index in range(WORKERS):
            self.api.create(_pod(created, index))

    def _wait_until_running(self) -> None:
        ends_at = time.monotonic() + PATIENCE_S
        while time.monotonic() < ends_at:
            waiting = self.api.ask("/api/v1/pods?fieldSelector=status.phase!=Running&limit=1")
            if not waiting["items"] and all(self.api.each(JOB, _has_ready_pod)):
                return
            time.sleep(2)
        raise AssertionError(f"the pods of {self.size} jobs do not run after {PATIENCE_S:.0f} s")


@contextlib.contextmanager
def local_network() -> Iterator[str]:
    """Addresses for pods that are all this machine's own, so that what asks a pod asks here."""
    pods = find_network().pods
    route = ("local", pods, "dev", "lo")
    subprocess.run(("ip", "route", "add", *route), check=True)
    try:
        yield pods
    finally:
        subprocess.run(("ip", "route", "delete", *route), check=True)


@contextlib.contextmanager
def training(addresses: Sequence[str], port: int) -> Iterator[None]:
    """Serves what a run that makes an update a second tells, at each of these addresses.

    There is nobody at the others' addresses, so connections to them are refused, as by all workers
    but rank 0.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a socket an address

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(_metrics())
            await writer.drain()
        writer.close()

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(answer, addresses, port))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.close()


def _metrics() -> bytes:
    now = time.time()
    body = (
        f'trainer_updates_total{{run="r"}} {now:.0f}\n'
        f'trainer_update_last_timestamp_seconds{{run="r"}} {now:.3f}\n'
        'trainer_generation{run="r"} 1\n'
        f'trainer_update_duration_seconds_count{{run="r"}} {now - _BEGAN:.0f}\n'
        f'trainer_update_seconds_total{{run="r"}} {now - _BEGAN:.3f}\n'
    ).encode()
    return b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def _put_progress(s3: S3Server) -> None:
    """What is in the folder that the jobs share: metrics of a day, and three checkpoints."""
    whole = {"epoch": 12.5, "world": WORKERS}
    lines = [{"event": "start", "at": 0.0, "seen": 0, "goal": 10**9, **whole}]
    for number in range(24 * 3600 // 10):
        figures = {"loss": 3.2, "samples_per_s": 8000.0, "top1": 0.412, "lr": 0.087}
        seen = {"at": 10.0 * number, "seen": 80_000 * number}
        lines.append({"event": "train", **seen, **whole, **figures})
    body = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
    with contextlib.closing(s3.client()) as client:
        client.put_object(Bucket=BUCKET, Key="runs/job/metrics.jsonl", Body=body)
        for number in range(3):
            key = f"runs/job/step-{number:010d}/manifest.json"
            client.put_object(Bucket=BUCKET, Key=key, Body=b"{}")


def _renamed(thing: Object, name: str) -> Object:
    """A rendered object of "job" as one of another job."""
    thing = copy.deepcopy(thing)
    metadata = thing["metadata"]
    metadata |= {"name": metadata["name"].replace("job", name, 1), "namespace": NAMESPACE}
    metadata["labels"][JOB_LABEL] = name
    return thing


def _running() -> Object:
    """The status of a job whose workers all run."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    running = {
        "type": "Running",
        "status": "True",
        "reason": "PyTorchJobRunning",
        "lastTransitionTime": now,
    }
    workers = {"Worker": {"active": WORKERS}}
    return {"conditions": [running], "replicaStatuses": workers, "startTime": now}


def _has_ready_pod(job: Object) -> bool:
    return job.get("status", {}).get("ready") == 1


def _pod(job: Object, index: int) -> Object:
    name = job["metadata"]["name"]
    template = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    labels = {
        "training.kubeflow.org/operator-name": "pytorchjob-controller",
        "training.kubeflow.org/job-name": name,
        "training.kubeflow.org/replica-type": "worker",
        "training.kubeflow.org/replica-index": str(index),
    }
    owner = {
        "apiVersion": job["apiVersion"],
        "kind": job["kind"],
        "name": name,
        "uid": job["metadata"]["uid"],
        "controller": True,
    }
    (container,) = template["spec"]["containers"]
    gpu: dict[str, Any] = {"limits": {"nvidia.com/gpu": "1"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{name}-worker-{index}",
            "namespace": NAMESPACE,
            "labels": {**template["metadata"]["labels"], JOB_LABEL: name, **labels},
            "ownerReferences": [owner],
        },
        "spec": {**template["spec"], "containers": [{**container, "resources": gpu}]},
    }
