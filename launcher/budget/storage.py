"""The ledger in a folder or bucket: segments created once, and a snapshot of what they say.

    v1/<cluster>/<yyyy>/<mm>/<dd>/<milliseconds>-<unique>.jsonl    a record a line
    v1/<cluster>/snapshot.json                                     all records so far, merged

A segment is never changed. A snapshot replaces the one that its writer has read, or fails: so a
writer that was deposed finds out, and what it wrote meanwhile is merged like anything else.
"""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import astuple, fields
from datetime import UTC, datetime
from typing import Any

from launcher.budget.ledger import FOREVER_MS, Ledger
from launcher.budget.records import BadRecord, Interval, Owner, Record, described, parse
from launcher.errors import LauncherError
from trainer.storage import Changed, Exists, NotFound, StorageError, Store

VERSION = 1
LOADS_MOST = 5
"""Tries of a reader that is slower than two compactions."""
_INTERVAL = [field.name for field in fields(Interval) if field.name != "owner"]


class BrokenLedger(LauncherError):
    """What is stored cannot be read; nothing may be admitted on a guess."""


class LedgerStore:
    """The stored ledger of one cluster. One thread at a time; others may read the ledger while they
    hold `lock`, which is never held while the store is waited for."""

    def __init__(self, store: Store, cluster: str) -> None:
        self.store = store
        self.folder = f"v{VERSION}/{cluster}/"
        self.lock = threading.Lock()
        self.ledger = Ledger()
        """All that was loaded, and all that was appended since."""
        self._tag = ""
        """Of the snapshot that was read; empty where there is none yet."""
        self._covered: list[str] = []
        """Segments that the snapshot holds and that are still there."""
        self._merged: list[str] = []
        """Segments read or written since."""

    @property
    def address(self) -> str:
        return f"{self.store.address}/{self.folder.rstrip('/')}"

    @property
    def num_segments(self) -> int:
        """Segments that the next snapshot will take in."""
        return len(self._merged)

    def check(self) -> None:
        """Asks whether the store answers. Raises Changed where the snapshot is gone: load again."""
        if not self._tag:
            return  # there was none; the first is written soon
        try:
            self.store.size(f"{self.folder}snapshot.json")
        except NotFound as error:
            raise Changed(str(error)) from error

    def load(self) -> Ledger:
        """Reads everything anew. Raises BrokenLedger and StorageError."""
        for _ in range(LOADS_MOST):
            try:
                return self._load()
            except NotFound:  # a segment of the listing is in a newer snapshot by now
                continue
        raise BrokenLedger(f"{self.address} changes faster than it can be read")

    def append(self, records: Sequence[Record], now_ms: int) -> None:
        """Makes records durable, then part of the ledger. After a StorageError: do it again."""
        if not records:
            return
        moment = datetime.fromtimestamp(now_ms / 1000, UTC)
        key = f"{self.folder}{moment:%Y/%m/%d}/{now_ms:013d}-{uuid.uuid4().hex}.jsonl"
        self.store.create(key, "".join(_line(record) for record in records).encode())
        self._merged.append(key)
        with self.lock:
            for record in records:
                self.ledger.add(record)

    def compact(self, keep_after_ms: int = FOREVER_MS) -> None:
        """Writes a snapshot of all, and removes the segments that the one before it held.

        keep_after_ms: younger segments stay. For a store that ignores conditions: an older snapshot
        of a deposed writer may still come to lie over this one, and must find what it lacks.
        Raises Changed where another writer has replaced the snapshot: load again.
        """
        kept = [key for key in self._covered if _stamp_ms(key) > keep_after_ms]
        data = self._snapshot([*kept, *self._merged])
        key = f"{self.folder}snapshot.json"
        if self._tag:
            self.store.replace(key, data, self._tag)
        else:
            try:
                self.store.create(key, data)
            except Exists as error:
                raise Changed(str(error)) from error
        written, self._tag = self.store.get_tagged(key)
        if written != data:
            raise Changed(f"{self.store.address}/{key} was replaced at once")
        # A reader of the snapshot before may still be at those that this one has newly taken in.
        for segment in set(self._covered).difference(kept):
            with contextlib.suppress(StorageError):  # it is only litter
                self.store.remove(segment)
        self._covered, self._merged = [*kept, *self._merged], []

    def supports_conditions(self) -> bool:
        """Whether the store keeps its promises on conditional writes: some servers ignore them."""
        key = f"{self.folder}probe-{uuid.uuid4().hex}"
        try:
            self.store.create(key, b"1")
            _, tag = self.store.get_tagged(key)
            self.store.replace(key, b"2", tag)
            return self._is_refused(key, "") and self._is_refused(key, tag)
        except Changed:
            return False  # a right tag is refused, as some servers do
        finally:
            with contextlib.suppress(StorageError):
                self.store.remove(key)

    def _is_refused(self, key: str, tag: str) -> bool:
        """Whether a write over another version is; without a tag, over any."""
        try:
            if tag:
                self.store.replace(key, b"3", tag)
            else:
                self.store.create(key, b"3")
        except (Exists, Changed):
            return True
        return False

    def _load(self) -> Ledger:
        key = f"{self.folder}snapshot.json"
        ledger, covered, tag = Ledger(), list[str](), ""
        try:
            data, tag = self.store.get_tagged(key)
        except NotFound:
            pass
        else:
            ledger, covered = _parse_snapshot(data, f"{self.store.address}/{key}")
        merged = []
        known = set(covered)
        for entry in self.store.list(self.folder):
            if entry.key.endswith(".jsonl") and entry.key not in known:
                for record in self._read(entry.key):
                    ledger.add(record)
                merged.append(entry.key)
        with self.lock:
            self.ledger = ledger
        self._covered, self._merged, self._tag = covered, merged, tag
        return ledger

    def _read(self, key: str) -> Iterable[Record]:
        for number, line in enumerate(self.store.get(key).decode().splitlines(), start=1):
            try:
                yield parse(json.loads(line))
            except ValueError as error:
                where = f"{self.store.address}/{key}, line {number}"
                raise BrokenLedger(f"{where}: {error}") from error

    def _snapshot(self, segments: list[str]) -> bytes:
        """Owners once each: a job's pods share theirs, and most of a record is its owner."""
        owners: dict[Owner, int] = {}
        intervals = [
            [owners.setdefault(each.owner, len(owners)), *(getattr(each, n) for n in _INTERVAL)]
            for each in self.ledger.intervals()
        ]
        content = {
            "version": VERSION,
            "token": uuid.uuid4().hex,  # two writers' snapshots are never the same bytes
            "segments": segments,
            "owner": [field.name for field in fields(Owner)],
            "owners": [astuple(owner) for owner in owners],
            "interval": ["owner", *_INTERVAL],
            "intervals": intervals,
            "refunds": [described(each) for each in self.ledger.refunds()],
            "efforts": [described(each) for each in self.ledger.efforts()],
        }
        return json.dumps(content, separators=(",", ":")).encode()


def _stamp_ms(key: str) -> int:
    """When a segment was written, by its name."""
    return int(key.rpartition("/")[2].partition("-")[0])


def _parse_snapshot(data: bytes, address: str) -> tuple[Ledger, list[str]]:
    try:
        content = json.loads(data)
        if content["version"] != VERSION:
            raise BadRecord(f"version {content['version']}; this launcher reads {VERSION}")
        owners = [dict(zip(content["owner"], values, strict=True)) for values in content["owners"]]
        names = content["interval"][1:]
        ledger = Ledger()
        for index, *values in content["intervals"]:
            facts: dict[str, Any] = dict(zip(names, values, strict=True))
            ledger.add(parse(owners[index] | facts))
        for each in (*content["refunds"], *content.get("efforts", ())):
            ledger.add(parse(each))
        return ledger, list(content["segments"])
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise BrokenLedger(f"{address}: {type(error).__name__}: {error}") from error


def _line(record: Record) -> str:
    return json.dumps(described(record), separators=(",", ":")) + "\n"
