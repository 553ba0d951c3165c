"""One thread beside the training that does the slow work in order, and never holds up an exit."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

logger = logging.getLogger(__name__)


class Background:
    """Runs jobs one after the other on a daemon thread, which is started by the first of them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: deque[Callable[[], None]] = deque()
        self._change = threading.Condition()
        self._running = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def submit(self, job: Callable[[], None]) -> None:
        with self._change:
            if self._closed:
                raise RuntimeError(f"{self._name} is closed")
            self._jobs.append(job)
            self._change.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()

    def wait(self, limit_s: float) -> bool:
        """Waits until nothing is left to do; False where that takes longer than the limit."""
        ends_at = time.monotonic() + limit_s
        with self._change:
            while self._jobs or self._running:
                left_s = ends_at - time.monotonic()
                if left_s <= 0:
                    return False
                self._change.wait(left_s)
            return True

    def close(self) -> None:
        """Takes no more jobs; the one that runs is not waited for."""
        with self._change:
            self._closed = True
            self._jobs.clear()
            self._change.notify_all()

    def _run(self) -> None:
        while True:
            with self._change:
                while not self._jobs:
                    if self._closed:
                        return
                    self._change.wait()
                job = self._jobs.popleft()
                self._running = True
            try:
                job()
            except Exception:  # a bug in one job must not silence those after it
                logger.exception("%s: unexpected error", self._name)
            finally:
                del job
                with self._change:
                    self._running = False
                    self._change.notify_all()
