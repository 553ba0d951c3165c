"""What is known of a job at a moment: the same whether processes or pods carry it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

JobState = Literal[
    "Created",
    "Queued",
    "Starting",
    "Running",
    "Restarting",
    "Suspended",
    "Succeeded",
    "Failed",
    "Cancelled",
]
"""Queued waits for Kueue's quota; Starting has fewer workers than the job can begin with."""
WorkerState = Literal["Pending", "Running", "Terminating", "Succeeded", "Failed"]
ENDED: frozenset[str] = frozenset({"Succeeded", "Failed", "Cancelled"})
"""States a job does not leave but by being submitted again."""


@dataclass(frozen=True)
class WorkerStatus:
    """One worker: a pod, or an agent process on this machine."""

    index: int
    state: WorkerState
    pid: int | None
    restarts: int
    started_at: str | None
    reason: str
    """Why it last ended, from its termination message; empty while all is well."""
    node: str = ""
    """Where its pod is; empty on this machine and before it is placed."""


@dataclass(frozen=True)
class Progress:
    """How far a run is, from the metrics in its folder."""

    seen: int
    """Samples."""
    goal: int
    epoch: float
    world: int
    """Ranks training together."""
    samples_per_s: float | None
    loss: float | None
    eta_s: float | None
    """At the pace of the last line."""
    at: str
    """When the last line was written."""
    checkpoint_age_s: float | None
    """Since the newest checkpoint was committed; None where there is none yet."""


@dataclass(frozen=True)
class Event:
    """Something that happened to a job, worded as kubectl's events."""

    at: str
    type: Literal["Normal", "Warning"]
    reason: str
    """One CamelCase word: Started, Killed, BackOff, Scaled, Cancelled, Completed, ..."""
    object: str
    """job, rendezvous or worker-N."""
    message: str


@dataclass(frozen=True)
class Indexes:
    """How far a job of independent parts is."""

    total: int
    done: int
    failed: str = ""
    """Those that failed for good, as Kubernetes lists them: 1,3-5."""


@dataclass(frozen=True)
class JobStatus:
    """One job. Moments are ISO 8601 in UTC, spans in seconds."""

    name: str
    backend: Literal["local", "kubernetes"]
    state: JobState
    model: str
    workers_desired: int
    workers_running: int
    workers_least: int
    workers_most: int
    restarts: int
    """How often a lost or failed worker was started again, over all workers."""
    created_at: str
    started_at: str | None
    ended_at: str | None
    worker_s: float
    """Seconds that workers have run, added up: what a budget would be charged."""
    reason: str
    checkpoints: str
    """Address of the run's folder."""
    workers: tuple[WorkerStatus, ...] = ()
    events: tuple[Event, ...] = ()
    namespace: str = ""
    """Empty on this machine."""
    queue: str = ""
    """Kueue's LocalQueue; empty: none."""
    gpus: int = 0
    """GPUs of the workers that run now."""
    progress: Progress | None = None
    indexes: Indexes | None = None
    """Of a job of independent parts; else None."""
