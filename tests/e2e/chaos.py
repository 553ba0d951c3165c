"""Losses of each kind that a running job must outlast, and how long each one stops it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.cluster.node import NAME as NODE
from tests.e2e.cluster_runs import WORKER_SELECTOR, ClusterRun

RENDEZVOUS_SELECTOR = "app.kubernetes.io/component=rendezvous"
AGAIN_S = 300.0
"""Longest wait for the next update; the slowest seen is a tenth of it."""
CALM_UPDATES = 3
"""Updates that a group does before it is hit once more, and after that which it outlasted."""
SAMPLE_S = 0.02


@dataclass(frozen=True)
class Loss:
    """One kind of loss."""

    name: str
    strike: Callable[[ClusterRun], float | None]
    """Does it; returns the moment (monotonic) from which on it counts, where that is not its
    start."""
    breaks: bool = True
    """Whether the workers have to meet again; else they go on meanwhile."""
    workers: int = 2
    workers_after: int | None = None
    """Where the loss changes how many are asked for."""
    spares: bool = True
    """Whether anybody is left who could go on at once."""


@dataclass(frozen=True)
class Outcome:
    """What a loss cost."""

    pause_s: float
    """From the loss to the next update, of a new group where the old one broke."""
    world: int
    """Workers that did it."""
    whole_s: float
    """From the loss to the next update by all workers that were asked for."""


def strike(run: ClusterRun, loss: Loss) -> Outcome:
    """Waits for a group that trains, strikes, and waits for the next update by all workers."""
    before = calm(run, loss.workers)
    watch = Watch(run)
    if not loss.breaks:
        with ThreadPoolExecutor(1) as beside:
            striking = beside.submit(loss.strike, run)
            watch.follow(striking.done)
            striking.result()
        return Outcome(watch.longest_s, watch.world(before), watch.longest_s)
    began = time.monotonic()
    with ThreadPoolExecutor(1) as beside:
        striking = beside.submit(loss.strike, run)  # a drain returns when all is over
        first = watch.next_generation(before, at_least=1)
        first_at = time.monotonic()
        counted_from = striking.result() or began
    pause_s = first_at - counted_from
    watch.next_generation(before, at_least=loss.workers_after or loss.workers)
    return Outcome(pause_s, watch.world(first), time.monotonic() - counted_from)


def calm(run: ClusterRun, workers: int) -> int:
    """The generation that trains with all workers and has done some updates; waits for it."""
    ends_at = time.monotonic() + AGAIN_S
    while time.monotonic() < ends_at:
        watch = Watch(run)
        generation = watch.newest()
        if watch.world(generation) == workers:
            first = run.updates(generation)
            while time.monotonic() < ends_at and watch.newest() == generation:
                if first and run.updates(generation) >= first + CALM_UPDATES:
                    return generation
                first = first or run.updates(generation)
                time.sleep(0.1)
        time.sleep(0.1)
    raise AssertionError(f"no group of {workers} trains after {AGAIN_S:.0f} s\n{run.tell()}")


class Recorded(Protocol):
    """A run that records its updates."""

    @property
    def audit(self) -> Path: ...

    def tell(self) -> str: ...


class Watch:
    """Sees each update as soon as rank 0 records it."""

    def __init__(self, run: Recorded) -> None:
        self.run = run
        self.longest_s = 0.0
        self._since_done = 0
        self._seen_at = time.monotonic()
        self._size = self._total()

    def newest(self) -> int:
        """The newest generation that has recorded an update."""
        files = (path for path in self.run.audit.glob("g*-r0.jsonl") if path.stat().st_size)
        return max((int(path.name[1:5]) for path in files), default=0)

    def world(self, generation: int) -> int:
        """Ranks that have recorded updates in a generation."""
        return len(list(self.run.audit.glob(f"g{generation:04d}-r*.jsonl")))

    def next_generation(self, before: int, at_least: int) -> int:
        """Returns at the first update of a newer group of so many workers."""
        ends_at = time.monotonic() + AGAIN_S
        while (generation := self.newest()) <= before or self.world(generation) < at_least:
            assert time.monotonic() < ends_at, f"no update in {AGAIN_S} s\n{self.run.tell()}"
            time.sleep(SAMPLE_S)
        return generation

    def follow(self, done: Callable[[], bool]) -> None:
        """Times the pauses between updates until it is done, and some updates longer."""
        ends_at = time.monotonic() + AGAIN_S
        while not done() or self._since_done < CALM_UPDATES:
            assert time.monotonic() < ends_at, f"no update in {AGAIN_S} s\n{self.run.tell()}"
            time.sleep(SAMPLE_S)
            if (size := self._total()) != self._size:
                now = time.monotonic()
                self.longest_s = max(self.longest_s, now - self._seen_at)
                self._size, self._seen_at = size, now
                self._since_done += done()

    def _total(self) -> int:
        return sum(path.stat().st_size for path in self.run.audit.glob("g*-r0.jsonl"))


def delete_worker(number: int) -> Callable[[ClusterRun], None]:
    """Deletes a worker's pod as kubectl does: SIGTERM, its grace period, a new pod."""

    def delete(run: ClusterRun) -> None:
        run.kubectl("delete", "pod", f"{run.name}-worker-{number}", "--wait=false")

    return delete


def lose_worker(run: ClusterRun, number: int = 1) -> None:
    """What a node that is gone looks like: no signal, and the pod is deleted by force."""
    pod = f"{run.name}-worker-{number}"
    os.kill(agent(run, pod), signal.SIGKILL)
    run.kubectl("delete", "pod", pod, "--force", "--grace-period=0", "--wait=false")


def lose_two(run: ClusterRun) -> None:
    """The second is lost when the first loss has made it meet again."""
    lose_worker(run, 0)
    lose_worker(run, 1)


def kill_agent(run: ClusterRun) -> None:
    """kill -9 of the agent in worker-1's container; the kubelet starts it again in its pod."""
    os.kill(agent(run, f"{run.name}-worker-1"), signal.SIGKILL)


def delete_rendezvous(run: ClusterRun) -> None:
    run.kubectl("delete", "pod", "-l", RENDEZVOUS_SELECTOR, "--wait=false")


def drain(run: ClusterRun) -> None:
    """Drains the node of worker-1 by the eviction API, and lets it come back."""
    selector = f"training.kubeflow.org/job-name={run.name},training.kubeflow.org/replica-index=1"
    flags = ("--ignore-daemonsets", "--delete-emptydir-data", "--force", "--disable-eviction=false")
    with uncordoned(run):
        run.cluster.plane.kubectl("drain", NODE, f"--pod-selector={selector}", *flags)


def scale_up(run: ClusterRun) -> None:
    run.launcher("scale", "--workers", "3", "--yes")


def scale_down(run: ClusterRun) -> None:
    run.launcher("scale", "--workers", "2", "--yes")


def suspend_and_resume(run: ClusterRun) -> float:
    """The pause counts from the resume: how long a job stays suspended is its user's will."""
    run.launcher("suspend")
    ends_at = time.monotonic() + AGAIN_S
    while run.pods(WORKER_SELECTOR):
        assert time.monotonic() < ends_at, run.tell()
        time.sleep(0.1)
    began = time.monotonic()
    run.launcher("resume")
    return began


def restart_kubelet(run: ClusterRun) -> None:
    assert run.cluster.node is not None
    run.cluster.node.restart_kubelet()


def restart_operator(run: ClusterRun) -> None:
    run.cluster.plane.kill("training-operator")
    run.cluster.operator.start()


def restart_apiserver(run: ClusterRun) -> None:
    run.cluster.plane.kill("kube-apiserver")
    run.cluster.plane.start_apiserver()


def agent(run: ClusterRun, pod_name: str) -> int:
    """Process id, on this machine, of the agent in a pod: the first process of its container."""
    pod = next(pod for pod in run.pods() if pod["metadata"]["name"] == pod_name)
    mark = f"/pod{pod['metadata']['uid']}/"
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, IndexError):
            if mark not in Path(f"/proc/{entry}/cgroup").read_text():
                continue
            status = Path(f"/proc/{entry}/status").read_text()
            inside = status.split("NSpid:")[1].splitlines()[0].split()[-1]
            if inside == "1" and b"trainer.agent" in Path(f"/proc/{entry}/cmdline").read_bytes():
                return int(entry)
    raise AssertionError(f"no agent in pod {pod_name}\n{run.tell()}")


@contextlib.contextmanager
def uncordoned(run: ClusterRun) -> Iterator[None]:
    try:
        yield
    finally:
        run.cluster.plane.kubectl("uncordon", NODE)


# The kubelet starts a container again at once, but after its second end in ten minutes not before
# 10 s: so a pod that was hit is replaced before it is hit again.
LOSSES = (
    Loss("worker-0 deleted", delete_worker(0)),
    Loss("agent killed in its pod", kill_agent),
    Loss("worker-1 deleted", delete_worker(1)),
    Loss("worker-1 gone with its node", lose_worker),
    Loss("rendezvous deleted", delete_rendezvous, breaks=False),
    Loss("worker-1 drained", drain),
    Loss("both workers gone, one after the other", lose_two, spares=False),
    Loss("suspended, resumed", suspend_and_resume, spares=False),
    Loss("kubelet restarted", restart_kubelet, breaks=False),
    Loss("operator restarted", restart_operator, breaks=False),
    Loss("API server restarted", restart_apiserver, breaks=False),
)
SCALING = (
    Loss("scaled 2 to 3", scale_up, workers_after=3, spares=False),
    Loss("scaled 3 to 2", scale_down, workers=3, workers_after=2),
)
