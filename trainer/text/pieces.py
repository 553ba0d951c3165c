"""What is computed of a dataset piece by piece: made once, checked, never made again.

    <out>/<folder>/<key>/000000.json                 written last: without it there is no piece
    <out>/<folder>/<key>/000000-<16 digits>.npy      an array, named by its SHA-256

<key> names all that the arrays depend on, so a changed setting begins anew beside the old pieces.
Arrays are named by what they hold, so two that make the same piece never mix theirs.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.shards import Dataset, DatasetError
from trainer.storage import NotFound, open_store

FORMAT = "pieces/1"

PIECE_SAMPLES = 8192
"""Samples of a piece, or a shard more: a killed process loses no more; enough to sort by length."""

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Span:
    """The samples of one piece: neighbouring shards, the same in every run whatever its size."""

    number: int
    shards: range
    first: int
    """The first id."""
    rows: int

    @property
    def ids(self) -> slice:
        return slice(self.first, self.first + self.rows)


def spans(dataset: Dataset) -> list[Span]:
    """The dataset in pieces."""
    found: list[Span] = []
    start, first, rows = 0, 0, 0
    for number, shard in enumerate(dataset.shards):
        rows += shard.num_samples
        if rows >= PIECE_SAMPLES or number == len(dataset.shards) - 1:
            found.append(Span(len(found), range(start, number + 1), first, rows))
            start, first, rows = number + 1, first + rows, 0
    return found


class Pieces:
    """The pieces of one dataset made in one way."""

    def __init__(self, out: str, folder: str, made_of: Sequence[Any]) -> None:
        """made_of: everything that the arrays depend on, as JSON has it."""
        told = json.dumps([FORMAT, *made_of], sort_keys=True)
        self._store = open_store(out)
        self._prefix = f"{folder}/{hashlib.sha256(told.encode()).hexdigest()[:16]}"

    def missing(self, spans: Sequence[Span]) -> list[Span]:
        """Which of these have not been made yet."""
        there = {entry.key for entry in self._store.list(f"{self._prefix}/")}
        return [span for span in spans if self._manifest(span.number) not in there]

    def keep(self, span: Span, arrays: Arrays) -> None:
        """Writes a piece; the same piece of another writer may be there already."""
        number, described = span.number, {}
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array, allow_pickle=False)
            data = content.getvalue()
            sha256 = hashlib.sha256(data).hexdigest()
            described[name] = sha256
            self._store.put(self._array(number, sha256), data)
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
        return f"{self._prefix}/{number:06d}.json"

    def _array(self, number: int, sha256: str) -> str:
        return f"{self._prefix}/{number:06d}-{sha256[:16]}.npy"

    def _checked(self, number: int, sha256: str) -> NDArray[Any]:
        content = self._store.get(self._array(number, sha256))
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ValueError("an array has another SHA-256")
        array: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
        return array
