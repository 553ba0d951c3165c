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
    return _nested(_suspend_at(kind), wanted)


def suspend_path(kind: Kind) -> str:
    """Where that stands, for a JSON patch."""
    return "/".join(("/spec", *_suspend_at(kind)))


def resizing(kind: Kind, workers: int) -> Object:
    """The change of `spec` that gives a job another number of workers; empty: its size is fixed."""
    return _nested(_WORKERS_AT.get(kind, ()), workers)


def workers_path(kind: Kind) -> str:
    """Where that stands, for a JSON patch; empty: nowhere."""
    return "/".join(("/spec", *_WORKERS_AT[kind])) if kind in _WORKERS_AT else ""


def suspend(job: Object, kind: Kind) -> None:
    """Has a job that is about to be created begin suspended."""
    _put(job["spec"], _suspend_at(kind), True)


def resize(job: Object, kind: Kind, workers: int) -> None:
    """Has a job that is about to be created begin with so many workers."""
    _put(job["spec"], _WORKERS_AT.get(kind, ()), workers)


_WORKERS_AT = {
    PYTORCHJOB: ("pytorchReplicaSpecs", "Worker", "replicas"),
    JOB: ("parallelism",),
}
"""Keys below `spec`; other kinds' size is fixed."""


def _suspend_at(kind: Kind) -> tuple[str, ...]:
    """Likewise, of whether it is suspended."""
    return ("runPolicy", "suspend") if kind is PYTORCHJOB else ("suspend",)


def _nested(keys: tuple[str, ...], value: Any) -> Object:
    """The value below its keys; empty without any."""
    found: Object = {}
    _put(found, keys, value)
    return found


def _put(tree: Object, keys: tuple[str, ...], value: Any) -> None:
    """Puts a value below its keys, where there are any."""
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
    for key in keys[-1:]:
        tree[key] = value
