"""How far a run is, from the metrics that its workers serve. Only rank 0 does, on whichever pod.

All jobs are asked at once, in two lanes: who answered last time never waits for those that are
silent, such as pods behind a network policy, and a silent job is asked less and less often.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from http import HTTPStatus
from typing import Self

from launcher.budget.goodput import Told
from launcher.controller.store import Key
from launcher.controller.view import UNREACHABLE, Reading

TIMEOUT_S = 2.0
"""For a whole answer, connecting included: pods are near."""
MOST_BYTES = 1 << 20
KNOWN_AT_ONCE = 64
SOUGHT_AT_ONCE = 256
"""Connections; both lanes together stay well below the usual limit of 1,024 open files."""
PAUSE_S, MOST_PAUSES = 10.0, 12
"""A silent job is asked again after one pause, two, four, …, MOST_PAUSES."""
UPDATES = "trainer_updates_total"
STAMP = "trainer_update_last_timestamp_seconds"
EFFORT = {
    "generation": "trainer_generation",
    "updates": "trainer_update_duration_seconds_count",
    "update_s": "trainer_update_seconds_total",
    "data_wait_s": "trainer_data_wait_seconds_total",
    "evaluation_s": "trainer_evaluation_seconds_total",
    "checkpoint_s": "trainer_checkpoint_blocked_seconds_total",
    "lost_updates": "trainer_lost_updates",
}
"""Fields of Told, and the trainer's metrics. The counted updates are those of its process alone."""
_LINE = re.compile(
    rf"^({'|'.join((UPDATES, STAMP, *EFFORT.values()))})(?:{{[^}}]*}})? ([-+.eE0-9]+)", re.MULTILINE
)


@dataclass(frozen=True)
class Silence:
    """A job of which nobody answered, and somebody did not even refuse."""

    addresses: frozenset[str]
    pauses: int
    ends_at: float
    """By the monotonic clock."""


class Scraper:
    """Asks the workers of jobs, and remembers who of each job answered; one thread for all."""

    def __init__(self, timeout_s: float = TIMEOUT_S, pause_s: float = PAUSE_S) -> None:
        self._timeout_s, self._pause_s = timeout_s, pause_s
        self._last: dict[Key, tuple[str, Reading]] = {}
        self._silences: dict[Key, Silence] = {}
        self._known = asyncio.Semaphore(KNOWN_AT_ONCE)
        self._sought = asyncio.Semaphore(SOUGHT_AT_ONCE)
        self._loop: asyncio.AbstractEventLoop

    @contextlib.contextmanager
    def running(self) -> Iterator[Self]:
        """Its thread, while which it can be asked; what is not answered at the end is given up."""
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever, name="scrape")
        thread.start()
        try:
            yield self
        finally:
            asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            self._loop.close()

    def read(self, key: Key, addresses: Sequence[str]) -> Reading:
        """The same as `submit`, waited for."""
        return self.submit(key, addresses).result()

    def submit(self, key: Key, addresses: Sequence[str]) -> Future[Reading]:
        """The furthest of what these host:port tell; UNREACHABLE if none answers.

        While the one that answered last tells of a new update, nobody else is asked.
        """
        return asyncio.run_coroutine_threadsafe(self._read(key, addresses), self._loop)

    def is_worth_asking(self, key: Key, addresses: Collection[str]) -> bool:
        """False in the pause after these were silent."""
        silence = self._silences.get(key)
        if silence is None or silence.addresses != frozenset(addresses):
            return True
        return time.monotonic() >= silence.ends_at

    def forget_all_but(self, keys: Collection[Key]) -> None:
        """Jobs that are gone are not remembered."""
        for known in (self._last, self._silences):
            for key in [key for key in tuple(known) if key not in keys]:
                known.pop(key, None)

    async def _read(self, key: Key, addresses: Sequence[str]) -> Reading:
        address, before = self._last.get(key, ("", UNREACHABLE))
        if address in addresses:
            reading = await self._ask(address, self._known)
            if reading is not None and reading.stamp > before.stamp:
                self._last[key] = address, reading
                return reading
        answers = await asyncio.gather(*(self._ask(each, self._sought) for each in addresses))
        found = [
            (each, reading)
            for each, reading in zip(addresses, answers, strict=True)
            if reading not in (None, UNREACHABLE)
        ]
        if found:
            self._silences.pop(key, None)
            self._last[key] = max(found, key=lambda each: (each[1].stamp, each[1].updates))
            return self._last[key][1]
        if None in answers:
            self._note_silence(key, frozenset(addresses))
        return UNREACHABLE

    def _note_silence(self, key: Key, addresses: frozenset[str]) -> None:
        before = self._silences.get(key)
        is_same = before is not None and before.addresses == addresses
        pauses = min(2 * before.pauses, MOST_PAUSES) if before is not None and is_same else 1
        ends_at = time.monotonic() + pauses * self._pause_s
        self._silences[key] = Silence(addresses, pauses, ends_at)

    async def _ask(self, address: str, lane: asyncio.Semaphore) -> Reading | None:
        """What one tells; UNREACHABLE if that is nothing, None if it is silent."""
        async with lane:
            try:
                async with asyncio.timeout(self._timeout_s):
                    return _understood(await _get(address))
            except TimeoutError:
                return None
            except (OSError, ValueError):
                return UNREACHABLE


def parse(text: str) -> Reading:
    """The figures of Prometheus' text format; 0 for one that is not there."""
    found: dict[str, float] = {}
    for name, value in _LINE.findall(text):
        found[name] = max(found.get(name, 0.0), float(value))
    told = None
    if EFFORT["generation"] in found:
        told = Told(**{field: found.get(name, 0.0) for field, name in EFFORT.items()})
    return Reading(found.get(UPDATES, 0.0), found.get(STAMP, 0.0), told)


async def _get(address: str) -> bytes:
    """The start of the whole answer. No proxy, and HTTP/1.0: the answer ends with the connection.

    Not the standard library's client: it takes a thread for each that is waited for.
    """
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    try:
        writer.write(f"GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n".encode())
        answer = b""
        while len(answer) < MOST_BYTES and (chunk := await reader.read(MOST_BYTES)):
            answer += chunk
        return answer
    finally:
        writer.transport.abort()


def _understood(answer: bytes) -> Reading:
    head, _, body = answer.partition(b"\r\n\r\n")
    version, _, rest = head.partition(b" ")
    if not version.startswith(b"HTTP/") or not rest.startswith(b"%d " % HTTPStatus.OK):
        return UNREACHABLE
    return parse(body.decode(errors="replace"))


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
