"""The door to the API server on the real one, which is killed, paused and made to forget."""

from __future__ import annotations

import json
import os
import queue
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.cluster.client import Api
from launcher.cluster.kinds import LEASE, POD
from launcher.cluster.marks import SUBMISSION
from launcher.cluster.transport import connect
from launcher.cluster.watch import Change, Watch
from launcher.errors import Conflict, Forbidden, LauncherError
from tests.cluster.control_plane import ControlPlane, control_plane
from tests.cluster.tools import Unavailable
from tests.conftest import absent
from tests.servers import Proxy, proxy

PATIENT_S = 60.0


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane that these tests may kill."""
    try:
        with control_plane(tmp_path_factory.mktemp("own") / "state") as running:
            yield running
    except Unavailable as error:
        absent(str(error))


def connected(monkeypatch: pytest.MonkeyPatch, kubeconfig: Path) -> Api:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    return Api(connect())


@pytest.fixture
def api(own: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    made = connected(monkeypatch, own.kubeconfig)
    yield made
    for thing in made.listing(LEASE).items:
        made.delete(LEASE, thing["metadata"]["name"])


@pytest.fixture
def gate(own: ControlPlane) -> Iterator[Proxy]:
    """A way to the API server that can be shut."""
    with proxy(own.port) as running:
        yield running


def lease(name: str, holder: str = "me", **annotations: str) -> dict[str, Any]:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"holderIdentity": holder},
    }


class Listener:
    """A watch of all leases, and what it has told."""

    def __init__(self, api: Api) -> None:
        self.told: queue.Queue[str] = queue.Queue()
        self.all: list[str] = []
        self.watch = Watch(api, LEASE, self.tell, self.fail)

    def tell(self, change: Change | None) -> None:
        if change is None:
            self.told.put("listed")
            return
        holder = change.object["spec"]["holderIdentity"]
        self.told.put(f"{change.type} {change.object['metadata']['name']} {holder}")

    def fail(self, error: LauncherError) -> None:
        self.told.put(str(error))

    def until(self, last: str) -> list[str]:
        """What has been told since, up to this."""
        told: list[str] = []
        while last not in told:
            told.append(self.told.get(timeout=PATIENT_S))
        return told

    def __enter__(self) -> Listener:
        self.watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.watch.stop()
        assert not self.watch.is_alive()


def test_a_watch_outlives_the_api_server(own: ControlPlane, api: Api) -> None:
    api.apply(lease("a"))
    api.apply(lease("b"))
    with Listener(api) as listener:
        assert sorted(listener.until("listed")[:-1]) == ["ADDED a me", "ADDED b me"]
        own.kill("kube-apiserver")
        restart = threading.Thread(target=own.start_apiserver)
        restart.start()
        # Asked while there is no server; it is there again before patience ends.
        api.apply(lease("a", "you"))
        api.apply(lease("c"))
        api.delete(LEASE, "b")
        restart.join()
        api.apply(lease("end"))
        # Listed again or not, as the new server remembers: each change is told once.
        told = [text for text in listener.until("ADDED end me") if text != "listed"]
        assert sorted(told) == ["ADDED c me", "ADDED end me", "DELETED b me", "MODIFIED a you"]


def pause(process: int) -> None:
    """Returns once each of its threads stands still: on a busy machine they go on for a moment."""
    os.kill(process, signal.SIGSTOP)
    threads = Path(f"/proc/{process}/task")

    def are_still() -> bool:
        stats = [(each / "stat").read_text() for each in threads.iterdir()]
        return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)

    ends_at = time.monotonic() + 10
    while not are_still():
        assert time.monotonic() < ends_at, "it goes on"
        time.sleep(0.01)


def test_a_request_outlasts_an_etcd_that_hangs(own: ControlPlane, api: Api) -> None:
    etcd = own.parts["etcd"].process.pid
    with Listener(api) as listener:
        listener.until("listed")
        pause(etcd)
        timer = threading.Timer(20, os.kill, (etcd, signal.SIGCONT))
        timer.start()
        try:
            started_at = time.monotonic()
            api.create(lease("patient", **{SUBMISSION: "1"}))
            assert 15 < time.monotonic() - started_at < 60
        finally:
            timer.join()
        assert listener.until("ADDED patient me") == ["ADDED patient me"]


def compact(own: ControlPlane, revision: str) -> None:
    """Makes etcd forget what was before."""
    url = f"http://127.0.0.1:{own.etcd_port}/v3/kv/compaction"
    body = json.dumps({"revision": revision, "physical": True}).encode()
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=10) as answer:
        answer.read()


def test_a_forgotten_version_is_listed_again_and_nothing_missed(
    own: ControlPlane, api: Api, gate: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = yaml.safe_load(own.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = gate.endpoint.replace("http:", "https:")
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    for name in ("same", "changed", "gone"):
        api.apply(lease(name))
    with Listener(connected(monkeypatch, tmp_path / "config")) as listener:
        listener.until("listed")
        gate.arm("refuse", times=10**6)
        own.kill("kube-apiserver")
        own.start_apiserver()
        api.delete(LEASE, "gone")
        api.apply(lease("changed", "you"))
        api.apply(lease("new"))
        compact(own, api.listing(LEASE).version)
        # Its own memory of what changed must go too, else etcd is not asked.
        own.kill("kube-apiserver")
        own.start_apiserver()
        gate.arm("refuse", times=0)
        told = listener.until("listed")
        assert sorted(told[:-1]) == ["ADDED new me", "DELETED gone me", "MODIFIED changed you"]
        assert listener.watch.lists == 2
        api.delete(LEASE, "same")
        assert listener.until("DELETED same me") == ["DELETED same me"]


def test_of_many_that_create_a_name_one_wins(api: Api) -> None:
    def create(number: int) -> str:
        try:
            made = api.create(lease("only", str(number), **{SUBMISSION: str(number)}))
        except Conflict as error:
            return str(error)
        return str(made["spec"]["holderIdentity"])

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(create, range(8)))
    winner = api.get(LEASE, "only")["spec"]["holderIdentity"]
    assert outcomes[int(winner)] == winner
    lost = [text for text in outcomes if "already exists" in text]
    assert len(lost) == 7


def test_applying_twice_is_as_once(api: Api) -> None:
    first, second = api.apply(lease("a")), api.apply(lease("a"))
    assert first["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]
    assert api.apply(lease("a", "you"), dry_run=True)["spec"]["holderIdentity"] == "you"
    assert api.get(LEASE, "a")["spec"]["holderIdentity"] == "me"


def test_an_older_version_does_not_replace_a_newer(api: Api) -> None:
    old = api.apply(lease("a"))
    api.apply(lease("a", "you"))
    with pytest.raises(Conflict, match="the object has been modified"):
        api.replace(old)


def test_a_name_that_another_object_has_by_now_is_not_deleted(api: Api) -> None:
    old = api.apply(lease("a"))
    api.delete(LEASE, "a", uid=old["metadata"]["uid"])
    api.apply(lease("a"))
    with pytest.raises(Conflict, match=r"(?i)precondition"):
        api.delete(LEASE, "a", uid=old["metadata"]["uid"])
    assert api.find(LEASE, "a") is not None


def test_without_rights_one_line_tells_so(
    own: ControlPlane, api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.kubectl("create", "serviceaccount", "nobody")
    config = yaml.safe_load(own.kubeconfig.read_text())
    config["users"][0]["user"]["token"] = own.kubectl("create", "token", "nobody").strip()
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    nobody = connected(monkeypatch, tmp_path / "config")
    with pytest.raises(
        Forbidden, match='system:serviceaccount:default:nobody" cannot list'
    ) as told:
        nobody.listing(POD)
    assert "\n" not in str(told.value)
    assert nobody.allowed("list", POD) is False
    assert api.allowed("list", POD) is True
    failed: queue.Queue[LauncherError] = queue.Queue()
    watch = Watch(nobody, POD, lambda _: None, failed.put)
    watch.start()
    assert isinstance(failed.get(timeout=PATIENT_S), Forbidden)
    watch.join(PATIENT_S)
