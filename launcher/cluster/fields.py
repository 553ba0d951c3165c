"""What can be read off an object, whatever asks: labels, conditions, a worker's number. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from launcher.cluster import marks
from launcher.cluster.kinds import Object


def labels_of(thing: Object) -> dict[str, str]:
    """The labels; empty where there are none."""
    labels: dict[str, str] = thing["metadata"].get("labels") or {}
    return labels


def held(thing: Object, *types: str) -> Mapping[str, Any] | None:
    """The first condition of these types that is True; None where none is."""
    for each in thing.get("status", {}).get("conditions", ()):
        if each["type"] in types and each["status"] == "True":
            found: Mapping[str, Any] = each
            return found
    return None


def index_of(pod: Object) -> int:
    """A worker's number; 0 for a pod that is no worker."""
    labels = labels_of(pod)
    return int(labels.get(marks.REPLICA_INDEX) or labels.get(marks.COMPLETION_INDEX) or 0)


def trainer_statuses(pod: Object) -> list[Mapping[str, Any]]:
    """The status of the trainer's container: one, or none before it is there."""
    return [
        each
        for each in pod.get("status", {}).get("containerStatuses", ())
        if each["name"] in marks.CONTAINERS
    ]


def restarts_of(pod: Object) -> int:
    """How often the kubelet has started the trainer's container again."""
    return sum(each.get("restartCount", 0) for each in trainer_statuses(pod))
