"""Budgets as the API server keeps them: read from the object, written to its status. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from launcher.budget.asked import read_reservations
from launcher.budget.budgets import DAY_MS, Budget, Hold, Refused, State
from launcher.budget.periods import Calendar, Period
from launcher.budget.pods import moment_ms
from launcher.errors import UsageError

VERSION, KIND = "launcher.dev/v1alpha1", "Budget"
MESSAGE_MOST_CHARS = 1024
Object = Mapping[str, Any]
_FOREVER_MS = 1 << 62
_NEVER = "1970-01-01T00:00:00Z"
FIGURES_LAST_S = 300
"""Older ones tell that nobody writes them any more; the controller does each minute."""
ACCOUNTED, EXHAUSTED = "Accounted", "Exhausted"
"""Conditions: whether the ledger is written, and whether nothing may start any more."""


def read_budget(thing: Object) -> Budget:
    """What was decided. Raises UsageError for what the definition would not have let in."""
    spec, metadata = thing["spec"], thing["metadata"]
    period = spec.get("period", {})
    begin = period.get("from") or metadata["creationTimestamp"]
    end = period.get("until")
    try:
        calendar = Calendar(
            period.get("every", "once"),
            datetime.fromisoformat(begin),
            datetime.fromisoformat(end) if end else None,
        )
    except ValueError as error:
        raise UsageError(f"budget {metadata['name']}: {error}") from error
    return Budget(
        name=metadata["name"],
        limit_gpu_ms=round(spec["gpuDays"] * DAY_MS),
        calendar=calendar,
        mode=spec.get("mode", "safe"),
        on_exhaustion=spec.get("onExhaustion", "suspend"),
        grace_s=spec.get("graceSeconds", 600),
    )


def allows(thing: Object, namespace: str) -> bool:
    """Whether jobs of a namespace may name the budget."""
    named = thing["spec"].get("namespaces")
    return not named or namespace in named


def read_holds(thing: Object) -> dict[str, Hold]:
    """What is held, by the job's uid."""
    return {
        each["jobUID"]: Hold(
            each["jobUID"],
            each["namespace"],
            each["job"],
            each["gpus"],
            each["gpuMilliseconds"],
        )
        for each in thing.get("status", {}).get("holds", ())
    }


def written_at_ms(thing: Object) -> int:
    """When the figures were last written; 0 before they were."""
    return moment_ms(thing.get("status", {}).get("asOf") or _NEVER)


def held_at_ms(thing: Object) -> dict[str, int]:
    """When each job's hold was written, by its uid."""
    holds = thing.get("status", {}).get("holds", ())
    return {each["jobUID"]: moment_ms(each["heldAt"]) for each in holds}


def read_state(thing: Object, now_ms: int) -> State:
    """Where a budget stands by its object, as far as the controller has written it. Used time and
    what of it goes to holds were written together, so their difference is right at any age."""
    status = thing.get("status", {})
    return State(
        budget=read_budget(thing),
        used=status.get("usedGPUMilliseconds", 0),
        holds=read_holds(thing),
        used_by_job={
            each["jobUID"]: each.get("usedGPUMilliseconds", 0) for each in status.get("holds", ())
        },
        reservations=read_reservations(thing, now_ms),
    )


def why_closed(thing: Object, namespace: str, now_ms: int) -> Refused | None:
    """Why no job of a namespace may start on a budget now, whatever its size; None: one may."""
    name, budget = thing["metadata"]["name"], read_budget(thing)
    if not allows(thing, namespace):
        allowed = ", ".join(thing["spec"]["namespaces"])
        return Refused(
            f'budget "{name}" is not for namespace {namespace}; it is for {allowed}', "NotAllowed"
        )
    if budget.calendar.at(now_ms) is None:
        begin, end = budget.calendar.anchor, budget.calendar.end
        is_over = end is not None and now_ms >= end.timestamp() * 1000
        when = f"ended on {end:%Y-%m-%d}" if is_over else f"begins on {begin:%Y-%m-%d}"
        return Refused(
            f'budget "{name}" {when}; change its period with `launcher budget set`', "NotAllowed"
        )
    told = condition_of(thing, ACCOUNTED)
    why = told["message"] if told else "no controller with --ledger has written its status"
    if is_accounted(thing):
        age_s = (now_ms - written_at_ms(thing)) // 1000
        if age_s <= FIGURES_LAST_S:
            return None
        why = f"its figures are {age_s} s old; is the controller running?"
    return Refused(f'budget "{name}" is not accounted, so nothing starts on it: {why}', "NoLedger")


def with_hold(thing: Object, hold: Hold, now_ms: int) -> dict[str, Any]:
    """The object with a job's hold in its status, in place of an earlier one of the same job.

    To be written with the object's resourceVersion: another hold may have come first.
    """
    status = dict(thing.get("status", {}))
    known = {each["jobUID"]: each for each in status.get("holds", ())}
    used = known.pop(hold.job_uid, {}).get("usedGPUMilliseconds", 0)
    entry = {
        "jobUID": hold.job_uid,
        "namespace": hold.namespace,
        "job": hold.job,
        "gpus": hold.gpus,
        "gpuMilliseconds": hold.gpu_ms,
        "usedGPUMilliseconds": used,
        "heldAt": iso(now_ms),
    }
    return {**thing, "status": {**status, "holds": [*known.values(), entry]}}


def without_holds(thing: Object, job_uids: set[str]) -> dict[str, Any]:
    """The object without the holds of jobs that have ended."""
    status = dict(thing.get("status", {}))
    kept = [each for each in status.get("holds", ()) if each["jobUID"] not in job_uids]
    return {**thing, "status": {**status, "holds": kept}}


def with_refusal(thing: Object, reason: str, now_ms: int) -> dict[str, Any]:
    """The object with one more refusal counted."""
    status = dict(thing.get("status", {}))
    counts = {each["reason"]: each for each in status.get("refusals", ())}
    known = counts.get(reason, {"count": 0})
    counts[reason] = {"reason": reason, "count": known["count"] + 1, "lastAt": iso(now_ms)}
    return {**thing, "status": {**status, "refusals": list(counts.values())}}


def with_figures(
    thing: Object, state: State, period: Period | None, num_jobs: int, now_ms: int
) -> dict[str, Any]:
    """The object with what people read of it; exact figures are the ledger's."""
    status = dict(thing.get("status", {}))
    shown = {"from": iso(period.begin_ms)} if period else None
    if period and shown and period.end_ms < _FOREVER_MS:
        shown["until"] = iso(period.end_ms)
    figures = {
        "used": state.used,
        "reserved": state.reserved,
        "remaining": state.remaining,
    }
    holds = [
        {**each, "usedGPUMilliseconds": state.used_by_job.get(each["jobUID"], 0)}
        for each in status.get("holds", ())
    ]
    status |= {
        "observedGeneration": thing["metadata"].get("generation", 0),
        "asOf": iso(now_ms),
        "usedGPUMilliseconds": state.used,
        "holds": holds,
        "gpuDays": {key: round(value / DAY_MS, 3) for key, value in figures.items()},
        "period": shown,
        "jobs": num_jobs,
    }
    return {**thing, "status": status}


def with_condition(
    thing: Object, kind: str, is_true: bool, reason: str, message: str, now_ms: int
) -> dict[str, Any]:
    """The object with a condition; its time changes with its status alone, as Kubernetes has it."""
    status, known = dict(thing.get("status", {})), condition_of(thing, kind)
    wanted = "True" if is_true else "False"
    is_same = known is not None and known["status"] == wanted
    since = known["lastTransitionTime"] if known is not None and is_same else iso(now_ms)
    told = {
        "type": kind, "status": wanted, "reason": reason, "message": message[:MESSAGE_MOST_CHARS],
        "lastTransitionTime": since, "observedGeneration": thing["metadata"].get("generation", 0),
    }  # fmt: skip
    others = [each for each in status.get("conditions", ()) if each["type"] != kind]
    return {**thing, "status": {**status, "conditions": [*others, told]}}


def is_accounted(thing: Object) -> bool:
    """Whether the GPU time of its jobs is being stored."""
    told = condition_of(thing, ACCOUNTED)
    return told is not None and told["status"] == "True"


def condition_of(thing: Object, kind: str) -> Mapping[str, Any] | None:
    """A condition of its status; None before it was first written."""
    conditions = thing.get("status", {}).get("conditions") or ()
    return next((each for each in conditions if each["type"] == kind), None)


def iso(moment_ms: int) -> str:
    """RFC 3339 in whole seconds, as the API server writes its own."""
    return datetime.fromtimestamp(moment_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
