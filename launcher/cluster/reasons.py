"""Why a job does not run: what an expert would find with `kubectl describe`, in one sentence. Pure.

Each function returns "" where it sees no trouble.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from launcher.cluster.fields import held, trainer_statuses
from launcher.cluster.kinds import Object
from launcher.cluster.marks import COMPLETION_INDEX, CONTAINERS, REPLICA_INDEX
from launcher.spec import PROGRAM

_IMAGE = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_CONFIG = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_CREATION = ("FailedCreatePod", "FailedCreateService", "FailedCreate", "FailedDeletePod")
_POD_EVENTS = ("FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox", "FailedScheduling")
OUT_OF_MEMORY = "OOMKilled"


def of_job(
    job: Object, pods: Sequence[Object], events: Sequence[Object], kueue: Object | None = None
) -> str:
    """The first trouble that keeps a job from running, the nearest to its cause first.

    events: of the job and of its pods. kueue: its Workload, where a queue admits it.
    """
    return (
        of_creation(events)
        or next((text for pod in pods if (text := of_pod(pod))), "")
        or of_pod_events(events)
        or (of_workload(kueue) if kueue is not None else "")
        or of_condition(job)
    )


def of_creation(events: Sequence[Object]) -> str:
    """Pods that the operator could not even create: quota, webhook, pod security."""
    for event in _newest_first(events):
        if event.get("reason") not in _CREATION or event.get("type") != "Warning":
            continue
        message = _line(event.get("message", ""))
        if "exceeded quota" in message:
            quota = message.partition("exceeded quota: ")[2] or message
            return f"the namespace's quota does not allow its pods: {quota}"
        if "violates PodSecurity" in message:
            return f"the namespace's pod security does not allow its pods: {message}"
        if "admission webhook" in message:
            return f"a webhook refuses its pods: {message}"
        return f"its pods cannot be created: {message}"
    return ""


def of_pod(pod: Object, is_named: bool = True) -> str:
    """What keeps one pod from running, or ended it; is_named: beginning with its name."""
    status, who = pod.get("status", {}), worker(pod) if is_named else "it"
    is_pending = status.get("phase", "Pending") == "Pending"
    for condition in status.get("conditions", ()) if is_pending else ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            if condition.get("reason") == "SchedulingGated":
                return f"{who} waits for its scheduling gates to be removed"
            return f"{who} cannot be placed: {_line(condition.get('message', ''))}"
    for container in _containers(pod):
        text = _of_container(container, pod, who)
        if text:
            return text
    if status.get("phase") == "Failed" and status.get("reason"):
        return f"{who} was ended ({status['reason']}): {_line(status.get('message', ''))}"
    if moved := held(pod, "DisruptionTarget"):
        why = moved.get("reason", "")
        return f"{who} is being moved away ({why}): {_line(moved.get('message', ''))}"
    return ""


def of_pod_events(events: Sequence[Object]) -> str:
    """What happens between placing and starting: volumes, networks."""
    for event in _newest_first(events):
        if event.get("type") == "Warning" and event.get("reason") in _POD_EVENTS:
            name = event.get("involvedObject", {}).get("name", "a pod")
            return f"{name}: {_line(event.get('message', ''))}"
    return ""


def of_workload(workload: Object) -> str:
    """Why Kueue holds a job back."""
    conditions = {each["type"]: each for each in workload.get("status", {}).get("conditions", ())}
    evicted, reserved = conditions.get("Evicted"), conditions.get("QuotaReserved")
    if workload.get("spec", {}).get("active") is False:
        return "its Workload is deactivated; `launcher resume` activates it"
    if conditions.get("Admitted", {}).get("status") == "True":
        return ""
    for check in workload.get("status", {}).get("admissionChecks", ()):
        if check["state"] != "Ready" and reserved and reserved["status"] == "True":
            said = _line(check.get("message", ""))
            return f"it waits for the admission check {check['name']}" + (said and f": {said}")
    if reserved and reserved["status"] == "False" and reserved.get("message"):
        return f"the queue has no room: {_line(reserved['message'])}"
    if evicted and evicted["status"] == "True":
        return (
            f"the queue took its place away ({evicted.get('reason')}): {_line(evicted['message'])}"
        )
    return "the queue has not looked at it yet; is its LocalQueue there?"


def of_condition(job: Object) -> str:
    """What the operator says of a failed job, where no pod tells more."""
    failed = held(job, "Failed")
    return _line(failed.get("message", "")) if failed else ""


def last_end(pod: Object) -> str:
    """Why the trainer's container of a pod last ended: its own words, else what the kubelet saw."""
    for container in _containers(pod):
        for state in (container.get("state", {}), container.get("lastState", {})):
            ended = state.get("terminated")
            if ended and (ended.get("exitCode") or ended.get("message")):
                return _of_end(ended, None, container["name"])
    return ""


def worker(pod: Object) -> str:
    """worker-N, or the pod's name for one that is no worker."""
    metadata: Mapping[str, Any] = pod["metadata"]
    labels = metadata.get("labels", {})
    index = labels.get(REPLICA_INDEX, labels.get(COMPLETION_INDEX))
    return f"worker-{index}" if index is not None else str(metadata["name"])


def _of_container(container: Mapping[str, Any], pod: Object, who: str) -> str:
    state, last = container.get("state", {}), container.get("lastState", {})
    waiting = state.get("waiting")
    ended = state.get("terminated") or last.get("terminated")
    if waiting:
        reason, message = waiting.get("reason", ""), _line(waiting.get("message", ""))
        if reason in _IMAGE:
            return (
                f"{who} cannot get its image {container.get('image')}: {message or reason}; is the "
                "name right, and has the namespace the registry's pull secret?"
            )
        if reason in _CONFIG:
            return f"{who} cannot be started: {message or reason}"
        if reason == "CrashLoopBackOff" and ended:
            return f"{who} ends again and again: {_of_end(ended, pod, container['name'])}"
    if state.get("terminated") and state["terminated"].get("exitCode"):
        return f"{who} ended: {_of_end(state['terminated'], pod, container['name'])}"
    return ""


def _of_end(ended: Mapping[str, Any], pod: Object | None, name: str) -> str:
    """name: of the container."""
    if ended.get("reason") == OUT_OF_MEMORY:
        limit = _memory_limit(pod) if pod is not None else ""
        if name == PROGRAM:
            return f"out of memory{limit}; give --memory-gib more (it counts /dev/shm too)"
        return (
            f"out of memory{limit}; raise job.memory_per_gpu_gib (it counts /dev/shm too) or lower "
            "data.loader_processes"
        )
    message = _line(ended.get("message", ""))
    code = ended.get("exitCode")
    return message or f"{ended.get('reason') or 'Error'}, exit code {code}"


def _memory_limit(pod: Object) -> str:
    for container in pod.get("spec", {}).get("containers", ()):
        if container["name"] in CONTAINERS:
            limit = container.get("resources", {}).get("limits", {}).get("memory")
            return f" (its limit is {limit})" if limit else ""
    return ""


def _containers(pod: Object) -> list[Mapping[str, Any]]:
    return [*pod.get("status", {}).get("initContainerStatuses", ()), *trainer_statuses(pod)]


def _newest_first(events: Sequence[Object]) -> list[Object]:
    return sorted(events, key=lambda event: str(event.get("lastTimestamp") or ""), reverse=True)


def _line(text: str) -> str:
    return " ".join(str(text).split())
