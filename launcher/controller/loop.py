"""The controller's process: watches tell it what changed, one thread decides and acts, job by job.

Whatever is missed is made good by the next tick, which looks at every job.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from functools import partial

from launcher.cluster.client import Api
from launcher.cluster.kinds import JOB, NODE, POD, PYTORCHJOB, SERVICE, Kind
from launcher.cluster.watch import Change, Watch
from launcher.controller.accounted import Accounted
from launcher.controller.accounting import Accounting, Pace
from launcher.controller.act import Hands, NotLeading
from launcher.controller.brief import brief
from launcher.controller.checks import Checks
from launcher.controller.decide import decide
from launcher.controller.efforts import Efforts
from launcher.controller.exporter import Exporter
from launcher.controller.finalizers import Pods
from launcher.controller.health import Counters
from launcher.controller.lease import REQUEST_TIMEOUT_S, RETRY_S, Elector
from launcher.controller.memory import Memory, Progress, read
from launcher.controller.observe import is_reading_due
from launcher.controller.scrape import Scraper
from launcher.controller.store import Key, Store
from launcher.controller.treasurer import Treasurer
from launcher.controller.view import Reading, View, addresses
from launcher.errors import Conflict, LauncherError, TimedOut
from launcher.spec import JOB_LABEL
from trainer.storage import open_store

logger = logging.getLogger(__name__)

SYNC_TIMEOUT_S = 60.0
READING_LASTS_S = 60.0
"""A reading that is older tells nothing of now."""
STUCK_AFTER_S = 120.0
"""One look at a job takes some requests; a loop without a sign of life for so long is stuck."""
WRITE_PATIENCE_S = 2.0
"""A write is given up well before another controller may lead; the next tick tries again."""
DEFECT_PAUSE_S = 5.0
STORE_TIMEOUT_S = 10.0
"""Of the ledger's store, which is tried again in the next turn."""


@dataclass(frozen=True)
class Settings:
    """How a controller runs."""

    lease_namespace: str
    lease_name: str
    identity: str
    namespaces: Sequence[str] = ("",)
    """"" is all."""
    node_grace_s: float = 60.0
    tick_s: float = 10.0
    ledger: str = ""
    """Address of the ledger; empty: GPU time is not accounted."""
    cluster: str = "default"
    """Its name in the ledger."""
    has_finalizers: bool = True
    """Whether jobs of a budget are to hold their pods until their time is stored."""


class Controller:
    """One candidate: it watches from the start, and acts while it leads."""

    def __init__(self, api: Api, settings: Settings) -> None:
        self.settings = settings
        self.counters = Counters()
        self.failure: LauncherError | None = None
        """What no waiting cures, such as missing rights."""
        self._api = api
        self._due: queue.Queue[Key | None] = queue.Queue()
        self._queued: set[Key] = set()
        self._lock = threading.Lock()
        self._store = Store(self._enqueue)
        self._beat_at = time.monotonic()
        self._hands: dict[str, Hands] = {}
        self._progress: dict[Key, tuple[str, Progress]] = {}
        """The stretch of the job, and what was last read in it."""
        self._readings: dict[Key, tuple[float, Reading]] = {}
        self._scraper = Scraper(pause_s=settings.tick_s)
        self._scraping: set[Key] = set()
        self._unsynced = 0
        self._watches = self._make_watches()
        lease_api = self._brief_api(settings.lease_namespace, 0)
        self.elector = Elector(lease_api, settings.lease_name, settings.identity)
        self.accounting = self._make_accounting()
        self._efforts = self._treasurer = None
        if self.accounting is not None:
            self._efforts = Efforts(self.accounting)
            self._treasurer = self._make_treasurer(self.accounting)
        self._exporter = Exporter(
            self._store, self.counters, self._standing, self.accounting, self._treasurer
        )

    # -- for whoever runs it

    def run(self, stopping: threading.Event) -> None:
        """Takes part in the election and acts while leading, until `stopping` is set.

        Raises the error that no waiting cures.
        """
        election = threading.Thread(
            target=self.elector.run, args=(stopping, self._leadership_changed), name="lease"
        )
        for watch in self._watches:
            watch.start()
        election.start()
        writers = self._start_writers(stopping)
        try:
            with self._scraper.running():
                self._loop(stopping)
        finally:
            stopping.set()
            for writer in writers:  # they write their last while the Lease is still ours
                writer.join()
            election.join()
            self.elector.release()
            for watch in self._watches:
                watch.stop()
        if self.failure is not None:
            raise self.failure

    def run_once(self) -> None:
        """Looks at each job once. Raises Conflict while another controller leads, and LauncherError
        if something could not be done."""
        failed = 0
        for watch in self._watches:
            watch.start()
        try:
            self._wait_synced()
            if not self.elector.try_once():
                raise Conflict(
                    f"lease {self.settings.lease_namespace}/{self.settings.lease_name} is held by "
                    f"{self.elector.holder or 'another controller'}; wait until it is free"
                )
            self._store.note_absent_nodes(time.time())
            with self._scraper.running():
                self._read_all()
            for key in self._store.jobs():
                failed += not self._look(key)
                self.elector.try_once()
            self.elector.release()
        finally:
            for watch in self._watches:
                watch.stop()
        if failed:
            raise LauncherError(f"{failed} jobs could not be looked after; the log above says why")

    def healthz(self) -> tuple[int, str]:
        """Whether the loop turns."""
        silent_s = time.monotonic() - self._beat_at
        is_well = silent_s < STUCK_AFTER_S
        return (200, "ok\n") if is_well else (500, f"no sign of life for {silent_s:.0f} s\n")

    def readyz(self) -> tuple[int, str]:
        """Whether all was listed; one that waits for the Lease is ready too."""
        return (200, "ok\n") if self._is_synced else (503, "the first lists are not there yet\n")

    def metrics(self) -> tuple[int, str]:
        """What metric_table says, in Prometheus' text format."""
        return 200, self._exporter.text()

    # -- the loop

    def _loop(self, stopping: threading.Event) -> None:
        tick_at = time.monotonic()
        while not stopping.is_set() and self.failure is None:
            self._beat_at = time.monotonic()
            if self._beat_at >= tick_at:
                tick_at = self._beat_at + self.settings.tick_s
                self._tick()
            key = self._next(min(1.0, tick_at - time.monotonic()))
            if key is not None and self._is_synced and self.elector.is_leading:
                self._look(key, is_scraping=True)

    def _tick(self) -> None:
        self._store.note_absent_nodes(time.time())
        keys = self._store.jobs()
        self._forget_gone(set(keys))
        for key in keys:
            self._enqueue(key)

    def _look(self, key: Key, is_scraping: bool = False) -> bool:
        """Decides about one job and acts; what fails, and returns False, is due again at the next
        tick. is_scraping: metrics are read where that is due; the job is looked at again then."""
        now = time.time()
        view = self._store.view(key, now, self._reading(key, now))
        if view is None:
            return True
        if is_scraping:
            self._read_if_due(key, view, now)
        try:
            memory = self._recall(key, view)
            decision = decide(view, now, self.settings.node_grace_s, memory)
            changed = self._hands_of(key[0]).carry_out(view, decision)
            # Only now: what follows from progress, such as the end of a hang, is written with it.
            self._progress[key] = (_stretch(view, decision.memory), decision.memory.progress)
            if changed is not None:
                self._store.replace(view.job, changed)
            return True
        except NotLeading:
            logger.info("%s/%s: not done: the lease is lost", *key)
        except Conflict as error:
            logger.debug("%s/%s: has changed, looked at again: %s", *key, error)
        except LauncherError as error:
            self.counters.count("Error")
            logger.warning("%s/%s: %s", *key, error)
        except Exception:  # one odd job must not keep the others from their due
            self.counters.count("Defect")
            logger.exception("%s/%s: defect of the controller", *key)
        return False

    def _read_if_due(self, key: Key, view: View, now: float) -> None:
        age_s = now - self._readings.get(key, (0.0, None))[0]
        # Once a tick at most: each reading is followed by a look.
        if key in self._scraping or age_s < self.settings.tick_s / 2:
            return
        if is_reading_due(view, age_s) and self._scraper.is_worth_asking(key, addresses(view)):
            self._scraping.add(key)
            self._scraper.submit(key, addresses(view)).add_done_callback(
                lambda future: self._scraped(key, future)
            )

    def _read_all(self) -> None:
        """Reads the metrics of all jobs where that is due, and keeps the Lease meanwhile."""
        waiting = {}
        for key in self._store.jobs():
            view = self._store.view(key, time.time(), None)
            if view is not None and is_reading_due(view):
                waiting[self._scraper.submit(key, addresses(view))] = key
        while waiting:
            for future in wait(waiting, RETRY_S).done:
                self._readings[waiting.pop(future)] = (time.time(), future.result())
            self.elector.try_once()

    def _recall(self, key: Key, view: View) -> Memory:
        """What the job's annotations say, and the progress read since they were written."""
        memory = read(view.notes)
        stretch, progress = self._progress.get(key, ("", Progress()))
        is_same = stretch == _stretch(view, memory) and not memory.is_closed
        if is_same and progress.at > memory.progress.at:
            return replace(memory, progress=progress)
        return memory

    # -- what others' threads tell

    def _enqueue(self, key: Key) -> None:
        with self._lock:
            if key not in self._queued:
                self._queued.add(key)
                self._due.put(key)

    def _next(self, timeout_s: float) -> Key | None:
        try:
            key = self._due.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            return None
        if key is not None:
            with self._lock:
                self._queued.discard(key)
        return key

    def _leadership_changed(self, is_leading: bool) -> None:
        if is_leading:
            for key in self._store.jobs():
                self._enqueue(key)

    def _failed(self, error: LauncherError) -> None:
        self.failure = error
        self._due.put(None)

    def _scraped(self, key: Key, future: Future[Reading]) -> None:
        self._scraping.discard(key)
        if not future.cancelled() and future.exception() is None:
            self._readings[key] = (time.time(), future.result())
            if self._efforts is not None and (told := future.result().told) is not None:
                self._efforts.hear(key, told)
            self._enqueue(key)

    # -- small things

    def _standing(self) -> tuple[bool, int]:
        """Whether it leads, and how many jobs wait to be looked at."""
        return self.elector.is_leading, len(self._queued)

    def _make_watches(self) -> list[Watch]:
        wanted = [(NODE, "", "")]
        for namespace in self.settings.namespaces:
            wanted += [(kind, namespace, JOB_LABEL) for kind in (PYTORCHJOB, POD, JOB, SERVICE)]
        self._unsynced = len(wanted)
        return [self._watch(kind, namespace, labels) for kind, namespace, labels in wanted]

    def _start_writers(self, stopping: threading.Event) -> list[threading.Thread]:
        """The threads of the ledger, if there is one."""
        if self.accounting is None or self._treasurer is None or self._efforts is None:
            return []
        accounted = Accounted(
            self._brief_api("", WRITE_PATIENCE_S),
            self.accounting,
            self.settings.has_finalizers,
            lambda: self.elector.is_leading,
        )
        checks = Checks(
            self._brief_api("", WRITE_PATIENCE_S),
            self.accounting,
            self.settings.namespaces,
            self.counters.count,
        )
        duties = {
            "ledger": self.accounting.run,
            "accounted": accounted.run,
            "budgets": self._treasurer.run,
            "efforts": self._efforts.run,
            "checks": checks.run,
        }
        writers = [
            threading.Thread(target=self._keep_running, args=(run, stopping), name=name)
            for name, run in duties.items()
        ]
        for writer in writers:
            writer.start()
        return writers

    def _keep_running(
        self, run: Callable[[threading.Event], None], stopping: threading.Event
    ) -> None:
        """A duty that fails for a reason that nobody thought of begins anew."""
        while not stopping.is_set():
            try:
                run(stopping)
            except Exception:
                self.counters.count("Defect")
                logger.exception("%s: defect of the controller", threading.current_thread().name)
                stopping.wait(DEFECT_PAUSE_S)

    def _make_treasurer(self, accounting: Accounting) -> Treasurer:
        namespaces = self.settings.namespaces
        return Treasurer(
            self._brief_api("", WRITE_PATIENCE_S),
            self._store,
            accounting,
            self._hands_of,
            self.counters.count,
            lambda namespace: "" in namespaces or namespace in namespaces,
        )

    def _make_accounting(self) -> Accounting | None:
        settings = self.settings
        if not settings.ledger:
            return None
        return Accounting(
            open_store(settings.ledger, read_timeout_s=STORE_TIMEOUT_S, attempts=2),
            settings.cluster,
            self._api.transport.clock,
            Pace(lost_after_s=settings.node_grace_s),
            Pods(self._brief_api("", WRITE_PATIENCE_S), settings.namespaces),
            lambda: self._is_synced and self.elector.is_leading,
        )

    def _watch(self, kind: Kind, namespace: str, labels: str) -> Watch:
        is_first = True

        def tell(change: Change | None) -> None:
            nonlocal is_first
            if change is not None:
                if self.accounting is not None and kind in (POD, NODE):
                    self.accounting.tell(kind, change)
                self._store.tell(kind, change)
            elif is_first:
                is_first = False
                with self._lock:
                    self._unsynced -= 1

        return Watch(
            self._api,
            kind,
            tell,
            self._failed,
            namespace=namespace,
            labels=labels,
            keep=partial(brief, kind),
        )

    @property
    def _is_synced(self) -> bool:
        return self._unsynced == 0

    def _wait_synced(self) -> None:
        ends_at = time.monotonic() + SYNC_TIMEOUT_S
        while not self._is_synced:
            if self.failure is not None:
                raise self.failure
            if time.monotonic() > ends_at:
                raise TimedOut(f"the jobs were not listed within {SYNC_TIMEOUT_S:g} s")
            time.sleep(0.05)

    def _reading(self, key: Key, now: float) -> Reading | None:
        at, reading = self._readings.get(key, (0.0, None))
        return reading if now - at <= max(READING_LASTS_S, 3 * self.settings.tick_s) else None

    def _forget_gone(self, keys: set[Key]) -> None:
        for known in (self._readings, self._progress):
            for key in [key for key in tuple(known) if key not in keys]:  # others add to it
                del known[key]
        self._scraper.forget_all_but(keys)

    def _hands_of(self, namespace: str) -> Hands:
        if namespace not in self._hands:
            api = self._brief_api(namespace, WRITE_PATIENCE_S)
            self._hands[namespace] = Hands(
                api, lambda: self.elector.is_leading, self.counters.count
            )
        return self._hands[namespace]

    def _brief_api(self, namespace: str, patience_s: float) -> Api:
        return Api(
            self._api.transport, namespace, timeout_s=REQUEST_TIMEOUT_S, patience_s=patience_s
        )


def _stretch(view: View, memory: Memory) -> str:
    """Names this job, not another of its name, between two suspensions."""
    return f"{view.job['metadata']['uid']} {memory.stretch}"
