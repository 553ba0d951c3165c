"""The ledger's writer: sees pods, makes their intervals durable, and then lets the pods go.

Every pod that is to be counted bears a finalizer, so its object stays until its interval is closed
and stored. What is shown to others comes from what is stored alone: a figure that was shown can
then not be forgotten by a crash.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from launcher.budget.ledger import Ledger
from launcher.budget.pods import FINALIZER, Object, Sight, interval_of
from launcher.budget.records import Interval, Record, merge
from launcher.budget.storage import LedgerStore


class Accountant:
    """Writes while its process leads. Its caller serialises all calls."""

    def __init__(self, store: LedgerStore) -> None:
        self._store = store
        self._pending: dict[str, Interval] = {}
        """By pod: seen, not yet stored."""
        self._held: set[str] = set()
        """Pods whose object bears the finalizer."""
        self._corrections: list[Record] = []

    @property
    def ledger(self) -> Ledger:
        """What is stored."""
        return self._store.ledger

    def take_over(self, pods: Iterable[tuple[Object, Sight]]) -> None:
        """Begins to lead: reads what is stored, and all pods that there are.

        Raises StorageError or BrokenLedger: nothing may be written then; it is to be tried again.
        """
        ledger = self._store.load()
        self._held = set()
        found = set()
        for pod, sight in pods:
            found.add(pod["metadata"]["uid"])
            self.see(pod, sight)
        for interval in ledger.open():
            if interval.pod_uid not in found:
                # It had no finalizer and went while nobody looked: up to its last sight.
                self._note(replace(interval, source="sight"))

    def see(self, pod: Object, sight: Sight) -> None:
        """A pod was told of, in any order and as often as it likes."""
        metadata = pod["metadata"]
        interval = interval_of(pod, sight)
        if FINALIZER in (metadata.get("finalizers") or ()) and not sight.is_gone:
            self._held.add(metadata["uid"])
        else:
            self._held.discard(metadata["uid"])
        if interval is not None:
            self._note(interval)

    def record(self, record: Record) -> None:
        """A correction or a refund, to be stored with the next flush."""
        self._corrections.append(record)

    def flush(self, now_ms: int) -> list[str]:
        """Stores what is new. Returns the pods whose finalizer may go: their end is stored.

        Raises StorageError: nothing is lost, and the next flush stores it.
        """
        records = [*self._pending.values(), *self._corrections]
        self._store.append(records, now_ms)
        self._pending, self._corrections = {}, []
        return [uid for uid in sorted(self._held) if self._may_go(uid)]

    def compact(self) -> None:
        """Merges what is stored into a new snapshot. Raises Changed where another has: take over
        again."""
        self._store.compact()

    def released(self, pod_uid: str) -> None:
        """The finalizer is gone."""
        self._held.discard(pod_uid)

    def _may_go(self, uid: str) -> bool:
        interval = self.ledger.of_pod(uid)
        return interval is not None and interval.is_closed

    def _note(self, interval: Interval) -> None:
        """Keeps it for the next flush if it says more than is stored or noted."""
        known = self._pending.get(interval.pod_uid) or self.ledger.of_pod(interval.pod_uid)
        if known is None:
            self._pending[interval.pod_uid] = interval
            return
        # What a pod is never changes; its node's labels may be unknown later.
        seen = replace(interval, owner=known.owner, gpus=known.gpus, start_ms=known.start_ms)
        merged = merge(known, seen)
        if merged != known:
            self._pending[interval.pod_uid] = merged
