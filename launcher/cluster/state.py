"""From the objects of a job to its JobStatus: the same words as for a run on this machine. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from launcher.cluster import marks, reasons
from launcher.cluster.fields import (
    held,
    index_of,
    labels_of,
    latest,
    restarts_of,
    trainer_statuses,
)
from launcher.cluster.indexedjobs import count_of
from launcher.cluster.kinds import Object
from launcher.spec import CHECKPOINTS_ANNOTATION, MODEL_ANNOTATION, QUEUE_LABEL
from launcher.status import Event, Indexes, JobState, JobStatus, WorkerState, WorkerStatus

GPU = "nvidia.com/gpu"
_BY_PRIORITY = ("Failed", "Succeeded", "Suspended", "Restarting", "Running", "Created")
"""A suspended job still lists Running, so the last condition is not the one that holds."""
EVENTS_SHOWN = 50


def read_status(
    job: Object,
    pods: Sequence[Object] | None,
    now: datetime,
    *,
    events: Sequence[Object] = (),
    workload: Object | None = None,
) -> JobStatus:
    """A job as it is, of whatever kind as `forms.seen` gives it.

    pods: its workers, None where they were not asked for; then the operator's counts serve.
    """
    metadata, spec, status = job["metadata"], job["spec"], job.get("status", {})
    notes: dict[str, str] = metadata.get("annotations") or {}
    worker, elastic = spec["pytorchReplicaSpecs"]["Worker"], spec.get("elasticPolicy", {})
    mine = latest(pods or ())
    running = len([pod for pod in mine if is_running(pod)])
    if pods is None:
        running = status.get("replicaStatuses", {}).get("Worker", {}).get("active", 0)
    desired = worker.get("replicas", 1)
    least = elastic.get("minReplicas", desired)
    state = state_of(job, mine, running, least)
    kept = int(notes.get(marks.RESTARTS, 0))
    restarts = max(kept, sum(restarts_of(pod) for pod in mine))
    indexes = None
    if told := status.get("indexes"):
        indexes = Indexes(told["total"], told["done"], told["failed"])
        restarts = max(restarts, told["failures"] - count_of(indexes.failed))
    names = {pod["metadata"]["name"]: reasons.worker(pod) for pod in pods or ()}
    return JobStatus(
        name=metadata["name"],
        backend="kubernetes",
        state=state,
        model=notes.get(MODEL_ANNOTATION, ""),
        workers_desired=desired,
        workers_running=running,
        workers_least=least,
        workers_most=elastic.get("maxReplicas", desired),
        restarts=restarts,
        created_at=metadata["creationTimestamp"],
        started_at=status.get("startTime"),
        ended_at=_ended_at(job, state),
        worker_s=round(sum(_worker_s(pod, now) for pod in pods or ()), 3),
        reason=_with_indexes(_reason(job, state, mine, events, workload), state, indexes),
        checkpoints=notes.get(CHECKPOINTS_ANNOTATION, ""),
        workers=tuple(_worker(pod) for pod in mine),
        events=tuple(_event(each, names) for each in sorted(events, key=_event_time))[
            -EVENTS_SHOWN:
        ],
        namespace=metadata["namespace"],
        queue=labels_of(job).get(QUEUE_LABEL, ""),
        gpus=running * gpus_of(worker["template"]["spec"]),
        indexes=indexes,
    )


def condition(job: Object) -> str:
    """The condition that holds, by priority; "" before the operator has seen the job."""
    held = {
        each["type"]
        for each in job.get("status", {}).get("conditions", ())
        if each["status"] == "True"
    }
    return next((name for name in _BY_PRIORITY if name in held), "")


def state_of(job: Object, pods: Sequence[Object], running: int, least: int) -> JobState:
    """One word for where a job stands."""
    notes = job["metadata"].get("annotations") or {}
    held, asked = condition(job), job["spec"].get("runPolicy", {}).get("suspend", False)
    queue = labels_of(job).get(QUEUE_LABEL)
    if held in ("Failed", "Succeeded"):
        return "Failed" if held == "Failed" else "Succeeded"
    if asked and not running:
        if notes.get(marks.ENDED):
            return "Failed"
        if notes.get(marks.CANCELLED):
            return "Cancelled"
        is_paused = notes.get(marks.SUSPENDED) or notes.get(marks.BUDGET_REASON)
        return "Queued" if queue and not is_paused else "Suspended"
    if asked:
        return "Running"  # its workers are saving
    if held == "Restarting" or any(_is_crashing(pod) for pod in pods):
        return "Restarting"
    if not held and not pods:
        return "Created"
    return "Running" if running >= least else "Starting"


def is_running(pod: Object) -> bool:
    """Whether a pod's trainer container runs and is not being ended."""
    if pod["metadata"].get("deletionTimestamp"):
        return False
    return any("running" in each.get("state", {}) for each in trainer_statuses(pod))


def gpus_of(pod_spec: Object) -> int:
    """GPUs that a pod is given: the sum over its containers' limits."""
    total = 0
    for container in pod_spec.get("containers", ()):
        total += int(container.get("resources", {}).get("limits", {}).get(GPU, 0))
    return total


def moment(text: str) -> datetime:
    """RFC 3339 as the API server writes it."""
    return datetime.fromisoformat(text)


def _reason(
    job: Object,
    state: JobState,
    pods: Sequence[Object],
    events: Sequence[Object],
    workload: Object | None,
) -> str:
    notes: dict[str, str] = job["metadata"].get("annotations") or {}
    if notes.get(marks.ENDED) and state == "Failed":
        return notes.get(marks.ENDED_REASON, "")
    if state == "Cancelled":
        return "cancelled by the user; the same submit goes on from its checkpoint"
    if state == "Suspended":
        return notes.get(marks.BUDGET_REASON, "")
    if state == "Succeeded":
        return ""
    if job["spec"].get("runPolicy", {}).get("suspend") and state == "Running":
        why = notes.get(marks.BUDGET_REASON)
        return f"{why}; its workers are saving and leaving" if why else (
            "its workers are saving and leaving"
        )  # fmt: skip
    if state == "Running":
        return next((text for pod in pods if (text := reasons.of_pod(pod))), "")
    # Pods that are still there leave because of the queue: how they ended is no reason.
    queue = reasons.of_workload(workload) if state == "Queued" and workload is not None else ""
    return queue or reasons.of_job(job, pods, events, workload)


def _with_indexes(reason: str, state: JobState, indexes: Indexes | None) -> str:
    """The reason, headed by which indexes have failed for good."""
    if indexes is None or not indexes.failed or state in ("Succeeded", "Cancelled", "Suspended"):
        return reason
    head = f"{count_of(indexes.failed)} of {indexes.total} indexes failed ({indexes.failed})"
    return f"{head}: {reason}" if reason else head


def _worker(pod: Object) -> WorkerStatus:
    status = pod.get("status", {})
    return WorkerStatus(
        index=index_of(pod),
        state=_worker_state(pod),
        pid=None,
        restarts=restarts_of(pod),
        started_at=status.get("startTime"),
        reason=reasons.of_pod(pod, is_named=False) or reasons.last_end(pod),
        node=pod.get("spec", {}).get("nodeName", ""),
    )


def _worker_state(pod: Object) -> WorkerState:
    if pod["metadata"].get("deletionTimestamp"):
        return "Terminating"
    phase = pod.get("status", {}).get("phase", "Pending")
    if phase == "Running" and not is_running(pod):
        return "Pending"
    words: dict[str, WorkerState] = {
        "Running": "Running",
        "Succeeded": "Succeeded",
        "Failed": "Failed",
    }
    return words.get(phase, "Pending")


def _is_crashing(pod: Object) -> bool:
    return any(
        each.get("state", {}).get("waiting", {}).get("reason") == "CrashLoopBackOff"
        for each in pod.get("status", {}).get("containerStatuses", ())
    )


def _worker_s(pod: Object, now: datetime) -> float:
    """From its placing to its end, or until now: what a budget is charged for a pod that exists."""
    status = pod.get("status", {})
    placed = held(pod, "PodScheduled")
    if placed is None:
        return 0.0
    ends = [
        each["state"]["terminated"]["finishedAt"]
        for each in status.get("containerStatuses", ())
        if each.get("state", {}).get("terminated", {}).get("finishedAt")
    ]
    is_over = status.get("phase") in ("Succeeded", "Failed") and ends
    end = max(map(moment, ends)) if is_over else now
    return max(0.0, (end - moment(placed["lastTransitionTime"])).total_seconds())


def _ended_at(job: Object, state: JobState) -> str | None:
    notes, status = job["metadata"].get("annotations") or {}, job.get("status", {})
    if state == "Cancelled":
        return str(notes[marks.CANCELLED])
    if state not in ("Succeeded", "Failed"):
        return None
    if status.get("completionTime"):
        return str(status["completionTime"])
    if ended := held(job, state):
        return str(ended["lastTransitionTime"])
    return notes.get(marks.ENDED_AT)


def _event(event: Object, workers: Mapping[str, str]) -> Event:
    """workers: what pods are called by their names; those of one that is gone may tell it."""
    involved = event.get("involvedObject", {})
    name = involved.get("name", "")
    index = name.rpartition("-worker-")[2] if "-worker-" in name else ""
    about = f"worker-{index}" if index else str(involved.get("kind", "job")).lower()
    return Event(
        at=_event_time(event),
        type="Warning" if event.get("type") == "Warning" else "Normal",
        reason=event.get("reason", ""),
        object=workers.get(name, about),
        message=" ".join(str(event.get("message", "")).split()),
    )


def _event_time(event: Object) -> str:
    told: Any = event.get("lastTimestamp") or event.get("eventTime")
    return str(told or event["metadata"].get("creationTimestamp") or datetime.now(UTC).isoformat())
