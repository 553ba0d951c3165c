"""What a job is, resolved: size, place, resources, and its run. Pure data and arithmetic.

`launcher.resolve` makes a JobSpec of flags, settings and a recipe; `launcher.render` makes objects.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from launcher.errors import UsageError
from trainer.config import TrainConfig, lane_balance, section, setting

DOMAIN = "launcher.dev"
JOB_LABEL = f"{DOMAIN}/job"
BUDGET_LABEL = f"{DOMAIN}/budget"
STAGE_LABEL = f"{DOMAIN}/stage"
MODEL_ANNOTATION = f"{DOMAIN}/model"
CHECKPOINTS_ANNOTATION = f"{DOMAIN}/checkpoints"
"""Annotation with the address of the run's own folder."""

NAME_MOST_CHARS = 50
"""`<name>-rendezvous` and `<name>-worker-<index>` must stay DNS labels of at most 63 characters."""

_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_DNS_1123 = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True)
class RendezvousConfig:
    """How agents find each other; each becomes a key of torchrun's rendezvous configuration."""

    read_timeout_s: int = setting(
        300, "longest wait for the store's answer", "nodes being added", unit="s", least=1
    )
    join_timeout_s: int = setting(
        1800,
        "longest wait for the smallest group",
        "must exceed an image pull and the kubelet's back-off of 300 s",
        unit="s",
        least=1,
    )
    last_call_timeout_s: int = setting(
        60,
        "wait for more workers once the smallest group is there",
        "a restarted worker joins the same round",
        unit="s",
        least=1,
    )
    keep_alive_interval_s: int = setting(
        5, "span between an agent's signs of life", "torchrun's", unit="s", least=1
    )
    keep_alive_max_attempt: int = setting(
        3, "signs of life missed before an agent counts as lost", "torchrun's", unit="1", least=1
    )


LOCAL_RENDEZVOUS = RendezvousConfig(
    read_timeout_s=60,
    join_timeout_s=600,
    last_call_timeout_s=1,
    keep_alive_interval_s=1,
    # A lost neighbour is noticed after 3 s. Fewer signs of life split the group on a busy machine.
    keep_alive_max_attempt=3,
)
"""The defaults on one machine, where a process starts in seconds and a pod in minutes."""


@dataclass(frozen=True)
class JobConfig:
    """The `job:` part of a recipe: how large, where, with which resources."""

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
    namespace: str = setting("", "namespace; empty: the context's", "as kubectl")
    budget: str = setting("", "budget that is charged; empty: none", "one team may need none")
    stage: str = setting(
        "", "stage of the pipeline, for accounting; empty: train", "this job trains"
    )
    queue: str = setting("", "Kueue's LocalQueue; empty: none", "not every cluster has Kueue")
    s3_secret: str = setting(
        "",
        "Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; empty: workload identity",
        "credentials stay in the cluster",
    )
    priority_class: str = setting("", "PriorityClass of every pod; empty: the default", "optional")
    gpu_product: str = setting(
        "", "node label nvidia.com/gpu.product wanted; empty: any", "clusters of one kind need none"
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
    keep_finished_s: int = setting(
        604800, "how long ended objects stay", "a week to look at them", unit="s", least=0
    )
    rendezvous: RendezvousConfig = section(RendezvousConfig, "how agents find each other")


@dataclass(frozen=True)
class Workers:
    """How many workers a job may run with."""

    least: int
    """The job starts when this many are placed, and waits below it."""
    desired: int
    most: int
    """Never more than this; each is billed."""


@dataclass(frozen=True)
class JobSpec:
    """One job, resolved: everything `render` needs."""

    name: str
    job: JobConfig
    workers: Workers
    ranks_per_worker: int
    """Processes of one worker; on a cluster one for each of its GPUs."""
    run: TrainConfig
    local: bool = False
    """On this machine: no GPU resources, and nothing that only a pod's file system has."""


def gpu_workers(gpus: int, per_worker: int, min_gpus: int = 0, max_gpus: int = 0) -> Workers:
    """Workers of a number of GPUs; 0 for min_gpus means half, for max_gpus gpus itself.

    Half of an odd number of workers is rounded down, but to 1 at least.
    """
    for flag, count in (("--min-gpus", min_gpus), ("--gpus", gpus), ("--max-gpus", max_gpus)):
        if count % per_worker:
            low, high = count // per_worker * per_worker, -(-count // per_worker) * per_worker
            near = f"{high}" if low == 0 else f"{low} or {high}"
            raise UsageError(
                f"{flag} {count} is no multiple of --gpus-per-worker {per_worker}; give {near}"
            )
    desired = gpus // per_worker
    least = min_gpus // per_worker or max(1, desired // 2)
    most = max_gpus // per_worker or desired
    return _ordered(Workers(least, desired, most), "gpus", per_worker)


def local_workers(workers: int, least: int | None = None, most: int | None = None) -> Workers:
    """Workers on this machine; by default half of them must be there and no more may come."""
    chosen = Workers(
        max(1, workers // 2) if least is None else least, workers, workers if most is None else most
    )
    return _ordered(chosen, "workers", 1)


def _ordered(workers: Workers, unit: str, per_worker: int) -> Workers:
    least, desired, most = (
        count * per_worker for count in (workers.least, workers.desired, workers.most)
    )
    for flag, count in ((f"--min-{unit}", least), (f"--{unit}", desired)):
        if count < 1:
            raise UsageError(f"{flag} is {count}; at least {per_worker} are needed")
    if least > desired:
        raise UsageError(
            f"--min-{unit} ({least}) is above --{unit} ({desired}); lower it or raise --{unit}"
        )
    if desired > most:
        raise UsageError(
            f"--max-{unit} ({most}) is below --{unit} ({desired}); raise it or lower --{unit}"
        )
    return workers


def check_name(name: str, where: str = "--name") -> str:
    """A job's name: DNS-1035, since Services and pods are called after it."""
    if len(name) > NAME_MOST_CHARS or not _DNS_1035.fullmatch(name):
        raise UsageError(
            f"{where} {name!r} cannot name a job; allowed are at most {NAME_MOST_CHARS} lower-case "
            "letters, digits and '-', a letter first and no '-' last"
        )
    return name


def default_name(model: str, digest: str) -> str:
    """`<model>-<6 hex digits>`: the same job has the same name, another one another."""
    slug = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    slug = slug if slug[:1].isalpha() else f"m-{slug}".rstrip("-")
    return f"{slug[: NAME_MOST_CHARS - 7].rstrip('-')}-{digest[:6]}"


def check_label(value: str, where: str) -> str:
    """A value that becomes a label, such as a budget's name; empty is none."""
    if value and not _LABEL.fullmatch(value):
        raise UsageError(
            f"{where} {value!r} cannot be a label; allowed are at most 63 letters, digits, "
            "'-', '_' and '.', a letter or digit first and last"
        )
    return value


def check_object_name(value: str, where: str) -> str:
    """The name of another object (namespace, Secret, queue, ...); empty is none."""
    parts = value.split(".") if value else []
    if len(value) > 253 or not all(_DNS_1123.fullmatch(part) for part in parts):
        raise UsageError(
            f"{where} {value!r} cannot name an object; allowed are lower-case letters, digits, "
            "'-' and '.', a letter or digit first and last"
        )
    return value


def check_address(address: str, where: str) -> str:
    """An address of the object store: s3://bucket/prefix, file:///path or a path; no secrets."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        return address
    if scheme not in ("file", "s3"):
        raise UsageError(
            f"{where} {address!r}: {scheme}:// is unknown; allowed are s3://bucket/prefix, "
            "file:///path and a path"
        )
    if scheme == "file" and not rest.startswith("/"):
        raise UsageError(f"{where} {address!r}: file:// takes an absolute path, as file:///data")
    bucket = rest.split("/", 1)[0]
    if scheme == "s3" and "@" in bucket:
        raise UsageError(
            f"{where}: credentials do not belong into an address; on a cluster name a Secret by "
            "s3_secret, here use AWS_* variables or ~/.aws"
        )
    if scheme == "s3" and not bucket:
        raise UsageError(f"{where} {address!r} names no bucket; give s3://bucket/prefix")
    return address


def uneven_worlds(spec: JobSpec) -> list[tuple[int, int, float]]:
    """(workers, ranks, used share) of each size the job may have at which lanes do not divide.

    The share is that of the ranks' time which is used: the fullest rank sets the pace.
    """
    sizes = []
    for workers in range(spec.workers.least, spec.workers.most + 1):
        ranks = workers * spec.ranks_per_worker
        share = lane_balance(spec.run.data.lanes, ranks)
        if share < 1:
            sizes.append((workers, ranks, share))
    return sizes
