"""Pods of many fates on a real node, whose ends are to be stored though the writers are killed.

The oracle is not ours: containerd tells of each container's end, and the API server's objects of
the moment at which each pod was given its node.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from launcher.budget.pods import FINALIZER, scheduled_at_ms
from launcher.budget.records import Interval
from launcher.cluster import ledger
from launcher.cluster.client import Api
from launcher.cluster.kinds import POD, Object
from launcher.cluster.transport import connect
from launcher.cluster.watch import Change, Watch
from launcher.errors import Forbidden, NotFound, Unreachable
from tests.cluster.cluster import Cluster
from tests.cluster.controllers import controller, install, until
from tests.cluster.images import TOOLS
from tests.cluster.ledgers import CLUSTER, stored
from tests.cluster.node import SOCKET, Node

MOST_S = 300.0
"""Longest time until a pod runs, or has ended, on a busy machine."""
SERVER_AWAY_S = 90.0
NEW_NAME = 0.15
"""Share of the killed that another replaces, which has to wait for the Lease."""
_T = TypeVar("_T")

TRAPPED = "trap 'exit 0' TERM; sleep 600 & wait"
"""A container that ends when it is asked to; without the trap, PID 1 is killed after the grace."""
FATES: dict[str, tuple[str, ...]] = {
    "ends": ("sleep {s}",),
    "fails": ("sleep {s}; exit 3",),
    "two containers": ("sleep {s}", "sleep {t}; exit 1"),
    "deleted": (TRAPPED,),
    "deleted and killed": ("sleep 600",),
    "deleted at once": (TRAPPED,),
    "forced": ("sleep 600",),
    "evicted": (TRAPPED,),
    "fails again and again": ("sleep 1; exit 1",),
}
"""Each pod's fate, and the commands of its containers."""
DELETED = ("deleted", "deleted and killed", "deleted at once", "forced", "evicted",
           "fails again and again")  # fmt: skip


class Containerd:
    """What the node's containerd tells: the ends of containers, by the pod's uid."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.ends_s: defaultdict[str, list[int]] = defaultdict(list)
        """Whole seconds since 1970, rounded down as the API does."""
        self._pods: dict[str, str] = {}
        """Pods by their containers that run the test's program, not the pause."""
        command = node.sandbox.inside("ctr", *self._flags, "events")
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    _flags = (f"--address={SOCKET}", "--namespace=k8s.io")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            topic, _, text = line.partition("k8s.io ")[2].partition(" ")
            event = json.loads(text)
            if topic == "/containers/create":
                self._created(event["id"])
            elif topic == "/tasks/exit" and event["id"] in self._pods:
                at = datetime.fromisoformat(event["exited_at"])
                self.ends_s[self._pods[event["id"]]].append(int(at.timestamp()))

    def _created(self, container: str) -> None:
        command = self._node.sandbox.inside("ctr", *self._flags, "containers", "info", container)
        told = subprocess.run(command, capture_output=True, text=True)
        labels = json.loads(told.stdout)["Labels"] if told.returncode == 0 else {}
        if labels.get("io.cri-containerd.kind") == "container":
            self._pods[container] = labels["io.kubernetes.pod.uid"]

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)  # with what it runs inside of the node
        self._process.wait()
        self._thread.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


@dataclass
class Account:
    """How a storm ended."""

    kills: int = 0
    """Of controllers that wrote the ledger; those that waited for the Lease do not count."""
    leaders: int = 0
    """How often a controller with another name led."""
    restarts: int = 0
    """Of the API server."""
    placed: dict[str, int] = field(default_factory=dict)
    """By uid, when each pod was given its node, in milliseconds."""
    names: dict[str, str] = field(default_factory=dict)
    ends_s: dict[str, int] = field(default_factory=dict)
    """By uid, when the last container ended; without those whose containers never began."""
    found: dict[str, Interval] = field(default_factory=dict)
    took_s: float = 0.0

    def wrong(self) -> list[str]:
        """Every difference between the ledger and those who know, in a line."""
        lines = [f"{self._name(uid)} is missing" for uid in self.placed.keys() - self.found.keys()]
        lines += [
            f"{self._name(uid)} was never placed" for uid in self.found.keys() - self.placed.keys()
        ]
        for uid in self.found.keys() & self.placed.keys():
            interval, start_ms = self.found[uid], self.placed[uid]
            if not interval.is_closed:
                lines.append(f"{self._name(uid)} is still open")
            if interval.start_ms != start_ms:
                lines.append(f"{self._name(uid)} starts at {interval.start_ms}, not {start_ms}")
            if uid in self.ends_s and interval.through_ms != self.ends_s[uid] * 1000:
                lines.append(
                    f"{self._name(uid)} ends at {interval.through_ms} ({interval.source}), "
                    f"not {self.ends_s[uid]}"
                )
        return sorted(lines)

    def told(self) -> str:
        """The storm in a line."""
        gpu_s = sum(each.gpu_ms for each in self.found.values()) // 1000
        return (
            f"{len(self.found)} pods of {gpu_s} GPU seconds, {self.never_began} without container; "
            f"{self.kills} writers killed, {self.leaders} of them followed by another, "
            f"{self.restarts} restarts of the API server, {self.took_s:.0f} s"
        )

    @property
    def never_began(self) -> int:
        """Pods with a node whose containers never ran: deleted too soon."""
        return len(self.placed.keys() - self.ends_s.keys())

    def _name(self, uid: str) -> str:
        return f"{self.names.get(uid, '?')} {uid}"


@dataclass(frozen=True)
class Weather:
    """How hard it storms."""

    pods: int
    kills: int
    """At least, and at least until the last pod's life is over."""
    restarts: int
    gap_s: float
    """Between two pods at most."""
    seed: int = 20261127


def storm(cluster: Cluster, namespace: str, scratch: Path, weather: Weather) -> Account:
    """Lets pods of an existing namespace live while two controllers are killed again and again.

    KUBECONFIG must be the cluster's. Everything is gone at the end but the namespace.
    """
    assert cluster.node is not None
    began_at = time.monotonic()
    account, api = Account(), Api(connect(), namespace)
    install(cluster.plane, scratch / "controller.yaml")
    containerd = Containerd(cluster.node)
    watch = Watch(api, POD, lambda change: _told(account, change), _fail, namespace=namespace)
    watch.start()
    try:
        _let_live(cluster, api, scratch, weather, account)
        with _keeping(scratch, namespace, "three"):
            until(lambda: _are_free(api), "every pod is let go", 120)
        until(lambda: not _left(api), "every pod is gone", 120)
    finally:
        for pod in ledger.held_pods(api, namespace):  # else what has failed stays, and hides why
            ledger.release(api, pod)
        watch.stop()
        containerd.close()
    account.ends_s = {
        uid: max(ends) for uid, ends in containerd.ends_s.items() if uid in account.names
    }
    account.found = {each.pod_uid: each for each in stored(scratch / "ledger").intervals()}
    account.took_s = time.monotonic() - began_at
    return account


def _let_live(
    cluster: Cluster, api: Api, scratch: Path, weather: Weather, account: Account
) -> None:
    """All pods' lives; afterwards no controller runs."""
    pods, seed, chance = weather.pods, weather.seed, random.Random(weather.seed)
    stopping = threading.Event()
    every = pods // weather.restarts if weather.restarts else pods + 1
    with ThreadPoolExecutor(pods + 2) as pool:
        killers = [
            pool.submit(_kill_again_and_again, scratch, api.namespace, seed + n, stopping, account)
            for n in range(2)
        ]
        try:
            lives = []
            for number in range(pods):
                fate = list(FATES)[number % len(FATES)]
                lives.append(pool.submit(_live, api, number, fate, random.Random(seed + number)))
                time.sleep(chance.uniform(0, weather.gap_s))
                if number % every == every // 2:
                    _restart_server(cluster, account)
            for life in lives:
                life.result(MOST_S)
            while account.kills < weather.kills and not any(each.done() for each in killers):
                time.sleep(0.2)
        finally:
            stopping.set()
        for killer in killers:
            killer.result()


def _told(account: Account, change: Change | None) -> None:
    if change is None:
        return
    uid = change.object["metadata"]["uid"]
    account.names[uid] = change.object["metadata"]["name"]
    if (at_ms := scheduled_at_ms(change.object)) is not None:
        account.placed[uid] = at_ms


def _fail(error: Exception) -> None:
    raise error


def _keeping(
    scratch: Path, namespace: str, identity: str
) -> contextlib.AbstractContextManager[Any]:
    flags = ("--ledger", str(scratch / "ledger"), "--cluster", CLUSTER)
    return controller(scratch / "controller.yaml", namespace, identity, *flags)


def _kill_again_and_again(
    scratch: Path, namespace: str, seed: int, stopping: threading.Event, account: Account
) -> None:
    """One controller after another, each killed at a random point after it has come to lead.

    Under its old name the next leads at once; under a new one whoever waits leads when the Lease
    has run out.
    """
    chance, number = random.Random(seed), 0
    while not stopping.is_set():
        with _keeping(scratch, namespace, f"{seed}-{number}") as process:
            while not (is_leading := "acquired lease" in process.said()):
                if process.process.poll() is not None or stopping.wait(0.1):
                    break
            if process.process.poll() is not None:
                # An API server that has just started refuses everybody; a kubelet would try again.
                assert "orbidden" in process.said(), process.said()
            elif is_leading and not stopping.wait(chance.uniform(0, 5)):
                process.end(signal.SIGKILL)
                account.kills += 1
        if chance.random() < NEW_NAME:
            number += 1
            account.leaders += 1


def _restart_server(cluster: Cluster, account: Account) -> None:
    cluster.plane.kill("kube-apiserver")
    time.sleep(1)
    cluster.plane.start_apiserver()
    account.restarts += 1


# -- pods


def _live(api: Api, number: int, fate: str, chance: random.Random) -> None:
    """One pod from its creation to its deletion, which the ledger may still hold up."""
    s, t = (round(chance.uniform(0, 8), 1) for _ in range(2))
    name = f"p{number}"
    pod = _pod(name, fate, [each.format(s=s, t=t) for each in FATES[fate]], chance)
    _ask(lambda: api.create(pod))
    if fate in DELETED and fate != "deleted at once":
        until(lambda: _ask(lambda: _phase(api, name)) == "Running", f"{name} runs", MOST_S)
        time.sleep(s)
    elif fate not in DELETED:
        until(lambda: _ask(lambda: _phase(api, name)) in ("Succeeded", "Failed"), name, MOST_S)
    if fate == "evicted":
        _ask(lambda: _evict(api, name))
    else:
        _ask(lambda: api.delete(POD, name, grace_s=0 if fate == "forced" else None))


def _phase(api: Api, name: str) -> str:
    pod = api.find(POD, name)
    # One that is over and not held any more may be gone.
    return str(pod["status"].get("phase")) if pod else "Failed"


def _pod(name: str, fate: str, commands: list[str], chance: random.Random) -> Object:
    containers = [
        {
            "name": f"c{index}",
            "image": TOOLS,
            "command": ["sh", "-c", command],
            "resources": {"limits": {"nvidia.com/gpu": chance.choice([1, 1, 2])}},
        }
        for index, command in enumerate(commands)
    ]
    policy = "OnFailure" if fate == "fails again and again" else "Never"
    labels = {"launcher.dev/job": fate.replace(" ", "-"), "launcher.dev/budget": "webvision"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels, "finalizers": [FINALIZER]},
        "spec": {
            "containers": containers,
            "restartPolicy": policy,
            "terminationGracePeriodSeconds": 2,
            "automountServiceAccountToken": False,
        },
    }


def _evict(api: Api, name: str) -> None:
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    with contextlib.suppress(NotFound):
        api._ask("POST", POD, api.namespace, name, "eviction", body=eviction, harmless=True)


def _are_free(api: Api) -> bool:
    pods = _ask(lambda: api.listing(POD).items)
    return not any(FINALIZER in (pod["metadata"].get("finalizers") or ()) for pod in pods)


def _left(api: Api) -> list[Object]:
    return _ask(lambda: api.listing(POD).items)


def _ask(act: Callable[[], _T]) -> _T:
    """What is asked of an API server that is away at times."""
    ends_at = time.monotonic() + SERVER_AWAY_S
    while True:
        try:
            return act()
        except (Unreachable, Forbidden):
            if time.monotonic() > ends_at:
                raise
            time.sleep(0.2)


@contextlib.contextmanager
def namespace_for_pods(cluster: Cluster, name: str) -> Iterator[str]:
    """A namespace that admits pods at once, gone at the end."""
    plane = cluster.plane
    plane.kubectl("create", "namespace", name)
    account = ("get", "serviceaccount", "default", "--ignore-not-found", "-o", "name")
    until(lambda: plane.kubectl("-n", name, *account), "service account")
    try:
        yield name
    finally:
        plane.kubectl("delete", "namespace", name, "--timeout=120s")
