"""`launcher list` and `status` over 1,000 jobs of 8 pods on a real API server with fake nodes.

Jobs and pods are real objects; kwok says that the pods run. The operator is stopped meanwhile, for
it would take a quarter of an hour to make 8,000 pods: the benchmark makes them as it would.
"""

from __future__ import annotations

import copy
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from launcher.cluster import connect
from launcher.cluster.kinds import PYTORCHJOB
from launcher.render import render
from launcher.request import Request
from launcher.spec import JOB_LABEL
from tests.benchmarks.table import Row
from tests.cluster.cluster import running_cluster
from tests.cluster.control_plane import ControlPlane
from tests.cluster.fake_nodes import FakeNodes
from tests.cluster.operator import WEBHOOK
from tests.unit.launcher.goldens import spec

SIZES = (250, 1000)
WORKERS = 8
PODS_A_NODE = 200
THREADS = 8
RUNS = 5
LIST_S, LIST_MB, STATUS_S = 2.0, 250.0, 0.5
"""The targets at 1,000 jobs."""


def measure() -> list[Row]:
    """Medians of whole processes; the larger number of jobs includes the smaller."""
    rows, seconds = [], {}
    with (
        tempfile.TemporaryDirectory(prefix="kwok-") as scratch,
        running_cluster(Path(scratch, "cluster")) as cluster,
    ):
        plane = cluster.plane
        nodes = FakeNodes(plane)
        nodes.start()
        nodes.add(-(-max(SIZES) * WORKERS // PODS_A_NODE), gpus=1000)
        plane.kubectl("delete", "validatingwebhookconfiguration", WEBHOOK)  # it is the operator
        plane.kill("training-operator")
        os.environ["KUBECONFIG"] = str(plane.kubeconfig)
        made = 0
        for size in SIZES:
            make_jobs(range(made, size))
            made = size
            wait_until_running(plane, size * WORKERS)
            seconds[size], peak_mb = run("list", "-o", "json")
            rows.append(Row(f"list of {size} jobs", "s", "target", LIST_S, seconds[size], "<= 2 s"))
        one_s, _ = run("status", "job-0")
    growth = seconds[SIZES[1]] / seconds[SIZES[0]]
    linear = SIZES[1] / SIZES[0]
    return [
        *rows,
        Row(f"memory, list of {size} jobs", "MB", "target", LIST_MB, peak_mb, "<= 250 MB"),
        Row(f"time x {growth:.1f} for jobs x {linear:.0f}", "x", "linear", linear, growth, "<="),
        Row(f"status of one of {size}", "s", "target", STATUS_S, one_s, "<= 0.5 s"),
    ]


def make_jobs(numbers: Iterable[int]) -> None:
    """Jobs that run, with their pods."""
    api = connect(namespace="default")

    request = Request(
        model="resnet18", name="job", gpus=WORKERS, image="example/image", data="s3://b/train"
    )
    rendered = next(each for each in render(spec(request)) if each["kind"] == "PyTorchJob")

    def make(number: int) -> None:
        job, name = copy.deepcopy(rendered), f"job-{number}"
        job["metadata"] |= {"name": name, "namespace": "default"}
        job["metadata"]["labels"][JOB_LABEL] = name
        created = api.create(job)
        running = {"type": "Running", "status": "True", "reason": "PyTorchJobRunning"}
        workers = {"Worker": {"active": WORKERS}}
        status = {"conditions": [running], "replicaStatuses": workers}
        api.patch(PYTORCHJOB, name, {"status": status}, subresource="status")
        for index in range(WORKERS):
            api.create(_pod(created, index))

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(make, numbers))


def _pod(job: dict[str, Any], index: int) -> dict[str, Any]:
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
    container = template["spec"]["containers"][0]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{name}-worker-{index}",
            "namespace": "default",
            "labels": {**template["metadata"]["labels"], **labels},
            "ownerReferences": [owner],
        },
        "spec": {
            **template["spec"],
            "containers": [{**container, "resources": {"limits": {"nvidia.com/gpu": "1"}}}],
        },
    }


def wait_until_running(plane: ControlPlane, count: int) -> None:
    """Returns when kwok has said of so many pods that they run."""
    ends_at = time.monotonic() + 600
    while time.monotonic() < ends_at:
        flags = ("get", "pods", "--field-selector=status.phase=Running", "-o", "name")
        if len(plane.kubectl(*flags).splitlines()) >= count:
            return
        time.sleep(2)
    raise AssertionError(f"not {count} pods run after 10 minutes")


def run(*arguments: str) -> tuple[float, float]:
    """Median wall seconds and the peak memory (MB) of the command line as a whole process."""
    times, peaks = [], []
    for _ in range(RUNS):
        began_s = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "launcher", *arguments], stdout=subprocess.DEVNULL
        )
        _, ended, used = os.wait4(process.pid, 0)
        times.append(time.perf_counter() - began_s)
        process.returncode = os.waitstatus_to_exitcode(ended)
        assert process.returncode == 0, f"launcher {' '.join(arguments)} failed"
        peaks.append(used.ru_maxrss * 1024 / 1e6)
    return statistics.median(times), max(peaks)
