"""The controller's duties: from a job as it is to what is to be done about it. Pure.

Each is level-triggered: it follows from what is there, so a leader that dies in between leaves
nothing half done, and what was done already is not decided again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

from launcher.cluster import marks, reasons
from launcher.cluster.fields import held
from launcher.cluster.kinds import JOB, SERVICE, Kind, Object
from launcher.cluster.state import read_status
from launcher.controller.actions import (
    Action,
    Adopt,
    Deactivate,
    Decision,
    DeleteJob,
    DeletePod,
    SuspendRendezvous,
    Tell,
)
from launcher.controller.memory import FIRST_STARTED, Memory, read
from launcher.controller.observe import SAME_FAILURES, elapsed_s, forget, observe
from launcher.controller.view import (
    UNREACHABLE,
    View,
    container_of,
    created_at,
    failed_at,
    index_of,
    is_any_ready,
    lost_since,
    running_since,
    seconds,
)
from launcher.status import ENDED

FATAL = "fatal: "
"""Begins a termination message that starting again cannot cure; the trainer's FATAL."""
SAME_FAILURES_WITHIN_S = 600
HANGS_MOST = 2
"""Restarts of a hanging run in a row, the one that ends it included."""
HANG_GRACE_S = 30
"""Ranks that hang cannot save, and have made no update to save; a checkpoint may be on its way."""
BLIND_AFTER_S = 300
"""Metrics are served once the run has begun; imports and the first batches come before."""
SETTLED_S = 15
"""A rendezvous is suspended once the job has been for so long: submit and resume let the job go
right after its helpers."""
UNSTARTED_S = 60
"""The same for a job that has never run: the queue may hold it for days."""
ENDED_NOTES = (marks.ENDED, marks.ENDED_REASON, marks.ENDED_AT)


def decide(view: View, now: float, node_grace_s: float, memory: Memory | None = None) -> Decision:
    """What is to be done about a job.

    now: seconds since 1970. memory: what is remembered; None is what its annotations say.
    """
    memory = read(view.notes) if memory is None else memory
    if view.job["metadata"].get("deletionTimestamp"):
        return Decision(memory)
    expired = _expired(view, now)
    if expired:
        return Decision(memory, (DeleteJob(expired),))
    memory = observe(memory, view, now)
    actions: list[Action] = [*_adoptions(view), *_lost_pods(view, now, node_grace_s)]
    is_ended = bool(view.notes.get(marks.ENDED))
    if is_ended and not view.is_suspended and not view.is_queued and not view.is_finished:
        # Ending suspends in the same request, so somebody has let it go again by hand.
        actions.append(Tell("Resumed", "let go by hand; it counts as running again", False))
        return Decision(memory, tuple(actions), cleared=ENDED_NOTES)
    if is_ended and view.is_queued and not view.is_suspended and not view.is_finished:
        actions.append(Deactivate())
    is_judged = not (is_ended or view.is_suspended or view.is_finished)
    if is_judged and not view.notes.get(marks.CANCELLED):
        reason = _end(view, memory, now)
        if reason:
            # What led to the end must not end the job again once it is resumed.
            return Decision(forget(memory), tuple(actions), ended_reason=reason)
        memory, more = _hang(view, memory, now)
        actions += more
    return Decision(memory, (*actions, *_rendezvous(view, now)))


# -- the end


def _end(view: View, memory: Memory, now: float) -> str:
    """Why the job is to be ended; "" while it may go on."""
    return (
        _fatal(view)
        or _same_failures(memory)
        or _over_budget(view, memory)
        or _over_deadline(view, memory, now)
        or _hangs_again(view, memory, now)
    )


def _fatal(view: View) -> str:
    for pod in _staying(view):
        container = container_of(pod)
        for state in (container.get("state", {}), container.get("lastState", {})):
            message = _line((state.get("terminated") or {}).get("message") or "")
            if message.startswith(FATAL):
                return f"{reasons.worker(pod)}: {message.removeprefix(FATAL)}"
    return ""


def _same_failures(memory: Memory) -> str:
    for index, worker in sorted(memory.workers.items()):
        times = worker.failed_at
        if (
            len(times) >= SAME_FAILURES
            and times[-1] - times[0] <= SAME_FAILURES_WITHIN_S
            and memory.progress.updates_at < times[0]
        ):
            return (
                f"worker-{index} failed {len(times)} times within {times[-1] - times[0]} s in the "
                f"same way, without progress between: {worker.signature}"
            )
    return ""


def _over_budget(view: View, memory: Memory) -> str:
    allowed, count = view.restarts_allowed, len(memory.restart_times)
    if allowed is None or count <= allowed:
        return ""
    window = f" within {view.restart_window_s} s" if view.restart_window_s else ""
    last = reasons.last_end(max(view.workers, key=failed_at)) if view.workers else ""
    return (
        f"workers were lost or failed {count} times{window}; {allowed} are allowed"
        + (f"; the last said: {last}" if last else "")
    )  # fmt: skip


def _over_deadline(view: View, memory: Memory, now: float) -> str:
    ran_s = elapsed_s(memory, now)
    if not view.deadline_s or ran_s <= view.deadline_s:
        return ""
    return f"its deadline of {view.deadline_s} s is over (suspended time does not count)"


def _hangs_again(view: View, memory: Memory, now: float) -> str:
    if memory.hangs + 1 < HANGS_MOST or not _is_hanging(view, memory, now):
        return ""
    return (
        f"it makes no progress: {HANGS_MOST} times in a row no update within {view.hang_s} s, "
        "its workers were started again between"
    )


# -- hangs


def _is_hanging(view: View, memory: Memory, now: float) -> bool:
    """Whether its metrics are read, and tell of no update for too long."""
    running = view.running
    if not view.hang_s or view.reading in (None, UNREACHABLE) or len(running) < view.least:
        return False
    since = max((memory.progress.at, memory.hang_at, *map(running_since, running)))
    return now - since > view.hang_s


def _hang(view: View, memory: Memory, now: float) -> tuple[Memory, list[Action]]:
    """Starts the workers of a hanging run again. Who dies in between leaves the rest to the next:
    the memory says which pods are to go."""
    actions: list[Action] = []
    if _is_hanging(view, memory, now):
        memory = replace(memory, hangs=memory.hangs + 1, hang_at=int(now))
    told = f"no update within {view.hang_s} s; its pod is made anew"
    if memory.hang_at:
        actions += [
            DeletePod(pod, "Hanging", told, grace_s=HANG_GRACE_S)
            for pod in _staying(view)
            if created_at(pod) < memory.hang_at
        ]
    if (
        view.hang_s
        and view.reading == UNREACHABLE
        and not memory.is_blind
        and len(view.running) >= view.least
        and now - max(map(running_since, view.running)) > BLIND_AFTER_S
    ):
        memory = replace(memory, is_blind=True)
        text = "no worker's metrics can be reached, so it is not known whether the run hangs"
        actions.append(Tell("MetricsUnreachable", f"{text}; is there a network policy?"))
    return memory, actions


# -- nodes


def _lost_pods(view: View, now: float, grace_s: float) -> Iterator[DeletePod]:
    """Pods whose node cannot end them: the operator makes them anew once they are gone."""
    if not is_any_ready(view):
        return
    for pod in view.pods:
        node = pod["spec"].get("nodeName", "")
        since = lost_since(view, node) if node else None
        if since is None or now - since <= grace_s:
            continue
        text = f"node {node} has not answered for {now - since:.0f} s"
        if pod["metadata"].get("deletionTimestamp"):
            yield DeletePod(pod, "NodeLost", f"{text}; removed without it", is_forced=True)
        elif pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
            yield DeletePod(pod, "NodeLost", f"{text}; made anew elsewhere")


# -- the rendezvous


def _adoptions(view: View) -> Iterator[Adopt]:
    for helper in view.helpers:
        if not helper["metadata"].get("ownerReferences"):
            yield Adopt(_kind(helper), helper)


def _rendezvous(view: View, now: float) -> Iterator[SuspendRendezvous]:
    """It runs while the job does, and until the last worker has saved and left."""
    wanted = _is_at_rest(view, now)
    if wanted is None:
        return
    for helper in view.helpers:
        if _kind(helper) is not JOB or held(helper, "Complete", "Failed"):
            continue
        if bool(helper["spec"].get("suspend")) is not wanted:
            yield SuspendRendezvous(helper, wanted)


def _is_at_rest(view: View, now: float) -> bool | None:
    """Whether a job has no use for its rendezvous; None where that is not settled."""
    if view.is_finished:
        return True
    if not view.is_suspended:
        return False
    is_left = all(
        pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
        for pod in view.pods
        if index_of(pod) is not None
    )
    since = float(created_at(view.job)) + UNSTARTED_S - SETTLED_S
    # The operator takes startTime away while a job is suspended.
    has_run = view.started_at or view.notes.get(FIRST_STARTED)
    suspended = held(view.job, "Suspended")
    if suspended and has_run:
        since = seconds(suspended["lastTransitionTime"])
    return True if is_left and now - since > SETTLED_S else None


# -- what is over for long


def _expired(view: View, now: float) -> str:
    """Why an ended job is deleted that the operator leaves: it does so only by completionTime."""
    status, policy = view.job.get("status", {}), view.job["spec"].get("runPolicy", {})
    ttl_s = policy.get("ttlSecondsAfterFinished")
    if ttl_s is None or status.get("completionTime"):
        return ""
    found = read_status(view.job, None, datetime.fromtimestamp(now, UTC))
    if found.state not in ENDED or not found.ended_at:
        return ""
    if now - seconds(found.ended_at) <= ttl_s:
        return ""
    return f"it ended ({found.state}) more than {ttl_s} s ago (runPolicy.ttlSecondsAfterFinished)"


# -- small things


def _staying(view: View) -> list[Object]:
    """Workers' pods that nobody is ending already."""
    return [pod for pod in view.workers if not pod["metadata"].get("deletionTimestamp")]


def _kind(helper: Object) -> Kind:
    return JOB if helper["kind"] == "Job" else SERVICE


def _line(text: str) -> str:
    return " ".join(text.split())
