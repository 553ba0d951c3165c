"""Each of the controller's duties on a real API server with the real operator."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import shutil
import signal
import time
import urllib.request
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from launcher.cluster.client import Api
from launcher.cluster.jobs import Jobs
from launcher.cluster.kinds import JOB, LEASE, NODE, POD, PYTORCHJOB, SERVICE, Kind, Object
from launcher.cluster.transport import connect
from tests.cluster.cluster import Cluster, running_cluster
from tests.cluster.controllers import (
    SYSTEM,
    Metrics,
    Process,
    Subject,
    controller,
    install,
    make_job,
    run_pod,
    until,
    vanish,
)
from tests.cluster.tools import Unavailable
from tests.conftest import absent
from tests.servers import free_ports


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of its own: its nodes are made and lost here."""
    try:
        with running_cluster(tmp_path_factory.mktemp("cluster") / "state") as running:
            install(running.plane, running.plane.folder / "controller.yaml")
            yield running
    except Unavailable as error:
        absent(str(error))


@pytest.fixture
def api(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """The administrator, in a new namespace."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    cluster.plane.kubectl("create", "namespace", name)
    monkeypatch.setenv("KUBECONFIG", str(cluster.plane.kubeconfig))
    yield Api(connect(), name)
    cluster.plane.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def kubeconfig(cluster: Cluster, tmp_path: Path) -> Path:
    """Of the ServiceAccount, in a folder for the logs."""
    return Path(shutil.copy(cluster.plane.folder / "controller.yaml", tmp_path / "config"))


@pytest.fixture
def running(api: Api, kubeconfig: Path) -> Iterator[Process]:
    with controller(kubeconfig, api.namespace, "one") as process:
        yield process
        assert process.process.poll() is None, process.said()
        assert "Traceback" not in process.said()


def counted(job: Subject, count: int) -> None:
    """Waits until so many workers count as lost or failed."""
    until(lambda: job.notes().get("launcher.dev/restarts") == str(count), f"{count} restarts")


# -- restart budget


def test_a_job_that_loses_too_many_workers_is_stopped(api: Api, running: Process) -> None:
    job = make_job(api, "a", restarts_allowed="2", restart_window_s="3600")
    pods = job.pods()
    for pod in pods:
        run_pod(api, pod)
    until(lambda: "controller" in str(job.notes().keys()), "memory")
    run_pod(api, pods[0], restarts=1, message="CUDA error 77")
    counted(job, 1)
    vanish(api, pods[1])
    counted(job, 2)
    assert not job.is_suspended()
    run_pod(api, pods[2], restarts=1, message="disk of node 12 is full")
    assert "3 times within 3600 s; 2 are allowed; the last said" in job.ended()
    assert job.is_suspended()
    assert job.notes()["launcher.dev/ended"] == "Failed"
    assert datetime.fromisoformat(job.notes()["launcher.dev/ended-at"])
    assert job.notes()["launcher.dev/restarts"] == "3"
    (event,) = until(lambda: job.events("Ended"), "event")
    assert event["message"] == job.notes()["launcher.dev/ended-reason"]
    assert event["type"] == "Warning"
    until(lambda: not pods_left(api, job), "pods gone")
    status = Jobs(api).status("a")
    assert (status.state, status.restarts) == ("Failed", 3)
    assert status.reason == event["message"]


def test_a_resumed_job_has_its_whole_budget_again(api: Api, running: Process) -> None:
    job = make_job(api, "a", restarts_allowed="0")
    pods = job.pods()
    run_pod(api, pods[0], restarts=1, message="x")
    job.ended()
    until(lambda: not pods_left(api, job), "pods gone")
    Jobs(api).resume("a")
    for pod in job.pods():
        run_pod(api, pod)
    time.sleep(3)
    assert "launcher.dev/ended" not in job.notes()
    assert job.notes()["launcher.dev/restarts"] == "1"
    run_pod(api, job.pods()[0], restarts=1, message="x")
    assert "failed 1 times" in job.ended()


def pods_left(api: Api, job: Subject) -> list[Object]:
    return api.listing(POD, labels=f"training.kubeflow.org/job-name={job.name}").items


def test_what_starting_again_cannot_cure_ends_at_once(api: Api, running: Process) -> None:
    job = make_job(api, "a", restarts_allowed="100")
    pods = job.pods()
    run_pod(api, pods[1], restarts=1, message="fatal: model.name 'resnet19' is unknown")
    assert job.ended() == "worker-1: model.name 'resnet19' is unknown"


def test_a_job_whose_queue_nobody_serves_is_ended_all_the_same(api: Api, running: Process) -> None:
    job = make_job(api, "a")
    change = {"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "nobodys"}}}
    api.patch(PYTORCHJOB, "a", change)
    run_pod(api, job.pods()[0], restarts=1, message="fatal: x")
    assert job.ended() == "worker-0: x"
    until(job.is_suspended, "suspended")


def test_the_same_failure_again_and_again_ends_at_once(api: Api, running: Process) -> None:
    job = make_job(api, "a", restarts_allowed="100")
    pod = job.pods()[2]
    for number in (1, 2, 3):
        assert not job.is_suspended()
        run_pod(api, pod, restarts=number, message=f"CUDA out of memory: {number}.5 GiB")
        counted(job, number)
    assert re.fullmatch(
        r"worker-2 failed 3 times within \d+ s in the same way, without progress between: "
        "CUDA out of memory: # GiB",
        job.ended(),
    )


# -- deadline


def test_the_deadline_does_not_count_suspended_time(api: Api, running: Process) -> None:
    job = make_job(api, "a", deadline_s="3600")
    job.pods()
    first = until(lambda: job.notes().get("launcher.dev/first-started-at"), "start")
    time.sleep(2)
    api.patch(PYTORCHJOB, "a", {"spec": {"runPolicy": {"suspend": True}}})
    until(lambda: '"is_closed":true' in job.notes()["launcher.dev/controller"], "stretch closed")
    ran_s = json.loads(job.notes()["launcher.dev/controller"])["ran_s"]
    assert ran_s >= 2
    deadline_s = ran_s + 5
    change = {"metadata": {"annotations": {"launcher.dev/deadline-s": str(deadline_s)}}}
    api.patch(PYTORCHJOB, "a", change)
    time.sleep(7)
    resumed_at = time.time()
    api.patch(PYTORCHJOB, "a", {"spec": {"runPolicy": {"suspend": False}}})
    assert job.ended() == f"its deadline of {deadline_s} s is over (suspended time does not count)"
    assert time.time() - resumed_at > 4
    assert job.notes()["launcher.dev/first-started-at"] == first


# -- hangs


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    with contextlib.closing(Metrics()) as serving:
        yield serving


def test_a_run_that_hangs_is_started_again_and_then_ended(
    api: Api, running: Process, metrics: Metrics
) -> None:
    job = make_job(api, "a", metrics.port, hang_s="4")
    pods = job.pods()
    for pod in pods:
        run_pod(api, pod, ip="127.0.0.1")
    for _ in range(14):  # all is well for longer than hang_s
        metrics.step()
        time.sleep(0.5)
    assert {pod["metadata"]["uid"] for pod in job.pods()} == {p["metadata"]["uid"] for p in pods}
    until(lambda: job.events("Hanging"), "event")

    def anew() -> list[Object] | None:
        found = [pod for pod in pods_left(api, job) if pod["metadata"]["uid"] not in old]
        return found if len(found) == 3 else None

    old = {pod["metadata"]["uid"] for pod in pods}
    second = until(anew, "new pods")
    counted(job, 3)
    assert not job.is_suspended()
    for pod in second:
        run_pod(api, pod, ip="127.0.0.1")
    assert "it makes no progress: 2 times in a row no update within 4 s" in job.ended()
    assert job.events("Hanging")[0]["count"] == 3


def test_progress_between_two_hangs_starts_the_count_again(
    api: Api, running: Process, metrics: Metrics
) -> None:
    job = make_job(api, "a", metrics.port, hang_s="3")
    known: set[str] = set()
    for _ in range(3):
        found = until(functools.partial(fresh, job, set(known)), "pods")
        known |= {pod["metadata"]["uid"] for pod in found}
        metrics.step()
        for pod in found:
            run_pod(api, pod, ip="127.0.0.1")
    until(lambda: fresh(job, known), "pods")
    counted(job, 9)
    assert "launcher.dev/ended" not in job.notes()


def fresh(job: Subject, known: set[str]) -> list[Object] | None:
    """The three workers, if all are new."""
    found = [pod for pod in pods_left(job.api, job) if pod["metadata"]["uid"] not in known]
    return found if len(found) == 3 else None


# -- nodes


def make_node(api: Api, name: str, is_ready: bool = True) -> None:
    """A node that says so of itself, for the half minute in which it is believed."""
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
    with contextlib.suppress(KeyError):
        api._ask("POST", NODE, "", body=node)
    say_ready(api, name, is_ready)


def say_ready(api: Api, name: str, is_ready: bool) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    condition = {
        "type": "Ready",
        "status": "True" if is_ready else "False",
        "reason": "Test",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }
    api.patch(NODE, name, {"status": {"conditions": [condition]}}, subresource="status")


def bind(api: Api, pod: Object, node: str) -> None:
    name = pod["metadata"]["name"]
    binding = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": name},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    }
    api._ask("POST", POD, api.namespace, name, "binding", body=binding)


@pytest.fixture
def nodes(api: Api) -> Iterator[None]:
    for name in ("good", "bad"):
        make_node(api, name)
    yield
    for name in ("good", "bad"):
        api.delete(NODE, name)


@pytest.mark.usefixtures("nodes")
def test_pods_on_a_silent_node_are_made_anew(api: Api, running: Process) -> None:
    job = make_job(api, "a", restarts_allowed="100")
    pods = job.pods()
    bind(api, pods[0], "bad")
    bind(api, pods[1], "good")
    for pod in pods:
        run_pod(api, pod)
    (store,) = until(lambda: rendezvous_pods(api), "rendezvous")
    bind(api, store, "bad")
    say_ready(api, "bad", False)
    new = until(lambda: [p for p in job.pods() if p["metadata"]["uid"] not in uids(pods)], "new")
    assert [pod["metadata"]["name"] for pod in new] == ["a-worker-0"]
    until(lambda: uids(rendezvous_pods(api)) not in (set(), uids([store])), "new rendezvous")
    counted(job, 1)
    (event,) = job.events("NodeLost")
    assert event["count"] == 4  # each was deleted, then forced, for its node cannot end it
    assert "node bad has not answered for" in event["message"]


@pytest.mark.usefixtures("nodes")
def test_where_no_node_answers_none_is_given_up(api: Api, running: Process) -> None:
    job = make_job(api, "a")
    pods = job.pods()
    bind(api, pods[0], "bad")
    say_ready(api, "good", False)
    say_ready(api, "bad", False)
    time.sleep(5)
    assert uids(job.pods()) == uids(pods)


def uids(pods: list[Object]) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods}


def rendezvous_pods(api: Api) -> list[Object]:
    found = api.listing(POD, labels="app.kubernetes.io/component=rendezvous").items
    return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]


# -- the rendezvous


@pytest.mark.parametrize("kind", [JOB, SERVICE])
def test_helpers_applied_by_hand_are_adopted(api: Api, running: Process, kind: Kind) -> None:
    job = make_job(api, "a")

    def owners() -> Any:
        return api.get(kind, "a-rendezvous")["metadata"].get("ownerReferences")

    (owner,) = until(owners, "owner")
    assert owner == {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "name": "a",
        "uid": job.job()["metadata"]["uid"],
        "controller": False,
        "blockOwnerDeletion": False,
    }
    until(lambda: len(job.events("Adopted")) == 1 and job.events("Adopted")[0]["count"] == 2, "x")


def test_the_rendezvous_follows_the_job(api: Api, running: Process) -> None:
    job = make_job(api, "a")
    job.pods()
    api.patch(PYTORCHJOB, "a", {"spec": {"runPolicy": {"suspend": True}}})
    until(lambda: job.rendezvous()["spec"].get("suspend"), "suspended")
    until(lambda: job.events("RendezvousSuspended"), "event")
    api.patch(PYTORCHJOB, "a", {"spec": {"runPolicy": {"suspend": False}}})
    until(lambda: job.rendezvous()["spec"].get("suspend") is False, "resumed")


# -- what is over


def test_ended_jobs_that_the_operator_leaves_are_deleted(api: Api, running: Process) -> None:
    job = make_job(api, "a", restarts_allowed="0")
    kept = make_job(api, "b", restarts_allowed="0")
    for each, ttl_s in ((job, 3), (kept, 3600)):
        change = {"spec": {"runPolicy": {"ttlSecondsAfterFinished": ttl_s}}}
        api.patch(PYTORCHJOB, each.name, change)
        run_pod(api, each.pods()[0], restarts=1, message="x")
    until(lambda: api.find(PYTORCHJOB, "a") is None, "gone")
    (event,) = until(lambda: job.events("Deleted"), "event")
    assert "it ended (Failed) more than 3 s ago" in event["message"]
    until(lambda: api.find(SERVICE, "a-rendezvous") is None, "its Service gone")
    assert kept.ended()
    assert api.find(PYTORCHJOB, "b") is not None


# -- the election


def holder(api: Api) -> str:
    found = api.find(LEASE, api.namespace, SYSTEM)
    return str(found["spec"].get("holderIdentity", "")) if found else ""


def test_another_takes_over_and_counts_nothing_twice(api: Api, kubeconfig: Path) -> None:
    job = make_job(api, "a", restarts_allowed="100")
    pods = job.pods()
    with controller(kubeconfig, api.namespace, "one") as one:
        until(lambda: holder(api) == "one", "one leads")
        with controller(kubeconfig, api.namespace, "two") as two:
            for number, pod in enumerate(pods, 1):
                run_pod(api, pod, restarts=number, message=f"x{number}")
            counted(job, 6)
            vanish(api, pods[0])
            counted(job, 7)
            one.end(signal.SIGKILL)
            killed_at = time.monotonic()
            run_pod(api, pods[1], restarts=5, message="y")
            vanish(api, pods[2])
            until(lambda: holder(api) == "two", "two leads", 25)
            assert 5 < time.monotonic() - killed_at < 20
            counted(job, 11)
            run_pod(api, job.pods()[0], restarts=1, message="z")
            counted(job, 12)
            assert "11 times" not in two.said()
            assert len(json.loads(job.notes()["launcher.dev/restart-times"])) == 12
            assert two.end() == 0
            assert holder(api) == ""
            with controller(kubeconfig, api.namespace, "three"):
                until(lambda: holder(api) == "three", "three leads", 10)
                time.sleep(2)
                assert job.notes()["launcher.dev/restarts"] == "12"


def test_a_controller_that_was_paused_stops_acting(api: Api, kubeconfig: Path) -> None:
    job = make_job(api, "a", restarts_allowed="100")
    pods = job.pods()
    with controller(kubeconfig, api.namespace, "one") as one:
        until(lambda: holder(api) == "one", "one leads")
        one.process.send_signal(signal.SIGSTOP)
        with controller(kubeconfig, api.namespace, "two"):
            until(lambda: holder(api) == "two", "two leads", 30)
            run_pod(api, pods[0], restarts=2, message="x")
            one.process.send_signal(signal.SIGCONT)
            counted(job, 2)
            time.sleep(5)
            assert holder(api) == "two"
            assert job.notes()["launcher.dev/restarts"] == "2"
        assert "lost lease" in one.said()


def test_it_outlives_the_api_server(api: Api, kubeconfig: Path, cluster: Cluster) -> None:
    job = make_job(api, "a", restarts_allowed="100")
    pods = job.pods()
    with controller(kubeconfig, api.namespace, "one") as one:
        until(lambda: holder(api) == "one", "one leads")
        for number in (1, 2):
            cluster.plane.kill("kube-apiserver")
            cluster.plane.start_apiserver()
            run_pod(api, pods[number], restarts=1, message="x")
            counted(job, number)
        assert one.end() == 0
        assert "Traceback" not in one.said()


def test_once_looks_at_each_job_and_ends(api: Api, kubeconfig: Path) -> None:
    job = make_job(api, "a", restarts_allowed="0")
    run_pod(api, job.pods()[0], restarts=1, message="x")
    with controller(kubeconfig, api.namespace, "cron", "--once") as once:
        assert once.process.wait(60) == 0, once.said()
    assert job.is_suspended()
    assert holder(api) == ""
    later = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S.000000Z")
    lease = api.get(LEASE, api.namespace, SYSTEM)
    lease["spec"] |= {"holderIdentity": "other", "renewTime": later, "leaseDurationSeconds": 15}
    api.replace(lease)
    with controller(kubeconfig, api.namespace, "cron", "--once") as once:
        assert once.process.wait(60) == 5
        assert "is held by other; wait until it is free" in once.said()


# -- how it runs


def test_probes_and_counters(api: Api, kubeconfig: Path) -> None:
    [port] = free_ports(1)
    make_job(api, "a")

    def page(path: str) -> str | None:
        url = f"http://127.0.0.1:{port}{path}"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
        return None

    with controller(kubeconfig, api.namespace, "one", "--metrics-port", str(port)) as one:
        until(lambda: page("/readyz"), "ready")
        assert page("/healthz") == "ok\n"
        adopted = 'launcher_controller_actions_total{reason="Adopted"} 2'
        text = until(lambda: (t := page("/metrics")) and adopted in t and t, "counter")
        assert "launcher_controller_leading 1" in str(text)
        assert "launcher_controller_jobs 1" in str(text)
        assert one.end() == 0


def test_without_rights_it_ends_with_one_line(api: Api, kubeconfig: Path, cluster: Cluster) -> None:
    cluster.plane.kubectl("-n", api.namespace, "create", "serviceaccount", "nobody")
    token = cluster.plane.kubectl("-n", api.namespace, "create", "token", "nobody").strip()
    text = re.sub(r"token: .*", f"token: {token}", kubeconfig.read_text())
    kubeconfig.write_text(text)
    with controller(kubeconfig, api.namespace, "one") as one:
        assert one.process.wait(60) == 1
        last = one.said().strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "cannot list resource" in last
