"""A run that hangs on a real node: the controller reads its metrics and has its pods made anew."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.cluster.client import Api
from launcher.cluster.transport import connect
from launcher.spec import HANG_ANNOTATION
from tests.cluster import controllers
from tests.cluster.controllers import Process, Subject
from tests.e2e.accounts import exactly_once
from tests.e2e.chaos import Watch, calm
from tests.e2e.cluster_runs import ClusterRun

EPOCHS = 8
HANG_S = 30
"""Above the start of the workers, which may take half of it on a busy machine."""
QUIET_S = 5
"""Updates come several times a second, also on a busy machine."""
STOP = """
import os, signal, sys
for pid in filter(str.isdecimal, os.listdir("/proc")):
    try:
        name = open(f"/proc/{pid}/comm").read().strip()
    except OSError:
        continue
    if name == "rank 1":
        os.kill(int(pid), signal.SIGSTOP)
        print("stopped")
"""
OPTIONS = (
    "log.metrics_port=9090",
    # A rank that waits for a stopped one can neither save nor leave.
    "job.shutdown_timeout_s=5",
    "checkpoint.deadline_s=3",
)


@pytest.fixture
def watched(
    make_cluster_run: Callable[..., ClusterRun], tmp_path: Path
) -> Iterator[tuple[ClusterRun, Process]]:
    """A run, and a controller as a process that looks after its namespace."""
    run = make_cluster_run("hangs", *OPTIONS, workers=(2, 2, 2), epochs=EPOCHS)
    plane = run.cluster.plane
    controllers.install(plane, tmp_path / "kubeconfig")
    try:
        flags = ("--node-grace", "60s")
        with controllers.controller(tmp_path / "kubeconfig", run.namespace, "own", *flags) as one:
            yield run, one
    finally:
        plane.kubectl("delete", "namespace", controllers.SYSTEM, "--timeout=60s")


def test_a_run_that_hangs_is_started_again_from_its_checkpoint(
    watched: tuple[ClusterRun, Process],
) -> None:
    run, controller = watched
    run.submit()
    # The launcher takes no time below that of the trainer's own watchdog, which would tell more.
    run.kubectl("annotate", "--overwrite", f"pytorchjob/{run.name}", f"{HANG_ANNOTATION}={HANG_S}")
    before = calm(run, 2)
    stopped = [
        run.kubectl("exec", pod["metadata"]["name"], "--", "python", "-c", STOP).strip()
        for pod in run.pods()
    ]
    assert sorted(stopped) == ["", "stopped"]
    time.sleep(1)
    done = run.updates(before)
    time.sleep(QUIET_S)
    assert run.updates(before) == done, "it goes on without one of its ranks"
    uids = {pod["metadata"]["uid"] for pod in run.pods()}

    Watch(run).next_generation(before, at_least=2)
    assert not uids & {pod["metadata"]["uid"] for pod in run.pods()}, "both pods are made anew"
    (told,) = Subject(Api(connect(), run.namespace), run.name, run.namespace).events("Hanging")
    assert (told["type"], told["count"]) == ("Warning", 2), controller.said()
    assert f"no update within {HANG_S} s" in told["message"]

    run.finished("120s")
    assert run.status()["state"] == "Succeeded"
    assert run.status()["restarts"] == 2
    exactly_once(run, EPOCHS)
