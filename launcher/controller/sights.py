"""Pods and nodes as the watches tell of them, for the ledger: what was seen, and when.

Kept also while another leads: who takes over then knows how pods went that nobody stored.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

from launcher.budget.pods import FINALIZER, Sight, gpus_of, moment_ms
from launcher.cluster.clock import ServerClock
from launcher.cluster.kinds import NODE, POD, Kind, Object
from launcher.cluster.watch import Change

REMEMBERED_MS = 300_000
"""How long one that does not lead remembers pods that went: longer than a Lease is vacant."""


@dataclass(frozen=True)
class News:
    """A pod as it was told of."""

    pod: Object
    at_ms: int
    """The API server's time then."""
    is_gone: bool = False
    is_witnessed: bool = True
    """Of one that is gone: whether its going was watched."""


class Sights:
    """Written by the watches' threads, read by the accounting's."""

    def __init__(self, cluster: str, clock: ServerClock, lost_after_s: float) -> None:
        """lost_after_s: a node that was silent or absent for so long does not run its pods."""
        self._cluster, self._clock = cluster, clock
        self._lost_after_ms = round(lost_after_s * 1000)
        self._lock = threading.Lock()
        self._pods: dict[str, Object] = {}
        """That exist, and have GPUs or the finalizer."""
        self._news: dict[str, News] = {}
        self._nodes: dict[str, Object] = {}
        self._absent_since: dict[str, int] = {}
        """Nodes that are gone, or that pods name though they were never told of."""

    def tell(self, kind: Kind, change: Change) -> None:
        """Takes a change in, of an object as `brief` keeps it."""
        if kind is NODE:
            self._tell_node(change)
        elif kind is POD:
            self._tell_pod(change)

    def _tell_node(self, change: Change) -> None:
        name = change.object["metadata"]["name"]
        with self._lock:
            # The labels of one that is gone still say what its last pods had.
            self._nodes[name] = change.object
            if change.type == "DELETED":
                self._absent_since[name] = self._clock.now_ms()
            else:
                self._absent_since.pop(name, None)

    def _tell_pod(self, change: Change) -> None:
        pod, now_ms = change.object, self._clock.now_ms()
        uid = pod["metadata"]["uid"]
        if not (FINALIZER in (pod["metadata"].get("finalizers") or ()) or gpus_of(pod)):
            return
        with self._lock:
            if change.type == "DELETED":
                self._pods.pop(uid, None)
                self._news[uid] = News(pod, now_ms, True, change.is_witnessed)
            else:
                self._pods[uid] = pod
                self._news[uid] = News(pod, now_ms)

    def take_news(self) -> list[News]:
        """What was told since the last call."""
        with self._lock:
            news, self._news = self._news, {}
        return list(news.values())

    def give_back(self, news: list[News]) -> None:
        """News that could not be made use of; what came since is newer."""
        with self._lock:
            self._news = {each.pod["metadata"]["uid"]: each for each in news} | self._news

    def forget_old_news(self) -> None:
        """For one that does not lead: keeps what it will want to know if it comes to lead."""
        oldest_ms = self._clock.now_ms() - REMEMBERED_MS if self._clock.is_known else 0
        with self._lock:
            self._news = {
                uid: each
                for uid, each in self._news.items()
                if each.is_gone and each.at_ms > oldest_ms
            }

    def pods(self) -> list[Object]:
        """All that exist."""
        with self._lock:
            return list(self._pods.values())

    def pod(self, uid: str) -> Object | None:
        with self._lock:
            return self._pods.get(uid)

    def sight(self, pod: Object, now_ms: int, is_gone: bool = False) -> Sight:
        """What is known beside the pod."""
        name = pod["spec"].get("nodeName", "")
        with self._lock:
            node = self._nodes.get(name)
            absent_ms = 0
            if name and (node is None or name in self._absent_since):
                absent_ms = now_ms - self._absent_since.setdefault(name, now_ms)
        is_absent = absent_ms > self._lost_after_ms
        if node is not None:
            labels = node["metadata"].get("labels") or {}
        else:
            # It may be told of in a moment.
            labels = {} if is_absent else None
        is_lost = is_absent or (node is not None and self._is_silent(node, now_ms))
        return Sight(self._cluster, now_ms, labels, is_gone, is_lost)

    def forget_nodes(self) -> None:
        """Nodes that are gone, with the last of their pods."""
        with self._lock:
            used = {pod["spec"].get("nodeName", "") for pod in self._pods.values()}
            used |= {each.pod["spec"].get("nodeName", "") for each in self._news.values()}
            for name in [name for name in self._absent_since if name not in used]:
                del self._absent_since[name]
                self._nodes.pop(name, None)

    def _is_silent(self, node: Object, now_ms: int) -> bool:
        for each in _conditions(node):
            if each["type"] == "Ready" and each["status"] != "True":
                return now_ms - moment_ms(each["lastTransitionTime"]) > self._lost_after_ms
        return False


def _conditions(node: Object) -> Iterator[Object]:
    yield from node.get("status", {}).get("conditions", ())
