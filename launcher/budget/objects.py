"""Budgets as the API server keeps them: read from the object, written to its status. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from launcher.budget.budgets import DAY_MS, Budget, Hold, State
from launcher.budget.periods import Calendar, Period
from launcher.errors import UsageError

VERSION, KIND = "launcher.dev/v1alpha1", "Budget"
Object = Mapping[str, Any]
_FOREVER_MS = 1 << 62


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


def with_hold(thing: Object, hold: Hold, now_ms: int) -> dict[str, Any]:
    """The object with a job's hold in its status, in place of an earlier one of the same job.

    To be written with the object's resourceVersion: another hold may have come first.
    """
    status = dict(thing.get("status", {}))
    kept = [each for each in status.get("holds", ()) if each["jobUID"] != hold.job_uid]
    entry = {
        "jobUID": hold.job_uid,
        "namespace": hold.namespace,
        "job": hold.job,
        "gpus": hold.gpus,
        "gpuMilliseconds": hold.gpu_ms,
        "heldAt": iso(now_ms),
    }
    return {**thing, "status": {**status, "holds": [*kept, entry]}}


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


def with_figures(thing: Object, state: State, period: Period, num_jobs: int) -> dict[str, Any]:
    """The object with what people read of it; exact figures are the ledger's."""
    status = dict(thing.get("status", {}))
    shown = {"from": iso(period.begin_ms)}
    if period.end_ms < _FOREVER_MS:
        shown["until"] = iso(period.end_ms)
    figures = {
        "used": state.used,
        "reserved": state.reserved,
        "remaining": state.remaining,
    }
    status |= {
        "observedGeneration": thing["metadata"].get("generation", 0),
        "gpuDays": {key: round(value / DAY_MS, 3) for key, value in figures.items()},
        "period": shown,
        "jobs": num_jobs,
    }
    return {**thing, "status": status}


def iso(moment_ms: int) -> str:
    """RFC 3339 in whole seconds, as the API server writes its own."""
    return datetime.fromtimestamp(moment_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
