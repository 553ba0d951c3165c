"""What the launcher renders, on the real API server with the real operator and its webhook."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

import pytest

from launcher.local.job import read_objects
from launcher.render import render, to_yaml
from launcher.request import Request
from launcher.resolve import recipes
from tests.cluster.control_plane import ControlPlane
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
