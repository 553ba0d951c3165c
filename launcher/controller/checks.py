"""Kueue's admission check of budgets: a job of a queue starts once its budget lets it.

Whoever runs Kueue makes an AdmissionCheck with this controllerName and names it in a ClusterQueue.
A Workload that has its quota then waits for this one's word: Ready with the hold written, or Retry
(its quota goes to others meanwhile) while nobody accounts. Where the budget says no the Workload
is deactivated until `launcher resume`: Rejected would do so too, but Kueue 0.18 never looks again
at one that was deactivated in that way (kubernetes-sigs/kueue, pull request 14309). While the
ledger cannot be read the check is not Active, and its queues admit nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from launcher import errors
from launcher.budget import objects
from launcher.cluster import admission, marks
from launcher.cluster.client import Api
from launcher.cluster.fields import held
from launcher.cluster.forms import JOB_KINDS, is_job, seen
from launcher.cluster.kinds import (
    ADMISSION_CHECK,
    PYTORCHJOB,
    TRAINJOB,
    WORKLOAD,
    Kind,
    Object,
)
from launcher.cluster.watch import Change, Watch
from launcher.controller.accounted import UNREADABLE_AFTER_S
from launcher.controller.accounting import Accounting
from launcher.errors import Conflict, LauncherError, NotFound

logger = logging.getLogger(__name__)

CONTROLLER_NAME = "launcher.dev/budget"
LOOK_S, NONE_LOOK_S = 1.0, 15.0
"""Pauses between looks while there is a check of ours, and while there is none."""
REQUEUE_S = 30
"""A Workload whose budget is not accounted now is asked of again after so long."""
ACTIVE = "Active"
"""Of a check: its one condition, and the reason where it is kept."""
_KINDS = {kind.name: kind for kind in JOB_KINDS}


class Checks:
    """One candidate's part; a thread of its own."""

    def __init__(
        self,
        api: Api,
        accounting: Accounting,
        namespaces: Sequence[str],
        count: Callable[[str], None],
    ) -> None:
        """api: it must not repeat requests for long. namespaces: that are looked after."""
        self._api, self._accounting, self._namespaces = api, accounting, namespaces
        self._count = count
        self._watches: list[Watch] = []
        self._lock = threading.Lock()
        self._waiting: dict[str, Object] = {}
        """Workloads that wait for some check, by uid."""
        self._last_error = ""

    def run(self, stopping: threading.Event) -> None:
        """Looks until `stopping`."""
        pause_s = LOOK_S
        while not stopping.wait(pause_s):
            pause_s = LOOK_S if self.look() or not self._accounting.is_ready else NONE_LOOK_S
        self._stop()

    def look(self) -> bool:
        """Answers for what waits; whether there is a check of ours to answer for."""
        if not self._accounting.is_ready and not self._is_unreadable():
            self._stop()
            return False
        try:
            names = self._tell_checks()
        except NotFound:  # there is no Kueue, or none that is new enough
            names = set()
        except LauncherError as error:
            self._complain(f"admission checks: {error}")
            return False
        if not names:
            self._stop()
            return False
        self._start()
        if not self._is_unreadable():
            self._answer(names)
        return True

    # -- the check itself

    def _is_unreadable(self) -> bool:
        return self._accounting.failing_s > UNREADABLE_AFTER_S

    def _tell_checks(self) -> set[str]:
        """Says of each check of ours whether it is kept; returns their names."""
        names = set()
        for check in self._api.listing(ADMISSION_CHECK).items:
            if check["spec"].get("controllerName") == CONTROLLER_NAME:
                names.add(check["metadata"]["name"])
                self._tell_check(check)
        return names

    def _tell_check(self, check: Object) -> None:
        if self._is_unreadable():
            reason = "LedgerUnreadable"
            message = f"{self._accounting.address} does not answer; nothing is admitted meanwhile"
        else:
            reason, message = ACTIVE, "budgets are kept"
        known = objects.condition_of(check, ACTIVE)
        if known is not None and known["reason"] == reason:
            return
        metadata, now_ms = check["metadata"], self._accounting.now_ms()
        told = objects.with_condition(check, ACTIVE, reason == ACTIVE, reason, message, now_ms)
        change = {
            "metadata": {"resourceVersion": metadata["resourceVersion"]},
            "status": {"conditions": told["status"]["conditions"]},
        }
        try:
            self._api.patch(ADMISSION_CHECK, metadata["name"], change, subresource="status")
        except Conflict:
            logger.debug("admission check %s has changed: at the next look", metadata["name"])

    # -- Workloads

    def _start(self) -> None:
        if self._watches and all(watch.is_alive() for watch in self._watches):
            return
        self._stop()
        self._watches = [
            Watch(self._api, WORKLOAD, self._tell, self._failed, namespace=namespace, keep=_brief)
            for namespace in self._namespaces
        ]
        for watch in self._watches:
            watch.start()

    def _stop(self) -> None:
        for watch in self._watches:
            watch.stop()
        self._watches = []
        with self._lock:
            self._waiting.clear()

    def _failed(self, error: LauncherError) -> None:
        self._complain(f"Workloads are not watched: {error}")

    def _complain(self, text: str) -> None:
        """Once for each thing."""
        if text != self._last_error:
            logger.warning("%s", text)
            self._count("Error")
        self._last_error = text

    def _tell(self, change: Change | None) -> None:
        if change is None:
            return
        uid = change.object["metadata"]["uid"]
        with self._lock:
            if change.type != "DELETED" and change.object["waiting"]:
                self._waiting[uid] = change.object
            else:
                self._waiting.pop(uid, None)

    def _answer(self, names: set[str]) -> None:
        with self._lock:
            waiting = list(self._waiting.values())
        for workload in waiting:
            for name in names.intersection(workload["waiting"]):
                try:
                    self._judge(workload, name)
                except (Conflict, NotFound) as error:
                    logger.debug("%s: has changed, looked at again: %s", _where(workload), error)
                except LauncherError as error:
                    self._complain(f"{_where(workload)}: {error}")

    def _judge(self, workload: Object, name: str) -> None:
        job, kind = self._job_of(workload)
        applicant = None
        if job is not None:
            worker = seen(job, kind)["spec"]["pytorchReplicaSpecs"]["Worker"]
            # Kueue has reserved room for this size; another one would be queued anew.
            applicant = admission.Applicant.of(job, kind, (worker.get("replicas", 1),))
        if applicant is None:
            self._write(workload, name, "Ready", "it names no budget")
            return
        try:
            admission.hold(self._api, applicant, logger.info)
        except errors.Refused as refused:
            if refused.kind == "NoLedger":
                self._write(workload, name, "Retry", str(refused))
            else:
                self._refuse(workload, applicant, kind, str(refused))
            return
        self._write(workload, name, "Ready", f'budget "{applicant.budget}" lets it run')

    def _job_of(self, workload: Object) -> tuple[Object | None, Kind]:
        """The job that a Workload stands for, where it is one of the launcher's kinds."""
        namespace = workload["metadata"]["namespace"]
        for owner in workload["metadata"].get("ownerReferences", ()):
            kind = _KINDS.get(owner["kind"])
            if kind is not None:
                found = self._api.find(kind, owner["name"], namespace)
                if found is None or found["metadata"]["uid"] != owner["uid"]:
                    continue
                if is_job(found, kind):
                    return found, kind
        return None, PYTORCHJOB

    def _refuse(
        self, workload: Object, applicant: admission.Applicant, kind: Kind, reason: str
    ) -> None:
        """Says why at the job, then deactivates its Workload."""
        if kind is not TRAINJOB:  # nothing of one is changed
            notes = {"uid": applicant.uid, "annotations": {marks.BUDGET_REASON: reason}}
            self._api.patch(
                kind, applicant.name, {"metadata": notes}, namespace=applicant.namespace
            )
        metadata = workload["metadata"]
        change = {
            "metadata": {"resourceVersion": metadata["resourceVersion"]},
            "spec": {"active": False},
        }
        self._api.patch(WORKLOAD, metadata["name"], change, namespace=metadata["namespace"])
        self._count("CheckRefused")
        logger.info("%s: refused: %s", _where(workload), reason)

    def _write(self, workload: Object, name: str, state: str, message: str) -> None:
        metadata = workload["metadata"]
        told: dict[str, Any] = {
            "state": state,
            "message": message[: objects.MESSAGE_MOST_CHARS],
            "lastTransitionTime": objects.iso(self._accounting.now_ms()),
        }
        if state == "Retry":
            told["requeueAfterSeconds"] = REQUEUE_S
        checks = [each | told if each["name"] == name else each for each in workload["checks"]]
        change = {
            "metadata": {"resourceVersion": metadata["resourceVersion"]},
            "status": {"admissionChecks": checks},
        }
        self._api.patch(WORKLOAD, metadata["name"], change, subresource="status",
                        namespace=metadata["namespace"])  # fmt: skip
        self._count(f"Check{state}")
        logger.info("%s: %s: %s", _where(workload), state, message)


def _brief(workload: Object) -> Object:
    """What is kept of a Workload: whose it is, and which checks it waits for now."""
    status = workload.get("status", {})
    is_asking = workload["spec"].get("active", True) and held(workload, "QuotaReserved")
    is_over = held(workload, "Finished") or held(workload, "Evicted")
    waiting = [
        each["name"]
        for each in status.get("admissionChecks", ())
        if each["state"] == "Pending" and is_asking and not is_over
    ]
    keys = ("name", "namespace", "uid", "resourceVersion", "ownerReferences")
    metadata = {key: workload["metadata"][key] for key in keys if key in workload["metadata"]}
    return {"metadata": metadata, "checks": status["admissionChecks"] if waiting else [],
            "waiting": waiting}  # fmt: skip


def _where(workload: Object) -> str:
    metadata = workload["metadata"]
    return f"Workload {metadata['namespace']}/{metadata['name']}"
