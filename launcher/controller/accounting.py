"""The ledger's writer in the controller: told of pods by the watches, writing while it leads.

One thread of its own loads the ledger when it begins to lead, stores what has ended within about a
second, tells now and then that the others still run, and lets pods go whose end is stored. Others
read what is stored, and what is allocated now.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from launcher.budget.accountant import Accountant
from launcher.budget.ledger import Ledger
from launcher.budget.records import Interval, Record, in_doubt_gpu_ms
from launcher.budget.storage import LedgerStore
from launcher.cluster.clock import ServerClock
from launcher.cluster.kinds import Kind, Object
from launcher.cluster.watch import Change
from launcher.controller.sights import News, Sights
from launcher.errors import LauncherError
from trainer.storage import Changed, StorageError, Store

logger = logging.getLogger(__name__)

KEEP_S = 3600
"""Where a store ignores conditions, segments stay so long after they are in a snapshot: far longer
than the last write of a deposed writer can be on its way."""


@dataclass(frozen=True)
class Pace:
    """How often what is done."""

    turn_s: float = 0.5
    """What has ended is stored so soon."""
    extend_s: float = 60.0
    """What still runs is stored as running so often; a counter moves in such steps."""
    compact_s: float = 600.0
    segments_most: int = 200
    """A snapshot is made after so long, or of so many segments: a reader reads at most twice as
    many."""
    lost_after_s: float = 60.0
    """A node that was silent for so long does not run its pods."""
    retry_most_s: float = 15.0
    """Pause after a failure of the store, at most; it begins with a turn and doubles."""
    release_most: int = 200
    """Pods let go in a turn; each is a request."""
    release_again_s: float = 5.0
    """Pause after a pod could not be let go."""


@dataclass(frozen=True)
class Health:
    """How the ledger fares. Moments by the API server's clock."""

    last_success_ms: int = 0
    """The store was last written, or answered that there is nothing new; 0: never yet."""
    write_failures: int = 0
    skew_s: float = 0.0
    """By how much this machine's clock is ahead of the API server's."""
    open_intervals: int = 0
    unreconciled_gpu_ms: int = 0
    """Of pods that went while nobody looked: what they may have run beyond their last sight."""


class PodsDoor(Protocol):
    """What is asked of the API server about pods."""

    def uids(self) -> set[str]:
        """All there are at this moment. Raises LauncherError."""

    def release(self, pods: Collection[Object]) -> set[str]:
        """Takes the finalizer off; returns those that have it no longer."""


class Accounting:
    """One candidate's part of the ledger: nothing is written while another leads."""

    def __init__(
        self,
        store: Store,
        cluster: str,
        clock: ServerClock,
        pace: Pace,
        pods: PodsDoor,
        may_write: Callable[[], bool],
    ) -> None:
        """may_write: whether this process leads and all pods and nodes have been listed."""
        self.cluster, self._clock, self._pace = cluster, clock, pace
        self._store = LedgerStore(store, cluster)
        self._pods, self._may_write = pods, may_write
        self._sights = Sights(cluster, clock, pace.lost_after_s)
        self._accountant = Accountant(self._store)
        self._lock = threading.Lock()
        """Of what other threads see or give."""
        self._given: list[Record] = []
        self._running: dict[str, Interval] = {}
        """Pods that hold GPUs now, by uid."""
        self._closing: list[Interval] = []
        """Those that do not any more, until that is stored."""
        self._in_doubt: dict[str, int] = {}
        self._health = Health()
        self._again: set[str] = set()
        """Pods to be looked at in the next turn too: on their way out, or of an unknown node."""
        self._is_loaded = False
        self._has_conditions: bool | None = None
        """Of the store; None: not tried yet."""
        self._stored_ms = 0
        self._failing_since: float | None = None
        self._pause_s = 0.0
        self._try_at = self._extend_at = self._compact_at = self._release_at = 0.0

    # -- for others, in any thread

    def tell(self, kind: Kind, change: Change) -> None:
        """Takes in what a watch tells of a pod or a node, as `brief` keeps it."""
        self._sights.tell(kind, change)

    @property
    def address(self) -> str:
        """Of the ledger, for people."""
        return self._store.address

    @property
    def is_ready(self) -> bool:
        """Whether this one leads and has loaded the ledger."""
        return self._is_loaded and self._may_write()

    @contextlib.contextmanager
    def reading(self) -> Iterator[Ledger]:
        """The stored ledger, which does not change meanwhile; the writer waits, so be brief."""
        with self._store.lock:
            yield self._store.ledger

    def now_ms(self) -> int:
        """The API server's time. Raises Unreachable before its first answer."""
        return self._clock.now_ms()

    def record(self, record: Record) -> None:
        """Has a refund or a correction stored with the next flush, which may be another leader's
        if this one ends first: ask again until `reading` shows it."""
        with self._lock:
            self._given.append(record)

    @property
    def health(self) -> Health:
        return self._health

    @property
    def failing_s(self) -> float:
        """Since when the store has failed, in seconds; 0 while it answers."""
        since = self._failing_since
        return 0.0 if since is None else time.monotonic() - since

    def allocated(self) -> Mapping[tuple[str, str], int]:
        """GPUs now, by budget and stage; nothing while another leads."""
        found: Counter[tuple[str, str]] = Counter()
        for interval in self._running_now():
            found[interval.owner.budget, interval.owner.stage] += interval.gpus
        return found

    def gpus_of_job(self) -> Mapping[str, int]:
        """GPUs now, by the job's uid; nothing while another leads."""
        found: Counter[str] = Counter()
        for interval in self._running_now():
            found[interval.owner.job_uid] += interval.gpus
        return found

    def unsettled(self) -> set[tuple[str, str]]:
        """Jobs, by namespace and name, that run or whose end is not stored yet."""
        with self._lock:
            return {
                (each.owner.namespace, each.owner.job)
                for each in (*self._running.values(), *self._closing)
            }

    def _running_now(self) -> list[Interval]:
        if not self.is_ready:
            return []
        with self._lock:
            return list(self._running.values())

    # -- the writer's thread

    def run(self, stopping: threading.Event) -> None:
        """Writes until `stopping`, then once more what is left."""
        while not stopping.is_set():
            self.turn()
            stopping.wait(self._pace.turn_s)
        self._try_at = 0.0
        self.turn()

    def turn(self) -> None:
        """One look at what is due."""
        try:
            self._turn(time.monotonic())
        except Changed as error:
            logger.warning("ledger %s: another writer was there: %s", self._store.address, error)
            self._is_loaded = False
            self._failing_since = self._failing_since or time.monotonic()
        except (StorageError, LauncherError) as error:
            self._failed(error)
        except Exception as error:  # the next turn begins anew, from what is stored
            logger.exception("defect of the ledger's writer")
            self._failed(error)
            self._is_loaded = False

    def _turn(self, now: float) -> None:
        if not self._may_write():
            self._is_loaded = False
            self._failing_since, self._try_at = None, 0.0
            self._sights.forget_old_news()
            return
        if now < self._try_at:
            return
        if not self._is_loaded:
            self._take_over()
            self._extend_at = self._compact_at = 0.0
        self._see_news()
        is_extending = now >= self._extend_at
        if is_extending:
            self._look_at_all()
        self._flush(is_extending)
        if is_extending:
            self._extend_at = now + self._pace.extend_s
        self._release(now)
        if now >= self._compact_at or self._store.num_segments >= self._pace.segments_most:
            self._compact()
            self._compact_at = now + self._pace.compact_s
        self._succeeded()

    def _take_over(self) -> None:
        """Reads the ledger. The snapshot that follows, `_compact_at` being due, tells the writer
        before that it is deposed."""
        if self._has_conditions is None:
            self._has_conditions = self._store.supports_conditions()
            if not self._has_conditions:
                logger.warning(
                    "%s ignores the conditions of writes: segments are kept for %d s longer, and "
                    "the Lease alone keeps a second writer out", self._store.address, KEEP_S,
                )  # fmt: skip
        news, now_ms = self._sights.take_news(), self.now_ms()
        try:
            told = [(pod, self._sights.sight(pod, now_ms)) for pod in self._sights.pods()]
            gone = {each.pod["metadata"]["uid"] for each in news}
            # What another has stored as running may be younger than what our watch has told.
            self._accountant.take_over(told, now_ms, lambda: gone | self._pods.uids())
        finally:
            self._sights.give_back(news)
        with self._lock:
            self._running = {}
        self._again = {pod["metadata"]["uid"] for pod, _ in told}
        self._in_doubt = {
            each.pod_uid: doubt
            for each in self._accountant.ledger.intervals()
            if (doubt := in_doubt_gpu_ms(self._accountant.latest(each.pod_uid) or each))
        }
        self._is_loaded = True
        self._stored_ms = now_ms
        logger.info("leads the ledger %s; there are %d pods", self._store.address, len(told))

    def _see_news(self) -> None:
        """What was told of, and pods of which more is to be known by the mere going on of time."""
        again, self._again, now_ms = self._again, set(), self.now_ms()
        for news in self._sights.take_news():
            again.discard(news.pod["metadata"]["uid"])
            self._see(news)
        for uid in again:
            if (pod := self._sights.pod(uid)) is not None:
                self._see(News(pod, now_ms))

    def _look_at_all(self) -> None:
        """All pods once more: they have run until now, and nodes may have gone silent."""
        now_ms = self.now_ms()
        for pod in self._sights.pods():
            self._see(News(pod, now_ms))
        self._sights.forget_nodes()

    def _see(self, news: News) -> None:
        uid = news.pod["metadata"]["uid"]
        if news.is_gone and not news.is_witnessed:
            self._accountant.lose(uid, news.at_ms)
        else:
            sight = self._sights.sight(news.pod, news.at_ms, news.is_gone)
            self._accountant.see(news.pod, sight)
            is_leaving = "deletionTimestamp" in news.pod["metadata"]
            if not news.is_gone and (is_leaving or sight.node_labels is None):
                self._again.add(uid)
        self._follow(uid)

    def _follow(self, uid: str) -> None:
        """Keeps what is shown in step with what is known of a pod."""
        known = self._accountant.latest(uid)
        with self._lock:
            if known is None or known.is_closed:
                if ended := self._running.pop(uid, None):
                    self._closing.append(ended)
            else:
                self._running[uid] = known
        if doubt := self._doubt(uid):
            self._in_doubt[uid] = doubt
        else:
            self._in_doubt.pop(uid, None)

    def _doubt(self, uid: str) -> int:
        known = self._accountant.latest(uid)
        return 0 if known is None else in_doubt_gpu_ms(known)

    def _flush(self, is_extending: bool) -> None:
        """Stores what is new, and what still runs where that is due."""
        with self._lock:
            given, self._given = self._given, []
        for record in given:
            self._accountant.record(record)
        if is_extending or self._accountant.is_urgent:
            now_ms = self.now_ms()
            self._accountant.flush(now_ms)
            with self._lock:
                self._closing.clear()
            self._in_doubt = {uid: doubt for uid in self._in_doubt if (doubt := self._doubt(uid))}
            if is_extending:
                self._store.check()  # there may have been nothing to write
            self._stored_ms = now_ms

    def _compact(self) -> None:
        if not self._may_write():
            return
        now_ms = self.now_ms()
        if self._has_conditions:
            self._accountant.compact()
        else:
            self._accountant.compact(now_ms - KEEP_S * 1000)
        self._stored_ms = now_ms

    def _release(self, now: float) -> None:
        if now < self._release_at:
            return
        wanted = self._accountant.may_go()[: self._pace.release_most]
        pods = [pod for uid in wanted if (pod := self._sights.pod(uid)) is not None]
        free = self._pods.release(pods)
        for uid in free:
            self._accountant.released(uid)
        if len(free) < len(pods):
            self._release_at = now + self._pace.release_again_s

    def _succeeded(self) -> None:
        if self._failing_since is not None:
            logger.info("ledger %s answers again", self._store.address)
        self._failing_since, self._pause_s = None, 0.0
        self._health = self._measured(self._health.write_failures)

    def _failed(self, error: Exception) -> None:
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        self._pause_s = min(self._pace.retry_most_s, max(self._pace.turn_s, self._pause_s * 2))
        self._try_at = now + self._pause_s
        logger.warning(
            "ledger %s: %s; tried again in %.1f s", self._store.address, error, self._pause_s
        )
        self._health = self._measured(self._health.write_failures + 1)

    def _measured(self, write_failures: int) -> Health:
        return Health(
            self._stored_ms,
            write_failures,
            self._clock.skew_s,
            len(self._running),
            sum(self._in_doubt.values()),
        )
