"""Jobs of independent parts that Kueue admits, on nodes that kwok plays."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from launcher.cluster import connect, jobs_on
from launcher.cluster.jobs import Jobs
from launcher.render import render
from launcher.request import IndexedRequest
from tests import parts
from tests.cluster.cluster import Cluster
from tests.cluster.queue import priority_queue
from tests.unit.launcher.goldens import GIVEN, indexed

QUOTA = 4
PATIENCE_S = 90.0


@pytest.fixture
def jobs(queued: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    """The verbs in a namespace with a queue of its own name that admits QUOTA GPUs."""
    name = f"queue-{uuid.uuid4().hex[:8]}"
    queued.plane.kubectl("create", "namespace", name)
    queued.plane.apply(*priority_queue(name, name, QUOTA))
    monkeypatch.setenv("KUBECONFIG", str(queued.plane.kubeconfig))
    yield jobs_on(connect("", name))
    queued.plane.kubectl("delete", "namespace", name, "--wait=false")
    queued.plane.kubectl("delete", "clusterqueue", name, "--wait=false")


def submit(jobs: Jobs, name: str, parallelism: int) -> None:
    request = IndexedRequest(
        name=name, image=GIVEN["image"], checkpoints=GIVEN["checkpoints"], gpus=1, cpus=1,
        memory_gib=16, parallelism=parallelism, queue=jobs.api.namespace,
    )  # fmt: skip
    jobs.submit(render(indexed(request, parts.work(4))))


def until(look: Callable[[], Any], wanted: Any) -> None:
    ends_at = time.monotonic() + PATIENCE_S
    while (found := look()) != wanted:
        assert time.monotonic() < ends_at, f"{found!r}, not {wanted!r}"
        time.sleep(0.3)


def test_it_waits_for_its_quota_and_is_paused_by_its_workload(queued: Cluster, jobs: Jobs) -> None:
    submit(jobs, "first", 3)
    until(lambda: jobs.status("first").state, "Running")
    assert jobs.status("first").gpus == 3
    submit(jobs, "second", 2)
    until(lambda: jobs.status("second").state, "Queued")
    until(lambda: "the queue has no room" in jobs.status("second").reason, True)
    jobs.suspend("first")
    assert jobs.status("first").state == "Suspended"
    answer = queued.plane.kubectl("-n", jobs.api.namespace, "get", "workloads", "-o", "json")
    active = {
        each["metadata"]["ownerReferences"][0]["name"]: each["spec"].get("active")
        for each in json.loads(answer)["items"]
    }
    assert active == {"first": False, "second": True}
    until(lambda: jobs.status("second").state, "Running")
    jobs.cancel("second")
    assert jobs.status("second").state == "Cancelled"
    jobs.resume("first")
    until(lambda: jobs.status("first").state, "Running")
