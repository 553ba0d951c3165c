"""What the kinds of jobs have in common for the verbs: how each is read, suspended and resized.
Pure."""

from __future__ import annotations

from typing import Any

from launcher.cluster import indexedjobs, trainjobs
from launcher.cluster.kinds import JOB, PYTORCHJOB, TRAINJOB, Kind, Object

JOB_KINDS = (PYTORCHJOB, TRAINJOB, JOB)
"""Of batch/v1 Jobs only those that `is_job` takes."""


def is_job(thing: Object, kind: Kind) -> bool:
    """Whether an object is a job by itself: a batch/v1 Job may be part of one."""
    return kind in JOB_KINDS and (kind is not JOB or indexedjobs.is_indexed(thing))


def seen(job: Object, kind: Kind) -> Object:
    """A job of any kind as `state` reads it: as a PyTorchJob."""
    if kind is TRAINJOB:
        return trainjobs.as_pytorchjob(job)
    return indexedjobs.as_pytorchjob(job) if kind is JOB else job


def suspension(kind: Kind, wanted: bool) -> Object:
    """The change of `spec` that suspends a job of a kind, or lets it go."""
    return {"runPolicy": {"suspend": wanted}} if kind is PYTORCHJOB else {"suspend": wanted}


def suspend_path(kind: Kind) -> str:
    """Where that stands, for a JSON patch."""
    return "/spec/runPolicy/suspend" if kind is PYTORCHJOB else "/spec/suspend"


def resizing(kind: Kind, workers: int) -> Object:
    """The change of `spec` that gives a job another number of workers; empty: its size is fixed."""
    if kind is JOB:
        return {"parallelism": workers}
    if kind is PYTORCHJOB:
        return {"pytorchReplicaSpecs": {"Worker": {"replicas": workers}}}
    return {}


def workers_path(kind: Kind) -> str:
    """Where that stands, for a JSON patch; empty: nowhere."""
    paths = {
        PYTORCHJOB: "/spec/pytorchReplicaSpecs/Worker/replicas",
        JOB: "/spec/parallelism",
    }
    return paths.get(kind, "")


def suspend(job: Object, kind: Kind) -> None:
    """Has a job that is about to be created begin suspended."""
    spec: dict[str, Any] = job["spec"]
    place = spec.setdefault("runPolicy", {}) if kind is PYTORCHJOB else spec
    place["suspend"] = True


def resize(job: Object, kind: Kind, workers: int) -> None:
    """Has a job that is about to be created begin with so many workers."""
    if kind is JOB:
        job["spec"]["parallelism"] = workers
    elif kind is PYTORCHJOB:
        job["spec"]["pytorchReplicaSpecs"]["Worker"]["replicas"] = workers
