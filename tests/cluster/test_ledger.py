"""The ledger on a real API server: whoever is killed, its records are what the objects say."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from launcher.budget.objects import ACCOUNTED, condition_of
from launcher.budget.pods import FINALIZER, moment_ms, scheduled_at_ms
from launcher.cluster import ledger
from launcher.cluster.client import Api
from launcher.cluster.kinds import BUDGET, POD, PYTORCHJOB, Object
from launcher.cluster.transport import connect
from launcher.controller.accounted import Accounted
from launcher.controller.accounting import Accounting, Pace
from launcher.controller.finalizers import Pods
from launcher.errors import Forbidden, Unreachable
from tests.cluster.cli import Cli
from tests.cluster.cluster import Cluster, running_cluster
from tests.cluster.controllers import Process, controller, install, until
from tests.cluster.ledgers import (
    CLUSTER,
    GPU_TYPE,
    end_pod,
    living_node,
    make_pod,
    start_pod,
    stored,
)
from tests.cluster.tools import ROOT, Unavailable
from tests.conftest import absent
from trainer.storage import open_store

SEED = 20261127
PODS = 24


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of its own: its API server is ended here."""
    try:
        with running_cluster(tmp_path_factory.mktemp("ledger") / "state") as running:
            plane = running.plane
            install(plane, plane.folder / "controller.yaml")
            crd = ROOT / "k8s/crds/budgets.launcher.dev.yaml"
            plane.kubectl("apply", "--server-side", "-f", str(crd))
            plane.kubectl(
                "wait", "--for=condition=Established", "crd/budgets.launcher.dev", "--timeout=60s"
            )
            yield running
    except Unavailable as error:
        absent(str(error))


@pytest.fixture
def api(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """The administrator, in a new namespace, with a node that has GPUs."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    cluster.plane.kubectl("create", "namespace", name)
    monkeypatch.setenv("KUBECONFIG", str(cluster.plane.kubeconfig))
    made = Api(connect(), name)
    with living_node(made):
        yield made
        for pod in ledger.held_pods(made, name):  # what a failed test has left
            ledger.release(made, pod)
        cluster.plane.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def kubeconfig(cluster: Cluster, tmp_path: Path) -> Path:
    """Of the ServiceAccount, in a folder for the logs."""
    return Path(shutil.copy(cluster.plane.folder / "controller.yaml", tmp_path / "config"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


@contextlib.contextmanager
def keeping(
    kubeconfig: Path, api: Api, folder: Path, identity: str = "one", *flags: str
) -> Iterator[Process]:
    """A controller that keeps a ledger of the namespace."""
    given = ("--ledger", str(folder), "--cluster", CLUSTER, *flags)
    with controller(kubeconfig, api.namespace, identity, *given) as process:
        yield process


def pod_of(api: Api, name: str) -> Object | None:
    return api.find(POD, name)


def is_free(api: Api, name: str) -> bool:
    """Whether the pod is gone, or not held by the ledger."""
    pod = pod_of(api, name)
    return pod is None or FINALIZER not in (pod["metadata"].get("finalizers") or ())


def placed(api: Api, name: str) -> int:
    """When the pod was given its node, in milliseconds, once it is."""

    def look() -> int | None:
        pod = pod_of(api, name)
        return scheduled_at_ms(pod) if pod else None

    return until(look, f"{name} has a node")


def test_a_pod_is_held_until_its_end_is_stored(api: Api, kubeconfig: Path, folder: Path) -> None:
    make_pod(api, "p", 8, ("other.test/first", FINALIZER), **{"launcher.dev/user": "ada"})
    make_pod(api, "never-placed", 5000)
    make_pod(api, "no-gpu", 0)
    begin_ms = placed(api, "p")
    start_pod(api, "p")
    with keeping(kubeconfig, api, folder) as process:
        uid = api.get(POD, "p")["metadata"]["uid"]
        until(lambda: stored(folder).of_pod(uid), "stored as running")
        for name in ("p", "never-placed", "no-gpu"):
            api.delete(POD, name, grace_s=0)
        for name in ("never-placed", "no-gpu"):
            until(lambda name=name: pod_of(api, name) is None, f"{name} is gone")  # type: ignore[misc]
        assert not is_free(api, "p"), "forced, but its container runs"
        end_pod(api, "p")
        ended = api.get(POD, "p")["status"]["containerStatuses"][0]["state"]["terminated"]
        until(lambda: is_free(api, "p"), "let go")
        assert api.get(POD, "p")["metadata"]["finalizers"] == ["other.test/first"]
        interval = stored(folder).of_pod(uid)
        assert interval is not None
        assert (interval.source, interval.start_ms) == ("containers", begin_ms)
        assert interval.through_ms == moment_ms(ended["finishedAt"])
        owner = interval.owner
        assert (owner.budget, owner.job, owner.user, owner.gpu_type, owner.cluster) == (
            "webvision", "a", "ada", GPU_TYPE, CLUSTER,
        )  # fmt: skip
        api.patch(POD, "p", {"metadata": {"finalizers": None}})
        assert process.end() == 0, process.said()
        assert "Traceback" not in process.said()


def test_finalizers_that_come_and_go_meanwhile_are_left_alone(
    api: Api, kubeconfig: Path, folder: Path
) -> None:
    """Another controller adds its own at the front and takes it away, again and again."""
    names = [f"p{number}" for number in range(8)]
    for name in names:
        make_pod(api, name)
        placed(api, name)
        start_pod(api, name)
    stopping = threading.Event()

    def meddle(name: str) -> int:
        count = 0
        while not stopping.is_set():
            first = {"op": "add", "path": "/metadata/finalizers/0", "value": "other.test/x"}
            with contextlib.suppress(Exception):
                made = api.patch(POD, name, [first])
                at = made["metadata"]["finalizers"].index("other.test/x")
                path = f"/metadata/finalizers/{at}"
                test = {"op": "test", "path": path, "value": "other.test/x"}
                api.patch(POD, name, [test, {"op": "remove", "path": path}])
                count += 1
        return count

    with ThreadPoolExecutor(len(names)) as pool, keeping(kubeconfig, api, folder):
        counts = [pool.submit(meddle, name) for name in names]
        try:
            for name in names:
                end_pod(api, name)
            until(lambda: all(is_free(api, name) for name in names), "all let go")
        finally:
            stopping.set()
    assert sum(count.result() for count in counts) > len(names)
    for name in names:
        left = api.get(POD, name)["metadata"].get("finalizers", [])
        assert set(left) <= {"other.test/x"}
        api.patch(POD, name, {"metadata": {"finalizers": None}})


def test_a_pod_of_a_node_that_is_gone_ends_when_that_is_noticed(
    api: Api, kubeconfig: Path, folder: Path
) -> None:
    """Nobody tells of its containers any more, and it is deleted by force."""
    with keeping(kubeconfig, api, folder) as process:
        until(lambda: "leads the ledger" in process.said(), "it leads")
        with living_node(api, "lost", "OLD-GPU"):
            uid = make_pod(api, "p", gpu_type="OLD-GPU")["metadata"]["uid"]
            begin_ms = placed(api, "p")
            start_pod(api, "p")
            until(lambda: stored(folder).of_pod(uid), "stored as running")
        api.delete(POD, "p", grace_s=0)
        deleted_at_ms = moment_ms(api.get(POD, "p")["metadata"]["deletionTimestamp"])
        until(lambda: pod_of(api, "p") is None, "gone")
        interval = stored(folder).of_pod(uid)
        assert interval is not None
        assert (interval.source, interval.start_ms) == ("sight", begin_ms)
        # --node-grace is 2 s; a turn is half a second, and the API's times are whole seconds.
        assert deleted_at_ms <= interval.through_ms <= deleted_at_ms + 10_000
        assert interval.owner.gpu_type == "OLD-GPU"


# -- whoever is killed


@dataclass
class Oracle:
    """What the API server's own objects said, by uid."""

    gpus: dict[str, int] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)


def live(api: Api, name: str, random_: random.Random, oracle: Oracle) -> None:
    """One pod's random life; it is gone, or ended, afterwards."""
    gpus = random_.choice([1, 2, 4, 8])
    uid = ask(lambda: make_pod(api, name, gpus))["metadata"]["uid"]
    if random_.random() < 0.1:
        ask(lambda: api.delete(POD, name, grace_s=0))  # perhaps before it has a node
    start_ms = until(lambda: ask(lambda: settled(api, name, uid)), f"{name} is placed or gone")
    if start_ms < 0:
        return
    oracle.gpus[uid], oracle.starts[uid] = gpus, start_ms
    ask(lambda: start_pod(api, name))
    time.sleep(random_.uniform(0, 6))
    way = random_.choice(["ends", "fails", "deleted", "forced"])
    if way in ("deleted", "forced"):
        ask(lambda: api.delete(POD, name, grace_s=0 if way == "forced" else None))
        time.sleep(random_.uniform(0, 2))
    ask(lambda: end_pod(api, name, "Failed" if way == "fails" else "Succeeded"))
    pod = ask(lambda: api.find(POD, name))
    assert pod is not None, f"{name} went before its end was told"
    ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    oracle.ends[uid] = moment_ms(ended["finishedAt"])
    if way in ("deleted", "forced"):
        ask(lambda: api.delete(POD, name, uid=uid, grace_s=0))  # as kubelets do at last


def settled(api: Api, name: str, uid: str) -> int:
    """When the pod got its node; -1: it went without one; 0: not yet known."""
    pod = api.find(POD, name)
    if pod is None or pod["metadata"]["uid"] != uid:
        return -1
    return scheduled_at_ms(pod) or 0


def ask(act: Callable[[], object]) -> Any:
    """What is asked of an API server that is away at times."""
    ends_at = time.monotonic() + 60
    while True:
        try:
            return act()
        except (Unreachable, Forbidden):
            assert time.monotonic() < ends_at, "no API server"
            time.sleep(0.2)


def test_killed_controllers_and_a_restarted_server_lose_and_double_nothing(
    cluster: Cluster, api: Api, kubeconfig: Path, folder: Path
) -> None:
    random_, oracle, stopping = random.Random(SEED), Oracle(), threading.Event()
    kills = []

    def kill_again_and_again(identity: str, seed: int) -> None:
        chance = random.Random(seed)
        while not stopping.is_set():
            with keeping(kubeconfig, api, folder, identity) as process:
                is_due = not stopping.wait(chance.uniform(2, 7))
                if is_due and process.process.poll() is None:
                    process.end(signal.SIGKILL)
                    kills.append(identity)

    with ThreadPoolExecutor(PODS + 2) as pool:
        killers = [
            pool.submit(kill_again_and_again, who, n) for n, who in enumerate(("one", "two"))
        ]
        try:
            lives = []
            for number in range(PODS):
                chance = random.Random(SEED + number)
                lives.append(pool.submit(live, api, f"p{number}", chance, oracle))
                time.sleep(random_.uniform(0, 1))
                if number == PODS // 2:
                    cluster.plane.kill("kube-apiserver")
                    time.sleep(1)
                    cluster.plane.start_apiserver()
            for each in lives:
                each.result()
        finally:
            stopping.set()
        for killer in killers:
            killer.result()
    with keeping(kubeconfig, api, folder, "three") as last:
        names = [f"p{number}" for number in range(PODS)]
        until(lambda: all(is_free(api, name) for name in names), last.said())
    found = {each.pod_uid: each for each in stored(folder).intervals()}
    assert found.keys() == oracle.ends.keys()
    for uid, interval in found.items():
        assert interval.is_closed
        told = (interval.gpus, interval.start_ms, interval.through_ms)
        assert told == (oracle.gpus[uid], oracle.starts[uid], oracle.ends[uid])
    assert len(kills) >= 6
    assert len(found) >= PODS // 2


def test_a_leader_that_slept_finds_out_and_the_other_has_gone_on(
    api: Api, kubeconfig: Path, folder: Path
) -> None:
    """It is stopped for longer than its Lease lasts, and then goes on as if it still led."""
    uids, starts, ends = [], {}, {}

    def one_more(name: str) -> None:
        make_pod(api, name)
        starts[name] = placed(api, name)
        start_pod(api, name)
        uids.append(api.get(POD, name)["metadata"]["uid"])

    def finish(name: str) -> None:
        end_pod(api, name)
        ended = api.get(POD, name)["status"]["containerStatuses"][0]["state"]["terminated"]
        ends[name] = moment_ms(ended["finishedAt"])
        until(lambda: is_free(api, name), f"{name} is let go")

    with keeping(kubeconfig, api, folder, "one") as one:
        until(lambda: "leads the ledger" in one.said(), "one leads")
        one_more("a")
        with keeping(kubeconfig, api, folder, "two") as two:
            one.process.send_signal(signal.SIGSTOP)
            until(lambda: "leads the ledger" in two.said(), "two leads")
            one_more("b")
            finish("a")
            one.process.send_signal(signal.SIGCONT)
            finish("b")
            one_more("c")
            finish("c")
            assert two.end() == 0
        until(lambda: one.said().count("leads the ledger") == 2, "one leads again")
        one_more("d")
        finish("d")
        assert one.end() == 0, one.said()
    for name, uid in zip("abcd", uids, strict=True):
        interval = stored(folder).of_pod(uid)
        assert interval is not None
        assert (interval.start_ms, interval.through_ms) == (starts[name], ends[name])
    assert len(list(stored(folder).intervals())) == 4


# -- what budgets and submits know of it


def budget(name: str = "webvision") -> Object:
    return {
        "apiVersion": "launcher.dev/v1alpha1",
        "kind": "Budget",
        "metadata": {"name": name},
        "spec": {"gpuDays": 500, "mode": "soft"},
    }


@pytest.fixture
def webvision(api: Api) -> Iterator[str]:
    api._ask("POST", BUDGET, "", body=budget())
    yield "webvision"
    api.delete(BUDGET, "webvision")


def told(api: Api, name: str) -> tuple[str, str]:
    """Status and reason of the condition; empty before the first."""
    condition = condition_of(api.get(BUDGET, name), ACCOUNTED) or {}
    return condition.get("status", ""), condition.get("reason", "")


def test_budgets_tell_whether_pods_are_held(
    api: Api, kubeconfig: Path, folder: Path, webvision: str
) -> None:
    assert not ledger.holds_pods(api, webvision)
    assert not ledger.holds_pods(api, "nobodys")
    api.patch(BUDGET, webvision, {"status": {"conditions": [
        {"type": "Other", "status": "True", "reason": "X", "message": "y",
         "lastTransitionTime": "2026-01-01T00:00:00Z"}
    ]}}, subresource="status")  # fmt: skip
    with keeping(kubeconfig, api, folder):
        until(lambda: told(api, webvision) == ("True", "Ledger"), "accounted")
        assert ledger.holds_pods(api, webvision)
    with keeping(kubeconfig, api, folder, "one", "--no-finalizers"):
        until(lambda: told(api, webvision) == ("True", "NoFinalizer"), "accounted without")
        assert not ledger.holds_pods(api, webvision)
    conditions = api.get(BUDGET, webvision)["status"]["conditions"]
    assert {each["type"] for each in conditions} >= {"Accounted", "Other"}, "others' stay"


def test_a_ledger_that_does_not_answer_is_told_of_and_so_is_its_return(
    api: Api, folder: Path, webvision: str
) -> None:
    accounting = Accounting(
        open_store(str(folder)), CLUSTER, api.transport.clock, Pace(turn_s=0, retry_most_s=0),
        Pods(api, [api.namespace]), lambda: True,
    )  # fmt: skip
    accounted = Accounted(api, accounting, True, lambda: True, unreadable_after_s=0.2)
    accounted.look()
    assert told(api, webvision) == ("", "")
    folder.write_text("no folder")
    accounting.turn()
    accounted.look()
    assert told(api, webvision) == ("", ""), "not for one failure"
    time.sleep(0.3)
    accounting.turn()
    accounted.look()
    assert told(api, webvision) == ("False", "LedgerUnreadable")
    folder.unlink()
    accounting.turn()
    accounted.look()
    assert told(api, webvision) == ("True", "Ledger")


@pytest.fixture
def cli(
    cluster: Cluster,
    api: Api,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Cli:
    return Cli(cluster.plane, api.namespace, tmp_path, capsys, monkeypatch)


def test_a_submit_holds_pods_only_where_a_ledger_lets_them_go(
    api: Api, cli: Cli, kubeconfig: Path, folder: Path, webvision: str
) -> None:
    flags = (
        *("submit", "--model", "resnet18", "--gpus", "2", "--budget", webvision),
        *("--image", "registry.example/trainer:1", "--data", "s3://webvision/train"),
        *("--checkpoints", "s3://webvision/runs", "job.gpus_per_worker=1", "job.min_gpus=2"),
        *("job.deadline_s=3600",),
    )

    def finalizers(name: str) -> list[str]:
        worker = api.get(PYTORCHJOB, name)["spec"]["pytorchReplicaSpecs"]["Worker"]
        found: list[str] = worker["template"].get("metadata", {}).get("finalizers", [])
        return found

    cli.out(*flags, "--name", "before")
    assert finalizers("before") == []
    api.delete(PYTORCHJOB, "before")
    with keeping(kubeconfig, api, folder) as process:
        until(lambda: told(api, webvision) == ("True", "Ledger"), "accounted")
        cli.out(*flags, "--name", "held")
        assert finalizers("held") == [FINALIZER]

        def workers() -> list[Object]:
            labels = "training.kubeflow.org/job-name=held"
            found = api.listing(POD, labels=labels).items
            return found if len(found) == 2 else []

        pods = until(workers, "pods")
        assert [pod["metadata"]["finalizers"] for pod in pods] == [[FINALIZER]] * 2
        for pod in pods:
            placed(api, pod["metadata"]["name"])
        api.delete(PYTORCHJOB, "held")
        names = [pod["metadata"]["name"] for pod in pods]
        for name in names:
            end_pod(api, name)
        until(lambda: all(is_free(api, name) for name in names), "let go")
        job_uid = pods[0]["metadata"]["ownerReferences"][0]["uid"]
        intervals = [each for each in stored(folder).intervals() if each.owner.job == "held"]
        assert len(intervals) == 2
        assert {each.owner.job_uid for each in intervals} == {job_uid}
        assert {each.owner.model for each in intervals} == {"resnet18"}
        assert "Traceback" not in process.said()


def test_the_doctor_lets_pods_go_whose_ledger_is_gone(api: Api, cli: Cli, webvision: str) -> None:
    make_pod(api, "p")
    placed(api, "p")
    ledger.tell(api, api.get(BUDGET, webvision), True, "Ledger", "test")
    api.delete(POD, "p", grace_s=0)
    assert pod_of(api, "p") is not None
    refused = cli.fails(2, "doctor", "--release-finalizers", "-n", api.namespace)
    assert "give --yes" in refused
    cli.out("doctor", "--release-finalizers", "-n", "default", "--yes")
    assert pod_of(api, "p") is not None
    code, _, err = cli("doctor", "--release-finalizers", "-n", api.namespace, "--yes")
    assert (code, err.splitlines()[-1]) == (
        0, "1 pods no longer wait for their GPU time to be stored",
    )  # fmt: skip
    until(lambda: pod_of(api, "p") is None, "gone")
    assert told(api, webvision) == ("False", "Released")
