"""The objects around a job: its pods, what was told of them, its place in a queue."""

from __future__ import annotations

from launcher.cluster import marks
from launcher.cluster.client import Api
from launcher.cluster.kinds import EVENT, POD, WORKLOAD, Object


def labels_of(thing: Object) -> dict[str, str]:
    """The labels; empty where there are none."""
    labels: dict[str, str] = thing["metadata"].get("labels") or {}
    return labels


def pods_of(api: Api, name: str) -> list[Object]:
    """The workers' pods of a job, by index."""
    selector = f"{marks.JOB_NAME}={name}"
    return sorted(
        api.listing(POD, labels=selector).items,
        key=lambda pod: int(labels_of(pod).get(marks.REPLICA_INDEX, 0)),
    )


def events_of(api: Api, name: str) -> list[Object]:
    """What was told of an object."""
    return api.listing(EVENT, fields=f"involvedObject.name={name}").items


def workload_of(api: Api, job: Object) -> Object | None:
    """Kueue's Workload of a job; None before Kueue has seen it."""
    uid = job["metadata"]["uid"]
    for workload in api.listing(WORKLOAD).items:
        owners = workload["metadata"].get("ownerReferences", ())
        if any(owner["uid"] == uid for owner in owners):
            return workload
    return None
