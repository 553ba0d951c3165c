"""The verbs on jobs of a cluster: the same as on local runs, with the same words."""

from __future__ import annotations

import contextlib
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from launcher.cluster import admission, marks
from launcher.cluster.admission import Applicant
from launcher.cluster.client import Api
from launcher.cluster.fields import held, is_over, labels_of
from launcher.cluster.forms import resizing, seen, suspension
from launcher.cluster.indexedjobs import JOBS_SELECTOR, PARTS_SELECTOR
from launcher.cluster.kinds import JOB, POD, PYTORCHJOB, SERVICE, TRAINJOB, Kind, Object
from launcher.cluster.logs import logs
from launcher.cluster.objects import container_of, find_job, pods_of, workload_of
from launcher.cluster.state import read_status
from launcher.cluster.submit import submit, wait_gone
from launcher.cluster.told import events_of
from launcher.cluster.watch import Change, Watch
from launcher.errors import Conflict, LauncherError, NotFound, TimedOut, UsageError
from launcher.spec import JOB_LABEL, PROGRAM, QUEUE_LABEL
from launcher.status import ENDED, JobStatus

PODS_ASKED = 3
"""Pods whose events are looked at: what holds one of a gang back holds all."""
LEAVE_MARGIN_S = 60.0
"""Beyond the grace period: the kubelet and the operator need a moment too."""
_STOPPED = (
    marks.CANCELLED,
    marks.SUSPENDED,
    marks.BUDGET_REASON,
    marks.ENDED,
    marks.ENDED_REASON,
    marks.ENDED_AT,
)
"""What says that a job is not to run, and by whose will."""
REFRESH_S = 5.0
"""While waiting, a job is looked at at least this often, though nothing has changed."""


class Jobs:
    """The jobs of one namespace, as one user."""

    def __init__(self, api: Api, say: Callable[[str], None] = lambda _: None) -> None:
        """say: told what whoever asks should know, such as a budget's warning."""
        self.api, self.say = api, say

    def submit(self, objects: Sequence[Object]) -> JobStatus:
        """Sends rendered objects: `launcher.cluster.submit`."""
        return submit(self.api, objects, self.say)

    def list_jobs(self, namespace: str | None = None) -> list[JobStatus]:
        """All jobs of a namespace, or of all with ""; workers as the operator counts them."""
        now = datetime.now(UTC)

        def of(kind: Kind, labels: str = JOB_LABEL) -> list[JobStatus]:
            def read(job: Object) -> JobStatus:
                return read_status(seen(job, kind), None, now)

            return self.api.each(kind, read, namespace=namespace, labels=labels)

        jobs = of(PYTORCHJOB) + of(JOB, JOBS_SELECTOR)
        with contextlib.suppress(NotFound):  # Trainer v2 need not be installed
            jobs += of(TRAINJOB)
        return jobs

    def status(self, name: str, beside: Callable[[str], None] | None = None) -> JobStatus:
        """A job as it is now, with its workers, its events and why it does not run.

        beside: called with the address of its checkpoints while the server is waited for.
        Raises NotFound, naming jobs of a like name.
        """
        with ThreadPoolExecutor(2) as pool:
            asked = pool.submit(pods_of, self.api, name), pool.submit(events_of, self.api, name)
            job, kind = self.find(name)
            if beside is not None:
                beside(read_status(seen(job, kind), None, datetime.now(UTC)).checkpoints)
            pods, events = (each.result() for each in asked)
        waiting = [pod for pod in pods if pod.get("status", {}).get("phase") in (None, "Pending")]
        for pod in waiting[:PODS_ASKED]:
            events += events_of(self.api, pod["metadata"]["name"])
        workload = None
        if QUEUE_LABEL in labels_of(job):
            workload = (workload_of(self.api, job) or ({}, None))[0]
        now = datetime.now(UTC)
        return read_status(seen(job, kind), pods, now, events=events, workload=workload)

    def find(self, name: str) -> tuple[Object, Kind]:
        """The job and its kind. Raises NotFound, naming the jobs there are."""
        found = find_job(self.api, name)
        if found is not None:
            return found
        import difflib

        names = [job.name for job in self.list_jobs()]  # NotFound too where no operator is
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]}?" if near else f"jobs: {', '.join(names[:10]) or 'none'}"
        raise NotFound(f"no job {name!r} in namespace {self.api.namespace} ({hint})")

    def cancel(self, name: str, grace_s: float | None = None) -> JobStatus:
        """Stops a job for good and waits until its workers have saved and left.

        One that has ended stays as it is. grace_s: how long they may take; None: as the job says.
        """
        job, kind = self.find(name)
        if _state(job, kind) in ENDED:
            return self.status(name)
        _stop(self.api, job, kind, {marks.CANCELLED: _now()})
        if grace_s is not None:
            for pod in _living(self.api, name):
                metadata = pod["metadata"]
                self.api.delete(POD, metadata["name"], uid=metadata["uid"], grace_s=int(grace_s))
        _wait_left(self.api, job, grace_s)
        return self.status(name)

    def suspend(self, name: str) -> JobStatus:
        """Pauses a job: its workers save and leave; `resume` goes on from there."""
        job, kind = self.find(name)
        state = _state(job, kind)
        if state in ENDED:
            raise Conflict(f"job {name!r} has ended ({state}) and cannot be suspended")
        _stop(self.api, job, kind, {marks.SUSPENDED: _now()})
        _wait_left(self.api, job, None)
        return self.status(name)

    def resume(self, name: str) -> JobStatus:
        """Lets a suspended, cancelled or stopped job go on from its checkpoint.

        Raises Refused where its budget does not take it again.
        """
        job, kind = self.find(name)
        held = _state(job, kind)
        policy = seen(job, kind)["spec"].get("runPolicy", {})
        if held in ("Succeeded", "Failed") and not policy.get("suspend"):
            raise Conflict(f"job {name!r} has ended ({held}); submit it again to go on")
        notes: dict[str, str | None] = dict.fromkeys(_STOPPED)
        notes |= self._admitted(job, kind)
        change: dict[str, Any] = {"metadata": {"annotations": notes}}
        _suspend_rendezvous(self.api, name, False)
        if QUEUE_LABEL in labels_of(job):
            self.api.patch(kind, name, change)
            _activate(self.api, job, True)
        else:
            change["spec"] = suspension(kind, False)
            self.api.patch(kind, name, change)
        return self.status(name)

    def scale(self, name: str, workers: int) -> JobStatus:
        """Wants another number of workers; the highest indices leave first. Does not wait for them.

        Raises UsageError outside the job's range, Conflict for a job that has ended, and Refused
        where its budget has no room for more.
        """
        job, kind = self.find(name)
        found = read_status(seen(job, kind), None, datetime.now(UTC))
        if kind is TRAINJOB:
            raise UsageError(
                f"job {name!r} is a TrainJob, whose size is fixed; cancel it, and submit"
            )
        if not found.workers_least <= workers <= found.workers_most:
            raise UsageError(
                f"workers ({workers}) of job {name!r} must be between its least "
                f"({found.workers_least}) and most ({found.workers_most})"
            )
        if found.state in ENDED:
            raise Conflict(f"job {name!r} has ended ({found.state}); submit it again instead")
        if workers > found.workers_desired:
            self._admitted(job, kind, workers)
        if kind is PYTORCHJOB:
            self.api.patch(kind, name, {"spec": {"replicas": workers}}, subresource="scale")
        else:
            self.api.patch(kind, name, {"spec": resizing(kind, workers)})
        return self.status(name)

    def _admitted(self, job: Object, kind: Kind, workers: int | None = None) -> dict[str, str]:
        """Asks the job's budget, where it has one; what is to be noted of its answer.

        workers: how many it is to have; None: as it has. Raises Refused.
        """
        replicas = seen(job, kind)["spec"]["pytorchReplicaSpecs"]["Worker"].get("replicas", 1)
        applicant = Applicant.of(job, kind, (workers or replicas,))
        if applicant is None or admission.hold(self.api, applicant, self.say) is None:
            return {}
        return {marks.ADMITTED: applicant.budget}

    def delete(self, name: str, force: bool = False) -> None:
        """Removes a job's objects; its checkpoints stay. Waits until they are gone.

        Raises Conflict for a live job; with `force` its workers save and leave first.
        """
        job, kind = self.find(name)
        if _state(job, kind) not in (*ENDED, "Suspended"):
            if not force:
                raise Conflict(
                    f"job {name!r} is running; end it first with: launcher cancel {name}"
                )
            self.cancel(name)
        labels = f"{JOB_LABEL}={name},{PARTS_SELECTOR}"
        for other in (JOB, SERVICE):  # those applied by hand have no owner
            for thing in self.api.listing(other, labels=labels).items:
                self.api.delete(other, thing["metadata"]["name"])
        self.api.delete(kind, name, uid=job["metadata"]["uid"])
        wait_gone(self.api, kind, job)

    def logs(
        self,
        name: str,
        worker: int | None = None,
        follow: bool = False,
        tail: int | None = None,
        previous: bool = False,
    ) -> Iterator[str]:
        """What the workers wrote: `launcher.cluster.logs`."""
        self.find(name)
        return logs(self.api, name, worker, follow, tail, previous)

    def wait(
        self,
        name: str,
        timeout_s: float | None = None,
        on_change: Callable[[JobStatus], None] | None = None,
    ) -> JobStatus:
        """Waits for the job's end, whichever it is; raises TimedOut if that takes longer.

        on_change: told the status at the start, and when state, workers, restarts or reason differ.
        A job that is deleted meanwhile is NotFound.
        """
        _, kind = self.find(name)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        news: queue.Queue[Change | LauncherError | None] = queue.Queue()
        watch = Watch(self.api, kind, news.put, news.put, fields=f"metadata.name={name}")
        watch.start()
        seen: tuple[object, ...] = ()
        try:
            while True:
                found = self.status(name)
                key = (found.state, found.workers_desired, found.workers_running, found.restarts)
                news_of = (*key, found.reason, found.indexes)
                if on_change is not None and news_of != seen:
                    seen = news_of
                    on_change(found)
                if found.state in ENDED:
                    return found
                left_s = REFRESH_S if deadline is None else deadline - time.monotonic()
                if left_s <= 0:
                    raise TimedOut(
                        f"job {name!r} is still {found.state} after {timeout_s:g} s; it goes on"
                    )
                _next(news, min(left_s, REFRESH_S))
        finally:
            watch.stop()


def _next(news: queue.Queue[Change | LauncherError | None], timeout_s: float) -> None:
    """Returns at the next news; what has piled up meanwhile counts as one. Raises its error."""
    try:
        item = news.get(timeout=timeout_s)
        while True:
            if isinstance(item, LauncherError):
                raise item
            item = news.get_nowait()
    except queue.Empty:
        return


def _stop(api: Api, job: Object, kind: Kind, notes: dict[str, str]) -> None:
    """Asks the operator to end the pods, or Kueue, which alone may suspend what it admits."""
    name = job["metadata"]["name"]
    change: dict[str, Any] = {"metadata": {"annotations": notes}}
    if QUEUE_LABEL in labels_of(job):
        api.patch(kind, name, change)
        _activate(api, job, False)
        return
    change["spec"] = suspension(kind, True)
    api.patch(kind, name, change)


def _activate(api: Api, job: Object, active: bool) -> None:
    found = workload_of(api, job)
    if found is None:
        name = job["metadata"]["name"]
        raise Conflict(f"Kueue has made no Workload of job {name!r} yet; try again in a moment")
    workload, kind = found
    api.patch(kind, workload["metadata"]["name"], {"spec": {"active": active}})


def _wait_left(api: Api, job: Object, grace_s: float | None) -> None:
    """Waits until no worker is left, then lets the rendezvous go as well."""
    name = job["metadata"]["name"]
    left = _living(api, name)
    told_s = max((pod["spec"].get("terminationGracePeriodSeconds", 30) for pod in left), default=0)
    told_s = told_s if grace_s is None else grace_s
    ends_at = time.monotonic() + told_s + LEAVE_MARGIN_S
    while left and time.monotonic() < ends_at:
        time.sleep(0.5)
        left = _living(api, name)
    if left:
        names = ", ".join(each["metadata"]["name"] for each in left)
        raise TimedOut(
            f"job {name!r} is stopped, but after {told_s + LEAVE_MARGIN_S:g} s there are still "
            f"{names}; look at their nodes"
        )
    _suspend_rendezvous(api, name, True)


def _living(api: Api, name: str) -> list[Object]:
    """Pods of the job that have not ended; ended ones of an Indexed Job stay."""
    pods = pods_of(api, name)
    return [pod for pod in pods if container_of(pod) != PROGRAM or not is_over(pod)]


def _suspend_rendezvous(api: Api, name: str, wanted: bool) -> None:
    """A store of its own for each stretch of a run: a closed round in the old one would remain."""
    for job in api.listing(JOB, labels=f"{JOB_LABEL}={name},{PARTS_SELECTOR}").items:
        is_over = held(job, "Complete", "Failed") is not None
        if not is_over and bool(job["spec"].get("suspend")) is not wanted:
            api.patch(JOB, job["metadata"]["name"], {"spec": {"suspend": wanted}})


def _state(job: Object, kind: Kind) -> str:
    return read_status(seen(job, kind), None, datetime.now(UTC)).state


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
