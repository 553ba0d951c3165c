"""Who holds the GPUs now, by job and by node: allocation, as the scheduler counts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from launcher.cluster.client import Api
from launcher.cluster.fields import held, labels_of
from launcher.cluster.kinds import NODE, POD, Object
from launcher.cluster.state import GPU, gpus_of
from launcher.errors import Forbidden
from launcher.spec import BUDGET_LABEL, JOB_LABEL

_OVER = ("Succeeded", "Failed")


@dataclass(frozen=True)
class JobUsage:
    """The GPUs of one job."""

    namespace: str
    name: str
    """Empty for pods that no launcher has made."""
    budget: str
    pods: int
    gpus: int
    """Given to its pods that are placed."""
    waiting: int
    """Asked for by its pods that are not placed yet."""


@dataclass(frozen=True)
class NodeUsage:
    """The GPUs of one node."""

    name: str
    is_ready: bool
    product: str
    gpus: int
    used: int


@dataclass(frozen=True)
class Usage:
    """The GPUs of what this user may see."""

    jobs: tuple[JobUsage, ...]
    nodes: tuple[NodeUsage, ...]
    note: str
    """What could not be seen; empty: nothing."""


def read_usage(api: Api, namespace: str | None = None) -> Usage:
    """Asks for pods and nodes. Nodes, or other namespaces, that this user may not see are left out.

    namespace: None is the own one, "" are all.
    """
    pods = api.listing(POD, namespace=namespace).items
    try:
        nodes, note = api.listing(NODE).items, ""
        everyone = pods if namespace == "" else api.listing(POD, namespace="").items
    except Forbidden as error:
        nodes, everyone, note = [], [], str(error)
    return Usage(by_job(pods), by_node(nodes, everyone), note)


def by_job(pods: Sequence[Object]) -> tuple[JobUsage, ...]:
    """Jobs that hold or await GPUs, the largest first."""
    found: dict[tuple[str, str], JobUsage] = {}
    for pod in pods:
        gpus, labels = gpus_of(pod["spec"]), labels_of(pod)
        if not gpus or pod.get("status", {}).get("phase") in _OVER:
            continue
        key = (pod["metadata"]["namespace"], labels.get(JOB_LABEL, ""))
        old = found.get(key) or JobUsage(*key, labels.get(BUDGET_LABEL, ""), 0, 0, 0)
        is_placed = bool(pod["spec"].get("nodeName"))
        found[key] = JobUsage(
            *key,
            old.budget,
            old.pods + 1,
            old.gpus + gpus * is_placed,
            old.waiting + gpus * (not is_placed),
        )
    return tuple(sorted(found.values(), key=lambda job: (-job.gpus, -job.waiting, job.name)))


def by_node(nodes: Sequence[Object], pods: Sequence[Object]) -> tuple[NodeUsage, ...]:
    """Nodes that have GPUs, by name."""
    used: dict[str, int] = {}
    for pod in pods:
        node = pod["spec"].get("nodeName")
        if node and pod.get("status", {}).get("phase") not in _OVER:
            used[node] = used.get(node, 0) + gpus_of(pod["spec"])
    found = []
    for node in nodes:
        status, name = node.get("status", {}), node["metadata"]["name"]
        gpus = int(status.get("allocatable", {}).get(GPU, 0))
        if not gpus:
            continue
        is_ready = held(node, "Ready") is not None
        product = labels_of(node).get("nvidia.com/gpu.product", "")
        found.append(NodeUsage(name, is_ready, product, gpus, used.get(name, 0)))
    return tuple(sorted(found, key=lambda node: node.name))
