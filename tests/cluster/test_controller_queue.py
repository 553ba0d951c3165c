"""Under Kueue the controller ends a job by its Workload, and never touches `suspend`."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.cluster.client import Api
from launcher.cluster.jobs import Jobs
from launcher.cluster.objects import pods_of, workload_of
from launcher.cluster.transport import connect
from tests.cluster.cluster import Cluster
from tests.cluster.controllers import Subject, controller, install, objects_of, run_pod, until
from tests.cluster.queue import queue_objects

QUEUE = "small"


@pytest.fixture
def api(queued: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """The administrator, in a new namespace with a queue."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    queued.plane.kubectl("create", "namespace", name)
    queued.plane.apply(*queue_objects(name, QUEUE, 4))
    monkeypatch.setenv("KUBECONFIG", str(queued.plane.kubeconfig))
    yield Api(connect(), name)
    queued.plane.kubectl("delete", "namespace", name, "--wait=false")


def test_a_job_in_a_queue_is_ended_by_its_workload_and_can_be_resumed(
    queued: Cluster, api: Api, tmp_path: Path
) -> None:
    file = queued.plane.folder / "controller.yaml"
    install(queued.plane, file)
    for thing in objects_of("a", restarts_allowed="5"):
        if thing["kind"] == "PyTorchJob":
            thing["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = QUEUE
            thing["spec"]["runPolicy"]["suspend"] = True
        api.create(thing)
    job = Subject(api, "a", api.namespace)
    with controller(Path(shutil.copy(file, tmp_path / "config")), api.namespace, "one") as one:
        pods = job.pods()
        until(lambda: is_running(job), "running")
        run_pod(api, pods[0], restarts=1, message="fatal: no such bucket")
        assert job.ended() == "worker-0: no such bucket"
        until(lambda: job.events("Deactivated"), "event")
        found = workload_of(api, job.job())
        assert found is not None
        assert found[0]["spec"]["active"] is False
        until(job.is_suspended, "Kueue suspends it")
        until(lambda: not pods_of(api, "a"), "pods gone")
        until(lambda: job.rendezvous()["spec"].get("suspend"), "rendezvous suspended")
        assert Jobs(api).status("a").state == "Failed"
        Jobs(api).resume("a")
        job.pods()
        until(lambda: is_running(job), "running again")
        until(lambda: job.rendezvous()["spec"].get("suspend") is False, "rendezvous resumed")
        assert "launcher.dev/ended" not in job.notes()
        assert job.notes()["launcher.dev/restarts"] == "1"
        assert one.end() == 0
        assert "Traceback" not in one.said()


def is_running(job: Subject) -> bool:
    return Jobs(job.api).status(job.name).state == "Running"
