"""The ledger's writer: sees pods, makes their intervals durable, and then lets the pods go.

Every pod that is to be counted bears a finalizer, so its object stays until its interval is closed
and stored. What is shown to others comes from what is stored alone: a figure that was shown can
then not be forgotten by a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from launcher.budget.ledger import FOREVER_MS, Ledger
from launcher.budget.pods import FINALIZER, Object, Sight, interval_of, is_uncharged
from launcher.budget.records import Interval, Record, merge, went_unseen
from launcher.budget.storage import LedgerStore


class Accountant:
    """Writes while its process leads. Its caller serialises all calls."""

    def __init__(self, store: LedgerStore) -> None:
        self._store = store
        self._pending: dict[str, Interval] = {}
        """By pod: seen, not yet stored."""
        self._held: set[str] = set()
        """Pods whose object bears the finalizer."""
        self._uncharged: set[str] = set()
        """Of these: pods that there is nothing to store of."""
        self._records: list[Record] = []

    @property
    def ledger(self) -> Ledger:
        """What is stored."""
        return self._store.ledger

    @property
    def is_urgent(self) -> bool:
        """Whether something new is to be stored soon: more than that pods still run."""
        if self._records:
            return True
        return any(
            interval.is_closed or self.ledger.of_pod(uid) is None
            for uid, interval in self._pending.items()
        )

    def take_over(
        self,
        pods: Iterable[tuple[Object, Sight]],
        now_ms: int = 0,
        look: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """Begins to lead: reads what is stored, and all pods that there are.

        look: asked for pods that exist, or that are known how they went, where some are missing.
        Raises StorageError or BrokenLedger: nothing may be written then; it is to be tried again.
        """
        ledger = self._store.load()
        self._held, self._uncharged = set(), set()
        noted, self._pending = self._pending, {}
        for interval in noted.values():
            self._note(interval)
        found = set()
        for pod, sight in pods:
            found.add(pod["metadata"]["uid"])
            self.see(pod, sight)
        known = [*ledger.open(), *self._pending.values()]
        missing = {each.pod_uid for each in known if not each.is_closed} - found
        for uid in missing.difference(look()) if missing else ():
            # It had no finalizer and went while nobody looked: up to its last sight.
            self.lose(uid, now_ms)

    def see(self, pod: Object, sight: Sight) -> None:
        """A pod was told of, in any order and as often as it likes."""
        metadata = pod["metadata"]
        uid = metadata["uid"]
        interval = interval_of(pod, sight)
        if FINALIZER in (metadata.get("finalizers") or ()) and not sight.is_gone:
            self._held.add(uid)
        else:
            self.released(uid)
        if interval is not None:
            self._note(interval)
        elif (known := self.latest(uid)) is not None:
            # A kubelet that refuses a pod takes back that it was given to it.
            if not known.is_closed and (sight.is_gone or is_uncharged(pod, sight)):
                through_ms = max(known.through_ms, sight.now_ms)
                self._note(replace(known, through_ms=through_ms, source="sight"))
        elif uid in self._held and is_uncharged(pod, sight):
            self._uncharged.add(uid)

    def lose(self, uid: str, now_ms: int) -> None:
        """A pod went while nobody looked; that was noticed now."""
        known = self.latest(uid)
        if known is not None and not known.is_closed:
            self._note(went_unseen(known, now_ms))
        self.released(uid)

    def latest(self, uid: str) -> Interval | None:
        """What is known of a pod, stored or not."""
        return self._pending.get(uid) or self.ledger.of_pod(uid)

    def record(self, record: Record) -> None:
        """A correction or a refund, to be stored with the next flush."""
        self._records.append(record)

    def flush(self, now_ms: int) -> list[str]:
        """Stores what is new. Returns the pods whose finalizer may go: their end is stored.

        Raises StorageError: nothing is lost, and the next flush stores it.
        """
        records = [*self._pending.values(), *self._records]
        self._store.append(records, now_ms)
        self._pending, self._records = {}, []
        return self.may_go()

    def may_go(self) -> list[str]:
        """Pods whose finalizer may go: their end is stored, or there is nothing to be."""
        return [uid for uid in sorted(self._held) if uid in self._uncharged or self._is_stored(uid)]

    def compact(self, keep_after_ms: int = FOREVER_MS) -> None:
        """Merges what is stored into a new snapshot. Raises Changed where another has: take over
        again."""
        self._store.compact(keep_after_ms)

    def released(self, pod_uid: str) -> None:
        """The finalizer is gone."""
        self._held.discard(pod_uid)
        self._uncharged.discard(pod_uid)

    def _is_stored(self, uid: str) -> bool:
        interval = self.ledger.of_pod(uid)
        return interval is not None and interval.is_closed

    def _note(self, interval: Interval) -> None:
        """Keeps it for the next flush if it says more than is stored or noted."""
        known = self.latest(interval.pod_uid)
        if known is None:
            self._pending[interval.pod_uid] = interval
            return
        if known.is_closed and interval.source == "sight":
            return  # it cannot have ended later than it was first found to have
        # What a pod is never changes; its node's labels may be unknown later.
        seen = replace(interval, owner=known.owner, gpus=known.gpus, start_ms=known.start_ms)
        merged = merge(known, seen)
        if merged != known:
            self._pending[interval.pod_uid] = merged
