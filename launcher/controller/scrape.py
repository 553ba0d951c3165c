"""How far a run is, from the metrics that its workers serve. Only rank 0 does, on whichever pod."""

from __future__ import annotations

import http.client
import re
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from launcher.controller.view import UNREACHABLE, Reading

TIMEOUT_S = 2.0
MOST_BYTES = 1 << 20
ASKED_AT_ONCE = 16
UPDATES = "trainer_updates_total"
STAMP = "trainer_update_last_timestamp_seconds"
_LINE = re.compile(rf"^({UPDATES}|{STAMP})(?:{{[^}}]*}})? ([-+.eE0-9]+)", re.MULTILINE)


def scrape(addresses: Sequence[str]) -> Reading:
    """The furthest of what these host:port tell; UNREACHABLE if none answers."""
    if not addresses:
        return UNREACHABLE
    with ThreadPoolExecutor(min(len(addresses), ASKED_AT_ONCE)) as pool:
        readings = list(pool.map(_scrape, addresses))
    return max(readings, key=lambda each: (each.stamp, each.updates))


def parse(text: str) -> Reading:
    """The two figures of Prometheus' text format; 0 for one that is not there."""
    found: dict[str, float] = {}
    for name, value in _LINE.findall(text):
        found[name] = max(found.get(name, 0.0), float(value))
    return Reading(found.get(UPDATES, 0.0), found.get(STAMP, 0.0))


def _scrape(address: str) -> Reading:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # pods are near
    try:
        with opener.open(f"http://{address}/metrics", timeout=TIMEOUT_S) as answer:
            return parse(answer.read(MOST_BYTES).decode(errors="replace"))
    except (OSError, ValueError, http.client.HTTPException):
        return UNREACHABLE
