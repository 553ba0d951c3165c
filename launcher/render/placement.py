"""On which nodes workers may run, and who places them together."""

from __future__ import annotations

import copy

from launcher.render.objects import Object
from launcher.spec import JobConfig, gpu_products, parse_toleration

PRODUCT_LABEL = "nvidia.com/gpu.product"
SPOT_LABELS = {
    "cloud.google.com/gke-spot": "true",
    "kubernetes.azure.com/scalesetpriority": "spot",
    "eks.amazonaws.com/capacityType": "SPOT",
    "karpenter.sh/capacity-type": "spot",
}
"""What the clouds call nodes that may be taken away."""
SPOT_TAINTS = ("cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority")
"""Those which keep other pods off."""
SCHEDULERS = {
    "none": "",
    "volcano": "volcano",
    "scheduler-plugins": "scheduler-plugins-scheduler",
    "kai": "kai-scheduler",
}
TOPOLOGY = "kueue.x-k8s.io/podset-{}-topology"


def node_selector(job: JobConfig) -> dict[str, str]:
    """Labels that a worker's node must have; several GPU products become an affinity instead."""
    products = gpu_products(job)
    return job.node_selector | ({PRODUCT_LABEL: products[0]} if len(products) == 1 else {})


def tolerations(job: JobConfig) -> list[Object]:
    """The user's, for every pod of the job."""
    return [parse_toleration(text) for text in job.tolerations]


def spot_tolerations(job: JobConfig) -> list[Object]:
    """For the workers alone: the rendezvous has no copy that would take its place."""
    if job.spot == "none":
        return []
    return [
        {"key": key, "operator": "Equal", "value": SPOT_LABELS[key], "effect": "NoSchedule"}
        for key in SPOT_TAINTS
    ]


def affinity(job: JobConfig) -> Object:
    """The user's affinity, narrowed to the GPU products and kinds of node that were asked for."""
    made: Object = copy.deepcopy(job.affinity)
    products = gpu_products(job)
    several = len(products) > 1
    always = [_expression(PRODUCT_LABEL, *products)] if several else []
    spots = [[_expression(*label)] for label in SPOT_LABELS.items()]
    kinds: list[list[Object]] = spots if job.spot == "require" else [[]]
    if always or job.spot == "require":
        node = made.setdefault("nodeAffinity", {})
        required = node.setdefault("requiredDuringSchedulingIgnoredDuringExecution", {})
        # Terms are alternatives, the expressions within one are not.
        terms = [
            term | {"matchExpressions": [*term.get("matchExpressions", ()), *always, *kind]}
            for term in required.get("nodeSelectorTerms") or [{}]
            for kind in kinds
        ]
        # None shares a part with another: YAML would show it as an anchor.
        required["nodeSelectorTerms"] = [copy.deepcopy(term) for term in terms]
    if several:
        node = made.setdefault("nodeAffinity", {})
        wanted = node.setdefault("preferredDuringSchedulingIgnoredDuringExecution", [])
        wanted += _preferences(products)
    return made


def _preferences(products: list[str]) -> list[Object]:
    """Weights from 100 down to 1, evenly."""
    step = 99 // (len(products) - 1)
    return [
        {
            "weight": max(1, 100 - step * place),
            "preference": {"matchExpressions": [_expression(PRODUCT_LABEL, product)]},
        }
        for place, product in enumerate(products)
    ]


def gang_scheduler(job: JobConfig) -> str:
    """schedulerName of the workers; empty: the cluster's default."""
    return job.gang.scheduler_name or SCHEDULERS[job.gang.scheduler]


def topology(job: JobConfig) -> dict[str, str]:
    """Kueue reads it from the pod template."""
    chosen = job.kueue.topology
    if chosen == "none":
        return {}
    return {TOPOLOGY.format(chosen): job.kueue.topology_level or "true"}


def _expression(key: str, *values: str) -> Object:
    return {"key": key, "operator": "In", "values": list(values)}
