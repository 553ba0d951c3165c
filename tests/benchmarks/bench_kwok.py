"""How the verbs do with 1,000 jobs of 8 pods each, made by the real operator on nodes of kwok."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from launcher import cluster
from launcher.cluster.client import Api
from launcher.render import render
from launcher.request import Request
from tests.benchmarks.table import Row
from tests.cluster.cluster import running_cluster
from tests.cluster.control_plane import ControlPlane
from tests.cluster.fake_nodes import FakeNodes
from tests.unit.launcher import goldens

STEPS = (250, 500, 1000)
WORKERS = 8
RUNS = 5
LAUNCHER = str(Path(sys.executable).with_name("launcher"))
PATIENCE_S = 1800.0


def measure() -> list[Row]:
    """Medians of whole processes at each size, kubectl's list in turn with ours."""
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    with tempfile.TemporaryDirectory() as folder, running_cluster(Path(folder)) as running:
        plane = running.plane
        fake = FakeNodes(plane)
        fake.start()
        fake.add(max(STEPS) * WORKERS // 200 + 1, gpus=8 * 200)
        os.environ["KUBECONFIG"] = str(plane.kubeconfig)
        api = cluster.connect()
        rows: list[Row] = []
        made = 0
        for size in STEPS:
            fill(api, made, size)
            wait_for_pods(plane, size * WORKERS)
            made = size
            rows += at(plane, size, folder)
        return rows


def fill(api: Api, first: int, end: int) -> None:
    """Submits jobs first to end, eight at a time."""

    def submit(number: int) -> None:
        request = Request(model="senet154", name=f"job-{number:04d}", gpus=64, **goldens.GIVEN)
        cluster.jobs_on(api).submit(render(goldens.spec(request)), say=lambda _: None)

    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(submit, range(first, end)))
    print(f"jobs {first} to {end} submitted in {time.monotonic() - began:.0f} s", flush=True)


def wait_for_pods(plane: ControlPlane, count: int) -> None:
    """Returns when the operator has made so many workers, and kwok runs them."""
    began = time.monotonic()
    while (there := running_pods(plane)) < count:
        assert time.monotonic() - began < PATIENCE_S, f"{there} of {count} pods"
        time.sleep(2)
    print(f"{count} pods run after {time.monotonic() - began:.0f} s", flush=True)


def running_pods(plane: ControlPlane) -> int:
    """Worker pods that run, as the operator counts them."""
    path = "{range .items[*]}{.status.replicaStatuses.Worker.active}{' '}{end}"
    text = plane.kubectl("get", "pytorchjobs", "-o", f"jsonpath={path}")
    return sum(map(int, text.split()))


def at(plane: ControlPlane, size: int, folder: str) -> list[Row]:
    """The rows of one size."""
    commands = {
        "list": (LAUNCHER, "list"),
        "status": (LAUNCHER, "status", f"job-{size // 2:04d}", "-o", "json"),
        "kubectl": (str(plane.client), "get", "pytorchjobs", "-o", "json"),
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for run in range(RUNS + 1):
        for name, command in commands.items():
            figures = run_once(command, folder)
            if run:
                taken[name].append(figures)
    seconds = {name: statistics.median(s for s, _ in runs) for name, runs in taken.items()}
    memory = {name: max(mib for _, mib in runs) for name, runs in taken.items()}
    peer = "kubectl get -o json"
    what = f"launcher list, {size} jobs"
    return [
        Row(what, "s", peer, seconds["kubectl"], seconds["list"], "<= 2 s at 1,000"),
        Row(what, "MiB", peer, memory["kubectl"], memory["list"], "<= 250 MB at 1,000"),
        Row(f"launcher status, {size} jobs", "s", "target", 0.5, seconds["status"], "<= 0.5 s"),
    ]


def run_once(command: Sequence[str], folder: str) -> tuple[float, float]:
    """Wall seconds and peak memory in MiB of a whole process."""
    environment = os.environ | {"XDG_STATE_HOME": folder, "XDG_CACHE_HOME": folder}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    began = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    )
    _, status, used = os.wait4(process.pid, 0)
    taken_s = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.stderr is not None
    said = process.stderr.read().decode()
    process.stderr.close()
    assert process.returncode == 0, said
    return taken_s, used.ru_maxrss / 1024
