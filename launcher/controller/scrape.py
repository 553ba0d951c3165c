"""How far a run is, from the metrics that its workers serve. Only rank 0 does, on whichever pod."""

from __future__ import annotations

import contextlib
import http.client
import re
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

from launcher.controller.store import Key
from launcher.controller.view import UNREACHABLE, Reading

TIMEOUT_S = 2.0
MOST_BYTES = 1 << 20
ASKED_AT_ONCE = 16
UPDATES = "trainer_updates_total"
STAMP = "trainer_update_last_timestamp_seconds"
_LINE = re.compile(rf"^({UPDATES}|{STAMP})(?:{{[^}}]*}})? ([-+.eE0-9]+)", re.MULTILINE)


class Scraper:
    """Asks the workers of jobs, and remembers who of each job answered."""

    def __init__(self) -> None:
        self._last: dict[Key, tuple[str, Reading]] = {}

    def read(self, key: Key, addresses: Sequence[str]) -> Reading:
        """The furthest of what these host:port tell; UNREACHABLE if none answers.

        While the one that answered last tells of a new update, nobody else is asked.
        """
        address, before = self._last.get(key, ("", UNREACHABLE))
        if address in addresses:
            reading = _scrape(address)
            if reading.stamp > before.stamp:
                self._last[key] = address, reading
                return reading
        found = _scrape_all(addresses)
        if not found:
            return UNREACHABLE
        address, reading = max(found.items(), key=lambda each: (each[1].stamp, each[1].updates))
        self._last[key] = address, reading
        return reading

    def forget_all_but(self, keys: Collection[Key]) -> None:
        """Jobs that are gone are not remembered."""
        for key in [key for key in tuple(self._last) if key not in keys]:
            self._last.pop(key, None)


def _scrape_all(addresses: Sequence[str]) -> dict[str, Reading]:
    if not addresses:
        return {}
    with ThreadPoolExecutor(min(len(addresses), ASKED_AT_ONCE)) as pool:
        return dict(zip(addresses, pool.map(_scrape, addresses), strict=True))


def parse(text: str) -> Reading:
    """The two figures of Prometheus' text format; 0 for one that is not there."""
    found: dict[str, float] = {}
    for name, value in _LINE.findall(text):
        found[name] = max(found.get(name, 0.0), float(value))
    return Reading(found.get(UPDATES, 0.0), found.get(STAMP, 0.0))


def _scrape(address: str) -> Reading:
    # No proxy: pods are near.
    with contextlib.closing(http.client.HTTPConnection(address, timeout=TIMEOUT_S)) as connection:
        try:
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                return UNREACHABLE
            return parse(answer.read(MOST_BYTES).decode(errors="replace"))
        except (OSError, ValueError, http.client.HTTPException):
            return UNREACHABLE
