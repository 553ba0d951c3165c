"""A TrainJob v2 seen as the PyTorchJob it would be, so that the same rules read both. Pure."""

from __future__ import annotations

from launcher.cluster.kinds import PYTORCHJOB, Object

_CONDITIONS = {"Complete": "Succeeded", "Failed": "Failed", "Suspended": "Suspended"}
_GROUP = "node"
"""What the runtime calls its workers."""


def as_pytorchjob(job: Object) -> Object:
    """Fields that `state` reads: size, suspension, conditions, counts. The size is fixed."""
    spec, status = job["spec"], job.get("status", {})
    trainer = spec.get("trainer", {})
    workers = trainer.get("numNodes", 1)
    counts = {each["name"]: each for each in status.get("jobsStatus", ())}.get(_GROUP, {})
    conditions = [
        {**each, "type": _CONDITIONS.get(each["type"], each["type"])}
        for each in status.get("conditions", ())
    ]
    active = counts.get("active", 0)
    if active and not any(each["status"] == "True" for each in conditions):
        conditions.append({"type": "Running", "status": "True"})
    container = {
        "name": _GROUP,
        "resources": {"limits": {"nvidia.com/gpu": str(trainer.get("numProcPerNode", 0))}},
    }
    return {
        "apiVersion": PYTORCHJOB.version,
        "kind": PYTORCHJOB.name,
        "metadata": job["metadata"],
        "spec": {
            "runPolicy": {"suspend": spec.get("suspend", False)},
            "elasticPolicy": {"minReplicas": workers, "maxReplicas": workers},
            "pytorchReplicaSpecs": {
                "Worker": {"replicas": workers, "template": {"spec": {"containers": [container]}}}
            },
        },
        "status": {
            "conditions": conditions,
            # It counts groups, not pods: a group that is active has all of its workers.
            "replicaStatuses": {"Worker": {"active": workers if active else 0}},
            "startTime": job["metadata"].get("creationTimestamp") if active else None,
        },
    }
