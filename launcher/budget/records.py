"""What is kept of a pod's GPU time, and how two records of the same pod become one.

A pod never changes its node or its GPUs, so one interval says all. Merging is commutative,
associative and idempotent: records may come twice, late, in any order and from two writers, and
nothing is charged twice or forgotten. (Algebra calls it a join semilattice.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields, replace
from typing import Any, Literal

Source = Literal["open", "sight", "containers", "correction"]
_RANK: dict[str, int] = {"open": 0, "sight": 1, "containers": 2, "correction": 3}
"""Of two ends the better known one holds: still running, last seen, told by its containers, and
what a person has set right."""


UNKNOWN = "unknown"
"""The type of GPUs on a node that nobody could look at."""


class BadRecord(ValueError):
    """What is stored is no record."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose time it is: every sum is by some of these."""

    cluster: str
    budget: str
    namespace: str
    job: str
    job_uid: str
    user: str
    model: str
    stage: str
    gpu_type: str
    """As the node's label says; `cpu` for workers without a GPU."""


@dataclass(frozen=True, slots=True)
class Interval:
    """The time of one pod. Moments are whole milliseconds since 1970, of the API server's clock."""

    pod_uid: str
    owner: Owner
    node: str
    gpus: int
    """Of its limit; without GPUs each worker counts one."""
    start_ms: int
    """It was given its node."""
    through_ms: int
    """Its end, or how far it is known to have run."""
    source: Source = "open"
    revision: int = 0
    """Of a correction: the later one holds."""
    peak_ms: int = 0
    """The farthest `through_ms` that was ever told of it. A true end may lie before it, and a
    counter must not fall."""
    note: str = ""
    """Of a correction: who and why. Of one that went unseen: when that was noticed."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "peak_ms", max(self.peak_ms, self.through_ms))

    @property
    def is_closed(self) -> bool:
        return self.source != "open"

    @property
    def gpu_ms(self) -> int:
        """What it is charged."""
        return self.gpus * max(0, self.through_ms - self.start_ms)

    @property
    def counted_gpu_ms(self) -> int:
        """What a counter shows of it: never less than it has shown."""
        return self.gpus * max(0, self.peak_ms - self.start_ms)

    def within(self, begin_ms: int, end_ms: int) -> int:
        """The part of the charge between two moments."""
        begin, end = max(self.start_ms, begin_ms), min(self.through_ms, end_ms)
        return self.gpus * max(0, end - begin)


@dataclass(frozen=True, slots=True)
class Refund:
    """GPU time given back, such as what a lost node had done since the last checkpoint."""

    refund_id: str
    cluster: str
    budget: str
    gpu_ms: int
    reason: str
    author: str
    at_ms: int
    pod_uid: str = ""


@dataclass(frozen=True, slots=True)
class Effort:
    """What a job's GPU time was spent on so far, in GPU-milliseconds.

    What its pods are counted beyond that has not been told apart yet.
    """

    job_uid: str
    cluster: str
    budget: str
    namespace: str
    job: str
    good_ms: int = 0
    """In updates that were not lost again, and in evaluations."""
    startup_ms: int = 0
    """Until the first update of each process."""
    data_wait_ms: int = 0
    checkpoint_ms: int = 0
    """Standing still for one."""
    recompute_ms: int = 0
    """In updates that had been done before, since the last checkpoint."""
    idle_ms: int = 0
    """All else."""

    @property
    def total_ms(self) -> int:
        return self.good_ms + sum(self.wasted().values())

    def wasted(self) -> dict[str, int]:
        """By reason."""
        return {reason: getattr(self, f"{reason}_ms") for reason in WASTE}


WASTE = ("startup", "data_wait", "checkpoint", "recompute", "idle")
"""Reasons why GPU time does not train."""

Record = Interval | Refund | Effort


def joined(one: Effort, other: Effort) -> Effort:
    """What is known of a job's effort by both records together: each part only grows."""
    return Effort(*map(max, astuple(one), astuple(other)))


def merge(one: Interval, other: Interval) -> Interval:
    """What is known of the pod by both records together."""
    return replace(
        max(one, other, key=_order),
        owner=max(one.owner, other.owner, key=_knowledge),
        peak_ms=max(one.peak_ms, other.peak_ms),
    )


def _order(interval: Interval) -> tuple[Any, ...]:
    """By how well the end is known. The rest only makes it a total order: two observers that
    differ in anything else still agree on which of the two holds."""
    rank = _RANK[interval.source]
    facts = (interval.node, interval.gpus, interval.start_ms, interval.note)
    return rank > 0, rank, interval.revision, interval.through_ms, *facts


def _knowledge(owner: Owner) -> tuple[Any, ...]:
    """One observer may not have known the node's labels."""
    return owner.gpu_type != UNKNOWN, astuple(owner)


def corrected(interval: Interval, through_ms: int, author: str, reason: str) -> Interval:
    """A record that sets the end right; what was there stays where it was written."""
    if not author or not reason:
        raise BadRecord("a correction names its author and its reason")
    return replace(
        interval,
        through_ms=through_ms,
        source="correction",
        revision=interval.revision + 1,
        note=f"{author}: {reason}",
    )


_UNSEEN = "unseen until "


def went_unseen(interval: Interval, noticed_ms: int) -> Interval:
    """Ended as far as it was last seen: the pod went while nobody looked."""
    return replace(interval, source="sight", note=f"{_UNSEEN}{noticed_ms}")


def in_doubt_gpu_ms(interval: Interval) -> int:
    """What an interval may have run beyond its end, until a correction says it."""
    if interval.source != "sight" or not interval.note.startswith(_UNSEEN):
        return 0
    noticed_ms = int(interval.note.removeprefix(_UNSEEN))
    return interval.gpus * max(0, noticed_ms - interval.through_ms)


def described(record: Record) -> dict[str, Any]:
    """As plain JSON, the owner's facts beside the others."""
    content = {field.name: getattr(record, field.name) for field in fields(record)}
    if isinstance(record, Interval):
        owner = content.pop("owner")
        content |= {field.name: getattr(owner, field.name) for field in fields(Owner)}
    return content


_OWNER_NAMES = frozenset(field.name for field in fields(Owner))


def parse(content: Mapping[str, Any]) -> Record:
    """The record of plain JSON. Raises BadRecord."""
    try:
        if "refund_id" in content:
            refund = Refund(**content)
            _check(refund)
            return refund
        if "good_ms" in content:
            effort = Effort(**content)
            _check(effort)
            return effort
        owner = Owner(**{name: content[name] for name in _OWNER_NAMES})
        rest = {name: value for name, value in content.items() if name not in _OWNER_NAMES}
        interval = Interval(owner=owner, **rest)
        _check(interval)
        if interval.source not in _RANK:
            raise BadRecord(f"source is {interval.source!r}; allowed: {', '.join(_RANK)}")
        if interval.gpus < 0:
            raise BadRecord(f"gpus is {interval.gpus}")
        return interval
    except (TypeError, KeyError) as error:
        raise BadRecord(f"no record: {str(content)[:200]}") from error


def _check(record: Record) -> None:
    for field in fields(record):
        value = getattr(record, field.name)
        wanted = {"int": int, "str": str, "Owner": Owner, "Source": str}[str(field.type)]
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise BadRecord(f"{field.name} is {value!r}, not a {field.type}")
