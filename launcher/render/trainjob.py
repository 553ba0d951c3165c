"""TrainJob v2: workers of a fixed number. Trainer v2 has no elasticity yet (KEP-2903).

Its group is static: worker 0 holds the store, and the loss of one worker ends all, so the JobSet
starts every pod anew, and the run goes on from its checkpoint. The run's runtime is rendered with
it; Trainer adds torchrun's PET_* variables to the container called node.
"""

from __future__ import annotations

from launcher.render.objects import Object, named, notes, worker_notes
from launcher.render.pods import worker_template
from launcher.render.queueing import queue_labels
from launcher.spec import JobSpec

VOLCANO_QUEUE_ANNOTATION = "scheduling.volcano.sh/queue-name"
_OF_ELASTIC_GROUPS = ("PET_LOCAL_ADDR",)


def trainjob(spec: JobSpec) -> list[Object]:
    """The objects in the order of creation: TrainingRuntime, TrainJob."""
    return [_runtime(spec), _job(spec)]


def _runtime(spec: JobSpec) -> Object:
    runtime = named(spec, "training-runtime.yaml", spec.name)
    body = runtime["spec"]
    body["mlPolicy"]["numNodes"] = spec.workers.desired
    _add_gang(spec, body)
    jobs = body["template"]["spec"]
    jobs["failurePolicy"]["maxRestarts"] = spec.job.max_restarts
    jobs["replicatedJobs"][0]["template"]["spec"]["template"] = _pod(spec)
    return runtime


def _pod(spec: JobSpec) -> Object:
    template = worker_template(spec)
    template["spec"]["restartPolicy"] = "Never"
    container = template["spec"]["containers"][0]
    container["name"] = "node"
    container["command"] = ["torchrun"]  # Trainer names worker 0 as the store, not a rendezvous
    container["ports"] = [port for port in container["ports"] if port["name"] == "metrics"]
    wait_s = spec.job.rendezvous.join_timeout_s
    container["env"] = [
        {"name": "PYTHONUNBUFFERED", "value": "1"},  # the other operator sets it itself
        {"name": "PET_RDZV_CONF", "value": f"timeout={wait_s}"},  # torchrun's is 600
        *(entry for entry in container["env"] if entry["name"] not in _OF_ELASTIC_GROUPS),
    ]
    return template


def _add_gang(spec: JobSpec, body: Object) -> None:
    gang = spec.job.gang
    if gang.scheduler == "volcano":
        body["podGroupPolicy"] = {"volcano": {}}
        if gang.queue:
            queue = {VOLCANO_QUEUE_ANNOTATION: gang.queue}
            body["template"]["metadata"] = {"annotations": queue}
    elif gang.scheduler == "scheduler-plugins":
        timeout = {"scheduleTimeoutSeconds": gang.timeout_s} if gang.timeout_s else {}
        body["podGroupPolicy"] = {"coscheduling": timeout}


def _job(spec: JobSpec) -> Object:
    job = named(spec, "trainjob.yaml", spec.name)
    job["metadata"]["labels"] |= queue_labels(spec)
    job["metadata"]["annotations"] = notes(spec) | worker_notes(spec)
    body = job["spec"]
    body["runtimeRef"]["name"] = spec.name
    body["trainer"] = {"numNodes": spec.workers.desired, "numProcPerNode": spec.ranks_per_worker}
    if spec.job.deadline_s:
        body["activeDeadlineSeconds"] = spec.job.deadline_s
    return job
