"""What of the ledger shows on the API server: budgets that tell of it, and pods that it holds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from launcher.budget.objects import ACCOUNTED, condition_of, is_accounted, with_condition
from launcher.budget.pods import FINALIZER
from launcher.cluster.admission import write_status
from launcher.cluster.client import Api
from launcher.cluster.kinds import BUDGET, POD, Object
from launcher.errors import Conflict, Forbidden, NotFound, Rejected
from launcher.spec import JOB_LABEL

Reason = Literal["Ledger", "NoFinalizer", "LedgerUnreadable", "Released"]
"""Stored, and pods are held until it is; stored, and they are not; it cannot be now; it was given
up by hand."""
TRIES = 5
"""Others may add and take finalizers at the same moment, and so move ours."""


def holds_pods(api: Api, budget: str) -> bool:
    """Whether jobs of a budget are to hold their pods: only where a ledger lets them go again."""
    try:
        found = api.find(BUDGET, budget)
    except Forbidden:
        return False
    condition = condition_of(found, ACCOUNTED) if found else None
    return bool(condition and (condition["status"], condition["reason"]) == ("True", "Ledger"))


def tell(api: Api, budget: Object, status: bool, reason: Reason, message: str) -> bool:
    """Writes the condition into a budget's status, if it says something else; returns whether it
    did. Raises Conflict where the budget has changed since it was read."""
    known = condition_of(budget, ACCOUNTED)
    if known and (known["status"], known["reason"]) == (str(status), reason):
        return False
    now_ms = api.transport.clock.now_ms()
    changed = with_condition(budget, ACCOUNTED, status, reason, message, now_ms)
    write_status(api, budget, changed, "conditions")
    return True


# -- pods


def release(api: Api, pod: Object) -> bool:
    """Takes the finalizer off this very pod; whether it is off. Raises LauncherError."""
    metadata = pod["metadata"]
    name, namespace, uid = metadata["name"], metadata["namespace"], metadata["uid"]
    finalizers = metadata.get("finalizers") or ()
    for _ in range(TRIES):
        if FINALIZER not in finalizers:
            return True
        try:
            api.patch(POD, name, without(uid, finalizers), namespace=namespace)
            return True
        except NotFound:
            return True
        except (Rejected, Conflict):  # it is not as it was seen: another pod, other finalizers
            found = api.find(POD, name, namespace)
            if found is None or found["metadata"]["uid"] != uid:
                return True
            finalizers = found["metadata"].get("finalizers") or ()
    return False


def without(uid: str, finalizers: Iterable[str]) -> list[dict[str, Any]]:
    """A JSON patch that takes ours away, or does nothing where something else is in its place."""
    path = f"/metadata/finalizers/{list(finalizers).index(FINALIZER)}"
    return [
        {"op": "test", "path": "/metadata/uid", "value": uid},
        {"op": "test", "path": path, "value": FINALIZER},
        {"op": "remove", "path": path},
    ]


def held_pods(api: Api, namespace: str) -> list[Object]:
    """Pods of jobs that bear the finalizer. namespace: "" is all."""
    found = api.each(POD, _held, namespace=namespace, labels=JOB_LABEL)
    return [pod for pod in found if pod]


def _held(pod: Object) -> Object:
    """What is asked of one that is held; empty for another."""
    metadata = pod["metadata"]
    if FINALIZER not in (metadata.get("finalizers") or ()):
        return {}
    keys = ("name", "namespace", "uid", "finalizers", "deletionTimestamp")
    return {"metadata": {key: metadata[key] for key in keys if key in metadata}}


def give_up(api: Api, namespace: str) -> int:
    """Lets every pod go, stored or not, and tells budgets that pods are held no more.

    For a ledger that is gone for good: a controller that has one takes it back. namespace: "" is
    all. Returns how many pods were let go. Raises LauncherError.
    """
    for budget in _budgets(api):
        if is_accounted(budget):
            tell(api, budget, False, "Released", "its pods were let go by launcher doctor")
    return sum(release(api, pod) for pod in held_pods(api, namespace))


def _budgets(api: Api) -> list[Object]:
    """None where the cluster knows no budgets, or this user may not see them."""
    try:
        return api.listing(BUDGET).items
    except (NotFound, Forbidden):
        return []
