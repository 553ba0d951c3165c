"""What the launcher renders, on the real API server with the real operator, webhooks and Kueue."""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from launcher.local.job import read_objects
from launcher.render import render, to_yaml
from launcher.request import Request
from launcher.resolve import recipes
from tests.cluster.cluster import Cluster
from tests.cluster.control_plane import ControlPlane
from tests.cluster.queue import queue_objects
from tests.unit.launcher.goldens import GIVEN, spec

ELASTIC = Request(model="senet154", name="elastic", gpus=16, min_gpus=8, max_gpus=24, **GIVEN)


def pods(plane: ControlPlane, namespace: str, count: int) -> list[dict[str, Any]]:
    """The job's worker pods, once there are so many."""
    ends_at = time.monotonic() + 60
    while time.monotonic() < ends_at:
        selector = "training.kubeflow.org/replica-type=worker"
        answer = plane.kubectl("-n", namespace, "get", "pods", "-l", selector, "-o", "json")
        found: list[dict[str, Any]] = json.loads(answer)["items"]
        if len(found) == count:
            return sorted(found, key=lambda pod: str(pod["metadata"]["name"]))
        time.sleep(0.2)
    raise AssertionError(f"{len(found)} pods, not {count}")


@pytest.mark.parametrize("model", recipes())
def test_the_api_server_and_the_webhook_accept_each_recipe(
    model: str, plane: ControlPlane, namespace: str
) -> None:
    text = to_yaml(render(spec(Request(model=model, name="a", **GIVEN))))
    flags = ("--dry-run=server", "--validate=strict", "-o", "name", "-f", "-")
    created = plane.kubectl("-n", namespace, "create", *flags, given=text)
    kinds = [line.partition("/")[0] for line in created.split()]
    assert kinds == ["job.batch", "service", "pytorchjob.kubeflow.org"]


def test_the_webhook_is_asked(plane: ControlPlane, namespace: str) -> None:
    text = to_yaml(render(spec(ELASTIC))).replace("- name: pytorch\n", "- name: other\n")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        plane.kubectl("-n", namespace, "create", "--dry-run=server", "-f", "-", given=text)
    assert "at least one container with name pytorch" in caught.value.stderr


def test_the_operator_gives_pods_what_the_local_backend_gives_processes(
    plane: ControlPlane, namespace: str
) -> None:
    objects = render(spec(ELASTIC))
    plane.kubectl("-n", namespace, "create", "-f", "-", given=to_yaml(objects))
    made = pods(plane, namespace, 2)
    assert [pod["metadata"]["name"] for pod in made] == ["elastic-worker-0", "elastic-worker-1"]
    container = made[0]["spec"]["containers"][0]
    injected = {entry["name"]: entry.get("value") for entry in container["env"]}
    local = read_objects(objects)
    assert {name: injected.get(name) for name in local.worker_env if name.startswith("PET_")} == {
        **{name: value for name, value in local.worker_env.items() if name.startswith("PET_")},
        "PET_LOCAL_ADDR": None,  # from the pod's IP
    }
    assert injected["PET_RDZV_ENDPOINT"] == "elastic-rendezvous:29400"


@pytest.fixture
def line(queued: Cluster) -> Iterator[str]:
    """The name of a namespace, of its queue for 4 GPUs and of a WorkloadPriorityClass."""
    name, kubectl = f"test-{uuid.uuid4().hex[:8]}", queued.plane.kubectl
    priority = {
        "apiVersion": "kueue.x-k8s.io/v1beta2",
        "kind": "WorkloadPriorityClass",
        "metadata": {"name": name},
        "value": 1000,
    }
    kubectl("create", "namespace", name)
    queued.plane.apply(*queue_objects(name, name, 4), priority)
    yield name
    for kind in ("namespace", "clusterqueue", "resourceflavor", "workloadpriorityclass"):
        kubectl("delete", kind, name, "--wait=false")


def workloads(plane: ControlPlane, namespace: str) -> list[dict[str, Any]]:
    """What Kueue has made of the jobs, once there is something."""
    ends_at = time.monotonic() + 60
    while time.monotonic() < ends_at:
        answer = plane.kubectl("-n", namespace, "get", "workloads", "-o", "json")
        if found := json.loads(answer)["items"]:
            return list(found)
        time.sleep(0.2)
    raise AssertionError("no workload")


def test_kueue_reads_what_is_rendered_for_it(queued: Cluster, line: str) -> None:
    asked = (
        "job.deadline_s=86400",
        f"job.kueue.priority_class={line}",
        "job.kueue.topology=preferred",
        "job.kueue.topology_level=cloud.provider.com/topology-block",
    )
    request = Request(model="senet154", name="a", gpus=16, queue=line, overrides=asked, **GIVEN)
    kubectl = queued.plane.kubectl
    kubectl("-n", line, "create", "-f", "-", given=to_yaml(render(spec(request))))
    job = json.loads(kubectl("-n", line, "get", "pytorchjob", "a", "-o", "json"))
    assert job["spec"]["runPolicy"]["suspend"] is True, "its webhook, not we"
    (workload,) = workloads(queued.plane, line)  # none for the rendezvous
    assert workload["metadata"]["ownerReferences"][0]["kind"] == "PyTorchJob"
    body = workload["spec"]
    assert (body["queueName"], body["maximumExecutionTimeSeconds"]) == (line, 86400)
    assert body["priority"] == 1000
    (workers,) = body["podSets"]
    assert (workers["name"], workers["count"]) == ("worker", 2)
    assert workers["topologyRequest"]["preferred"] == "cloud.provider.com/topology-block"
