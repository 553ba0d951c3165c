"""All records of a cluster: sums by any of the owner's facts, and counters that never fall."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from launcher.budget.records import Interval, Owner, Record, Refund, merge

FOREVER_MS = 1 << 62
Key = tuple[str, ...]


class Ledger:
    """What is known by now. Adding a record twice, or in another order, changes nothing."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._intervals: dict[str, Interval] = {}
        self._refunds: dict[str, Refund] = {}
        self._owners: dict[Owner, Owner] = {}
        """One object for each job: most of the memory of a hundred thousand pods."""
        for record in records:
            self.add(record)

    def add(self, record: Record) -> bool:
        """Takes a record in; whether it told anything new."""
        if isinstance(record, Refund):
            return _keep(self._refunds, record.refund_id, _earlier(record, self._refunds))
        known = self._intervals.get(record.pod_uid)
        merged = record if known is None else merge(known, record)
        if merged == known:
            return False
        owner = self._owners.setdefault(merged.owner, merged.owner)
        if owner is not merged.owner:
            object.__setattr__(merged, "owner", owner)  # an equal one
        self._intervals[record.pod_uid] = merged
        return True

    def of_pod(self, pod_uid: str) -> Interval | None:
        return self._intervals.get(pod_uid)

    def intervals(self) -> Iterator[Interval]:
        return iter(self._intervals.values())

    def refunds(self) -> Iterator[Refund]:
        return iter(self._refunds.values())

    def records(self) -> Iterator[Record]:
        yield from self._intervals.values()
        yield from self._refunds.values()

    def open(self) -> list[Interval]:
        """Pods that have not ended, as far as is known."""
        return [each for each in self._intervals.values() if not each.is_closed]

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
        charged = sum(
            interval.within(begin_ms, end_ms)
            for interval in self._intervals.values()
            if interval.owner.budget == budget
        )
        return charged - self.refunded(budget, begin_ms, end_ms)

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

    def counted_refunds(self) -> dict[Key, int]:
        """Given back since ever, by cluster, budget and reason."""
        found: defaultdict[Key, int] = defaultdict(int)
        for refund in self._refunds.values():
            found[(refund.cluster, refund.budget, refund.reason)] += refund.gpu_ms
        return dict(found)


def _earlier(refund: Refund, known: dict[str, Refund]) -> Refund:
    """Of two refunds of one id the first; both writers agree on which that is."""
    other = known.get(refund.refund_id, refund)
    return min(refund, other, key=lambda each: (each.at_ms, repr(each)))


def _keep(known: dict[str, Refund], key: str, refund: Refund) -> bool:
    is_news = known.get(key) != refund
    known[key] = refund
    return is_news
