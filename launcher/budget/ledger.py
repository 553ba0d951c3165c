"""All records of a cluster: sums by any of the owner's facts, and counters that never fall.

Sums that are asked for all the time are kept up to date with each record; those of a report walk
through all of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple, TypeVar

from launcher.budget.records import Effort, Interval, Owner, Record, Refund, joined, merge

FOREVER_MS = 1 << 62
SPANS_MOST = 8
"""Sums that are kept of a budget: its present period, and some that were asked for lately."""
Key = tuple[str, ...]
Span = tuple[int, int]
JobName = tuple[str, str]
"""Namespace and name."""
_Named = TypeVar("_Named", Refund, Effort)


class Allotment(NamedTuple):
    """What a counter of allocated time is kept by."""

    cluster: str
    budget: str
    stage: str
    gpu_type: str
    model: str


class Ledger:
    """What is known by now. Adding a record twice, or in another order, changes nothing."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._intervals: dict[str, Interval] = {}
        self._refunds: dict[str, Refund] = {}
        self._efforts: dict[str, Effort] = {}
        """By the job's uid."""
        self._owners: dict[Owner, Owner] = {}
        """One object for each job: most of the memory of a hundred thousand pods."""
        self._open: dict[str, Interval] = {}
        self._pods: dict[JobName, set[str]] = {}
        """Of each job, by uid."""
        self._allotted: defaultdict[Allotment, int] = defaultdict(int)
        self._spans: dict[str, dict[Span, int]] = {}
        """Charges of budgets in spans of time that were asked for."""
        for record in records:
            self.add(record)

    def add(self, record: Record) -> bool:
        """Takes a record in; whether it told anything new."""
        if isinstance(record, Refund):
            return _keep(self._refunds, record.refund_id, _earlier(record, self._refunds))
        if isinstance(record, Effort):
            before = self._efforts.get(record.job_uid)
            later = record if before is None else joined(before, record)
            return _keep(self._efforts, record.job_uid, later)
        known = self._intervals.get(record.pod_uid)
        merged = record if known is None else merge(known, record)
        if merged == known:
            return False
        owner = self._owners.setdefault(merged.owner, merged.owner)
        if owner is not merged.owner:
            object.__setattr__(merged, "owner", owner)  # an equal one
        self._intervals[record.pod_uid] = merged
        self._account(known, merged)
        return True

    def _account(self, before: Interval | None, now: Interval) -> None:
        """Keeps the sums in step with a pod's interval."""
        for sign, each in ((-1, before), (1, now)):
            if each is None:
                continue
            self._allotted[allotment_of(each)] += sign * each.counted_gpu_ms
            for span in (spans := self._spans.get(each.owner.budget, {})):
                spans[span] += sign * each.within(*span)
        if now.is_closed:
            self._open.pop(now.pod_uid, None)
        else:
            self._open[now.pod_uid] = now
        job = (now.owner.namespace, now.owner.job)
        if before is None or before.owner is not now.owner:
            self._pods.setdefault(job, set()).add(now.pod_uid)

    def of_pod(self, pod_uid: str) -> Interval | None:
        return self._intervals.get(pod_uid)

    def of_job(self, namespace: str, job: str) -> Iterator[Interval]:
        """The pods of all jobs that ever had the name."""
        for uid in self._pods.get((namespace, job), ()):
            interval = self._intervals[uid]
            if (interval.owner.namespace, interval.owner.job) == (namespace, job):
                yield interval

    def intervals(self) -> Iterator[Interval]:
        return iter(self._intervals.values())

    def refunds(self) -> Iterator[Refund]:
        return iter(self._refunds.values())

    def efforts(self) -> Iterator[Effort]:
        return iter(self._efforts.values())

    def effort_of(self, job_uid: str) -> Effort | None:
        return self._efforts.get(job_uid)

    def records(self) -> Iterator[Record]:
        yield from self._intervals.values()
        yield from self._refunds.values()
        yield from self._efforts.values()

    def open(self) -> Collection[Interval]:
        """Pods that have not ended, as far as is known."""
        return self._open.values()

    # -- sums, in GPU-milliseconds

    def charged(
        self, by: Callable[[Interval], Key], begin_ms: int = 0, end_ms: int = FOREVER_MS
    ) -> dict[Key, int]:
        """The charge of a span of time, by what `by` makes of each interval."""
        found: defaultdict[Key, int] = defaultdict(int)
        for interval in self._intervals.values():
            if part := interval.within(begin_ms, end_ms):
                found[by(interval)] += part
        return dict(found)

    def used(self, budget: str, begin_ms: int = 0, end_ms: int = FOREVER_MS) -> int:
        """What a budget has been charged in a span of time, less what was given back in it."""
        spans, span = self._spans.setdefault(budget, {}), (begin_ms, end_ms)
        if span not in spans:
            while len(spans) >= SPANS_MOST:
                del spans[next(iter(spans))]
            spans[span] = sum(
                interval.within(begin_ms, end_ms)
                for interval in self._intervals.values()
                if interval.owner.budget == budget
            )
        return spans[span] - self.refunded(budget, begin_ms, end_ms)

    def refunded(self, budget: str, begin_ms: int = 0, end_ms: int = FOREVER_MS) -> int:
        """What was given back to a budget in a span of time."""
        return sum(
            refund.gpu_ms
            for refund in self._refunds.values()
            if refund.budget == budget and begin_ms <= refund.at_ms < end_ms
        )

    def counted(self, by: Callable[[Interval], Key]) -> dict[Key, int]:
        """What counters show: as the charge since ever, but it never falls."""
        found: defaultdict[Key, int] = defaultdict(int)
        for interval in self._intervals.values():
            found[by(interval)] += interval.counted_gpu_ms
        return dict(found)

    def allotted(self) -> dict[Allotment, int]:
        """What counters show, by what they are kept by: `counted`, at no cost."""
        return dict(self._allotted)

    def counted_refunds(self) -> dict[Key, int]:
        """Given back since ever, by cluster, budget and reason; a refund that was taken back by one
        below 0 stays in it, since counters never fall."""
        found: defaultdict[Key, int] = defaultdict(int)
        for refund in self._refunds.values():
            found[(refund.cluster, refund.budget, refund.reason)] += max(0, refund.gpu_ms)
        return dict(found)


def _earlier(refund: Refund, known: dict[str, Refund]) -> Refund:
    """Of two refunds of one id the first; both writers agree on which that is."""
    other = known.get(refund.refund_id, refund)
    return min(refund, other, key=lambda each: (each.at_ms, repr(each)))


def _keep(known: dict[str, _Named], key: str, record: _Named) -> bool:
    is_news = known.get(key) != record
    known[key] = record
    return is_news


def allotment_of(interval: Interval) -> Allotment:
    """Under what a pod is counted."""
    owner = interval.owner
    return Allotment(owner.cluster, owner.budget, owner.stage, owner.gpu_type, owner.model)
