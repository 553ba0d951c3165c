"""What the watches have told, by job: the controller decides on this and asks nothing itself."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from typing import TypeVar

from launcher.cluster.fields import labels_of
from launcher.cluster.forms import is_job
from launcher.cluster.kinds import JOB, NODE, POD, SERVICE, Kind, Object
from launcher.cluster.watch import Change
from launcher.controller.brief import brief
from launcher.controller.view import Reading, View, kind_of
from launcher.spec import JOB_LABEL

Key = tuple[str, str]
"""Namespace and name of a job."""
_K = TypeVar("_K")


class Store:
    """Objects of jobs, and all nodes. Written by the watches' threads, read by another."""

    def __init__(self, due: Callable[[Key], None]) -> None:
        """due: told the job of which something has changed."""
        self._due = due
        self._lock = threading.Lock()
        self._jobs: dict[Key, Object] = {}
        self._parts: dict[str, dict[Key, dict[str, Object]]] = {
            kind.name: defaultdict(dict) for kind in (POD, JOB, SERVICE)
        }
        self._nodes: dict[str, Object] = {}
        self._absent_since: dict[str, float] = {}

    def tell(self, kind: Kind, change: Change) -> None:
        """Takes a change in, of an object as `brief` keeps it."""
        thing, gone = change.object, change.type == "DELETED"
        metadata = thing["metadata"]
        if kind is NODE:
            with self._lock:
                _put(self._nodes, metadata["name"], None if gone else thing)
            return
        key = _key(kind, thing)
        with self._lock:
            if is_job(thing, kind):
                _put(self._jobs, key, None if gone else thing)
            else:
                _put(self._parts[kind.name][key], metadata["uid"], None if gone else thing)
                if not self._parts[kind.name][key]:
                    del self._parts[kind.name][key]
        self._due(key)

    def replace(self, old: Object, new: Object) -> None:
        """Puts a patched job in the place of the one it was, unless a watch was faster."""
        kind = kind_of(old)
        key = _key(kind, old)
        with self._lock:
            known = self._jobs.get(key)
            if known is old:
                self._jobs[key] = brief(kind, new)

    def jobs(self) -> list[Key]:
        with self._lock:
            return list(self._jobs)

    def labelled(self, label: str) -> list[Object]:
        """Jobs that bear a label with some value."""
        with self._lock:
            return [job for job in self._jobs.values() if labels_of(job).get(label)]

    def view(self, key: Key, now: float, reading: Reading | None) -> View | None:
        """A job as last seen; None if there is none of that name."""
        with self._lock:
            job = self._jobs.get(key)
            if job is None:
                return None
            pods = list(self._parts[POD.name].get(key, {}).values())
            helpers = [
                thing
                for kind in (JOB, SERVICE)
                for thing in self._parts[kind.name].get(key, {}).values()
            ]
            return View(job, pods, helpers, dict(self._nodes), dict(self._absent_since), reading)

    def note_absent_nodes(self, now: float) -> None:
        """Remembers since when pods are on nodes that do not exist."""
        with self._lock:
            used = {
                pod["spec"].get("nodeName", "")
                for pods in self._parts[POD.name].values()
                for pod in pods.values()
            }
            absent = used - set(self._nodes) - {""}
            self._absent_since = {name: self._absent_since.get(name, now) for name in absent}


def _key(kind: Kind, thing: Object) -> Key:
    metadata = thing["metadata"]
    name = metadata["name"] if is_job(thing, kind) else labels_of(thing)[JOB_LABEL]
    return metadata["namespace"], name


def _put(known: dict[_K, Object], key: _K, thing: Object | None) -> None:
    if thing is None:
        known.pop(key, None)
    else:
        known[key] = thing
