"""Sending the rendered objects: in an order in which nothing starts before all of it is there.

The job is created suspended, then what it owns with its uid, then it is let go. A launcher that is
lost in between leaves a suspended job, which the next submit of the same name replaces; one that
fails takes back what it has made. Under Kueue the queue lets the job go, never we.
"""

from __future__ import annotations

import copy
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from launcher.budget.budgets import cost_in_words, in_days
from launcher.cluster import admission, forms, marks
from launcher.cluster.admission import Applicant
from launcher.cluster.client import Api
from launcher.cluster.fields import labels_of
from launcher.cluster.forms import JOB_KINDS, is_job, seen
from launcher.cluster.kinds import JOB, Kind, Object, kind_of
from launcher.cluster.state import read_status
from launcher.errors import Conflict, LauncherError, NotFound, Rejected, TimedOut
from launcher.spec import BUDGET_LABEL, JOB_LABEL, QUEUE_LABEL
from launcher.status import ENDED, JobStatus

GONE_TIMEOUT_S = 60.0
"""The API server removes ended objects at once; finalizers of others may hold them."""
POLL_S = 0.2
TRIES = 20


def submit(api: Api, objects: Sequence[Object], say: Callable[[str], None] = print) -> JobStatus:
    """Creates the job, or goes on with an ended or suspended one of the same name.

    Raises Conflict for a live job of that name, also when two submit at the same moment, Refused
    where its budget says no, and Rejected with the words of the quota or webhook that does not take
    it.
    """
    job, others = _parted(objects, api.namespace)
    kind, name = kind_of(job), job["metadata"]["name"]
    sizes = _look_at_budget(api, kind, job, say)
    _make_room(api, kind, job, others, say)
    submission = uuid.uuid4().hex
    is_queued = QUEUE_LABEL in job["metadata"].get("labels", {})
    if not is_queued:
        forms.suspend(job, kind)
    before = [thing for thing in others if kind_of(thing).name == "TrainingRuntime"]
    for thing in (*before, job):
        thing["metadata"].setdefault("annotations", {})[marks.SUBMISSION] = submission
    try:
        for thing in before:  # a TrainJob is refused without it
            api.create(thing)
        created = api.create(job)
    except Conflict as error:
        raise _at_once(name) from error
    applicant = Applicant.of(created, kind, sizes)
    try:
        workers = admission.hold(api, applicant, _unheard) if applicant and sizes else None
        for thing in others:
            api.apply(owned(thing, created))
        if not is_queued:
            created = _let_go(api, kind, created, submission, workers)
    except LauncherError:
        api.delete(kind, name, uid=created["metadata"]["uid"])
        if applicant and sizes:
            admission.release(api, applicant.budget, applicant.uid)
        raise
    return read_status(seen(created, kind), None, datetime.now(UTC))


def dry_run(
    api: Api, objects: Sequence[Object], say: Callable[[str], None] = print
) -> list[Object]:
    """The objects as the server would store them: admission, quota, budget and rights are asked."""
    job, others = _parted(objects, api.namespace)
    _look_at_budget(api, kind_of(job), job, say)
    answers = []
    for thing in (*others, job):
        try:
            answers.append(api.create(thing, dry_run=True))
        except Conflict:
            answers.append(thing)  # it exists, so all of admission has let it pass
    return answers


def _look_at_budget(
    api: Api, kind: Kind, job: Object, say: Callable[[str], None]
) -> tuple[int, ...]:
    """Numbers of workers with which the job may start, the largest first, by what its budget says
    now; the job is made of the largest. Empty where it has no budget. Raises Refused."""
    applicant = Applicant.of(job, kind)
    if applicant is None:
        return ()
    old = api.find(kind, applicant.name, applicant.namespace)
    if old is not None:  # it is replaced, and what it holds with it
        applicant = replace(applicant, uid=old["metadata"]["uid"])
    found = admission.look(api, applicant, say)
    if found is None:
        say(f"this cluster knows no budgets: {applicant.budget!r} is only a label")
        return ()
    workers, admitted, state = found
    gpus, limit = workers * applicant.gpus_per_worker, state.budget.limit_gpu_ms
    if admitted.hold is not None:
        say(
            f"reserves {cost_in_words(gpus, applicant.deadline_s)}; "
            f"{in_days(state.remaining)} of {in_days(limit)} remain"
        )
    if workers < applicant.workers[0]:
        say(f"its budget has room for {workers} of {applicant.workers[0]} workers: it starts so")
        forms.resize(job, kind, workers)
    if QUEUE_LABEL in labels_of(job):
        return (workers,)  # the queue evicts a job whose size changes
    return tuple(each for each in applicant.workers if each <= workers)


def _unheard(_: str) -> None:
    """What was said at the first look is not said again."""


def owned(thing: Object, owner: Object) -> Object:
    """The object as one that goes with its owner, and is in its namespace.

    blockOwnerDeletion stays off: setting it asks for rights on the owner's finalizers.
    """
    thing = copy.deepcopy(thing)
    thing["metadata"]["namespace"] = owner["metadata"]["namespace"]
    thing["metadata"]["ownerReferences"] = [
        {
            "apiVersion": owner["apiVersion"],
            "kind": owner["kind"],
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
            "controller": False,
            "blockOwnerDeletion": False,
        }
    ]
    return thing


def _parted(objects: Sequence[Object], namespace: str) -> tuple[Object, list[Object]]:
    """Copies of the job and of all else, in the namespace."""
    copies = copy.deepcopy(list(objects))
    for thing in copies:
        thing["metadata"].setdefault("namespace", namespace)
    jobs = [thing for thing in copies if is_job(thing, kind_of(thing))]
    assert len(jobs) == 1, "render makes one job"
    return jobs[0], [thing for thing in copies if thing is not jobs[0]]


def _let_go(api: Api, kind: Kind, job: Object, submission: str, workers: int | None) -> Object:
    """Unsuspends the job if it is still ours; both in one request. workers: those its budget has
    admitted; None: it has none."""
    note = f"/metadata/annotations/{marks.SUBMISSION.replace('/', '~1')}"
    change: list[dict[str, Any]] = [
        {"op": "test", "path": note, "value": submission},
        {"op": "replace", "path": forms.suspend_path(kind), "value": False},
    ]
    name = job["metadata"]["name"]
    if workers is not None:
        admitted = f"/metadata/annotations/{marks.ADMITTED.replace('/', '~1')}"
        change.append({"op": "add", "path": admitted, "value": labels_of(job)[BUDGET_LABEL]})
    if workers is not None and (size := forms.workers_path(kind)):
        change.append({"op": "replace", "path": size, "value": workers})
    try:
        return api.patch(kind, name, change, namespace=job["metadata"]["namespace"])
    except (NotFound, Rejected) as error:
        raise Conflict(f"job {name!r} was replaced by another submit meanwhile: {error}") from error


def _make_room(
    api: Api, kind: Kind, job: Object, others: Sequence[Object], say: Callable[[str], None]
) -> None:
    """Removes an ended or suspended job of the same name; its checkpoints are elsewhere."""
    name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
    _check_name_is_free(api, kind, name, namespace)
    found = _take_away(api, kind, name, namespace, say)
    for thing in others:
        _remove_left(api, kind, name, thing)
    if found is not None:
        wait_gone(api, kind, found)


def _check_name_is_free(api: Api, kind: Kind, name: str, namespace: str) -> None:
    """Raises Conflict where a name means another kind of job, or a Job that is no job of ours: for
    every verb a name is one job."""
    for other in JOB_KINDS:
        if JOB not in (kind, other):
            continue
        found = api.find(other, name, namespace)
        if found is not None and is_job(found, other) is not (other is kind):
            raise Conflict(
                f"{other.name} {name!r} exists in namespace {namespace} and is no job of this "
                "kind; choose another name"
            )


def _take_away(
    api: Api, kind: Kind, name: str, namespace: str, say: Callable[[str], None]
) -> Object | None:
    """Begins to delete a job of the name that is ended or suspended, while it is; gives it."""
    for _ in range(TRIES):
        found = api.find(kind, name, namespace)
        if found is None:
            return None
        state = read_status(seen(found, kind), None, datetime.now(UTC)).state
        if state not in (*ENDED, "Suspended"):
            raise Conflict(
                f"job {name!r} exists in namespace {namespace} and is {state}; choose another "
                f"name, or end it with: launcher cancel {name}"
            )
        uid, version = (found["metadata"][key] for key in ("uid", "resourceVersion"))
        try:
            api.delete(kind, name, namespace=namespace, uid=uid, version=version)
        except Conflict:
            continue  # let go meanwhile, perhaps
        say(f"{name} was {state}; it is submitted anew and goes on from its checkpoint")
        return found
    raise _at_once(name)


def _remove_left(api: Api, kind: Kind, name: str, thing: Object) -> None:
    """Removes what an earlier job of the name has left of this object, never a live one's."""
    metadata, part = thing["metadata"], kind_of(thing)
    for _ in range(TRIES):
        left = api.find(part, metadata["name"], metadata["namespace"])
        if left is None:
            return
        _check_is_left(api, kind, name, part, left)
        # As it was judged: whoever wins at this moment makes it a part of its own job.
        uid, version = (left["metadata"][key] for key in ("uid", "resourceVersion"))
        try:
            api.delete(
                part, metadata["name"], namespace=metadata["namespace"], uid=uid, version=version
            )
        except Conflict:
            continue  # a Job's status goes on changing while it is cleared away
        wait_gone(api, part, left)
        return
    raise _at_once(name)


def _check_is_left(api: Api, kind: Kind, name: str, part: Kind, left: Object) -> None:
    """Raises Conflict where an object is no job's of the name, or a live one's."""
    namespace = left["metadata"]["namespace"]
    if labels_of(left).get(JOB_LABEL) != name:
        raise Conflict(
            f"{part.name} {left['metadata']['name']!r} exists in namespace {namespace} and is no "
            "part of a job of this name; choose another name"
        )
    owners = {owner["uid"] for owner in left["metadata"].get("ownerReferences", ())}
    # Asked after its part: whoever submits makes the job first.
    owner = api.find(kind, name, namespace)
    if owner is not None and owner["metadata"]["uid"] in owners and not _ends(owner):
        raise _at_once(name)


def _ends(thing: Object) -> bool:
    return "deletionTimestamp" in thing["metadata"]


def _at_once(name: str) -> Conflict:
    return Conflict(
        f"job {name!r} was submitted by somebody else at the same moment; choose another name"
    )


def wait_gone(api: Api, kind: Kind, thing: Object, timeout_s: float = GONE_TIMEOUT_S) -> None:
    """Waits until this very object is gone. Raises TimedOut."""
    metadata = thing["metadata"]
    ends_at = time.monotonic() + timeout_s
    while True:
        found = api.find(kind, metadata["name"], metadata["namespace"])
        if found is None or found["metadata"]["uid"] != metadata["uid"]:
            return
        if time.monotonic() > ends_at:
            held = ", ".join(found["metadata"].get("finalizers", ())) or "its pods"
            raise TimedOut(
                f"{kind.name} {metadata['name']} is still there {timeout_s:g} s after its "
                f"deletion; it is held by {held}"
            )
        time.sleep(POLL_S)
