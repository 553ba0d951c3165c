"""From a pod, as the API server tells of it, to its interval of GPU time. Pure.

A pod is charged from the moment it is given its node until its last container has ended: between
the two nobody else can have its GPUs, whatever it does with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from launcher.budget.records import UNKNOWN, Interval, Owner, Source
from launcher.spec import BUDGET_LABEL, JOB_LABEL, MODEL_LABEL, STAGE_LABEL, USER_LABEL

Object = Mapping[str, Any]

GPU_RESOURCES = ("nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/i915")
GPU_TYPE_LABELS = (
    "nvidia.com/gpu.product",
    "cloud.google.com/gke-accelerator",
    "amd.com/gpu.product-name",
)
"""Of a node; the first that is there names its GPUs."""
_UNITS = {"": 1, "k": 1000, "Ki": 1024, "M": 10**6, "Mi": 1024**2}
NEVER_MADE_AFTER_MS = 60_000
"""A container of a deleted pod that was not made by then will not be."""
FINALIZER = "launcher.dev/gpu-ledger"


@dataclass(frozen=True)
class Sight:
    """What is known beside the pod itself."""

    cluster: str
    now_ms: int
    """The API server's clock."""
    node_labels: Mapping[str, str] | None
    """Of the pod's node, none where it is gone; None while nobody has looked yet."""
    is_gone: bool = False
    """The object was removed."""
    is_node_lost: bool = False
    """Its node does not answer, or is gone."""


def interval_of(pod: Object, sight: Sight) -> Interval | None:
    """The pod's interval as far as it is known; None while it has no node, or has no GPU.

    None too until its node was looked at: what was shown under one type of GPU cannot be shown
    under another later.
    """
    start_ms = scheduled_at_ms(pod)
    gpus = gpus_of(pod)
    if start_ms is None or not gpus:
        return None
    through_ms, source = _end(pod, sight)
    if sight.node_labels is None and not sight.is_gone:
        return None
    return Interval(
        pod_uid=pod["metadata"]["uid"],
        owner=owner_of(pod, sight),
        node=pod["spec"].get("nodeName", ""),
        gpus=gpus,
        start_ms=start_ms,
        through_ms=max(start_ms, through_ms),
        source=source,
    )


def is_uncharged(pod: Object, sight: Sight) -> bool:
    """Whether the pod is on its way out and has never been charged, nor will be: without GPUs, or
    never given a node. (One that is being deleted is given none any more.)"""
    is_over = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    if not (is_over or "deletionTimestamp" in pod["metadata"]):
        return False
    if not gpus_of(pod):
        return True
    if scheduled_at_ms(pod) is not None:
        return False
    # Named to a node without the scheduler: the node itself sets the condition, unless it refuses.
    is_waiting = bool(pod["spec"].get("nodeName")) and not sight.is_node_lost
    return is_over or not is_waiting


def owner_of(pod: Object, sight: Sight) -> Owner:
    """Whose pod it is, by its labels."""
    metadata = pod["metadata"]
    labels = metadata.get("labels") or {}
    node = sight.node_labels or {}
    found = next((node[key] for key in GPU_TYPE_LABELS if key in node), "")
    controllers = (each for each in metadata.get("ownerReferences", ()) if each.get("controller"))
    return Owner(
        cluster=sight.cluster,
        budget=labels.get(BUDGET_LABEL, ""),
        namespace=metadata["namespace"],
        job=labels.get(JOB_LABEL, ""),
        job_uid=next((each["uid"] for each in controllers), ""),
        user=labels.get(USER_LABEL, ""),
        model=labels.get(MODEL_LABEL, ""),
        stage=labels.get(STAGE_LABEL, ""),
        gpu_type=found or UNKNOWN,
    )


def gpus_of(pod: Object) -> int:
    """GPUs that the scheduler reserves: of all containers together, or of the largest moment while
    the init containers run one after another; those that go on running (sidecars) add up."""
    sidecars = most = 0
    for container in pod["spec"].get("initContainers", ()):
        own = _limit(container)
        if container.get("restartPolicy") == "Always":
            sidecars += own
            most = max(most, sidecars)
        else:
            most = max(most, sidecars + own)
    running = sum(_limit(container) for container in pod["spec"]["containers"])
    return max(most, sidecars + running)


def _limit(container: Object) -> int:
    limits = container.get("resources", {}).get("limits") or {}
    return sum(_whole(limits[name]) for name in GPU_RESOURCES if name in limits)


def _whole(quantity: str | int) -> int:
    """A count as the API server writes it; it lets in whole numbers only, but may write 1k."""
    text = str(quantity)
    number = text.rstrip("kKMi")
    return int(float(number)) * _UNITS[text[len(number) :]]


def scheduled_at_ms(pod: Object) -> int | None:
    """When the pod was given its node."""
    for condition in _conditions(pod):
        if condition["type"] == "PodScheduled" and condition["status"] == "True":
            return moment_ms(condition["lastTransitionTime"])
    return None


def _end(pod: Object, sight: Sight) -> tuple[int, Source]:
    """How far the pod has run, and how that is known."""
    ended = _containers_ended_ms(pod, sight.now_ms)
    if ended is not None:
        return ended, "containers"
    if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        # Evicted before its containers started, or ended with its node: nobody told of them.
        at = max((moment_ms(each["lastTransitionTime"]) for each in _conditions(pod)
                  if each["type"] == "DisruptionTarget"), default=sight.now_ms)  # fmt: skip
        return at, "sight"
    if sight.is_gone or (sight.is_node_lost and _is_past_deletion(pod, sight.now_ms)):
        return sight.now_ms, "sight"
    return sight.now_ms, "open"


def _containers_ended_ms(pod: Object, now_ms: int) -> int | None:
    """The end of the last container, if none runs, none will, and all ends are known."""
    status = pod.get("status", {})
    is_over = status.get("phase") in ("Succeeded", "Failed")
    if not (is_over or "deletionTimestamp" in pod["metadata"]):
        return None
    ends = []
    statuses: Sequence[Object] = [
        *status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())
    ]  # fmt: skip
    for each in statuses:
        state = each.get("state") or {}
        if "running" in state:
            return None
        # Between two of its lives, or its node may just be making it. Kubelets before 1.27 tell no
        # more of one that was never made.
        was_made = "containerID" in each
        may_run = was_made or not _is_past_deletion(pod, now_ms - NEVER_MADE_AFTER_MS)
        if "terminated" not in state and not is_over and may_run:
            return None
        terminated = state.get("terminated") or (each.get("lastState") or {}).get("terminated")
        if terminated and terminated.get("finishedAt"):
            ends.append(moment_ms(terminated["finishedAt"]))
        elif was_made and is_over:
            return None  # its node does not know any more (ContainerStatusUnknown)
    return max(ends, default=None)


def _is_past_deletion(pod: Object, now_ms: int) -> bool:
    """Whether its grace period is over; the deletion's moment counts the grace in already."""
    at = pod["metadata"].get("deletionTimestamp")
    return at is not None and now_ms > moment_ms(at)


def _conditions(pod: Object) -> Sequence[Object]:
    found: Sequence[Object] = pod.get("status", {}).get("conditions") or ()
    return found


def moment_ms(text: str) -> int:
    """RFC 3339 as milliseconds since 1970."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)
