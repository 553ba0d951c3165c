"""A store in front of a real one that fails as asked: the network between us and the bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from trainer.storage import Entry, StorageError, Store

Kind = Literal["refused", "unanswered", "dead before", "dead after"]
"""refused: not carried out. unanswered: carried out, but the caller sees an error.
dead: from then on, with or without this operation, nothing is carried out, as if killed."""


class Faulty:
    """Counts operations and fails the one that is asked for, or the next of a name."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self._lock = threading.Lock()
        self._plans: list[tuple[str, int, Kind]] = []
        self.hooks: dict[str, Callable[[], None]] = {}
        """By operation: called once, before the next operation of that name."""
        self.calls: list[tuple[str, str]] = []
        self.dead = False

    @property
    def address(self) -> str:
        return self._inner.address

    def fail(self, kind: Kind, operation: str = "", after: int = 0) -> None:
        """Fails one operation of the name ("" for any), past the next `after` of that name."""
        self._plans.append((operation, after, kind))

    def _do(self, operation: str, key: str, act: Callable[[], Any]) -> Any:
        hook = self.hooks.pop(operation, None)
        if hook is not None:
            hook()
        with self._lock:
            self.calls.append((operation, key))
            kind = self._due(operation)
        gone = StorageError(f"{operation} of {self.address}/{key} failed: connection reset")
        if self.dead or kind in ("refused", "dead before"):
            self.dead = self.dead or kind == "dead before"
            raise gone
        result = act()
        if kind:
            self.dead = kind == "dead after"
            raise gone
        return result

    def _due(self, operation: str) -> Kind | None:
        for number, (name, after, kind) in enumerate(self._plans):
            if name in ("", operation):
                if after == 0:
                    del self._plans[number]
                    return kind
                self._plans[number] = (name, after - 1, kind)
        return None

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        data: bytes = self._do("get", key, lambda: self._inner.get(key, start, length))
        return data

    def get_parallel(self, key: str, size: int, part_bytes: int = 32 << 20) -> Iterator[bytes]:
        parts = self._inner.get_parallel(key, size, part_bytes)
        yield from self._do("get_parallel", key, lambda: parts)

    def size(self, key: str) -> int:
        return int(self._do("size", key, lambda: self._inner.size(key)))

    def put(self, key: str, data: bytes) -> None:
        self._do("put", key, lambda: self._inner.put(key, data))

    def create(self, key: str, data: bytes) -> None:
        self._do("create", key, lambda: self._inner.create(key, data))

    def get_tagged(self, key: str) -> tuple[bytes, str]:
        data, tag = self._do("get_tagged", key, lambda: self._inner.get_tagged(key))
        return data, tag

    def replace(self, key: str, data: bytes, tag: str) -> None:
        self._do("replace", key, lambda: self._inner.replace(key, data, tag))

    def upload(
        self,
        key: str,
        chunks: Iterable[bytes | memoryview],
        size: int,
        deadline_s: float | None = None,
    ) -> None:
        self._do("upload", key, lambda: self._inner.upload(key, chunks, size, deadline_s))

    def download(self, key: str, path: Path) -> None:
        self._do("download", key, lambda: self._inner.download(key, path))

    def list(self, prefix: str = "") -> list[Entry]:
        entries: list[Entry] = self._do("list", prefix, lambda: self._inner.list(prefix))
        return entries

    def remove(self, key: str) -> None:
        self._do("remove", key, lambda: self._inner.remove(key))

    def sweep(self, older_than_s: float) -> int:
        return int(self._do("sweep", "", lambda: self._inner.sweep(older_than_s)))

    def local(self, key: str) -> Path | None:
        return self._inner.local(key)
