"""Reading samples by id: a folder's shards in place, a bucket's through the node's cache."""

from __future__ import annotations

import os
import tempfile
import zlib
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path

from trainer.data.fetch import NodeCache
from trainer.data.shards import Dataset, Shard
from trainer.storage import StorageError, open_store

MOST_OPEN = 32
"""Files of a folder that a process keeps open: opening is slow where the folder is mounted."""


@dataclass(frozen=True)
class Fetched:
    """What a reader has had from its node's cache so far, what was read ahead included."""

    hits: int = 0
    downloads: int = 0
    download_bytes: int = 0
    failures: int = 0

    def __add__(self, other: Fetched) -> Fetched:
        return Fetched(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: Fetched) -> Fetched:
        return Fetched(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))


class DamagedSample(Exception):
    """A sample's bytes are not those that were packed; names shard and id."""


class Reader:
    """The images of a dataset by id. Made in the process that uses it, by one thread."""

    def __init__(self, dataset: Dataset, cache_dir: Path, cache_bytes: int) -> None:
        self._dataset = dataset
        self._index = dataset.index()
        self._store = open_store(dataset.address)
        self._in_place = self._store.local("any") is not None
        self._opened: OrderedDict[int, int] = OrderedDict()
        self._ahead: ThreadPoolExecutor | None = None
        if not self._in_place:
            self.cache = NodeCache(cache_dir / "shards", cache_bytes)

    def read(self, sample_id: int) -> bytes:
        """The sample's image file as it was packed.

        Raises DamagedSample where its checksum differs, CorruptObject where the whole shard's does.
        """
        row = self._index[sample_id]
        number, length = int(row["shard"]), int(row["length"])
        shard = self._dataset.shards[number]
        if self._in_place:
            data = os.pread(self._open(number, shard), length, int(row["offset"]))
        else:
            descriptor = self.cache.open(self._store, shard.key, shard.size, shard.sha256)
            try:
                data = os.pread(descriptor, length, int(row["offset"]))
            finally:
                os.close(descriptor)
        if len(data) != length or zlib.crc32(data) != row["crc32"]:
            raise DamagedSample(f"sample {sample_id} in shard {shard.key} has a wrong crc32")
        return data

    def fetched(self) -> Fetched:
        """Nothing but zeros where the shards are read in place."""
        if self._in_place:
            return Fetched()
        node = self.cache
        return Fetched(node.num_hits, node.num_downloads, node.downloaded_bytes, node.num_failures)

    def prefetch(self, shard: int) -> None:
        """Begins to fetch a shard that will be read soon; a failure shows when it is read."""
        if self._in_place:
            return
        if self._ahead is None:
            self._ahead = ThreadPoolExecutor(1, "shard-ahead")
        self._ahead.submit(self._fetch, self._dataset.shards[shard])

    def _fetch(self, shard: Shard) -> None:
        os.close(self.cache.open(self._store, shard.key, shard.size, shard.sha256))

    def _open(self, number: int, shard: Shard) -> int:
        descriptor = self._opened.pop(number, None)
        if descriptor is None:
            path = self._store.local(shard.key)
            assert path is not None
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except OSError as error:
                reason = (error.strerror or "failed").lower()
                raise StorageError(
                    f"cannot read shard {self._dataset.address}/{shard.key}: {reason}"
                ) from error
            if len(self._opened) >= MOST_OPEN:
                os.close(self._opened.popitem(last=False)[1])
        self._opened[number] = descriptor  # the last is the most recently used
        return descriptor

    def close(self) -> None:
        """Closes the files and ends the read-ahead."""
        if self._ahead is not None:
            self._ahead.shutdown(cancel_futures=True)
        while self._opened:
            os.close(self._opened.popitem()[1])


def cache_folder(configured: str = "") -> Path:
    """The node's folder for what is fetched: data.cache_dir, or where that is empty a usual one."""
    return Path(configured or f"{tempfile.gettempdir()}/shards")


def room_bytes(dataset: Dataset, lanes: int, window: int) -> int:
    """Cache that a node with so many lanes needs, so that no shard is fetched twice an epoch.

    A lane's window spans its samples' shards and one more at an end; twice that, since the next
    window is read ahead; never more than the whole dataset.
    """
    largest = max(shard.size for shard in dataset.shards)
    per_shard = max(1, dataset.num_samples // len(dataset.shards))
    spanned = -(-window // per_shard) + 1
    total = sum(shard.size for shard in dataset.shards)
    return min(total, 2 * lanes * spanned * largest)
