"""What can be read off an object, whatever asks: labels, conditions, a worker's number. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


def latest(pods: Iterable[Object]) -> list[Object]:
    """The last pod of each index, by index."""
    found: dict[int, Object] = {}
    for pod in sorted(pods, key=_age):
        found[index_of(pod)] = pod
    return [found[index] for index in sorted(found)]


def before(pods: Iterable[Object], pod: Object) -> Object | None:
    """The pod that had a pod's index before it; None where none is left."""
    same = sorted((each for each in pods if index_of(each) == index_of(pod)), key=_age)
    names = [each["metadata"]["name"] for each in same]
    place = names.index(pod["metadata"]["name"])
    return same[place - 1] if place else None


def _age(pod: Object) -> tuple[str, bool]:
    """The older first; of two made within a second the one that is over."""
    return pod["metadata"].get("creationTimestamp", ""), not is_over(pod)


def is_over(pod: Object) -> bool:
    """Whether all of its containers have ended for good."""
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


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
