"""PyTorchJob v1: elastic workers that meet at a rendezvous of their own."""

from __future__ import annotations

from typing import Any

from launcher.render.objects import Object, labels, named, notes, worker_notes
from launcher.render.pods import fill_rendezvous, worker_template
from launcher.render.queueing import queue_labels
from launcher.spec import JOB_LABEL, JobSpec


def pytorchjob(spec: JobSpec) -> list[Object]:
    """The objects in the order of creation: rendezvous Job, its Service, PyTorchJob."""
    return [_rendezvous_job(spec), _rendezvous_service(spec), _job(spec)]


def _rendezvous_job(spec: JobSpec) -> Object:
    job = named(spec, "rendezvous-job.yaml", f"{spec.name}-rendezvous")
    job["spec"]["ttlSecondsAfterFinished"] = spec.job.keep_finished_s
    template = job["spec"]["template"]
    template["metadata"]["labels"] |= labels(spec) | _role(spec)
    fill_rendezvous(spec, template)
    return job


def _rendezvous_service(spec: JobSpec) -> Object:
    service = named(spec, "rendezvous-service.yaml", f"{spec.name}-rendezvous")
    service["spec"]["selector"] = _role(spec)
    return service


def _job(spec: JobSpec) -> Object:
    job = named(spec, "pytorchjob.yaml", spec.name)
    job["metadata"]["labels"] |= queue_labels(spec)
    job["metadata"]["annotations"] = notes(spec) | worker_notes(spec)
    body = job["spec"]
    body["nprocPerNode"] = str(spec.ranks_per_worker)
    body["elasticPolicy"] |= _elastic_policy(spec)
    body["runPolicy"] |= {
        "ttlSecondsAfterFinished": spec.job.keep_finished_s,
        "schedulingPolicy": _scheduling_policy(spec),
    }
    worker = body["pytorchReplicaSpecs"]["Worker"]
    worker["replicas"] = spec.workers.desired
    worker["template"] = worker_template(spec)
    return job


def _scheduling_policy(spec: JobSpec) -> Object:
    gang = spec.job.gang
    # Else a gang is all replicas, and a shrunken job never starts (kubeflow/trainer#1571).
    policy: dict[str, Any] = {"minAvailable": spec.workers.least}
    if gang.scheduler == "volcano" and gang.queue:
        policy["queue"] = gang.queue
    if gang.timeout_s:
        policy["scheduleTimeoutSeconds"] = gang.timeout_s
    return policy


def _elastic_policy(spec: JobSpec) -> Object:
    rendezvous = spec.job.rendezvous
    conf = {
        "join_timeout": rendezvous.join_timeout_s,
        "last_call_timeout": rendezvous.last_call_timeout_s,
    }
    return {
        "minReplicas": spec.workers.least,
        "maxReplicas": spec.workers.most,
        "rdzvId": spec.name,
        "rdzvHost": f"{spec.name}-rendezvous",
        "maxRestarts": spec.job.max_restarts,
        "rdzvConf": [{"key": key, "value": str(value)} for key, value in conf.items()],
    }


def _role(spec: JobSpec) -> dict[str, str]:
    """What finds the rendezvous pod, and only it."""
    return {JOB_LABEL: spec.name, "app.kubernetes.io/component": "rendezvous"}
