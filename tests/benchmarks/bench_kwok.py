"""`launcher list`, `status` and `controller` with 1,000 jobs of 8 pods on a real API server.

Jobs and pods are real objects; kwok says that the pods run, and the operator is stopped meanwhile.
The controller has its defaults; each job's rank 0 serves an update a second. KWOK_JOBS=1000 takes
other numbers of jobs than SIZES.
"""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from launcher.cluster import connect
from launcher.cluster.client import Api
from tests.benchmarks.fleet import WORKERS, Fleet, local_network, training
from tests.benchmarks.table import Row
from tests.cluster.cluster import make_cluster
from tests.cluster.fake_nodes import FakeNodes
from tests.cluster.operator import WEBHOOK
from tests.cluster.tools import ROOT
from tests.servers import S3Server, free_ports, s3_server

SIZES = "250,500,1000"
RUNS = 9
WATCHED_S = 60.0
"""Six looks at each job, two readings of its metrics, and one write of its progress."""
PATIENCE_S = 600.0
LIST_S, LIST_MB, STATUS_S = 2.0, 250.0, 0.5
"""The targets at the largest size."""
LIMIT_MB, REQUEST_CORES = 512 * 2**20 / 1e6, 0.1
"""What k8s/base gives the controller."""


@dataclass(frozen=True)
class Figures:
    """What one number of jobs takes."""

    list_s: float
    list_mb: float
    status_s: float
    first_s: float
    """From the controller's start until it has looked at each job."""
    cores: float
    """The controller's processor seconds a second after that."""
    controller_mb: float


def measure() -> list[Row]:
    """Medians of whole processes; the larger number of jobs includes the smaller."""
    with played() as (connected, env, port, own_port):
        fleet = Fleet(*connected, port)
        sizes = [int(size) for size in os.environ.get("KWOK_JOBS", SIZES).split(",")]
        found = {size: _measured(fleet, size, env, port, own_port) for size in sizes}
    return table(found)


@contextlib.contextmanager
def played() -> Iterator[tuple[tuple[Api, FakeNodes, S3Server], dict[str, str], int, int]]:
    """A control plane whose nodes kwok plays and whose operator is stopped; the environment for
    programs that use it; two free ports. $KUBECONFIG names it meanwhile."""
    with (
        tempfile.TemporaryDirectory(prefix="kwok-") as scratch,
        s3_server() as s3,
        local_network() as addresses,
    ):
        folder = Path(scratch)
        cluster = make_cluster(folder / "cluster")
        plane = cluster.plane
        plane.pods = addresses
        env = _environment(folder, s3) | {"KUBECONFIG": str(plane.kubeconfig)}
        try:
            cluster.start()
            plane.kubectl("delete", "validatingwebhookconfiguration", WEBHOOK)  # the operator's
            plane.kill("training-operator")
            crd = ROOT / "k8s/crds/budgets.launcher.dev.yaml"
            plane.kubectl("apply", "--server-side", "-f", str(crd))
            nodes = FakeNodes(plane)
            nodes.start()
            os.environ["KUBECONFIG"] = env["KUBECONFIG"]
            port, own_port = free_ports(2)
            yield (connect(), nodes, s3), env, port, own_port
        finally:
            cluster.stop()


def _measured(fleet: Fleet, size: int, env: Mapping[str, str], port: int, own_port: int) -> Figures:
    began = time.monotonic()
    fleet.grow(size)
    print(f"{size} jobs of {WORKERS} pods made in {time.monotonic() - began:.0f} s", flush=True)
    list_s, list_mb = run(env, "list", "-o", "json")
    status_s, _ = run(env, "status", "job-0")
    with training(fleet.leaders(), port), controller(env, own_port) as process:
        began = time.monotonic()
        _wait_until_looked_at(process, own_port, size)
        first_s = time.monotonic() - began
        used, began = _cpu_s(process.pid), time.monotonic()
        time.sleep(WATCHED_S)
        cores = (_cpu_s(process.pid) - used) / (time.monotonic() - began)
        controller_mb = peak_mb(process.pid)
    found = Figures(list_s, list_mb, status_s, first_s, cores, controller_mb)
    print(f"{found}; load {os.getloadavg()[0]:.0f}", flush=True)
    return found


def table(found: Mapping[int, Figures]) -> list[Row]:
    """A row for each figure; how it grows from the least to the largest number of jobs."""
    rows = []
    for size, each in found.items():
        rows += [
            Row(f"list of {size} jobs", "s", "target", LIST_S, each.list_s, "<= 2 s"),
            Row(f"list of {size} jobs, memory", "MB", "target", LIST_MB, each.list_mb, "<= 250 MB"),
            Row(f"status of one of {size}", "s", "target", STATUS_S, each.status_s, "<= 0.5 s"),
            Row(f"controller, memory with {size} jobs", "MB", "its limit", LIMIT_MB,
                each.controller_mb, "<= 537 MB"),
            Row(f"controller, load by {size} jobs", "cores", "its request", REQUEST_CORES,
                each.cores, "<= 0.1"),
        ]  # fmt: skip
    if len(found) == 1:
        return rows
    least, most = found[min(found)], found[max(found)]
    times = max(found) / min(found)
    for what, growth in (
        ("list", most.list_s / least.list_s),
        ("controller's first look at all", most.first_s / least.first_s),
        ("controller's load", most.cores / least.cores),
    ):
        name = f"{what}, {max(found)} to {min(found)} jobs"
        rows.append(Row(name, "x", "linear", times, growth, f"<= {times:.0f}"))
    return rows


def run(env: Mapping[str, str], *arguments: str) -> tuple[float, float]:
    """Median wall seconds and the peak memory (MB) of the command line as a whole process.

    After a run that is not counted: it writes the bytecode.
    """
    times, peaks = [], []
    for _ in range(RUNS + 1):
        began_s = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "launcher", *arguments], stdout=subprocess.DEVNULL, env=env
        )
        _, ended, used = os.wait4(process.pid, 0)
        times.append(time.perf_counter() - began_s)
        process.returncode = os.waitstatus_to_exitcode(ended)
        assert process.returncode == 0, f"launcher {' '.join(arguments)} failed"
        peaks.append(used.ru_maxrss * 1024 / 1e6)
    return statistics.median(times[1:]), max(peaks)


@contextlib.contextmanager
def controller(env: Mapping[str, str], port: int, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A controller of all namespaces, with its defaults."""
    flags = ("--all-namespaces", "--lease-namespace=default", f"--metrics-port={port}", *more)
    process = subprocess.Popen([sys.executable, "-m", "launcher", "controller", *flags], env=env)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _wait_until_looked_at(process: subprocess.Popen[bytes], port: int, jobs: int) -> None:
    """Returns once the controller leads, knows all jobs, and none is due."""
    ends_at = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends_at:
        assert process.poll() is None, "the controller has ended"
        with contextlib.suppress(OSError):
            told = _gauges(port)
            if told["leading"] and told["jobs"] == jobs and not told["due"]:
                return
        time.sleep(0.2)
    raise AssertionError(f"{jobs} jobs are not looked at after {PATIENCE_S:.0f} s")


def _gauges(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.findall(r"^launcher_controller_(\w+) (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in found}


def _cpu_s(pid: int) -> float:
    """Processor seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    peak = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert peak is not None
    return int(peak[1]) * 1024 / 1e6


def _environment(folder: Path, s3: S3Server) -> dict[str, str]:
    """Without the user's settings and runs, with the S3 server, and with bytecode."""
    places = {f"XDG_{kind}_HOME": str(folder / kind) for kind in ("STATE", "CONFIG", "CACHE")}
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("LAUNCHER_") and name != "PYTHONDONTWRITEBYTECODE"
    }
    return kept | places | s3.environment()
