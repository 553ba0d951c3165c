"""What a store is: errors, the interface, addresses and keys."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

PART_BYTES = 32 << 20
"""Large objects travel in parts of this size."""


class StorageError(Exception):
    """The store refused or failed: one line with the full address."""


class BadAddress(StorageError, ValueError):
    """An address or key that no store can have."""


class NotFound(StorageError):
    """No such object or bucket."""


class Exists(StorageError):
    """`create` found another writer's object."""


class Changed(StorageError):
    """`replace` found another version than the one it was to replace."""


@dataclass(frozen=True)
class Entry:
    """An object in a listing."""

    key: str
    size: int
    """In bytes."""
    modified_at: float
    """Unix seconds."""


Entries = list[Entry]  # in a class with a method `list`, the type needs another name


class Store(Protocol):
    """A folder of objects. Keys are relative, with single slashes.

    Picklable; may be used by several threads and, after a fork, by the child, which makes a client
    of its own (an inherited one would share the parent's sockets and mix their bytes).
    """

    @property
    def address(self) -> str:
        """The folder's full address, without a slash at its end."""

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """The bytes from `start`, `length` of them or fewer where the object ends."""

    def get_parallel(self, key: str, size: int, part_bytes: int = PART_BYTES) -> Iterator[bytes]:
        """The object's `size` bytes in parts, in order, a few of them fetched at once."""

    def size(self, key: str) -> int:
        """The object's length in bytes."""

    def put(self, key: str, data: bytes) -> None:
        """Writes a small object, in place of an older one at once."""

    def create(self, key: str, data: bytes) -> None:
        """Writes a small object durably if the key is free; else raises Exists.

        The same bytes under the key count as ours: an answer may have been lost on its way. So a
        writer that must know whether it won puts a token of its own into the bytes.
        """

    def get_tagged(self, key: str) -> tuple[bytes, str]:
        """A small object's bytes, and the tag of this version."""

    def replace(self, key: str, data: bytes, tag: str) -> None:
        """Writes a small object durably over the version of that tag; else raises Changed.

        As with `create`, the same bytes count as ours.
        """

    def upload(
        self,
        key: str,
        chunks: Iterable[bytes | memoryview],
        size: int,
        deadline_s: float | None = None,
    ) -> None:
        """Writes a large object of `size` bytes; after `deadline_s` seconds gives up and raises.

        Nothing is visible before the end, and nothing after a failure. The key should be unused:
        an older object is replaced.
        """

    def download(self, key: str, path: Path) -> None:
        """Copies a whole object into the local file `path`; the caller checks and renames it."""

    def list(self, prefix: str = "") -> Entries:
        """All objects whose key starts with `prefix`, sorted by key."""

    def remove(self, key: str) -> None:
        """Removes an object; an absent one is fine."""

    def sweep(self, older_than_s: float) -> int:
        """Removes what uploads left behind that never ended and began so long ago; their number."""

    def local(self, key: str) -> Path | None:
        """Where the object lies as a file of this machine; None when it must be fetched."""


def parse(address: str) -> tuple[str, str]:
    """Scheme (s3 or file) and the rest without slashes at its end; paths become absolute."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/", address)
    if match is None:
        if not address:
            raise BadAddress(
                "address is empty; expected s3://bucket/folder, file:///folder or path"
            )
        return "file", os.path.abspath(address)
    scheme, rest = match[1], address[match.end() :]
    if scheme not in ("s3", "file") or not rest.startswith("/"):
        raise BadAddress(
            f"address {address!r} has no known form; expected s3://bucket/folder, "
            "file:///folder or a path"
        )
    rest = rest[1:]
    if scheme == "file":
        if not rest.startswith("/"):
            raise BadAddress(f"address {address!r} has no absolute path; write file:///folder")
        return scheme, os.path.abspath(rest)
    rest = rest.rstrip("/")
    if "//" in rest:
        raise BadAddress(f"address {address!r} has two slashes in a row; remove one")
    return scheme, rest


def checked(key: str) -> str:
    """The key itself; raises BadAddress where it is none."""
    # Keys come from manifests too: none may lead out of the store's folder.
    if not key or any(part in ("", ".", "..") for part in key.split("/")) or "\0" in key:
        raise BadAddress(f"key {key!r} is not a relative path with single slashes")
    return key


def whole(part: bytes, wanted: int, address: str) -> bytes:
    """The part itself; raises where the object ended before it had the `wanted` bytes."""
    if len(part) != wanted:
        raise StorageError(
            f"{address} is shorter than expected: a part of {wanted} bytes has {len(part)}"
        )
    return part


Clock = Callable[[], float | None]


def clock_for(deadline_s: float | None, address: str) -> Clock:
    """A function that gives the seconds left (None: no limit) and raises after the last one."""
    ends_at = None if deadline_s is None else time.monotonic() + deadline_s

    def left_s() -> float | None:
        if ends_at is None:
            return None
        left = ends_at - time.monotonic()
        if left <= 0:
            raise StorageError(f"upload of {address} did not end within {deadline_s:g} s")
        return left

    return left_s


def counted(
    chunks: Iterable[bytes | memoryview], size: int, clock: Clock, address: str
) -> Iterator[bytes | memoryview]:
    """The chunks; raises where they are not `size` bytes together, or time is up."""
    seen = 0
    for chunk in chunks:
        clock()
        seen += memoryview(chunk).nbytes
        yield chunk
    if seen != size:
        raise StorageError(f"{address} was given {seen} bytes, but {size} were announced")
