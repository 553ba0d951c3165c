"""From what is seen of a job to what is remembered of it. Pure.

Observations may come twice, late or in another order, and from another leader: nothing is counted
twice, and counts never fall.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from launcher.cluster.fields import held, labels_of
from launcher.cluster.kinds import Object
from launcher.controller.memory import Memory, Progress, Worker, read
from launcher.controller.view import (
    UNREACHABLE,
    Reading,
    View,
    container_of,
    created_at,
    index_of,
    seconds,
)
from launcher.spec import BUDGET_LABEL

READ_EVERY_S = 30.0
"""While all is well with a job: a second try is left before a reading is too old to count."""
READINGS_A_HANG = 20
"""At least, where a hang is told by a shorter time."""
SAME_FAILURES = 3
TIMES_KEPT = 200
"""Or as many as the budget needs; annotations have a limit of 256 KiB."""
SIGNATURE_MOST_CHARS = 120
UID_CHARS = 8


def observe(memory: Memory, view: View, now: float) -> Memory:
    """The memory after this look at the job."""
    memory = _follow_stretch(memory, view)
    if view.is_suspended or view.is_finished:
        return forget(memory)
    for pod in view.workers if view.is_group else ():
        memory = _see_pod(memory, pod)
    workers = {index: each for index, each in memory.workers.items() if index < view.replicas}
    memory = replace(memory, workers=workers, restart_times=_recent(memory, view, now))
    if view.reading is not None and view.reading != UNREACHABLE:
        memory = _see_reading(memory, view.reading, now)
    return memory


def is_reading_due(view: View, age_s: float = float("inf")) -> bool:
    """Whether the metrics are to be read: workers have failed of late, hangs are looked for, or a
    budget pays and wants to know for what.

    age_s: of the last reading.
    """
    if view.is_suspended or view.is_finished or not view.is_group or not view.running:
        return False
    if read(view.notes).restart_times:
        return True
    if view.hang_s:
        return age_s >= min(READ_EVERY_S, view.hang_s / READINGS_A_HANG)
    return BUDGET_LABEL in labels_of(view.job) and age_s >= READ_EVERY_S


def elapsed_s(memory: Memory, now: float) -> float:
    """How long the job has run since its first start; suspended time does not count."""
    if memory.is_closed or not memory.stretch:
        return float(memory.ran_s)
    return memory.ran_s + max(0.0, now - seconds(memory.stretch))


def _follow_stretch(memory: Memory, view: View) -> Memory:
    start = view.started_at
    if start and not memory.first_started_at:
        memory = replace(memory, first_started_at=start)
    if start and start != memory.stretch:
        if memory.stretch and not memory.is_closed:
            # Suspended and resumed while nobody looked: up to its last sign of life.
            ran_s = max(0, memory.progress.at - int(seconds(memory.stretch)))
            memory = replace(memory, ran_s=memory.ran_s + ran_s)
        memory = replace(forget(memory), stretch=start, is_closed=False)
    ended_at = _suspended_at(view.job)
    if ended_at and view.is_suspended and memory.stretch and not memory.is_closed:
        ran_s = max(0, int(seconds(ended_at) - seconds(memory.stretch)))
        memory = replace(memory, is_closed=True, ran_s=memory.ran_s + ran_s)
    return memory


def _suspended_at(job: Object) -> str:
    found = held(job, "Suspended")
    return str(found["lastTransitionTime"]) if found else ""


def forget(memory: Memory) -> Memory:
    """What holds for one stretch only. Pods of the next are no replacements."""
    workers = {
        index: replace(each, uid="", before=each.uid or each.before, signature="", failed_at=())
        for index, each in memory.workers.items()
    }
    return replace(
        memory,
        restart_times=(),
        workers=workers,
        progress=Progress(),
        hangs=0,
        hang_at=0,
        is_blind=False,
    )


def _see_pod(memory: Memory, pod: Object) -> Memory:
    index, uid = index_of(pod), pod["metadata"]["uid"][:UID_CHARS]
    assert index is not None, "workers have one"
    container, created = container_of(pod), created_at(pod)
    count = int(container.get("restartCount", 0))
    known = memory.workers.get(index)
    lost = 0
    if known is None:
        seen = Worker(uid, created=created)
    elif uid == known.uid or (uid == known.before and not known.uid):
        seen = replace(known, uid=uid, before="" if uid == known.before else known.before)
    elif uid == known.before or created < known.created:
        return memory  # an older observation
    else:
        lost = 1 if known.uid else 0
        seen = replace(known, uid=uid, before=known.uid or known.before, created=created,
                       restarts=0)  # fmt: skip
    failures = max(0, count - seen.restarts)
    times = [created] * lost
    if failures:
        ended = container.get("lastState", {}).get("terminated") or {}
        at = int(seconds(ended["finishedAt"])) if ended.get("finishedAt") else created
        times += [at] * failures
        seen = replace(_see_failure(seen, signature(ended), at), restarts=count)
    return replace(
        memory,
        restarts=memory.restarts + lost + failures,
        restart_times=tuple(sorted((*memory.restart_times, *times))),
        workers={**memory.workers, index: seen},
    )


def _see_failure(worker: Worker, text: str, at: int) -> Worker:
    earlier = worker.failed_at if text and text == worker.signature else ()
    return replace(worker, signature=text, failed_at=(*earlier, at)[-SAME_FAILURES:])


def signature(ended: Mapping[str, Any]) -> str:
    """How a container ended, without the figures that differ each time; "" where it told nothing.

    An exit code alone is none: an agent exits 1 for any error of its ranks.
    """
    if ended.get("reason") == "OOMKilled":
        return "OOMKilled"
    line = " ".join(str(ended.get("message") or "").split())
    return re.sub(r"0x[0-9a-f]+|\d+(\.\d+)?", "#", line)[:SIGNATURE_MOST_CHARS]


def _recent(memory: Memory, view: View, now: float) -> tuple[int, ...]:
    since = now - view.restart_window_s if view.restart_window_s else 0
    kept = [at for at in memory.restart_times if at > since]
    return tuple(kept[-max(TIMES_KEPT, (view.restarts_allowed or 0) + 1) :])


def _see_reading(memory: Memory, reading: Reading, now: float) -> Memory:
    progress = memory.progress
    moved = reading.stamp != progress.stamp if reading.stamp else reading.updates > progress.updates
    if reading.updates > progress.updates:
        progress = replace(progress, updates=reading.updates, updates_at=int(now))
    if not moved:
        return replace(memory, progress=progress, is_blind=False)
    progress = replace(progress, stamp=reading.stamp, at=int(now))
    return replace(memory, progress=progress, hangs=0, is_blind=False)
