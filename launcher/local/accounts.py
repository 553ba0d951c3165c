"""The ledger of local runs: worker-seconds, kept as a cluster's GPU time is, in the state folder.

Each supervisor writes of its own workers, from their start to their end. One that is killed leaves
intervals open; whoever looks next closes them at its last heartbeat. A ledger that cannot be
written delays the account and stops no run.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from launcher.budget.records import Interval, Owner, Record
from launcher.budget.storage import LedgerStore
from launcher.errors import LauncherError
from launcher.local import gpus
from launcher.local.folder import Folder, state_root
from launcher.local.job import Job
from launcher.spec import BUDGET_LABEL, MODEL_LABEL, STAGE_LABEL, USER_LABEL
from trainer.storage import StorageError, open_store

logger = logging.getLogger(__name__)

CLUSTER = "local"
"""What stands in a record's place for a cluster."""
EXTEND_S = 60.0
"""What still runs is stored as running so often."""
RETRY_S = 5.0
SEGMENTS_MOST = 100
"""Of one supervisor, until it merges them into the snapshot."""


def address() -> Path:
    """The folder of the ledger: $XDG_STATE_HOME/launcher/ledger."""
    return state_root().parent / "ledger"


def open_ledger() -> LedgerStore:
    return LedgerStore(open_store(str(address())), CLUSTER)


class Accounts:
    """What one supervisor stores. Moments are of the monotonic clock unless named otherwise."""

    def __init__(self, job: Job, submission: str, devices: Sequence[str]) -> None:
        """devices: the GPUs that the run may use; without any each worker counts as one."""
        labels = job.labels
        self._owner = Owner(
            cluster=CLUSTER,
            budget=labels.get(BUDGET_LABEL, ""),
            namespace="",
            job=job.name,
            job_uid=submission,
            user=labels.get(USER_LABEL, ""),
            model=labels.get(MODEL_LABEL, ""),
            stage=labels.get(STAGE_LABEL, ""),
            gpu_type=gpus.kind() if devices else "cpu",
        )
        self._gpus = job.num_processes if devices else 1
        self._store = open_ledger()
        self._running: dict[str, tuple[Interval, float]] = {}
        """By the worker's name, with the moment of its start."""
        self._due: list[Record] = []
        self._extend_at = self._try_at = 0.0
        self._segments = 0

    def started(self, worker: str, attempt: int, at_s: float, now: float) -> None:
        """A worker's agent was started. at_s: Unix seconds."""
        at_ms = round(at_s * 1000)
        interval = Interval(
            pod_uid=f"{self._owner.job_uid}-{worker}-{attempt}",
            owner=self._owner,
            node=os.uname().nodename,
            gpus=self._gpus,
            start_ms=at_ms,
            through_ms=at_ms,
        )
        self._running[worker] = interval, now
        self._due.append(interval)

    def ended(self, worker: str, now: float) -> None:
        """Its last process is gone."""
        interval, since = self._running.pop(worker)
        through_ms = interval.start_ms + round((now - since) * 1000)
        self._due.append(replace(interval, through_ms=through_ms, source="containers"))

    def tick(self, now: float) -> None:
        """Stores what is due; what fails is stored with the next."""
        if now >= self._extend_at:
            self._extend_at = now + EXTEND_S
            self._due += [
                replace(interval, through_ms=interval.start_ms + round((now - since) * 1000))
                for interval, since in self._running.values()
            ]
        if not self._due or now < self._try_at:
            return
        try:
            newest = max(each.through_ms for each in self._due if isinstance(each, Interval))
            self._store.append(self._due, newest)
        except (StorageError, OSError) as error:
            self._try_at = now + RETRY_S
            logger.warning("ledger %s: %s; tried again", address(), error)
            return
        self._due = []
        self._segments += 1
        if self._segments >= SEGMENTS_MOST:
            self.compact()

    def compact(self) -> None:
        """Merges all segments into the snapshot, unless another does so at this moment."""
        self._segments = 0
        try:
            store = open_ledger()
            store.load()
            store.compact()
        except (StorageError, LauncherError, OSError) as error:
            logger.info("ledger %s was not merged: %s", address(), error)


def settle_lost(run: str = "") -> int:
    """Closes what supervisors that were killed have left open, at the last that they told; returns
    how many intervals those were. Raises StorageError and BrokenLedger.

    run: one whose supervisor is gone for certain; the caller holds its lock.
    """
    store = open_ledger()
    lost = [
        _closed(each)
        for each in store.load().open()
        if each.owner.job == run or not _is_kept(each.owner)
    ]
    if lost:
        store.append(lost, max(each.through_ms for each in lost))
    return len(lost)


def _is_kept(owner: Owner) -> bool:
    """Whether the supervisor that stores it lives."""
    folder = Folder(state_root() / owner.job)
    submitted = folder.read("objects.json") or {}
    return submitted.get("submission") == owner.job_uid and folder.is_supervised()


def _closed(interval: Interval) -> Interval:
    told = Folder(state_root() / interval.owner.job).read("status.json") or {}
    through_ms = interval.through_ms
    if told.get("submission") == interval.owner.job_uid:
        through_ms = max(through_ms, round(told["as_of"] * 1000))
    return replace(interval, through_ms=through_ms, source="sight", note="its supervisor was lost")
