"""The API server's clock, from the Date of its answers: charges go by it, never by our own.

A Date is a whole second, rounded down, so each answer only bounds the clock: it was written between
our request and the answer. All bounds together are narrow after some answers.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

from launcher.errors import Unreachable

DRIFT = 1e-4
"""By how much two clocks may run apart, as a share: ten times what clocks in use do."""


class ServerClock:
    """What is known of one API server's time. Threads may share it."""

    def __init__(
        self,
        steady: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """steady: seconds that only go forward. wall: this machine's own time, for the skew."""
        self._steady, self._wall = steady, wall
        self._lock = threading.Lock()
        self._low = self._high = 0.0
        """Server's time less `steady` lies between these, both included, at `_at`."""
        self._at: float | None = None
        self.steps = 0
        """How often an answer contradicted those before: the server's clock was set, or another
        server with another clock answers."""

    def steady(self) -> float:
        """The moment by the clock that `hear` is told of."""
        return self._steady()

    def hear(self, date: str, asked_at: float, heard_at: float) -> None:
        """An answer's Date, and when by `steady` it was asked for and heard. A text that is no date
        tells nothing."""
        try:
            second = parsedate_to_datetime(date).timestamp()
        except ValueError:
            return
        low, high = second - heard_at, second + 1.0 - asked_at
        with self._lock:
            if self._at is not None:
                known_low, known_high = self._bounds(self._at, heard_at)
                if max(low, known_low) <= min(high, known_high):
                    low, high = max(low, known_low), min(high, known_high)
                else:
                    self.steps += 1
            self._low, self._high, self._at = low, high, heard_at

    @property
    def is_known(self) -> bool:
        """Whether the server has answered at all."""
        return self._at is not None

    def bounds_s(self) -> tuple[float, float]:
        """The server's time now lies between these: seconds since 1970. Raises Unreachable."""
        with self._lock:
            if self._at is None:
                raise Unreachable("the API server has not told its time yet")
            now = self._steady()
            low, high = self._bounds(self._at, now)
        return low + now, high + now

    def now_ms(self) -> int:
        """The server's time in milliseconds since 1970, at the earliest that it can be: what was
        seen to run until then has run until then. Raises Unreachable."""
        return int(self.bounds_s()[0] * 1000)

    @property
    def skew_s(self) -> float:
        """By how much this machine's clock is ahead of the server's; 0 where it may be right."""
        if not self.is_known:
            return 0.0
        low, high = self.bounds_s()
        own = self._wall()
        return max(0.0, own - high) - max(0.0, low - own)

    def _bounds(self, since: float, now: float) -> tuple[float, float]:
        slack = DRIFT * max(0.0, now - since)
        return self._low - slack, self._high + slack
