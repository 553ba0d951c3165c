"""Where budgets stand by the ledger: what is used, by whom, and what runs on now. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from launcher.budget.asked import read_reservations
from launcher.budget.budgets import State
from launcher.budget.ledger import Ledger
from launcher.budget.objects import held_at_ms, read_budget, read_holds
from launcher.budget.periods import Period
from launcher.budget.records import Interval

Object = dict[str, Any]


@dataclass(frozen=True)
class Standing:
    """A budget at a moment."""

    thing: Object
    """Its object, as it was read."""
    period: Period | None
    """None: it has not begun, or is over."""
    stored: State
    """By what is stored: exact, and as old as the last extension of what runs."""
    running: frozenset[tuple[str, str]]
    """Jobs, by namespace and name, of which something is stored as running."""
    live: State
    """The same, with what runs counted up to the moment: what enforcement goes by."""


def standings(things: Iterable[Object], ledger: Ledger, now_ms: int) -> list[Standing]:
    """All budgets at a moment. Raises UsageError for one that its definition would not let in.

    It looks at what runs, and at the pods of jobs that hold something: not at all there ever was.
    """
    running: defaultdict[str, list[Interval]] = defaultdict(list)
    for interval in ledger.open():
        running[interval.owner.budget].append(interval)
    return [_standing(each, running[each["metadata"]["name"]], ledger, now_ms) for each in things]


def _standing(thing: Object, running: Sequence[Interval], ledger: Ledger, now_ms: int) -> Standing:
    budget = read_budget(thing)
    period = budget.calendar.at(now_ms)
    used = beyond = 0
    if period is not None:
        span = (period.begin_ms, period.end_ms)
        used = ledger.used(budget.name, *span)
        for each in running:
            live = replace(each, through_ms=max(each.through_ms, now_ms))
            beyond += live.within(*span) - each.within(*span)
    stored = State(
        budget=budget,
        used=used,
        holds=read_holds(thing),
        used_by_job=_used_by_holders(thing, ledger),
        gpus=sum(each.gpus for each in running),
        reservations=read_reservations(thing, now_ms),
    )
    names = frozenset((each.owner.namespace, each.owner.job) for each in running)
    return Standing(thing, period, stored, names, replace(stored, used=used + beyond))


def _used_by_holders(thing: Object, ledger: Ledger) -> dict[str, int]:
    """What jobs have been charged in their whole lives, by the uid of those that hold something.

    Pods of a TrainJob belong to a Job in between, so they are known by its name and by having come
    after the hold.
    """
    name, held_at = thing["metadata"]["name"], held_at_ms(thing)
    uid_of = {(hold.namespace, hold.job): uid for uid, hold in read_holds(thing).items()}
    found: defaultdict[str, int] = defaultdict(int)
    for job, uid in uid_of.items():
        for each in ledger.of_job(*job):
            if each.owner.budget != name:
                continue
            if each.owner.job_uid in held_at:
                found[each.owner.job_uid] += each.gpu_ms
            elif each.start_ms >= held_at[uid]:
                found[uid] += each.gpu_ms
    return dict(found)
