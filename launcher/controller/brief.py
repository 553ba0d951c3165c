"""What the controller keeps of an object: of 8,000 pods the rest takes half a gigabyte. Pure."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from typing import Any

from launcher.budget.pods import GPU_RESOURCES
from launcher.cluster.forms import is_job, seen
from launcher.cluster.kinds import NODE, POD, Kind, Object

_METADATA = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "finalizers",
    "labels",
    "ownerReferences",
)
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""Another copy of all of a job, where somebody used kubectl."""


def brief(kind: Kind, thing: Object) -> Object:
    """The object without what no duty looks at; a job of any kind as `forms.seen` gives it."""
    kept: Object = {"kind": kind.name, "metadata": _only(thing["metadata"], _METADATA)}
    spec, status = thing.get("spec", {}), thing.get("status", {})
    if is_job(thing, kind):
        like = seen(thing, kind)
        spec, status = like["spec"], like.get("status", {})
        notes = thing["metadata"].get("annotations") or {}
        kept["metadata"]["annotations"] = {k: v for k, v in notes.items() if k != _APPLIED}
        kept["spec"] = spec | {"pytorchReplicaSpecs": _replicas(spec["pytorchReplicaSpecs"])}
        kept["status"] = status
    elif kind is POD:
        kept["spec"] = _only(spec, ("nodeName",)) | _shared(json.dumps(_pod_containers(spec)))
        kept["status"] = _only(status, ("phase", "podIP", "conditions"))
        for key in ("initContainerStatuses", "containerStatuses"):
            if key in status:
                kept["status"][key] = [_container_status(each) for each in status[key]]
    else:
        if kind is not NODE:
            kept["spec"] = _only(spec, ("suspend",))
        kept["status"] = _only(status, ("conditions",))
    return kept


def _pod_containers(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Names, ports and GPUs; of the init containers only those that have GPUs."""
    kept = _containers(spec, ("name", "ports"))
    for each, container in zip(kept["containers"], spec.get("containers", ()), strict=True):
        if gpus := _gpus(container):
            each["resources"] = {"limits": gpus}
    first = [
        _only(each, ("name", "restartPolicy")) | {"resources": {"limits": gpus}}
        for each in spec.get("initContainers", ())
        if (gpus := _gpus(each))
    ]
    return kept | {"initContainers": first} if first else kept


def _gpus(container: Mapping[str, Any]) -> dict[str, Any]:
    return _only(container.get("resources", {}).get("limits") or {}, GPU_RESOURCES)


@functools.lru_cache(maxsize=4096)
def _shared(text: str) -> dict[str, Any]:
    """The same object for the same text: pods of a job differ in little. Nobody may change it."""
    made: dict[str, Any] = json.loads(text)
    return made


def _container_status(status: Mapping[str, Any]) -> dict[str, Any]:
    kept = _only(status, ("name", "restartCount", "state", "lastState"))
    # That it has one tells that the container was made; which one nobody asks.
    return kept | {"containerID": ""} if status.get("containerID") else kept


def _replicas(specs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: each | {"template": {"spec": _containers(each["template"]["spec"], ("resources",))}}
        for name, each in specs.items()
    }


def _containers(spec: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {"containers": [_only(each, keys) for each in spec.get("containers", ())]}


def _only(thing: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: thing[key] for key in keys if key in thing}
