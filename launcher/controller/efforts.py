"""Follows what the GPU time of each job is spent on, and has it stored in the ledger.

A job is followed while it has pods; whoever leads goes on from what is stored. The parts and what
was allocated are settled with each other once a minute, from what is stored of the pods alone.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from launcher.budget.goodput import Tally, Told
from launcher.budget.ledger import JobName, Ledger
from launcher.budget.records import Effort, Interval, joined
from launcher.controller.accounting import Accounting
from launcher.errors import Unreachable

SETTLE_S = 30.0
KEPT_MS = 3_600_000
"""A job without pods may get new ones: so long the counters of its last process are remembered."""
TOLD_MOST = 32
"""Readings of a job that are kept until they are settled; only the last of a process matters."""


class Efforts:
    """One candidate's part; a thread of its own."""

    def __init__(self, accounting: Accounting) -> None:
        self._accounting = accounting
        self._lock = threading.Lock()
        self._heard: defaultdict[JobName, list[tuple[int, Told]]] = defaultdict(list)
        """With the API server's time."""
        self._tallies: dict[str, Tally] = {}
        """By the job's uid."""
        self._followed: set[JobName] = set()
        """That had pods at the last look."""
        self._is_leading = False

    def hear(self, job: JobName, told: Told) -> None:
        """Takes in what was read of a job's metrics, in any thread."""
        try:
            now_ms = self._accounting.now_ms()
        except Unreachable:
            return
        with self._lock:
            self._heard[job].append((now_ms, told))
            del self._heard[job][:-TOLD_MOST]

    def run(self, stopping: threading.Event) -> None:
        """Settles until `stopping`."""
        while not stopping.wait(SETTLE_S):
            self.settle()

    def settle(self) -> None:
        """Tells apart what was allocated since the last time."""
        if not self._accounting.is_ready:
            self._is_leading = False
            self._tallies.clear()
            with self._lock:
                self._heard.clear()
            return
        now_ms = self._accounting.now_ms()
        with self._lock:
            heard, self._heard = self._heard, defaultdict(list)
        with self._accounting.reading() as ledger:
            running = {_name(each) for each in ledger.open()}
            due = running | self._followed
            if not self._is_leading:
                due |= _unsettled(ledger)
            found = [effort for job in due for effort in self._settle_job(
                ledger, job, heard.get(job, ()), now_ms)]  # fmt: skip
        self._is_leading, self._followed = True, running
        for effort in found:
            self._accounting.record(effort)
        for uid in [uid for uid, each in self._tallies.items() if now_ms - each.read_ms > KEPT_MS]:
            del self._tallies[uid]

    def _settle_job(
        self, ledger: Ledger, job: JobName, heard: Sequence[tuple[int, Told]], now_ms: int
    ) -> list[Effort]:
        """What is new of all jobs that ever had the name."""
        pods: defaultdict[str, list[Interval]] = defaultdict(list)
        for interval in ledger.of_job(*job):
            pods[interval.owner.job_uid].append(interval)
        if not pods:
            return []
        latest = max(pods, key=lambda uid: max(each.start_ms for each in pods[uid]))
        found = []
        for uid, intervals in pods.items():
            told = heard if uid == latest else ()
            tally = self._tally(uid, ledger, intervals[0], is_new=bool(told))
            if tally is None:
                continue
            before = tally.effort
            allocated = sum(each.counted_gpu_ms for each in intervals)
            gpus = sum(each.gpus for each in intervals if not each.is_closed)
            for at_ms, each in told:
                tally.hear(each, gpus, at_ms, _allocated_ms(intervals, at_ms))
            if (after := tally.settle(allocated, gpus, now_ms)) != before:
                found.append(after)
        return found

    def _tally(self, uid: str, ledger: Ledger, pod: Interval, is_new: bool) -> Tally | None:
        """The tally of a job; None where nobody has ever read its metrics."""
        stored, tally = ledger.effort_of(uid), self._tallies.get(uid)
        if tally is None:
            if stored is None and not is_new:
                return None
            tally = self._tallies[uid] = Tally(stored or _nothing(uid, pod))
        if stored is not None:
            tally.effort = joined(tally.effort, stored)
        return tally


def _name(interval: Interval) -> JobName:
    return interval.owner.namespace, interval.owner.job


def _allocated_ms(pods: Sequence[Interval], at_ms: int) -> int:
    """GPU time up to a moment, of pods that run until then though that is not stored yet."""
    return sum(
        (each if each.is_closed else replace(each, through_ms=at_ms)).within(0, at_ms)
        for each in pods
    )


def _nothing(uid: str, interval: Interval) -> Effort:
    owner = interval.owner
    return Effort(uid, owner.cluster, owner.budget, owner.namespace, owner.job)


def _unsettled(ledger: Ledger) -> set[JobName]:
    """Jobs that were followed before, and whose time is not all told apart."""
    found = set()
    for effort in ledger.efforts():
        pods = (each for each in ledger.of_job(effort.namespace, effort.job)
                if each.owner.job_uid == effort.job_uid)  # fmt: skip
        if sum(each.counted_gpu_ms for each in pods) > effort.total_ms:
            found.add((effort.namespace, effort.job))
    return found
