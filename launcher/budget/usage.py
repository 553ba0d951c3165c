"""What was used, by whom and when: sums over a ledger, exact to the millisecond. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from launcher.budget.budgets import DAY_MS
from launcher.budget.ledger import FOREVER_MS, Key, Ledger
from launcher.budget.records import Interval

FACTS = ("budget", "job", "model", "user", "stage", "gpu_type", "namespace")
"""Of an interval's owner."""
GROUPS = (*FACTS, "day")
"""What a sum may be by; a day is one of UTC."""


@dataclass(frozen=True)
class Question:
    """What of the ledger is wanted."""

    by: Sequence[str] = ("job",)
    """Of GROUPS."""
    begin_ms: int = 0
    end_ms: int = FOREVER_MS
    """From `begin_ms` up to, without, `end_ms`."""
    only: Mapping[str, str] = field(default_factory=dict)
    """Facts that an interval must have, by name."""


@dataclass(frozen=True)
class Answer:
    """Sums in GPU-milliseconds."""

    rows: Mapping[Key, int]
    """By the values of what was asked for, in that order."""
    refunds: Mapping[str, int]
    """By budget: given back in the span. They are not taken off the rows."""
    open_intervals: int
    """Of the rows: pods that still run; they are counted up to what is stored."""
    as_of_ms: int | None
    """How far the earliest stored of these is; None where all have ended."""

    @property
    def total(self) -> int:
        return sum(self.rows.values())

    @property
    def refunded(self) -> int:
        return sum(self.refunds.values())


def usage(ledger: Ledger, question: Question) -> Answer:
    """The sums that were asked for."""
    rows: defaultdict[Key, int] = defaultdict(int)
    begin, end = question.begin_ms, question.end_ms
    is_daily = "day" in question.by
    still_open = []
    for interval in ledger.intervals():
        if not _is_wanted(interval, question.only) or interval.start_ms >= end:
            continue
        if not interval.is_closed and interval.through_ms < end:
            still_open.append(interval.through_ms)
        parts = days(interval, begin, end) if is_daily else [("", interval.within(begin, end))]
        for day, part in parts:
            if part:
                rows[_key(interval, question.by, day)] += part
    return Answer(
        rows=dict(sorted(rows.items())),
        refunds=_refunds(ledger, question),
        open_intervals=len(still_open),
        as_of_ms=min(still_open, default=None),
    )


def days(interval: Interval, begin_ms: int, end_ms: int) -> Iterator[tuple[str, int]]:
    """Each day of UTC that the interval touches, as 2026-06-01, with its part of the charge."""
    at, end = max(interval.start_ms, begin_ms), min(interval.through_ms, end_ms)
    while at < end:
        midnight = (at // DAY_MS + 1) * DAY_MS
        yield date_of(at), interval.within(at, min(midnight, end))
        at = midnight


def date_of(moment_ms: int) -> str:
    """The day of UTC that holds a moment."""
    return datetime.fromtimestamp(moment_ms // 1000, UTC).strftime("%Y-%m-%d")


def _is_wanted(interval: Interval, only: Mapping[str, str]) -> bool:
    return all(getattr(interval.owner, fact) == value for fact, value in only.items())


def _key(interval: Interval, by: Sequence[str], day: str) -> Key:
    return tuple(day if name == "day" else getattr(interval.owner, name) for name in by)


def _refunds(ledger: Ledger, question: Question) -> dict[str, int]:
    """A refund belongs to a budget, and through its pod to the rest; one without is the budget's
    alone."""
    found: defaultdict[str, int] = defaultdict(int)
    for refund in ledger.refunds():
        if not question.begin_ms <= refund.at_ms < question.end_ms:
            continue
        rest = dict(question.only)
        if rest.pop("budget", refund.budget) != refund.budget:
            continue
        pod = ledger.of_pod(refund.pod_uid) if refund.pod_uid else None
        if rest and (pod is None or not _is_wanted(pod, rest)):
            continue
        found[refund.budget] += refund.gpu_ms
    return dict(sorted(found.items()))
