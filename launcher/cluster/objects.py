"""The objects around a job: its pods, what was told of them, its place in a queue."""

from __future__ import annotations

from launcher.cluster import marks
from launcher.cluster.client import Api
from launcher.cluster.fields import index_of
from launcher.cluster.forms import JOB_KINDS, is_job
from launcher.cluster.kinds import OLD_WORKLOAD, POD, WORKLOAD, Kind, Object
from launcher.errors import NotFound
from launcher.spec import JOB_LABEL

JOB_UID = "kueue.x-k8s.io/job-uid"
"""Label by which Kueue finds the Workload of a job."""


def find_job(api: Api, name: str) -> tuple[Object, Kind] | None:
    """A job and its kind; None where there is none of that name, or no operator that knows one."""
    for kind in JOB_KINDS:
        found = api.find(kind, name)
        if found is not None and is_job(found, kind):
            return found, kind
    return None


def pods_of(api: Api, name: str) -> list[Object]:
    """The workers' pods of a job, by index. An index of an Indexed Job may have several: those
    that have failed stay."""
    of_batch = f"{marks.BATCH_JOB_NAME}={name},{JOB_LABEL}={name}"
    for labels in (f"{marks.JOB_NAME}={name}", f"{marks.JOBSET_NAME}={name}", of_batch):
        if pods := api.listing(POD, labels=labels).items:
            return sorted(pods, key=index_of)
    return []


def container_of(pod: Object) -> str:
    """The trainer's container."""
    names: list[str] = [each["name"] for each in pod["spec"]["containers"]]
    return next((name for name in names if name in marks.CONTAINERS), names[0])


def workloads(api: Api, labels: str = "") -> tuple[list[Object], Kind]:
    """Kueue's Workloads and their kind, of the newest version there is. Raises NotFound."""
    try:
        return api.listing(WORKLOAD, labels=labels).items, WORKLOAD
    except NotFound:
        return api.listing(OLD_WORKLOAD, labels=labels).items, OLD_WORKLOAD


def workload_of(api: Api, job: Object) -> tuple[Object, Kind] | None:
    """Kueue's Workload of a job and its kind; None before Kueue has seen it, and without Kueue."""
    try:
        found, kind = workloads(api, f"{JOB_UID}={job['metadata']['uid']}")
    except NotFound:
        return None
    return (found[0], kind) if found else None
