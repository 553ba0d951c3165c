"""The `job:` part of a recipe: how large, where, with which resources, on which platform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from trainer.config import section, setting

Backend = Literal["pytorchjob", "trainjob"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)


@dataclass(frozen=True)
class RendezvousConfig:
    """How agents find each other; each becomes a key of `rdzvConf`, with torchrun's names."""

    join_timeout_s: int = setting(
        1800,
        "longest wait for the smallest group",
        "must exceed an image pull and the kubelet's back-off of 300 s",
        unit="s",
        least=1,
    )
    last_call_timeout_s: int = setting(
        60,
        "wait for more workers once a smaller group could start, or newcomers could join one;"
        " after a loss the others go on at once",
        "workers of a new job start within the same round",
        unit="s",
        least=0,
    )


LOCAL_RENDEZVOUS = RendezvousConfig(join_timeout_s=600, last_call_timeout_s=1)
"""The defaults on one machine, where a process starts in seconds and a pod in minutes."""


@dataclass(frozen=True)
class KueueConfig:
    """What Kueue is told beside the queue. The rendezvous stays out of the quota."""

    priority_class: str = setting(
        "", "WorkloadPriorityClass; empty: the pods' PriorityClass", "as Kueue's own default"
    )
    max_exec_time_s: int = setting(
        0,
        "admitted time after which Kueue deactivates the job; 0: deadline_s",
        "one deadline is enough",
        unit="s",
        least=0,
    )
    topology: Literal["none", "required", "preferred", "unconstrained"] = setting(
        "none", "how near to each other all workers are placed", "needs a topology of the flavor"
    )
    topology_level: str = setting(
        "",
        "node label of the level within which workers stay, for required and preferred",
        "each cluster has its own names",
    )


@dataclass(frozen=True)
class GangConfig:
    """Who places all workers together, or none. Kueue alone needs none of it."""

    scheduler: Literal["none", "volcano", "scheduler-plugins", "kai"] = setting(
        "none", "gang scheduler of the cluster", "the operator must be started for it"
    )
    queue: str = setting("", "queue of Volcano or KAI; empty: its default", "optional")
    scheduler_name: str = setting(
        "",
        "schedulerName of the workers; empty: volcano, scheduler-plugins-scheduler or "
        "kai-scheduler",
        "as their charts install them",
    )
    timeout_s: int = setting(
        0,
        "longest wait of scheduler-plugins for the gang; 0: its default",
        "the cluster's administrator knows",
        unit="s",
        least=0,
    )


@dataclass(frozen=True)
class FabricConfig:
    """The network between GPUs of different nodes."""

    kind: Literal["none", "rdma", "efa"] = setting(
        "none", "InfiniBand or RoCE (rdma), AWS (efa), or plain TCP", "works everywhere"
    )
    resource: str = setting(
        "",
        "resource of the device plugin; empty: rdma/ib or vpc.amazonaws.com/efa",
        "the plugins' own names",
    )
    count: int = setting(
        1,
        "devices of one worker",
        "a shared RDMA device; EFA: as the node has",
        unit="devices",
        least=1,
    )
    hugepages_mib: int = setting(
        5120, "efa: hugepages-2Mi of one worker", "what AWS asks for", unit="MiB", least=0
    )
    ipc_lock: bool = setting(
        True,
        "rdma: ask for IPC_LOCK, which needs a namespace of level privileged",
        "registered memory is locked; false where the runtime lifts the memlock limit",
    )
    host_network: bool = setting(
        False,
        "workers in the node's network, which needs a namespace of level privileged",
        "pods have their own where the fabric allows",
    )
    networks: str = setting(
        "", "Multus networks of the workers (k8s.v1.cni.cncf.io/networks)", "only SR-IOV needs it"
    )
    hca: str = setting("", "NCCL_IB_HCA; empty: NCCL's choice", "NCCL finds the devices")
    interface: str = setting(
        "^lo,docker", "NCCL_SOCKET_IFNAME", "all but the loopback and local bridges"
    )


@dataclass(frozen=True)
class ProxyConfig:
    """The way to the object store where there is no direct one."""

    http: str = setting("", "HTTP_PROXY of the workers; empty: none", "most clusters need none")
    https: str = setting("", "HTTPS_PROXY of the workers; empty: none", "most clusters need none")
    bypass: str = setting(
        "", "more hosts for NO_PROXY; those of the cluster stand there anyway", "optional"
    )


@dataclass(frozen=True)
class JobConfig:
    """The `job:` part of a recipe: how large, where, with which resources."""

    backend: Backend = setting(
        "pytorchjob",
        "PyTorchJob v1 (elastic) or TrainJob v2 (fixed size)",
        "TrainJob cannot lose a worker without starting all anew",
    )
    gpus: int = setting(8, "GPUs wanted", "one node", unit="GPUs", least=1)
    gpus_per_worker: int = setting(
        8, "GPUs of one worker (pod)", "whole nodes are placed together", unit="GPUs", least=1
    )
    min_gpus: int = setting(
        0, "fewest GPUs the job runs with; 0: half", "loses a node, goes on", unit="GPUs", least=0
    )
    max_gpus: int = setting(
        0, "most GPUs the job may grow to; 0: gpus", "each is billed", unit="GPUs", least=0
    )
    image: str = setting("", "container image of the trainer", "no registry is everybody's")
    image_pull_secrets: tuple[str, ...] = setting(
        (), "Secrets for the image's registry", "public or node-wide registries need none"
    )
    image_pull_policy: Literal["default", "Always", "IfNotPresent", "Never"] = setting(
        "default", "when the image is pulled; default: Kubernetes' rule", "right for digests"
    )
    namespace: str = setting("", "namespace; empty: the context's", "as kubectl")
    budget: str = setting("", "budget that is charged; empty: none", "one team may need none")
    ledger: bool = setting(
        False,
        "workers' pods stay, once ended, until their GPU time is stored (finalizer)",
        "without a ledger they would never go; submit sets it where the budget tells of one",
    )
    user: str = setting(
        "", "who is shown as its user; empty: the setting, which is the login", "each submits"
    )
    stage: str = setting(
        "", "stage of the pipeline, for accounting; empty: train", "this job trains"
    )
    queue: str = setting("", "Kueue's LocalQueue; empty: none", "not every cluster has Kueue")
    s3_secret: str = setting(
        "",
        "Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; empty: workload identity",
        "credentials stay in the cluster",
    )
    service_account: str = setting(
        "",
        "ServiceAccount of the workers, for workload identity; empty: the namespace's default",
        "its token is never mounted by us; the platform's webhook projects one",
    )
    env: dict[str, str] = setting({}, "more variables of the workers", "optional")
    env_secrets: tuple[str, ...] = setting(
        (), "Secrets whose keys all become variables of the workers", "optional"
    )
    env_config_maps: tuple[str, ...] = setting(
        (), "ConfigMaps whose keys all become variables of the workers", "optional"
    )
    ca_bundle: str = setting(
        "",
        "ConfigMap with the certificates that the workers trust; empty: the image's",
        "public stores need none",
    )
    ca_bundle_key: str = setting("ca.crt", "its key", "as trust-manager writes it")
    pod_labels: dict[str, str] = setting({}, "more labels of the workers' pods", "optional")
    pod_annotations: dict[str, str] = setting(
        {}, "more annotations of the workers' pods", "optional"
    )
    priority_class: str = setting("", "PriorityClass of every pod; empty: the default", "optional")
    gpu_product: str = setting(
        "",
        "node label nvidia.com/gpu.product wanted, or several by commas, best first; empty: any",
        "clusters of one kind need none",
    )
    spot: Literal["none", "allow", "require"] = setting(
        "none",
        "workers on nodes that may be taken away (GKE, AKS, EKS, Karpenter)",
        "never without being asked; the rendezvous stays off them",
    )
    node_selector: dict[str, str] = setting({}, "labels that a worker's node must have", "optional")
    tolerations: tuple[str, ...] = setting(
        (),
        "taints that all pods of the job tolerate, as kubectl taint: KEY[=VALUE][:EFFECT]",
        "nvidia.com/gpu is tolerated anyway",
    )
    affinity: dict[str, Any] = setting(
        {}, "affinity of the workers, as Kubernetes has it", "gpu_product and spot are added to it"
    )
    cpu_per_gpu: int = setting(
        8,
        "CPU cores asked for per GPU",
        "decoding keeps up with 224 px networks",
        unit="cores",
        least=1,
    )
    memory_per_gpu_gib: int = setting(
        32,
        "memory limit per GPU, /dev/shm included",
        "a quarter of a usual node",
        unit="GiB",
        least=1,
    )
    shm_per_gpu_gib: int = setting(
        8,
        "size of /dev/shm per GPU",
        "64 MB, the default, breaks loaders and NCCL",
        unit="GiB",
        least=1,
    )
    scratch_gib: int = setting(
        16,
        "scratch beside the shard cache",
        "temporary files of torch and compilers",
        unit="GiB",
        least=1,
    )
    grace_s: int = setting(
        300, "from SIGTERM to SIGKILL of a pod", "a save and its upload fit", unit="s", least=1
    )
    shutdown_timeout_s: int = setting(
        240,
        "from SIGTERM to SIGKILL of a rank by its agent",
        "below grace_s; torchrun's is 30",
        unit="s",
        least=1,
    )
    max_restarts: int = setting(
        100,
        "restarts of the group before the job fails",
        "membership changes may use some up",
        unit="restarts",
        least=0,
    )
    deadline_s: int = setting(
        0,
        "longest time from the job's first start to its end; 0: none",
        "runs of weeks are meant to be long",
        unit="s",
        least=0,
    )
    restarts_allowed: int = setting(
        20,
        "workers that may be lost or fail within restart_window_s before the job is ended",
        "a lost node of 8 is one; a defect of the program reaches it within minutes",
        unit="workers",
        least=0,
    )
    restart_window_s: int = setting(
        3600, "span over which they are counted", "bad hours pass", unit="s", least=1
    )
    hang_s: int = setting(
        1800,
        "time without an update after which the workers are started again; 0: off",
        "above world.stall_s, whose watchdog tells more",
        unit="s",
        least=0,
    )
    keep_finished_s: int = setting(
        604800, "how long ended objects stay", "a week to look at them", unit="s", least=0
    )
    rendezvous: RendezvousConfig = section(RendezvousConfig, "how agents find each other")
    kueue: KueueConfig = section(KueueConfig, "what Kueue is told")
    gang: GangConfig = section(GangConfig, "who places all workers together")
    fabric: FabricConfig = section(FabricConfig, "network between nodes")
    proxy: ProxyConfig = section(ProxyConfig, "way to the object store")
