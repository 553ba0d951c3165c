"""The node's cache of objects: each is downloaded once a node, checked, and kept within a bound.

Files are named by the SHA-256 of their content, so several datasets and runs can share a folder:

    objects/<sha256>                     complete and checked; read by anybody, evicted any time
    incoming/<sha256>.<size>.<unique>    a download under way, held by flock; unheld ones are dead
    locks/<two digits>                   one download at a time for the objects of these digits
    lock                                 who counts, evicts or starts a download

flock and not pid files: a kill -9 frees it, and it works between containers of one node.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from trainer.storage import NotFound, StorageError, Store

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""Downloads of an object before it counts as unreachable or corrupt."""


class CorruptObject(StorageError):
    """The store's object is not what the manifest says, in every download."""


class NodeCache:
    """Objects of any stores in one folder of at most `limit_bytes`, for all processes of a node."""

    def __init__(self, folder: Path, limit_bytes: int, pause_s: float = 1.0) -> None:
        """pause_s: wait after a failed download, doubled each time."""
        self._objects, self._incoming = folder / "objects", folder / "incoming"
        self._locks, self._lock = folder / "locks", folder / "lock"
        self._limit_bytes = limit_bytes
        self._pause_s = pause_s
        self.num_hits = 0
        self.num_downloads = 0
        self.downloaded_bytes = 0
        self.num_failures = 0
        for path in (self._objects, self._incoming, self._locks):
            path.mkdir(parents=True, exist_ok=True)
        with _held(self._lock):
            self._remove_dead()

    def path(self, sha256: str) -> Path:
        """Where the object is once it was opened; another process may evict it any time."""
        return self._objects / sha256

    def open(self, store: Store, key: str, size: int, sha256: str) -> int:
        """A file descriptor of the checked object, downloaded if the node has none.

        The caller closes it soon: an evicted file that is held open still fills the disk.
        """
        found = self._open_kept(sha256)
        if found is not None:
            self.num_hits += 1
            return found
        with _held(self._locks / sha256[:2]):
            found = self._open_kept(sha256)  # somebody else's download ended meanwhile
            if found is not None:
                return found
            return self._download(store, key, size, sha256)

    def _open_kept(self, sha256: str) -> int | None:
        try:
            descriptor = os.open(self.path(sha256), os.O_RDONLY)
        except FileNotFoundError:
            return None
        os.utime(descriptor)  # the time of last use, for eviction
        return descriptor

    def _download(self, store: Store, key: str, size: int, sha256: str) -> int:
        address = f"{store.address}/{key}"
        for attempt in range(1, ATTEMPTS + 1):
            with self._room(size, sha256, address) as draft:
                try:
                    store.download(key, draft)
                    self.num_downloads += 1
                    self.downloaded_bytes += draft.stat().st_size
                    problem = difference(draft, size, sha256)
                    if not problem:
                        # Opened before it is visible: no eviction can come between.
                        descriptor = os.open(draft, os.O_RDONLY)
                        os.rename(draft, self.path(sha256))
                        return descriptor
                    failure: StorageError = CorruptObject(
                        f"{address} {problem}, in each of {attempt} downloads"
                    )
                except NotFound:
                    raise
                except StorageError as error:
                    failure = error
            self.num_failures += 1
            if attempt < ATTEMPTS:
                logger.warning("download %d of %d failed: %s", attempt, ATTEMPTS, failure)
                time.sleep(self._pause_s * 2 ** (attempt - 1))
        raise failure

    @contextlib.contextmanager
    def _room(self, size: int, sha256: str, address: str) -> Iterator[Path]:
        """A private file that counts as `size` bytes of the bound from now on."""
        if size > self._limit_bytes:
            raise StorageError(
                f"{address} has {size:,} bytes, but the cache {self._objects.parent} may hold "
                f"{self._limit_bytes:,} (data.cache_bytes); raise it"
            )
        draft = self._incoming / f"{sha256}.{size}.{uuid.uuid4().hex}"
        while True:
            with _held(self._lock):
                if self._evict(size):
                    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                    break
            time.sleep(0.05)  # all is downloads of others; they end and can be evicted
        try:
            yield draft
        finally:
            draft.unlink(missing_ok=True)
            os.close(descriptor)

    def _evict(self, size: int) -> bool:
        """Removes the least recently used objects until `size` more bytes fit; can they?"""
        self._remove_dead()
        used = sum(int(draft.name.split(".")[1]) for draft in self._incoming.iterdir())
        kept = []
        for entry in os.scandir(self._objects):
            stat = entry.stat()
            kept.append((stat.st_mtime_ns, stat.st_size, entry.path))
            used += stat.st_size
        kept.sort(reverse=True)
        while used + size > self._limit_bytes and kept:
            _, freed, path = kept.pop()
            os.unlink(path)
            used -= freed
        return used + size <= self._limit_bytes

    def _remove_dead(self) -> None:
        """Removes what killed processes left; to be called under the lock."""
        for draft in self._incoming.iterdir():
            try:
                descriptor = os.open(draft, os.O_RDONLY)
            except FileNotFoundError:
                continue  # its download just ended
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                draft.unlink(missing_ok=True)
            except BlockingIOError:
                pass
            finally:
                os.close(descriptor)


def difference(path: Path, size: int, sha256: str) -> str:
    """What is wrong with a file that should have this size and SHA-256; empty if nothing is."""
    found = path.stat().st_size
    if found != size:
        return f"has {found:,} bytes, but its manifest says {size:,}"
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        return f"has the SHA-256 {digest[:12]}…, but its manifest says {sha256[:12]}…"
    return ""


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
