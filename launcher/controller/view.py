"""The objects of one job as the controller last saw them, and what can be read off them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from launcher.budget.goodput import Told
from launcher.cluster import marks
from launcher.cluster.fields import held, labels_of, latest, trainer_statuses
from launcher.cluster.forms import is_job
from launcher.cluster.kinds import JOB, PYTORCHJOB, Kind, Object
from launcher.cluster.state import condition, is_running, moment
from launcher.spec import (
    DEADLINE_ANNOTATION,
    HANG_ANNOTATION,
    QUEUE_LABEL,
    RESTART_WINDOW_ANNOTATION,
    RESTARTS_ALLOWED_ANNOTATION,
)

METRICS_PORT = "metrics"


@dataclass(frozen=True)
class Reading:
    """What the workers' metrics say; of all that answer, the furthest."""

    updates: float
    stamp: float
    """When the trainer made its last update, by its own clock; 0: none yet."""
    told: Told | None = None
    """What its time was spent on; None: the trainer does not say."""


UNREACHABLE = Reading(-1, -1)
"""No worker answered."""


@dataclass(frozen=True)
class View:
    """A job and what belongs to it."""

    job: Object
    """As `brief` keeps it."""
    pods: Sequence[Object] = ()
    """Workers and rendezvous."""
    helpers: Sequence[Object] = ()
    """The rendezvous' Job and Service."""
    nodes: Mapping[str, Object] = field(default_factory=dict)
    """All of the cluster."""
    absent_since: Mapping[str, float] = field(default_factory=dict)
    """Nodes that pods are on and that do not exist, and when that was noticed."""
    reading: Reading | None = None
    """None: not read lately."""

    @property
    def notes(self) -> Mapping[str, str]:
        found: Mapping[str, str] = self.job["metadata"].get("annotations") or {}
        return found

    @property
    def name(self) -> str:
        return str(self.job["metadata"]["name"])

    @property
    def kind(self) -> Kind:
        return kind_of(self.job)

    @property
    def is_group(self) -> bool:
        """Whether its workers make one run together; else each index is for itself, and the Job
        knows by itself which to start again."""
        return self.kind is PYTORCHJOB

    @property
    def is_suspended(self) -> bool:
        """Whether it is asked to be; its workers may still be saving."""
        return bool(self.job["spec"].get("runPolicy", {}).get("suspend"))

    @property
    def is_finished(self) -> bool:
        """Whether the operator counts it as over."""
        return condition(self.job) in ("Succeeded", "Failed")

    @property
    def is_queued(self) -> bool:
        """Whether Kueue decides when it runs."""
        return QUEUE_LABEL in labels_of(self.job)

    @property
    def started_at(self) -> str:
        return str(self.job.get("status", {}).get("startTime") or "")

    @property
    def replicas(self) -> int:
        worker = self.job["spec"]["pytorchReplicaSpecs"].get("Worker", {})
        return int(worker.get("replicas", 1))

    @property
    def least(self) -> int:
        return int(self.job["spec"].get("elasticPolicy", {}).get("minReplicas") or self.replicas)

    @property
    def workers(self) -> list[Object]:
        """Pods of workers, by index; those beyond the wanted number are on their way out. Of an
        Indexed Job the last of each index."""
        found = [pod for pod in self.pods if index_of(pod) is not None]
        if not self.is_group:
            return latest(found)
        wanted = [pod for pod in found if (index_of(pod) or 0) < self.replicas]
        return sorted(wanted, key=lambda pod: index_of(pod) or 0)

    @property
    def running(self) -> list[Object]:
        return [pod for pod in self.workers if is_running(pod)]

    def number(self, annotation: str) -> int:
        """A whole number of the job's annotations; 0 where it is absent or none."""
        text = self.notes.get(annotation, "")
        return int(text) if text.isdecimal() else 0

    @property
    def deadline_s(self) -> int:
        return self.number(DEADLINE_ANNOTATION)

    @property
    def hang_s(self) -> int:
        return self.number(HANG_ANNOTATION)

    @property
    def restart_window_s(self) -> int:
        """0: as long as the job lives."""
        return self.number(RESTART_WINDOW_ANNOTATION)

    @property
    def restarts_allowed(self) -> int | None:
        """None: any number."""
        text = self.notes.get(RESTARTS_ALLOWED_ANNOTATION, "")
        return int(text) if text.isdecimal() else None


def kind_of(job: Object) -> Kind:
    """The kind of a job as `brief` keeps it, which makes all look alike but keeps that name."""
    return JOB if job.get("kind") == JOB.name and is_job(job, JOB) else PYTORCHJOB


def index_of(pod: Object) -> int | None:
    """The index of a worker's pod; None for another pod."""
    labels = labels_of(pod)
    text = labels.get(marks.REPLICA_INDEX) or labels.get(marks.COMPLETION_INDEX, "")
    return int(text) if text.isdecimal() else None


def container_of(pod: Object) -> Mapping[str, Any]:
    """The status of the trainer's container; empty before it is there."""
    return next(iter(trainer_statuses(pod)), {})


def seconds(text: str) -> float:
    """RFC 3339 as seconds since 1970."""
    return moment(text).timestamp()


def created_at(thing: Object) -> int:
    """Whole seconds since 1970, which is all that the API server tells."""
    return int(seconds(thing["metadata"]["creationTimestamp"]))


def failed_at(pod: Object) -> str:
    """When the trainer's container last ended, RFC 3339; empty if it has not."""
    container = container_of(pod)
    ends = [
        (container.get(each, {}).get("terminated") or {}).get("finishedAt") or ""
        for each in ("state", "lastState")
    ]
    return str(max(ends))


def running_since(pod: Object) -> float:
    """When the trainer's container of a running pod was last started."""
    started = container_of(pod).get("state", {}).get("running", {}).get("startedAt")
    return seconds(started) if started else float(created_at(pod))


def addresses(view: View) -> list[str]:
    """Where the metrics of running workers are, as host:port."""
    found = []
    for pod in view.running:
        host = pod.get("status", {}).get("podIP", "")
        for container in pod["spec"]["containers"]:
            for port in container.get("ports", ()) if container["name"] == marks.CONTAINER else ():
                if port.get("name") == METRICS_PORT and host:
                    literal = f"[{host}]" if ":" in host else host
                    found.append(f"{literal}:{port['containerPort']}")
    return found


def lost_since(view: View, node: str) -> float | None:
    """Since when a node does not answer or is gone; None while it is well."""
    found = view.nodes.get(node)
    if found is None:
        return view.absent_since.get(node)
    for each in found.get("status", {}).get("conditions", ()):
        if each["type"] == "Ready" and each["status"] != "True":
            return seconds(each["lastTransitionTime"])
    return None


def is_any_ready(view: View) -> bool:
    """Whether at least one node answers; else it is the control plane that is cut off."""
    return any(held(node, "Ready") for node in view.nodes.values())
