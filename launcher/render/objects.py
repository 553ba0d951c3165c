"""The objects of one training job: base files give the shape, functions what the spec decides."""

from __future__ import annotations

from importlib import resources
from typing import Any

from launcher.errors import UsageError
from launcher.spec import (
    BUDGET_LABEL,
    CHECKPOINTS_ANNOTATION,
    JOB_LABEL,
    MODEL_ANNOTATION,
    STAGE_LABEL,
    JobSpec,
)
from trainer.config import RUN_CONFIG, dump

Object = dict[str, Any]
"""A Kubernetes object as kubectl would read it from YAML."""

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
RUN_CONFIG_MOST_BYTES = 120 * 1024
"""Linux takes about 128 KiB in one environment variable."""

S3_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL",
    "AWS_DEFAULT_REGION",
)
"""Keys of the same names in the job's S3 Secret; all but the first two may be absent."""


def render(spec: JobSpec) -> list[Object]:
    """The objects of a job in the order of creation: rendezvous Job, its Service, PyTorchJob."""
    return [_rendezvous_job(spec), _rendezvous_service(spec), _pytorchjob(spec)]


def _rendezvous_job(spec: JobSpec) -> Object:
    job = _named(spec, "rendezvous-job.yaml", f"{spec.name}-rendezvous")
    job["spec"]["ttlSecondsAfterFinished"] = spec.job.keep_finished_s
    template = job["spec"]["template"]
    template["metadata"]["labels"] |= _labels(spec) | _role(spec)
    pod = template["spec"]
    _place(spec, pod)
    if spec.local:
        _forget_paths(pod)
    return job


def _rendezvous_service(spec: JobSpec) -> Object:
    service = _named(spec, "rendezvous-service.yaml", f"{spec.name}-rendezvous")
    service["spec"]["selector"] = _role(spec)
    return service


def _pytorchjob(spec: JobSpec) -> Object:
    job = _named(spec, "pytorchjob.yaml", spec.name)
    if spec.job.queue:
        job["metadata"]["labels"][QUEUE_LABEL] = spec.job.queue
    job["metadata"]["annotations"] = {
        MODEL_ANNOTATION: spec.run.model.name,
        CHECKPOINTS_ANNOTATION: spec.run.checkpoint.address,
    }
    body = job["spec"]
    body["nprocPerNode"] = str(spec.ranks_per_worker)
    body["elasticPolicy"] |= _elastic_policy(spec)
    body["runPolicy"] |= {
        "ttlSecondsAfterFinished": spec.job.keep_finished_s,
        # Else a gang is all replicas, and a shrunken job never starts (kubeflow/trainer#1571).
        "schedulingPolicy": {"minAvailable": spec.workers.least},
    }
    worker = body["pytorchReplicaSpecs"]["Worker"]
    worker["replicas"] = spec.workers.desired
    worker["template"]["metadata"]["labels"] |= _labels(spec)
    _fill_worker(spec, worker["template"]["spec"])
    return job


def _elastic_policy(spec: JobSpec) -> Object:
    rendezvous = spec.job.rendezvous
    conf = {
        "is_host": 0,  # no worker holds the store
        "read_timeout": rendezvous.read_timeout_s,
        "join_timeout": rendezvous.join_timeout_s,
        "last_call_timeout": rendezvous.last_call_timeout_s,
        "keep_alive_interval": rendezvous.keep_alive_interval_s,
        "keep_alive_max_attempt": rendezvous.keep_alive_max_attempt,
    }
    return {
        "minReplicas": spec.workers.least,
        "maxReplicas": spec.workers.most,
        "rdzvId": spec.name,
        "rdzvHost": f"{spec.name}-rendezvous",
        "maxRestarts": spec.job.max_restarts,
        "rdzvConf": [{"key": key, "value": str(value)} for key, value in conf.items()],
    }


def _fill_worker(spec: JobSpec, pod: Object) -> None:
    job, container = spec.job, pod["containers"][0]
    pod["terminationGracePeriodSeconds"] = job.grace_s
    if job.gpu_product:
        pod["nodeSelector"] = {"nvidia.com/gpu.product": job.gpu_product}
    _place(spec, pod)
    container["ports"][1]["containerPort"] = spec.run.log.metrics_port
    if not spec.run.log.metrics_port:
        del container["ports"][1]
    container["env"] += [
        {"name": "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "value": str(job.shutdown_timeout_s)},
        {"name": RUN_CONFIG, "value": _run_config(spec)},
    ]
    if spec.local:
        _forget_paths(pod)
        return
    gpus = spec.ranks_per_worker
    container["env"] += [
        {"name": "TMPDIR", "value": "/scratch"},
        {"name": "NCCL_SOCKET_IFNAME", "value": "^lo,docker"},
        {"name": "OMP_NUM_THREADS", "value": str(max(1, job.cpu_per_gpu // 2))},
        *_s3_environment(job.s3_secret),
    ]
    memory = f"{job.memory_per_gpu_gib * gpus}Gi"
    container["resources"] = {
        "requests": {
            "cpu": str(job.cpu_per_gpu * gpus), "memory": memory, "nvidia.com/gpu": str(gpus)
        },
        "limits": {"memory": memory, "nvidia.com/gpu": str(gpus)},
    }  # fmt: skip
    cache_gib = -(-spec.run.data.cache_bytes // (1 << 30))
    pod["volumes"] = [
        # In memory, so it counts against the memory limit.
        {
            "name": "dshm",
            "emptyDir": {"medium": "Memory", "sizeLimit": f"{job.shm_per_gpu_gib * gpus}Gi"},
        },
        {"name": "scratch", "emptyDir": {"sizeLimit": f"{cache_gib + job.scratch_gib}Gi"}},
    ]


def _s3_environment(secret: str) -> list[Object]:
    """References to the Secret's keys, never their values."""
    if not secret:
        return []
    return [
        {
            "name": name,
            "valueFrom": {
                "secretKeyRef": {"name": secret, "key": name, "optional": index > 1}
            },
        }
        for index, name in enumerate(S3_VARIABLES)
    ]  # fmt: skip


def _run_config(spec: JobSpec) -> str:
    text = dump(spec.run)
    size = len(text.encode())
    if size > RUN_CONFIG_MOST_BYTES:
        raise UsageError(
            f"the run of job {spec.name} takes {size} bytes as {RUN_CONFIG}; at most "
            f"{RUN_CONFIG_MOST_BYTES} fit an environment variable, so shorten its values"
        )
    return text


def _named(spec: JobSpec, base: str, name: str) -> Object:
    import yaml

    text = resources.files("launcher.render").joinpath("base", base).read_text(encoding="utf-8")
    loaded: Object = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    loaded["metadata"] = {"name": name, "labels": _labels(spec)}
    if spec.job.namespace:
        loaded["metadata"]["namespace"] = spec.job.namespace
    return loaded


def _labels(spec: JobSpec) -> dict[str, str]:
    labels = {JOB_LABEL: spec.name, STAGE_LABEL: spec.job.stage, BUDGET_LABEL: spec.job.budget}
    return {key: value for key, value in labels.items() if value}


def _role(spec: JobSpec) -> dict[str, str]:
    """What finds the rendezvous pod, and only it."""
    return {JOB_LABEL: spec.name, "app.kubernetes.io/component": "rendezvous"}


def _place(spec: JobSpec, pod: Object) -> None:
    """Image and priority, the same for every pod of the job: part of a gang alone is no use."""
    if spec.job.priority_class:
        pod["priorityClassName"] = spec.job.priority_class
    if spec.job.image:
        pod["containers"][0]["image"] = spec.job.image


def _forget_paths(pod: Object) -> None:
    """Leaves out what only a pod's own file system has: this machine has its own folders."""
    container = pod["containers"][0]
    container["env"] = [entry for entry in container["env"] if entry["name"] != "TMPDIR"]
    container.pop("volumeMounts", None)
    pod.pop("volumes", None)
