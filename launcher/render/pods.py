"""The pods of a job: workers and indexes with all that the platform asks for, and the small
rendezvous."""

from __future__ import annotations

from launcher.budget.pods import FINALIZER
from launcher.render.environment import (
    CA_FILE,
    CA_FOLDER,
    environment,
    index_variables,
    worker_variables,
)
from launcher.render.objects import Object, labels, load
from launcher.render.placement import (
    affinity,
    gang_scheduler,
    node_selector,
    spot_tolerations,
    tolerations,
    topology,
)
from launcher.render.queueing import KAI_QUEUE_LABEL
from launcher.spec import PROGRAM, IndexedSpec, JobSpec, PodSize, Spec

RDMA, EFA = "rdma/ib", "vpc.amazonaws.com/efa"
NETWORKS_ANNOTATION = "k8s.v1.cni.cncf.io/networks"


GPU = "nvidia.com/gpu"


def worker_template(spec: JobSpec) -> Object:
    """The pod template of a worker, its container called pytorch."""
    template, container = _of_base(spec)
    container["args"] = ["-m", spec.program]
    container["ports"][1]["containerPort"] = spec.run.log.metrics_port
    if not spec.run.log.metrics_port:
        del container["ports"][1]
    container["env"] = environment(spec, container["env"], worker_variables(spec))
    _complete(spec, template)
    if not spec.local:
        _add_fabric(spec, template["spec"])
    return template


def index_template(spec: IndexedSpec) -> Object:
    """The pod template of an index, its container called program: it meets nobody, so it has
    neither ports nor what groups are told."""
    template, container = _of_base(spec)
    pod, gpus = template["spec"], spec.size.gpus
    pod["restartPolicy"] = "Never"  # podFailurePolicy asks for it; the Job makes a new pod
    container |= {"name": PROGRAM, "command": ["python", "-m", spec.program]}
    del container["args"], container["ports"]
    container["env"] = environment(spec, [], index_variables(spec))
    if not gpus:
        pod["tolerations"] = [each for each in pod["tolerations"] if each["key"] != GPU]
    _complete(spec, template)
    if spec.local and gpus:  # so many of this machine's are for each
        container["resources"] = {"limits": {GPU: str(gpus)}}
    return template


def _of_base(spec: Spec) -> tuple[Object, Object]:
    """The base file's template, as part of the job, and its container."""
    template = load("worker-pod.yaml")
    template["metadata"]["labels"] |= labels(spec)
    template["spec"]["terminationGracePeriodSeconds"] = spec.job.grace_s
    container: Object = template["spec"]["containers"][0]
    if spec.job.image:
        container["image"] = spec.job.image
    return template, container


def _complete(spec: Spec, template: Object) -> None:
    """Adds what the platform asks of every pod that computes."""
    pod = template["spec"]
    if spec.local:
        forget_paths(pod)
        return
    _add_metadata(spec, template["metadata"])
    _place(spec, pod)
    _add_resources(spec.size, pod)
    _add_sources(spec, pod)


def fill_rendezvous(spec: JobSpec, template: Object) -> None:
    """Puts into the rendezvous' pod what it shares with the workers: neither rights nor GPUs."""
    pod = template["spec"]
    _pull_image(spec, pod)
    if spec.local:
        forget_paths(pod)
    elif spec.job.tolerations:
        pod["tolerations"] = tolerations(spec.job)


def forget_paths(pod: Object) -> None:
    """Leaves out what only a pod's own file system has: this machine has its own folders."""
    container = pod["containers"][0]
    container["env"] = [entry for entry in container["env"] if entry["name"] != "TMPDIR"]
    container.pop("volumeMounts", None)
    pod.pop("volumes", None)


def _add_metadata(spec: Spec, metadata: Object) -> None:
    job = spec.job
    metadata["labels"] |= job.pod_labels
    metadata["annotations"] |= topology(job) | job.pod_annotations
    if job.ledger and spec.size.gpus:
        metadata["finalizers"] = [FINALIZER]
    if job.fabric.networks:
        metadata["annotations"][NETWORKS_ANNOTATION] = job.fabric.networks
    if job.gang.scheduler == "kai" and job.gang.queue:
        metadata["labels"][KAI_QUEUE_LABEL] = job.gang.queue


def _place(spec: Spec, pod: Object) -> None:
    job = spec.job
    if selected := node_selector(job):
        pod["nodeSelector"] = selected
    if wanted := affinity(job):
        pod["affinity"] = wanted
    for toleration in (*tolerations(job), *spot_tolerations(job)):
        if toleration not in pod["tolerations"]:
            pod["tolerations"].append(toleration)
    if name := gang_scheduler(job):
        pod["schedulerName"] = name
    _pull_image(spec, pod)
    if job.service_account:
        pod["serviceAccountName"] = job.service_account


def _pull_image(spec: Spec, pod: Object) -> None:
    """Image and priority, the same for every pod of the job: part of a gang alone is no use."""
    job, container = spec.job, pod["containers"][0]
    if job.image:
        container["image"] = job.image
    if job.image_pull_policy != "default":
        container["imagePullPolicy"] = job.image_pull_policy
    if job.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in job.image_pull_secrets]
    if job.priority_class:
        pod["priorityClassName"] = job.priority_class


def _add_resources(size: PodSize, pod: Object) -> None:
    memory = {"memory": f"{size.memory_gib}Gi"}
    gpus = {GPU: str(size.gpus)} if size.gpus else {}
    pod["containers"][0]["resources"] = {
        "requests": {"cpu": str(size.cpus), **memory, **gpus},
        "limits": {**memory, **gpus},
    }
    pod["volumes"] = [
        # In memory, so it counts against the memory limit.
        {"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{size.shm_gib}Gi"}},
        {"name": "scratch", "emptyDir": {"sizeLimit": f"{size.scratch_gib}Gi"}},
    ]


def _add_fabric(spec: JobSpec, pod: Object) -> None:
    """Devices, memory that may be locked, and the node's own network where it was asked for."""
    fabric, container = spec.job.fabric, pod["containers"][0]
    if fabric.kind == "none":
        return
    devices = {fabric.resource or (EFA if fabric.kind == "efa" else RDMA): str(fabric.count)}
    if fabric.kind == "efa" and fabric.hugepages_mib:
        devices["hugepages-2Mi"] = f"{fabric.hugepages_mib}Mi"
    for kind in ("requests", "limits"):  # extended resources and huge pages know no overcommit
        container["resources"][kind] |= devices
    if fabric.kind == "rdma" and fabric.ipc_lock:
        container["securityContext"]["capabilities"]["add"] = ["IPC_LOCK"]
    if fabric.host_network:
        pod["hostNetwork"] = True
        pod["dnsPolicy"] = "ClusterFirstWithHostNet"  # else the rendezvous has no name


def _add_sources(spec: Spec, pod: Object) -> None:
    """References to the cluster's Secrets and ConfigMaps, never what they hold."""
    job, container = spec.job, pod["containers"][0]
    sources = [{"secretRef": {"name": name}} for name in job.env_secrets]
    sources += [{"configMapRef": {"name": name}} for name in job.env_config_maps]
    if sources:
        container["envFrom"] = sources
    if job.ca_bundle:
        items = [{"key": job.ca_bundle_key, "path": CA_FILE}]
        pod["volumes"].append(
            {"name": "ca-bundle", "configMap": {"name": job.ca_bundle, "items": items}}
        )
        container["volumeMounts"].append(
            {"name": "ca-bundle", "mountPath": CA_FOLDER, "readOnly": True}
        )
