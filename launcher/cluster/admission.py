"""Whether a budget lets a job start, and the hold that keeps GPU time free for it.

The hold stands in the Budget's status under the job's uid, and is written over the very version
that was judged: of two jobs that want the last GPU-days one finds the other's hold. What was used
comes from there too; the controller writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from launcher import errors
from launcher.budget import objects
from launcher.budget.budgets import Admitted, Ask, Refused, State, admit_largest
from launcher.budget.pods import gpus_of
from launcher.cluster.client import Api
from launcher.cluster.fields import labels_of
from launcher.cluster.forms import seen
from launcher.cluster.kinds import BUDGET, Kind, Object
from launcher.errors import Conflict, LauncherError, NotFound
from launcher.spec import BUDGET_LABEL, DEADLINE_ANNOTATION

TRIES = 20
"""Others who hold at the same moment; each of them finds its place by then."""


@dataclass(frozen=True)
class Applicant:
    """A job that asks a budget, at any of some sizes."""

    budget: str
    uid: str
    """Empty before it is created."""
    namespace: str
    name: str
    gpus_per_worker: int
    workers: Sequence[int]
    """Sizes with which it may start, the largest first."""
    deadline_s: int

    @classmethod
    def of(cls, job: Object, kind: Kind, workers: Sequence[int] = ()) -> Applicant | None:
        """The job of an object; None without a budget, and for one without GPUs, which takes
        nothing of any. workers: other sizes than it names."""
        budget = labels_of(job).get(BUDGET_LABEL, "")
        if not budget:
            return None
        like, metadata = seen(job, kind), job["metadata"]
        worker = like["spec"]["pytorchReplicaSpecs"]["Worker"]
        gpus = gpus_of(worker["template"])
        if not gpus:
            return None
        desired = worker.get("replicas", 1)
        least = like["spec"].get("elasticPolicy", {}).get("minReplicas") or desired
        text = (metadata.get("annotations") or {}).get(DEADLINE_ANNOTATION, "")
        return cls(
            budget=budget,
            uid=metadata.get("uid", ""),
            namespace=metadata["namespace"],
            name=metadata["name"],
            gpus_per_worker=gpus,
            workers=tuple(workers) or tuple(range(desired, least - 1, -1)),
            deadline_s=int(text) if text.isdecimal() else 0,
        )

    def asks(self) -> list[Ask]:
        """One for each size."""
        return [
            Ask(self.uid, self.namespace, self.name, n * self.gpus_per_worker, self.deadline_s)
            for n in self.workers
        ]

    def judge(self, state: State) -> tuple[int, Admitted] | Refused:
        """The workers that it may start with and what is to be held; or why it may not.

        A hold of another job of this name is one that was replaced, so it does not count.
        """
        holds = {uid: hold for uid, hold in state.holds.items() if not self.replaces(hold)}
        found = admit_largest(replace(state, holds=holds), self.asks())
        if isinstance(found, Refused):
            return found
        ask, admitted = found
        return ask.gpus // max(1, self.gpus_per_worker) or self.workers[0], admitted

    def replaces(self, hold: Any) -> bool:
        is_namesake = (hold.namespace, hold.job) == (self.namespace, self.name)
        return is_namesake and hold.job_uid != self.uid


def look(
    api: Api, job: Applicant, say: Callable[[str], None]
) -> tuple[int, Admitted, State] | None:
    """What would be admitted now; nothing is written but a refusal, which is counted and raised.

    None where the cluster knows no budgets. Raises errors.Refused.
    """
    found = find(api, job.budget)
    return None if found is None else _judged(api, found, job, say)


def hold(api: Api, job: Applicant, say: Callable[[str], None]) -> int | None:
    """Holds GPU time for a job that exists; returns the workers it may start with.

    None where the cluster knows no budgets. Twice is as once. Raises errors.Refused.
    """
    for _ in range(TRIES):
        found = find(api, job.budget)
        if found is None:
            return None
        workers, admitted, state = _judged(api, found, job, say)
        if admitted.hold is None:
            return workers
        replaced = {uid for uid, each in state.holds.items() if job.replaces(each)}
        now_ms = api.transport.clock.now_ms()
        changed = objects.with_hold(objects.without_holds(found, replaced), admitted.hold, now_ms)
        try:
            write_status(api, found, changed, "holds")
        except Conflict:
            continue
        return workers
    raise Conflict(
        f'budget "{job.budget}" changed {TRIES} times while a hold was written; try again'
    )


def _judged(
    api: Api, found: Object, job: Applicant, say: Callable[[str], None]
) -> tuple[int, Admitted, State]:
    """Workers and hold by a budget as it was read. Raises errors.Refused; it is counted."""
    now_ms = api.transport.clock.now_ms()
    state = objects.read_state(found, now_ms)
    verdict = objects.why_closed(found, job.namespace, now_ms) or job.judge(state)
    if isinstance(verdict, Refused):
        if (verdict.kind, state.budget.mode) == ("NoLedger", "soft"):
            say(f"warning: {verdict.reason.replace('so nothing starts on it', 'it only warns')}")
            return job.workers[0], Admitted(None), state
        count_refusal(api, job.budget, verdict)
        raise errors.Refused(verdict.reason, verdict.kind)
    if verdict[1].warning:
        say(f"warning: {verdict[1].warning}")
    return (*verdict, state)


def release(api: Api, budget: str, uid: str) -> None:
    """Gives back what a job holds; the controller does so too, once it sees the job gone."""
    for _ in range(TRIES):
        found = api.find(BUDGET, budget)
        if found is None or uid not in objects.read_holds(found):
            return
        try:
            write_status(api, found, objects.without_holds(found, {uid}), "holds")
        except Conflict:
            continue
        return


def count_refusal(api: Api, budget: str, refusal: Refused) -> None:
    """Adds one to the refusals that the budget shows. It is refused all the same if that fails."""
    try:
        for _ in range(TRIES):
            found = api.get(BUDGET, budget)
            now_ms = api.transport.clock.now_ms()
            changed = objects.with_refusal(found, refusal.kind, now_ms)
            try:
                write_status(api, found, changed, "refusals")
            except Conflict:
                continue
            return
    except LauncherError:
        return


def find(api: Api, name: str) -> Object | None:
    """A budget; None where the cluster knows none at all. Raises errors.Refused for a name that is
    not among them."""
    found = api.find(BUDGET, name)
    if found is not None:
        return found
    try:
        known = sorted(each["metadata"]["name"] for each in api.listing(BUDGET).items)
    except NotFound:
        return None
    raise errors.Refused(
        f'there is no budget "{name}"; there are: {", ".join(known) or "none"}. '
        f"Make it with: launcher budget set {name} --gpu-days N"
    )


def write_status(api: Api, read: Object, changed: Object, *keys: str) -> Object:
    """Writes some keys of a budget's status over the version that was read. Raises Conflict."""
    version = read["metadata"]["resourceVersion"]
    change = {
        "metadata": {"resourceVersion": version},
        "status": {key: changed["status"].get(key) for key in keys},
    }
    return api.patch(BUDGET, read["metadata"]["name"], change, subresource="status")
