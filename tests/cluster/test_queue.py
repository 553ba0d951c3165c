"""Kueue admits by GPUs, and fake nodes run what was admitted."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from launcher.render import render, to_yaml
from launcher.request import Request
from tests.cluster.cluster import Cluster
from tests.cluster.queue import queue_objects
from tests.unit.launcher.goldens import GIVEN, spec

QUOTA = 4
WAIT_S = 60.0


def submit(cluster: Cluster, name: str, gpus: int) -> None:
    request = Request(model="resnet18", name=name, gpus=gpus, queue="small", **GIVEN)
    job = [each for each in render(spec(request)) if each["kind"] == "PyTorchJob"]
    job[0]["spec"]["runPolicy"]["suspend"] = True
    cluster.plane.kubectl("create", "-f", "-", given=to_yaml(job))


def state(cluster: Cluster, name: str) -> str:
    """Of the workload that Kueue made for a job: its conditions that are true."""
    answer = cluster.plane.kubectl("get", "workloads", "-o", "json")
    for each in json.loads(answer)["items"]:
        if each["metadata"]["ownerReferences"][0]["name"] == name:
            conditions = each.get("status", {}).get("conditions", [])
            return " ".join(one["type"] for one in conditions if one["status"] == "True")
    return ""


def wait_until(met: Callable[[], bool], told: Callable[[], str]) -> None:
    ends_at = time.monotonic() + WAIT_S
    while not met():
        assert time.monotonic() < ends_at, told()
        time.sleep(0.2)


def test_a_job_waits_until_its_gpus_are_free(queued: Cluster) -> None:
    plane = queued.plane
    plane.apply(*queue_objects("default", "small", QUOTA))
    submit(queued, "first", QUOTA - 1)
    wait_until(lambda: "Admitted" in state(queued, "first"), lambda: state(queued, "first"))
    submit(queued, "second", 2)
    wait = ("wait", "--for=condition=Running", "pytorchjob/first", f"--timeout={WAIT_S:.0f}s")
    plane.kubectl(*wait)
    waiting = plane.kubectl("get", "pytorchjob", "second", "-o", "jsonpath={.spec.runPolicy}")
    assert json.loads(waiting)["suspend"] is True
    assert "Admitted" not in state(queued, "second")
    plane.kubectl("delete", "pytorchjob", "first")
    wait_until(lambda: "Admitted" in state(queued, "second"), lambda: state(queued, "second"))
