"""What is computed of a dataset piece by piece: made once, checked, never made again.

    <output>/<folder>/<key>/000000.json                 written last: without it there is no piece
    <output>/<folder>/<key>/000000-<16 digits>.npy      an array, named by its SHA-256

<key> names all that the arrays depend on, so a changed setting begins anew beside the old pieces.
Arrays are named by what they hold, so two that make the same piece never mix theirs.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.config import RUN_INDEX, RUN_INDEXES, ConfigError
from trainer.data.shards import Dataset, DatasetError
from trainer.storage import Exists, NotFound, Store, open_store
from trainer.storage.interface import PART_BYTES

FORMAT = "pieces/1"

PIECE_SAMPLES = 8192
"""Samples of a piece, or a shard more: a killed process loses no more; enough to sort by length."""

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Span:
    """The samples of one piece: neighbours, the same in every run whatever its size."""

    number: int
    first: int
    """The first id."""
    rows: int
    shards: range = range(0)
    """Those that it is made of, if it is of whole ones."""

    @property
    def ids(self) -> slice:
        return slice(self.first, self.first + self.rows)


def spans_of(num_samples: int, rows: int) -> list[Span]:
    """So many samples in pieces of so many rows, but for the last."""
    firsts = range(0, num_samples, rows)
    return [Span(i, first, min(rows, num_samples - first)) for i, first in enumerate(firsts)]


def spans(dataset: Dataset) -> list[Span]:
    """The dataset in pieces of whole shards."""
    found: list[Span] = []
    start, first, rows = 0, 0, 0
    for number, shard in enumerate(dataset.shards):
        rows += shard.num_samples
        if rows >= PIECE_SAMPLES or number == len(dataset.shards) - 1:
            found.append(Span(len(found), first, rows, range(start, number + 1)))
            start, first, rows = number + 1, first + rows, 0
    return found


def share(every: Sequence[Span]) -> Sequence[Span]:
    """Those of this process: of RUN_INDEXES processes it is the one of its RUN_INDEX."""
    index, count = _place()
    return every[index * len(every) // count : (index + 1) * len(every) // count]


def _place() -> tuple[int, int]:
    """This process's index and how many there are."""
    index, count = (
        os.environ.get(name, default) for name, default in ((RUN_INDEX, "0"), (RUN_INDEXES, "1"))
    )
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise ConfigError(
            f"{RUN_INDEX} is {index!r} and {RUN_INDEXES} {count!r}; the first must be a number"
            " below the second"
        )
    return int(index), int(count)


def agreed(store: Store, key: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Writes a JSON object that several processes share, or gives what another has written."""
    try:
        store.create(key, (json.dumps(record, indent=1) + "\n").encode())
    except Exists:
        return recorded(store, key)
    return dict(record)


def recorded(store: Store, key: str) -> dict[str, Any]:
    """A JSON object. Raises NotFound, DatasetError where it is none."""
    content = store.get(key)
    try:
        found = json.loads(content)
    except ValueError as error:
        raise DatasetError(f"{store.address}/{key} is not JSON; remove it") from error
    if not isinstance(found, dict):
        raise DatasetError(f"{store.address}/{key} is not a JSON object; remove it")
    return found


def keep_array(store: Store, key: str, array: NDArray[Any]) -> str:
    """Writes a .npy object without a copy of the array; gives its SHA-256."""
    head, body = _as_npy(array)
    _upload(store, key, head, body)
    return _sha256(head, body)


def _as_npy(array: NDArray[Any]) -> tuple[bytes, memoryview]:
    """Header and data of a .npy file."""
    whole = np.ascontiguousarray(array)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(whole))
    return head.getvalue(), whole.reshape(-1).view(np.uint8).data


def _sha256(head: bytes, body: memoryview) -> str:
    whole = hashlib.sha256(head)
    whole.update(body)
    return whole.hexdigest()


def _upload(store: Store, key: str, head: bytes, body: memoryview) -> None:
    chunks = (body[start : start + PART_BYTES] for start in range(0, len(body), PART_BYTES))
    store.upload(key, [head, *chunks], len(head) + len(body))


class Pieces:
    """The pieces of one dataset made in one way."""

    def __init__(self, out: str, prefix: str) -> None:
        """prefix: where they are, under the output."""
        self.prefix = prefix
        self._store = open_store(out)

    @classmethod
    def of(cls, out: str, folder: str, made_of: Sequence[Any]) -> Pieces:
        """made_of: everything that the arrays depend on, as JSON has it."""
        told = json.dumps([FORMAT, *made_of], sort_keys=True)
        return cls(out, f"{folder}/{hashlib.sha256(told.encode()).hexdigest()[:16]}")

    def missing(self, spans: Sequence[Span]) -> list[Span]:
        """Which of these have not been made yet."""
        there = {entry.key for entry in self._store.list(f"{self.prefix}/")}
        return [span for span in spans if self._manifest(span.number) not in there]

    def keep(self, span: Span, arrays: Arrays) -> None:
        """Writes a piece; the same piece of another writer may be there already."""
        number, described = span.number, {}
        for name, array in arrays.items():
            head, body = _as_npy(array)
            described[name] = _sha256(head, body)
            _upload(self._store, self._array(number, described[name]), head, body)
        manifest = {"format": FORMAT, "piece": number, "arrays": described}
        self._store.put(self._manifest(number), json.dumps(manifest).encode())

    def read(self, span: Span) -> dict[str, NDArray[Any]]:
        """The arrays of a piece, a row a sample. Raises DatasetError where they are not."""
        number, rows = span.number, span.rows
        where = f"{self._store.address}/{self._manifest(number)}"
        try:
            manifest = self._store.get(self._manifest(number))
        except NotFound as error:
            raise DatasetError(f"the piece {where} is missing ({error}); run it again") from error
        try:
            described = json.loads(manifest)["arrays"]
            arrays = {name: self._checked(number, sha) for name, sha in described.items()}
        except (NotFound, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DatasetError(
                f"the piece {where} is damaged ({error}); remove that file and run it again"
            ) from error
        if any(array.shape[:1] != (rows,) for array in arrays.values()):
            raise DatasetError(f"the piece {where} has not {rows} rows; remove that file")
        return arrays

    def _manifest(self, number: int) -> str:
        return f"{self.prefix}/{number:06d}.json"

    def _array(self, number: int, sha256: str) -> str:
        return f"{self.prefix}/{number:06d}-{sha256[:16]}.npy"

    def _checked(self, number: int, sha256: str) -> NDArray[Any]:
        content = self._store.get(self._array(number, sha256))
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ValueError("an array has another SHA-256")
        array: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
        return array
