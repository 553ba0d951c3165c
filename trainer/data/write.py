"""Writing a dataset: samples to tar shards, texts and index, then the manifest. See shards.py."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tarfile
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from trainer.data.shards import FORMAT, INDEX, MANIFEST
from trainer.storage import StorageError, Store

BLOCK = 512
"""Members of a tar file begin at multiples of this many bytes."""

Described = dict[str, Any]


class Writer:
    """A new dataset. Shards are uploaded beside the filling of the next one."""

    def __init__(self, store: Store, shard_bytes: int, most_samples: int) -> None:
        self.num_samples = 0
        self.num_bytes = 0
        self._store = store
        self._attempt = uuid.uuid4().hex[:16]
        self._shard_bytes = shard_bytes
        self._index = np.zeros(most_samples, INDEX)
        self._shards: list[Described] = []
        self._begin_shard()
        self._pool = ThreadPoolExecutor(1, "shard-upload")
        self._upload: Future[None] | None = None
        self._may_be_committed = False

    def _begin_shard(self) -> None:
        self._chunks: list[bytes] = []
        self._texts: list[bytes] = []
        self._size = 0

    def add(self, image: bytes, crc32: int, label: int, texts: dict[str, Any]) -> None:
        """Appends a sample; its id is the number of samples before it."""
        members = (("jpg", image), ("cls", b"%d" % label))
        size = sum(BLOCK + len(data) + _padding(len(data)) for _, data in members)
        if self._texts and self._size + size + 2 * BLOCK > self._shard_bytes:
            self._end_shard()
        row = (len(self._shards), self._size + BLOCK, len(image), label, crc32)
        self._index[self.num_samples] = row
        for suffix, data in members:
            header = tarfile.TarInfo(f"{self.num_samples:010d}.{suffix}")
            header.size = len(data)
            self._chunks += header.tobuf(tarfile.USTAR_FORMAT), data, bytes(_padding(len(data)))
        record = {"id": self.num_samples, **texts}
        self._texts.append(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        self._size += size
        self.num_samples += 1

    def _end_shard(self) -> None:
        """Hands the shard to the upload, one at a time, so that memory holds two at most."""
        if self._upload is not None:
            self._upload.result()
        self._chunks.append(bytes(2 * BLOCK))
        size = self._size + 2 * BLOCK
        self.num_bytes += size
        number = len(self._shards)
        self._shards.append({"num_samples": len(self._texts)})
        self._upload = self._pool.submit(
            self._send, self._shards[number], f"{number:06d}", self._chunks, size, self._texts
        )
        self._begin_shard()

    def _send(
        self, described: Described, name: str, chunks: list[bytes], size: int, texts: list[bytes]
    ) -> None:
        described |= self._put(f"{name}.tar", chunks, size)
        described["texts"] = self._put(f"{name}.texts.jsonl", texts, sum(map(len, texts)))

    def _put(self, name: str, chunks: list[bytes], size: int) -> Described:
        digest = hashlib.sha256()
        for chunk in chunks:
            digest.update(chunk)
        key = f"{self._attempt}/{name}"
        self._store.upload(key, chunks, size)
        return {"key": key, "size": size, "sha256": digest.hexdigest()}

    def commit(
        self, classes: tuple[str, ...], source: dict[str, Any], *, labelled: bool = True
    ) -> str:
        """Ends the last shard and writes index and manifest; gives the dataset's SHA-256.

        labelled: whether the labels are what somebody said, and not zeros.

        Raises Exists if another packer's manifest is there already.
        """
        self._end_shard()
        assert self._upload is not None
        self._upload.result()
        rows = io.BytesIO()
        np.lib.format.write_array(rows, self._index[: self.num_samples], allow_pickle=False)
        content = rows.getvalue()
        manifest = {
            "format": FORMAT,
            "num_samples": self.num_samples,
            "num_classes": len(classes),
            "classes": classes,
            **({} if labelled else {"labelled": False}),
            "source": source,
            "index": self._put("index.npy", [content], len(content)),
            "shards": self._shards,
        }
        data = json.dumps(manifest, ensure_ascii=False, indent=1).encode()
        self._may_be_committed = True
        self._store.create(MANIFEST, data)
        return hashlib.sha256(data).hexdigest()

    def close(self, *, keep: bool) -> None:
        """Ends the upload thread; removes what was written, unless to be kept or committed."""
        self._pool.shutdown(cancel_futures=True)
        if keep:
            return
        with contextlib.suppress(StorageError):
            # After a lost answer the manifest may stand: nothing that it names may go.
            if self._may_be_committed and self._attempt.encode() in self._store.get(MANIFEST):
                return
            for entry in self._store.list(f"{self._attempt}/"):
                self._store.remove(entry.key)


def _padding(size: int) -> int:
    return -size % BLOCK
