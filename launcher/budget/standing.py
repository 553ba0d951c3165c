"""Where budgets stand by the ledger: what is used, by whom, and what runs on now. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
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


@dataclass
class _Sums:
    """Of one budget, gathered in one pass through the ledger."""

    period: Period | None
    held_at_ms: Mapping[str, int]
    """By the uid of each job that holds something."""
    uid_of: Mapping[tuple[str, str], str]
    """The same jobs by namespace and name."""
    used: int = 0
    beyond: int = 0
    """What has run since what is stored, of the period."""
    gpus: int = 0
    running: set[tuple[str, str]] = field(default_factory=set)
    of_jobs: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, interval: Interval, now_ms: int) -> None:
        live = interval
        if not interval.is_closed:
            self.gpus += interval.gpus
            self.running.add((interval.owner.namespace, interval.owner.job))
            live = replace(interval, through_ms=max(interval.through_ms, now_ms))
        if self.period is not None:
            used = interval.within(self.period.begin_ms, self.period.end_ms)
            self.used += used
            self.beyond += live.within(self.period.begin_ms, self.period.end_ms) - used
        if uid := self._holder(interval):
            self.of_jobs[uid] += interval.gpu_ms

    def _holder(self, interval: Interval) -> str:
        """The uid of the holding job whose pod it is. Pods of a TrainJob belong to a Job in
        between, so they are known by its name and by having come after the hold."""
        owner = interval.owner
        if owner.job_uid in self.held_at_ms:
            return owner.job_uid
        uid = self.uid_of.get((owner.namespace, owner.job), "")
        return uid if uid and interval.start_ms >= self.held_at_ms[uid] else ""


def standings(things: Iterable[Object], ledger: Ledger, now_ms: int) -> list[Standing]:
    """All budgets at a moment. Raises UsageError for one that its definition would not let in."""
    found = list(things)
    sums = {each["metadata"]["name"]: _sums(each, now_ms) for each in found}
    for interval in ledger.intervals():
        if (mine := sums.get(interval.owner.budget)) is not None:
            mine.add(interval, now_ms)
    return [_standing(each, sums[each["metadata"]["name"]], ledger, now_ms) for each in found]


def _sums(thing: Object, now_ms: int) -> _Sums:
    holds = read_holds(thing)
    return _Sums(
        period=read_budget(thing).calendar.at(now_ms),
        held_at_ms=held_at_ms(thing),
        uid_of={(hold.namespace, hold.job): uid for uid, hold in holds.items()},
    )


def _standing(thing: Object, sums: _Sums, ledger: Ledger, now_ms: int) -> Standing:
    budget, period = read_budget(thing), sums.period
    given_back = (
        ledger.refunded(budget.name, period.begin_ms, period.end_ms) if period is not None else 0
    )
    stored = State(
        budget=budget,
        used=sums.used - given_back,
        holds=read_holds(thing),
        used_by_job=dict(sums.of_jobs),
        gpus=sums.gpus,
        reservations=read_reservations(thing, now_ms),
    )
    live = replace(stored, used=stored.used + sums.beyond)
    return Standing(thing, period, stored, frozenset(sums.running), live)
