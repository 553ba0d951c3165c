"""Jobs as text for people and as documents for programs."""

from __future__ import annotations

import dataclasses
import sys
from datetime import datetime
from typing import Any

from launcher.cli.follow import COLORS, in_words
from launcher.cli.manners import Manner, colored, span, table
from launcher.status import JobStatus, Progress


def document(job: JobStatus) -> dict[str, Any]:
    """One job as -o json gives it."""
    return {"kind": "Job", **dataclasses.asdict(job)}


def listing(jobs: list[JobStatus], wide: bool, now: datetime) -> str:
    """A line each; a column of namespaces where there are several."""
    spread = len({job.namespace for job in jobs}) > 1
    return table(_head(wide, spread), [_row(job, wide, spread, now) for job in jobs])


def description(job: JobStatus, manner: Manner, now: datetime, unknown: str = "") -> str:
    """All of one job. unknown: why its progress is not known."""
    color = COLORS.get(job.state)
    state = colored(job.state, color, manner, sys.stdout) if color else job.state
    if job.state == "Starting":
        state = f"{state} {job.workers_running}/{job.workers_desired}"
    facts = [
        ("Name", job.name),
        ("Namespace", job.namespace),
        ("State", f"{state} ({job.reason})" if job.reason else state),
        ("Model", job.model),
        (
            "Workers",
            f"{job.workers_running} running, {job.workers_desired} wanted, "
            f"{job.workers_least} to {job.workers_most} allowed",
        ),
        ("Indexes", in_words(job.indexes) if job.indexes else ""),
        ("GPUs", str(job.gpus) if job.gpus else ""),
        ("Queue", job.queue),
        ("Restarts", str(job.restarts)),
        ("Created", ago(job.created_at, now) if job.namespace else ""),
        ("Started", ago(job.started_at, now)),
        ("Ended", ago(job.ended_at, now)),
        ("Worker time", span(job.worker_s)),
        *_how_far(job, now, unknown),
        ("Output" if job.indexes else "Checkpoints", job.checkpoints),
    ]
    lines = [f"{name + ':':<13}{value}" for name, value in facts if value]
    return "\n".join([*lines, *_workers(job), *_events(job, now)])


def ago(moment: str | None, now: datetime) -> str:
    """A moment as the time since, for people."""
    if not moment:
        return ""
    return f"{span((now - datetime.fromisoformat(moment)).total_seconds())} ago"


def _head(wide: bool, spread: bool) -> list[str]:
    head = ["NAME", "STATE", "MODEL", "WORKERS", "RESTARTS", "AGE"]
    if spread:
        head.insert(0, "NAMESPACE")
    return [*head, "MIN", "MAX", "WORKER-TIME", "CHECKPOINTS"] if wide else head


def _row(job: JobStatus, wide: bool, spread: bool, now: datetime) -> list[str]:
    row = [
        job.name,
        job.state,
        job.model,
        f"{job.workers_running}/{job.workers_desired}",
        str(job.restarts),
        span((now - datetime.fromisoformat(job.created_at)).total_seconds()),
    ]
    if spread:
        row.insert(0, job.namespace or "(local)")
    if wide:
        row += [str(job.workers_least), str(job.workers_most), span(job.worker_s), job.checkpoints]
    return row


def _how_far(job: JobStatus, now: datetime, unknown: str) -> list[tuple[str, str]]:
    """What its metrics tell; a job of independent parts has none, and is as far as its indexes."""
    if job.indexes:
        return []
    return _progress(job.progress, now) if job.progress else [("Progress", unknown)]


def _progress(progress: Progress, now: datetime) -> list[tuple[str, str]]:
    share = f" ({progress.seen / progress.goal:.1%})" if progress.goal else ""
    pace = f", {progress.samples_per_s:,.0f} samples/s" if progress.samples_per_s else ""
    loss = f", loss {progress.loss:.3f}" if progress.loss is not None else ""
    age = progress.checkpoint_age_s
    return [
        (
            "Progress",
            f"{progress.seen:,} of {progress.goal:,} samples{share}, epoch {progress.epoch:.2f}"
            f"{pace}{loss}, world {progress.world}; told {ago(progress.at, now)}",
        ),
        ("To go", span(progress.eta_s) if progress.eta_s else ""),
        ("Checkpoint", f"{span(age)} old" if age is not None else "none yet"),
    ]


def _workers(job: JobStatus) -> list[str]:
    if not job.workers:
        return []
    place = "NODE" if job.namespace else "PID"
    rows = [
        (
            f"worker-{worker.index}",
            worker.state,
            (worker.node if job.namespace else str(worker.pid or "")) or "-",
            str(worker.restarts),
            worker.reason or "-",
        )
        for worker in job.workers
    ]
    return ["", table(["WORKER", "STATE", place, "RESTARTS", "LAST END"], rows)]


def _events(job: JobStatus, now: datetime) -> list[str]:
    if not job.events:
        return []
    rows = [
        (ago(event.at, now), event.type, event.reason, event.object, event.message)
        for event in job.events
    ]
    return ["", table(["SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"], rows)]
