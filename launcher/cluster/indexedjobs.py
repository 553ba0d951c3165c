"""An Indexed Job seen as the PyTorchJob it would be, so that the same rules read both. Pure.

Other batch/v1 Jobs of the launcher are parts of jobs: a label tells which is which.
"""

from __future__ import annotations

from typing import Any

from launcher.cluster.fields import labels_of
from launcher.cluster.kinds import PYTORCHJOB, Object
from launcher.spec import INDEXED, JOB_LABEL, KIND_LABEL

JOBS_SELECTOR = f"{JOB_LABEL},{KIND_LABEL}={INDEXED}"
"""Finds Indexed Jobs, and no part of another job."""
PARTS_SELECTOR = f"!{KIND_LABEL}"
"""Finds what is no job by itself, such as the rendezvous."""
_CONDITIONS = {"Complete": "Succeeded", "Failed": "Failed", "Suspended": "Suspended"}


def is_indexed(thing: Object) -> bool:
    """Whether a batch/v1 Job is a job by itself."""
    return labels_of(thing).get(KIND_LABEL) == INDEXED


def as_pytorchjob(job: Object) -> Object:
    """Fields that `state` reads, and `indexes` beside them in its status. A worker is a pod: any
    number of them from one to that of the indexes will do."""
    spec, status = job["spec"], job.get("status", {})
    conditions = [
        {**each, "type": _CONDITIONS[each["type"]]}
        for each in status.get("conditions", ())
        if each["type"] in _CONDITIONS
    ]
    if status.get("active") and not any(each["status"] == "True" for each in conditions):
        conditions.append({"type": "Running", "status": "True"})
    told: Object = {
        "conditions": conditions,
        # Without a probe a pod is ready once its container runs.
        "replicaStatuses": {"Worker": {"active": status.get("ready", 0)}},
        "indexes": _indexes(job),
    }
    moments = {key: status[key] for key in ("startTime", "completionTime") if status.get(key)}
    policy = {"suspend": bool(spec.get("suspend"))}
    if "ttlSecondsAfterFinished" in spec:
        policy["ttlSecondsAfterFinished"] = spec["ttlSecondsAfterFinished"]
    return {
        "apiVersion": PYTORCHJOB.version,
        "kind": PYTORCHJOB.name,
        "metadata": job["metadata"],
        "spec": {
            "runPolicy": policy,
            "elasticPolicy": {"minReplicas": 1, "maxReplicas": spec.get("completions", 1)},
            "pytorchReplicaSpecs": {
                "Worker": {
                    "replicas": spec.get("parallelism", 1),
                    "template": spec["template"],
                }
            },
        },
        "status": told | moments,
    }


def _indexes(job: Object) -> dict[str, Any]:
    """How the indexes fare, and how many pods have failed so far."""
    status = job.get("status", {})
    return {
        "total": job["spec"].get("completions", 1),
        "done": status.get("succeeded", 0),
        "failed": status.get("failedIndexes", ""),
        "failures": status.get("failed", 0),
    }


def count_of(indexes: str) -> int:
    """How many a list of them names, as Kubernetes writes it: 1,3-5 are four."""
    total = 0
    for part in filter(None, indexes.split(",")):
        first, _, last = part.partition("-")
        total += int(last or first) - int(first) + 1
    return total
