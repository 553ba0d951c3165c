"""What the workers of a cluster's job wrote, followed over restarts and replaced pods."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from launcher.cluster.client import Api
from launcher.cluster.fields import before, index_of, latest, restarts_of, trainer_statuses
from launcher.cluster.forms import seen
from launcher.cluster.kinds import POD, Object
from launcher.cluster.objects import container_of, find_job, pods_of
from launcher.cluster.state import condition
from launcher.cluster.transport import Lost
from launcher.errors import LauncherError, NotFound, Rejected

POLL_S = 1.0
_OVER = ("Failed", "Succeeded", "Suspended")
SILENCE_S = 300.0
"""A worker may write nothing for minutes; then its log is asked for again from where it stood."""


def logs(
    api: Api,
    name: str,
    worker: int | None = None,
    follow: bool = False,
    tail: int | None = None,
    previous: bool = False,
) -> Iterator[str]:
    """Lines of one worker's log, or of all, each then headed by `worker-N | `.

    follow: until the job has ended. previous: of the containers before the last restart.
    tail: of each worker only so many of the lines that are there already.
    Raises NotFound for a job or worker that there is not.
    """
    every = pods_of(api, name)
    pods = _chosen(every, worker)
    if not pods and not (follow and worker is None):
        known = ", ".join(f"worker-{index_of(pod)}" for pod in latest(every)) or "none"
        which = f"worker-{worker}" if worker is not None else "workers"
        raise NotFound(f"job {name!r} has no {which} now (workers: {known})")
    if follow:
        return _follow(api, name, worker, tail)
    lives = [_previous(every, pod) if previous else (pod, False) for pod in pods]
    return _whole(api, lives, worker is None, tail)


def _previous(every: list[Object], pod: Object) -> tuple[Object, bool]:
    """Where the log of before the last restart is: of the container before, or, where a failed pod
    is made anew, of the pod before."""
    earlier = None if restarts_of(pod) else before(every, pod)
    return (pod, True) if earlier is None else (earlier, False)


def _whole(
    api: Api, lives: list[tuple[Object, bool]], is_headed: bool, tail: int | None
) -> Iterator[str]:
    """lives: pods, and whether their containers' logs of before are meant."""
    for pod, is_previous in lives:
        query = {"container": container_of(pod), "previous": "true" if is_previous else ""}
        if tail is not None:
            query["tailLines"] = str(tail)
        metadata = pod["metadata"]
        what = f"log of {metadata['name']}"
        try:
            text = api.text(_path(pod), query, what)
        except (Rejected, NotFound) as error:
            if not is_headed:  # asked for by itself
                raise
            yield f"worker-{index_of(pod)} | ({error})"
            continue
        head = f"worker-{index_of(pod)} | " if is_headed else ""
        yield from (f"{head}{line}" for line in text.splitlines())


def _follow(api: Api, name: str, worker: int | None, tail: int | None) -> Iterator[str]:
    """Lines as they come, a reader for each pod."""
    lines: queue.Queue[str] = queue.Queue()
    readers: dict[str, _Reader] = {}
    stopping = threading.Event()
    try:
        while True:
            found = find_job(api, name)
            for pod in _chosen(pods_of(api, name), worker) if found else ():
                uid = pod["metadata"]["uid"]
                if uid not in readers:
                    readers[uid] = _Reader(api, pod, worker is None, tail, lines, stopping)
                    readers[uid].start()
            is_over = found is None or condition(seen(*found)) in _OVER
            yield from _drained(lines, POLL_S)
            if is_over and not any(reader.is_alive() for reader in readers.values()):
                yield from _drained(lines, 0.0)
                return
    finally:
        stopping.set()


def _drained(lines: queue.Queue[str], patience_s: float) -> Iterator[str]:
    """What has come; waits up to patience_s for the first line."""
    try:
        yield lines.get(timeout=patience_s) if patience_s else lines.get_nowait()
        while True:
            yield lines.get_nowait()
    except queue.Empty:
        return


class _Reader(threading.Thread):
    """Reads one pod's log to the pod's end, over restarts of its container."""

    def __init__(
        self,
        api: Api,
        pod: Object,
        is_headed: bool,
        tail: int | None,
        lines: queue.Queue[str],
        stopping: threading.Event,
    ) -> None:
        super().__init__(name=f"log-{pod['metadata']['name']}", daemon=True)
        self.api, self.pod, self.tail = api, pod, tail
        self.head = f"worker-{index_of(pod)} | " if is_headed else ""
        self.lines, self.stopping = lines, stopping
        self.last = ""
        """Time of the last line, as the kubelet writes it: fixed width, so it sorts."""
        self.restarts = 0

    def run(self) -> None:
        while not self.stopping.is_set():
            found = _Now.of(self.api, self.pod)
            if found is None:
                return
            if found.restarts > self.restarts and self.last:
                self._read(previous=True)  # what was written after the connection was lost
            self.restarts = found.restarts
            if found.has_started:
                self._read(previous=False)
            if found.is_over:
                return
            self.stopping.wait(POLL_S)

    def _read(self, *, previous: bool) -> None:
        query = {"container": container_of(self.pod), "timestamps": "true"}
        query |= {"previous": "true"} if previous else {"follow": "true"}
        if self.last:
            query["sinceTime"] = f"{self.last[:19]}Z"
        elif self.tail is not None:
            query["tailLines"] = str(self.tail)
        seen = self.last
        try:
            answer = self.api.stream(_path(self.pod), query, "log", SILENCE_S)
        except LauncherError:
            return  # not started yet, or gone: the next look at the pod tells
        try:
            for raw in answer.lines():
                moment, _, text = raw.decode(errors="replace").partition(" ")
                if moment > seen:
                    self.last = moment
                    self.lines.put(f"{self.head}{text}")
                if self.stopping.is_set():
                    return
        except Lost:
            return
        finally:
            answer.close()


@dataclass(frozen=True)
class _Now:
    """A pod at this moment."""

    restarts: int
    has_started: bool
    is_over: bool

    @classmethod
    def of(cls, api: Api, pod: Object) -> _Now | None:
        """None where this very pod is gone."""
        metadata = pod["metadata"]
        try:
            found = api.find(POD, metadata["name"], metadata["namespace"])
        except LauncherError:
            return cls(0, False, False)  # the server is away; the pod may well be there
        if found is None or found["metadata"]["uid"] != metadata["uid"]:
            return None
        states = trainer_statuses(found)
        has_started = any("waiting" not in each.get("state", {"waiting": {}}) for each in states)
        is_over = found.get("status", {}).get("phase") in ("Succeeded", "Failed")
        return cls(restarts_of(found), has_started, is_over)


def _chosen(pods: list[Object], worker: int | None) -> list[Object]:
    return [pod for pod in latest(pods) if worker is None or index_of(pod) == worker]


def _path(pod: Object) -> str:
    return POD.path(pod["metadata"]["namespace"], pod["metadata"]["name"], "log")
