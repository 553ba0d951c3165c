"""An API server of pods with GPUs, played by hand, and a writer of the ledger that it tells."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Any, Literal

from launcher.budget.pods import FINALIZER
from launcher.cluster.clock import ServerClock
from launcher.cluster.kinds import NODE, POD, Object
from launcher.cluster.watch import Change
from launcher.controller.accounting import Accounting, Pace
from launcher.controller.brief import brief
from launcher.errors import Unreachable
from tests.faulty import Faulty
from trainer.storage import open_store

BEGIN_S = 1_790_000_000
Type = Literal["ADDED", "MODIFIED", "DELETED"]


def iso(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Server:
    """The API server's side: its clock, its pods, and who is told of what."""

    def __init__(self) -> None:
        self.at_s = float(BEGIN_S)
        self.clock = ServerClock(lambda: self.at_s)
        self.pods: dict[str, Object] = {}
        self.told: list[Accounting] = []
        self.is_down = False
        self.advance(0)

    def advance(self, seconds: float) -> None:
        self.at_s += seconds
        self.clock.hear(formatdate(int(self.at_s), usegmt=True), self.at_s, self.at_s)

    def node(self, name: str = "n", **more: Any) -> None:
        labels = {"nvidia.com/gpu.product": "H200"}
        node = {"metadata": {"name": name, "uid": name, "labels": labels}, "status": more}
        self.tell(NODE, "ADDED", node)

    def run(self, uid: str, gpus: int = 8, *finalizers: str, **labels: str) -> None:
        """A pod that was given its node and runs."""
        marks = {"launcher.dev/job": "a", "launcher.dev/budget": "one"} | labels
        limits = {"limits": {"nvidia.com/gpu": str(gpus)}} if gpus else {}
        placed = {"type": "PodScheduled", "status": "True", "lastTransitionTime": iso(self.at_s)}
        running = {"running": {"startedAt": iso(self.at_s)}}
        self.pods[uid] = {
            "metadata": {
                "uid": uid, "name": uid, "namespace": "ml", "labels": marks,
                "finalizers": list(finalizers or (FINALIZER,)), "resourceVersion": "1",
                "ownerReferences": [{"uid": "job-1", "controller": True}],
            },
            "spec": {"nodeName": "n", "containers": [{"name": "pytorch", "resources": limits}]},
            "status": {
                "phase": "Running", "conditions": [placed],
                "containerStatuses": [{"name": "pytorch", "containerID": "x", "state": running}],
            },
        }  # fmt: skip
        self.changed(uid)

    def wait(self, uid: str, gpus: int) -> None:
        """A pod that waits for a node."""
        told, self.told = self.told, []
        self.run(uid, gpus)
        self.told = told
        del self.pods[uid]["spec"]["nodeName"]
        self.pods[uid]["status"] = {"phase": "Pending"}
        self.changed(uid)

    def end(self, uid: str) -> None:
        status = self.pods[uid]["status"]
        status["phase"] = "Succeeded"
        status["containerStatuses"][0]["state"] = {"terminated": {"finishedAt": iso(self.at_s)}}
        self.changed(uid)

    def delete(self, uid: str, grace_s: float = 30) -> None:
        self.pods[uid]["metadata"]["deletionTimestamp"] = iso(self.at_s + grace_s)
        self.changed(uid)

    def remove(self, uid: str, is_witnessed: bool = True) -> None:
        pod = self.pods.pop(uid)
        for accounting in self.told:
            accounting.tell(POD, Change("DELETED", brief(POD, pod), is_witnessed))

    def changed(self, uid: str) -> None:
        self.tell(POD, "MODIFIED", self.pods[uid])

    def tell(self, kind: Any, type_: Type, thing: Object) -> None:
        for accounting in self.told:
            accounting.tell(kind, Change(type_, brief(kind, thing)))

    # -- what the accounting asks of it

    def uids(self) -> set[str]:
        if self.is_down:
            raise Unreachable("connection refused")
        return set(self.pods)

    def release(self, pods: Collection[Object]) -> set[str]:
        free = set()
        for pod in pods:
            uid = pod["metadata"]["uid"]
            if not self.is_down:
                free.add(uid)
                if uid in self.pods:
                    self.pods[uid]["metadata"]["finalizers"].remove(FINALIZER)
                    self.changed(uid)
        return free


class Writer:
    """One candidate; a failure of the store is tried again in the next turn."""

    def __init__(self, server: Server, address: object, **pace: Any) -> None:
        self.is_leading = True
        self.store = Faulty(open_store(str(address), read_timeout_s=30, attempts=1))
        at_once = dict.fromkeys(("turn_s", "retry_most_s", "release_again_s", "extend_s"), 0.0)
        pace = at_once | {"compact_s": 1e9} | pace
        self.accounting = Accounting(
            self.store, "c", server.clock, Pace(**pace), server, lambda: self.is_leading
        )
        server.told.append(self.accounting)
