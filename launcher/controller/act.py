"""Doing what was decided: each write is one that may come twice, and names what it is meant for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from launcher.cluster import marks
from launcher.cluster.client import Api
from launcher.cluster.forms import resizing, suspension
from launcher.cluster.kinds import JOB, POD, PYTORCHJOB, Object
from launcher.cluster.objects import workload_of
from launcher.controller import events
from launcher.controller.actions import (
    Action,
    Adopt,
    Deactivate,
    Decision,
    DeleteJob,
    DeletePod,
    SuspendRendezvous,
    Tell,
)
from launcher.controller.memory import Memory, Progress, read, write
from launcher.controller.view import View, kind_of
from launcher.errors import Conflict, Forbidden, NotFound

logger = logging.getLogger(__name__)

AGAIN_S = 30.0
"""A pod that is still there so long after its deletion is deleted again."""
JOB_TRACKING = "batch.kubernetes.io/job-tracking"
"""Finalizer of a Job's pods, which the Job takes away once they have ended."""
PROGRESS_EVERY_S = 60
"""How often progress alone is written: another leader may know it so much later."""


class NotLeading(Exception):
    """The Lease is lost: nothing more may be done."""


class Hands:
    """Acts on the jobs of a namespace while `may_act` says so."""

    def __init__(self, api: Api, may_act: Callable[[], bool], count: Callable[[str], None]) -> None:
        """api: of the jobs' namespace. count: told the reason of each thing done."""
        self.api, self._may_act, self._count = api, may_act, count
        self._deleted: dict[tuple[str, bool], float] = {}
        """When a pod, by uid, was deleted or forced: it may take its time to go."""

    def carry_out(self, view: View, decision: Decision) -> Object | None:
        """Does it all. Returns the job as patched; None if it was not.

        Raises Conflict where the job has changed since it was looked at: nothing was done then.
        """
        changed = self._patch_job(view, decision)
        for action in decision.actions:
            self._check()
            self._act(view.job, action)
        return changed

    # -- in a budget's name

    def admit(self, view: View, budget: str, workers: int) -> None:
        """Notes that a budget lets the job run, and with how many workers. Raises Conflict."""
        change: dict[str, Any] = {"metadata": {"annotations": {marks.ADMITTED: budget}}}
        if workers != view.replicas:
            change["spec"] = resizing(view.kind, workers)
        self._change(view, change)
        self._did(view.job, "Admitted", f"budget {budget!r} lets it run", False)

    def pause(self, view: View, reason: str) -> None:
        """Suspends a job: its workers save and leave. Raises Conflict where it has changed."""
        notes = {marks.BUDGET_REASON: reason, marks.ADMITTED: None}
        change: dict[str, Any] = {"metadata": {"annotations": notes}}
        if not view.is_queued:
            change["spec"] = suspension(view.kind, True)
        self._change(view, change)
        self._did(view.job, "BudgetSuspended", reason)
        if view.is_queued:
            self._deactivate(view.job)

    def shrink(self, view: View, workers: int, reason: str) -> None:
        """Goes on with fewer workers. Raises Conflict where the job has changed."""
        self._change(view, {"metadata": {}, "spec": resizing(view.kind, workers)})
        self._did(view.job, "BudgetShrunk", f"{reason}; goes on with {workers} workers")

    def tell(self, view: View, reason: str, message: str) -> None:
        """An event alone."""
        self._check()
        self._did(view.job, reason, message)

    def _change(self, view: View, change: dict[str, Any]) -> None:
        self._check()
        change["metadata"]["resourceVersion"] = view.job["metadata"]["resourceVersion"]
        self.api.patch(view.kind, view.name, change)

    # -- job by job

    def _patch_job(self, view: View, decision: Decision) -> Object | None:
        notes: dict[str, str | None] = dict.fromkeys(decision.cleared)
        if decision.ended_reason or decision.cleared or is_news(read(view.notes), decision.memory):
            notes |= write(decision.memory)
        if not notes:
            return None
        self._check()
        version = view.job["metadata"]["resourceVersion"]
        change: dict[str, Any] = {"metadata": {"resourceVersion": version, "annotations": notes}}
        if decision.ended_reason:
            notes |= {
                marks.ENDED: "Failed",
                marks.ENDED_REASON: decision.ended_reason,
                marks.ENDED_AT: _now(),
            }
            if not view.is_queued:
                change["spec"] = suspension(view.kind, True)
        try:
            changed = self.api.patch(view.kind, view.name, change)
        except Conflict:
            changed = self.api.get(view.kind, view.name)
            known = changed["metadata"].get("annotations") or {}
            if any(known.get(key) != value for key, value in notes.items()):
                raise  # else it was done, and only the answer to it was lost
        if decision.ended_reason:
            self._did(view.job, "Ended", decision.ended_reason)
            if view.is_queued:
                self._deactivate(view.job)
        return changed

    def _act(self, job: Object, action: Action) -> None:
        match action:
            case DeletePod():
                self._delete_pod(job, action)
            case Adopt(kind, helper):
                self._adopt(job, kind, helper)
            case SuspendRendezvous(helper, wanted):
                self._suspend(job, helper, wanted)
            case Deactivate():
                self._deactivate(job)
            case DeleteJob(message):
                metadata = job["metadata"]
                self.api.delete(kind_of(job), metadata["name"], uid=metadata["uid"])
                self._did(job, "Deleted", message, False)
            case Tell(reason, message, is_warning):
                self._did(job, reason, message, is_warning)

    def _delete_pod(self, job: Object, action: DeletePod) -> None:
        metadata, now = action.pod["metadata"], time.monotonic()
        key = (metadata["uid"], action.is_forced)
        self._deleted = {k: at for k, at in self._deleted.items() if now - at < AGAIN_S}
        if key in self._deleted:
            return
        grace_s = 0 if action.is_forced else action.grace_s
        try:
            if action.is_forced and JOB_TRACKING in metadata.get("finalizers", ()):
                self._fail_pod(action)
            self.api.delete(POD, metadata["name"], uid=metadata["uid"], grace_s=grace_s)
        except Conflict:
            return  # another pod has its name by now
        self._deleted[key] = now
        self._did(job, action.reason, f"{metadata['name']}: {action.message}")

    def _fail_pod(self, action: DeletePod) -> None:
        """Says in the node's place that a Job's pod has ended: its Job waits for that, else for
        ever. As a disruption, which the Job does not count."""
        metadata = action.pod["metadata"]
        if action.pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
            return
        kept = [
            each
            for each in action.pod.get("status", {}).get("conditions", ())
            if each["type"] != "DisruptionTarget"
        ]
        condition = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByLauncher",
            "message": action.message,
            "lastTransitionTime": _now(),
        }
        change = {
            "metadata": {"uid": metadata["uid"]},  # else Conflict
            "status": {"phase": "Failed", "conditions": [*kept, condition]},
        }
        try:
            self.api.patch(POD, metadata["name"], change, subresource="status")
        except Forbidden as error:  # deleted all the same; the Job goes on once its node is back
            logger.warning("%s", error)

    def _adopt(self, job: Object, kind: Any, helper: Object) -> None:
        owner = {
            "apiVersion": PYTORCHJOB.version,
            "kind": PYTORCHJOB.name,
            "name": job["metadata"]["name"],
            "uid": job["metadata"]["uid"],
            "controller": False,
            "blockOwnerDeletion": False,
        }
        name = helper["metadata"]["name"]
        version = helper["metadata"]["resourceVersion"]
        change = {"metadata": {"resourceVersion": version, "ownerReferences": [owner]}}
        if self._patch(kind, name, change):
            self._did(job, "Adopted", f"{kind.name} {name} goes with the job from now on", False)

    def _suspend(self, job: Object, helper: Object, wanted: bool) -> None:
        name = helper["metadata"]["name"]
        version = helper["metadata"]["resourceVersion"]
        change = {"metadata": {"resourceVersion": version}, "spec": {"suspend": wanted}}
        if self._patch(JOB, name, change):
            word = "RendezvousSuspended" if wanted else "RendezvousResumed"
            why = "the job does not run" if wanted else "the job runs"
            self._did(job, word, f"Job {name}: {why}", False)

    def _deactivate(self, job: Object) -> None:
        found = workload_of(self.api, job)
        if found is None:  # a queue is named, but there is no Kueue that would end the job
            kind = kind_of(job)
            self.api.patch(kind, job["metadata"]["name"], {"spec": suspension(kind, True)})
            return
        if found[0]["spec"].get("active") is False:
            return
        name, kind = found[0]["metadata"]["name"], found[1]
        self.api.patch(kind, name, {"spec": {"active": False}})
        self._did(job, "Deactivated", f"Workload {name}: the queue ends the job's pods", False)

    def _patch(self, kind: Any, name: str, change: dict[str, Any]) -> bool:
        """Whether it was done; what has changed or gone meanwhile is looked at again."""
        try:
            self.api.patch(kind, name, change)
        except (Conflict, NotFound) as error:
            logger.debug("%s", error)
            return False
        return True

    def _check(self) -> None:
        if not self._may_act():
            raise NotLeading

    def _did(self, job: Object, reason: str, message: str, is_warning: bool = True) -> None:
        metadata = job["metadata"]
        logger.info("%s/%s: %s: %s", metadata["namespace"], metadata["name"], reason, message)
        self._count(reason)
        events.tell(self.api, job, reason, message, is_warning)


def is_news(known: Memory, memory: Memory) -> bool:
    """Whether a memory is worth a write: progress alone is so now and then."""
    if replace(known, progress=Progress()) != replace(memory, progress=Progress()):
        return True
    return abs(memory.progress.at - known.progress.at) >= PROGRESS_EVERY_S


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
