"""Every choice that a job has of its platform, and jobs in which each three of them meet.

A covering array of strength three: whichever three choices one takes, some job has them together.
It is made by a greedy rule without chance, so that a failing row is the same tomorrow.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml

from launcher.render import Object, pod_templates
from launcher.request import Request
from tests.unit.launcher.goldens import GIVEN

Row = tuple[int, ...]
"""The number of the choice taken of each option."""

OPTIONS: dict[str, tuple[tuple[str, ...], ...]] = {
    "shape": (
        ("--gpus=8",),
        ("--gpus=64", "--min-gpus=8", "--max-gpus=96"),
        ("--backend=trainjob", "--gpus=8"),
        ("--backend=trainjob", "--gpus=128"),
    ),
    "queue": (
        (),
        ("--queue=train",),
        ("--queue=train", "job.kueue.priority_class=high", "job.kueue.max_exec_time_s=86400"),
        ("--queue=train", "job.kueue.topology=required", "job.kueue.topology_level=a.io/rack"),
        ("--queue=train", "job.kueue.topology=preferred", "job.kueue.topology_level=a.io/block"),
        ("--queue=train", "job.kueue.topology=unconstrained"),
    ),
    "gang": (
        (),
        ("job.gang.scheduler=volcano",),
        ("job.gang.scheduler=volcano", "job.gang.queue=vision"),
        ("job.gang.scheduler=scheduler-plugins", "job.gang.scheduler_name=gang"),
        ("job.gang.scheduler=scheduler-plugins", "job.gang.timeout_s=600"),
        ("job.gang.scheduler=kai", "job.gang.queue=vision"),
    ),
    "fabric": (
        (),
        ("job.fabric.kind=rdma",),
        ("job.fabric.kind=rdma", "job.fabric.ipc_lock=false", "job.fabric.hca=mlx5"),
        (
            "job.fabric.kind=rdma",
            "job.fabric.resource=nvidia.com/roce_gdr",
            "job.fabric.count=8",
            "job.fabric.host_network=true",
            "job.fabric.networks=roce-net",
            "job.fabric.interface=eth0",
        ),
        ("job.fabric.kind=efa", "job.fabric.count=32"),
        ("job.fabric.kind=efa", "job.fabric.hugepages_mib=0"),
    ),
    "products": (
        (),
        ("job.gpu_product=NVIDIA-H100-80GB-HBM3",),
        ("job.gpu_product=NVIDIA-H200,NVIDIA-H100-80GB-HBM3,NVIDIA-A100-SXM4-80GB",),
    ),
    "spot": ((), ("job.spot=allow",), ("job.spot=require",)),
    "nodes": (
        (),
        ("job.node_selector.pool.io/name=gpu", "job.tolerations=[spot:NoSchedule,team=vision]"),
        (
            "job.affinity={nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: "
            "{nodeSelectorTerms: [{matchExpressions: [{key: zone, operator: In, values: [a, b]}]}, "
            "{matchExpressions: [{key: zone, operator: Exists}]}]}}}",
        ),
    ),
    "image": (
        (),
        ("job.image_pull_secrets=[one,two]", "job.image_pull_policy=Always"),
    ),
    "identity": ((), ("job.s3_secret=s3",), ("job.service_account=trainer",)),
    "variables": (
        (),
        ("job.env.NCCL_DEBUG=INFO", "job.env.AWS_ENDPOINT_URL=https://s3.example"),
        ("job.env_secrets=[tokens]", "job.env_config_maps=[site]"),
    ),
    "proxy": ((), ("job.proxy.http=http://proxy:3128", "job.proxy.bypass=.example,10.0.0.1")),
    "certificates": ((), ("job.ca_bundle=trust", "job.ca_bundle_key=bundle.pem")),
    "priority": ((), ("job.priority_class=train-normal",)),
    "duties": ((), ("job.deadline_s=86400", "job.hang_s=0", "job.restarts_allowed=0")),
    "metrics": ((), ("run.log.metrics_port=0",)),
    "marks": (
        (),
        ("job.pod_labels.azure.workload.identity/use=true", "job.pod_annotations.a.io/b=c d"),
    ),
    "patch": ((), ("--patch=merge.yaml",), ("--patch=operations.yaml",)),
}
"""Each option with its choices; a choice is what is typed for it."""

PATCHES = {
    ("pytorchjob", "merge.yaml"): """
kind: PyTorchJob
spec: {pytorchReplicaSpecs: {Worker: {template: {spec: {containers: [
  {name: pytorch, env: [{name: NCCL_DEBUG, value: TRACE}],
   volumeMounts: [{name: extra, mountPath: /extra}]}],
  volumes: [{name: extra, emptyDir: {}}]}}}}}
""",
    ("trainjob", "merge.yaml"): """
kind: TrainingRuntime
spec: {template: {spec: {replicatedJobs: [{name: node, template: {spec: {template: {spec: {
  containers: [{name: node, env: [{name: NCCL_DEBUG, value: TRACE}],
   volumeMounts: [{name: extra, mountPath: /extra}]}],
  volumes: [{name: extra, emptyDir: {}}]}}}}}]}}}
""",
    ("pytorchjob", "operations.yaml"): """
target: {kind: Job}
patch:
- {op: replace, path: /spec/template/spec/containers/0/resources/limits/memory, value: 2Gi}
---
target: {kind: PyTorchJob}
patch: [{op: add, path: /spec/runPolicy/ttlSecondsAfterFinished, value: 60}]
""",
    ("trainjob", "operations.yaml"): """
target: {kind: TrainingRuntime}
patch: [{op: add, path: /spec/template/spec/ttlSecondsAfterFinished, value: 60}]
---
target: {kind: TrainJob}
patch: [{op: add, path: /metadata/labels/team, value: vision}]
""",
}
"""Patch files by backend and name."""


@cache
def rows() -> tuple[Row, ...]:
    """The covering array: each row is the greedy completion of the first triple still missing."""
    sizes = [len(choices) for choices in OPTIONS.values()]
    missing = {
        ((a, x), (b, y), (c, z))
        for a, b, c in combinations(range(len(sizes)), 3)
        for x in range(sizes[a])
        for y in range(sizes[b])
        for z in range(sizes[c])
    }
    found: list[Row] = []
    order = sorted(missing)
    while order:
        row = _completed(dict(order[0]), sizes, missing)
        missing -= set(combinations(enumerate(row), 3))
        order = [triple for triple in order if triple in missing]
        found.append(row)
    return tuple(found)


def _completed(fixed: dict[int, int], sizes: list[int], missing: set[object]) -> Row:
    """The row with each open option set to the choice that covers most of what is missing."""
    for option, size in enumerate(sizes):
        if option not in fixed:
            pairs = list(combinations(sorted(fixed.items()), 2))
            gains = [
                sum(tuple(sorted((*pair, (option, choice)))) in missing for pair in pairs)
                for choice in range(size)
            ]
            fixed[option] = gains.index(max(gains))
    return tuple(fixed[option] for option in range(len(sizes)))


def chosen(row: Row) -> Mapping[str, int]:
    """The number of the choice by the option's name."""
    return dict(zip(OPTIONS, row, strict=True))


def request(row: Row, name: str, folder: Path) -> Request:
    """What a user would ask for with a row, as flags and a job file: it is written to the folder.

    A file is read at once, where each override costs some milliseconds.
    """
    words = [word for option, at in chosen(row).items() for word in OPTIONS[option][at]]
    flags = dict(word[2:].split("=", 1) for word in words if word[:2] == "--")
    backend, patch = flags.get("backend", "pytorchjob"), flags.get("patch")
    tree: dict[str, Any] = {"job": {}, "run": {"model": {"name": "senet154"}}}
    for word in words:
        if word[:2] != "--":
            _put(tree, *word.split("=", 1))
    if patch:
        tree["patches"] = [f"{backend}-{patch}"]
        (folder / f"{backend}-{patch}").write_text(PATCHES[backend, patch], encoding="utf-8")
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return Request(
        model=str(file),
        name=name,
        backend=backend,
        queue=flags.get("queue", ""),
        gpus=int(flags["gpus"]),
        min_gpus=int(flags["min-gpus"]) if "min-gpus" in flags else None,
        max_gpus=int(flags["max-gpus"]) if "max-gpus" in flags else None,
        **GIVEN,
    )


def _put(tree: dict[str, Any], key: str, value: str) -> None:
    """Sets a dotted key; names of variables and labels have dots of their own."""
    parts = key.split(".")
    if parts[1] in ("env", "node_selector", "pod_annotations", "pod_labels"):
        parts = key.split(".", 2)
    for part in parts[:-1]:
        tree = tree.setdefault(part, {})
    tree[parts[-1]] = yaml.safe_load(value)


def needs_privilege(row: Row) -> bool:
    """Do the workers need what the level "restricted" forbids: IPC_LOCK or the node's network?"""
    return chosen(row)["fabric"] in (1, 3)


def unwanted(objects: list[Object]) -> list[str]:
    """What no default output may hold, since a pain taught it; a line each."""
    found = []
    for thing in objects:
        spec = thing["spec"]
        if thing["kind"] == "PyTorchJob":
            roles, run = spec["pytorchReplicaSpecs"], spec["runPolicy"]
            found += [f"role {role}" for role in roles if role != "Worker"]
            found += [
                f"restartPolicy {role['restartPolicy']}"
                for role in roles.values()
                if role["restartPolicy"] == "ExitCode"
            ]
            found += ["cleanPodPolicy None"] * (run.get("cleanPodPolicy") in (None, "None"))
            found += ["autoscaler"] * ("metrics" in spec["elasticPolicy"])
            found += ["suspend"] * ("suspend" in run)
        found += ["suspend"] * ("suspend" in spec)
        for _, template in pod_templates(thing):
            pod = template["spec"]
            for container in (*pod.get("initContainers", ()), *pod["containers"]):
                found += ["readinessProbe"] * ("readinessProbe" in container)
                found += [
                    f"secret {entry['name']}"
                    for entry in container["env"]
                    if "SECRET" in entry["name"] and "value" in entry
                ]
    return found
