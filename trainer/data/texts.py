"""The texts of web images: metadata files joined with the lists, kept in a spool file.

A metadata file is a JSON array, one a query. A list gives each image the file and the row; that
the row is really of this image, its `id` tells. Any field may be missing, empty or of another type.
The spool holds one JSON record a sample, so that 16 million texts need no memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data import raw


@dataclass(frozen=True)
class Spool:
    """Records by sample number, over all parts: name, query, title, description, tags."""

    path: Path
    starts: NDArray[np.int64]
    """Byte at which each sample's record begins."""
    lengths: NDArray[np.int64]
    """Bytes of each record."""
    mismatched: list[tuple[str, str]]
    """Images whose row is of another image, with the reason; their texts were sought by id."""
    unreadable: list[tuple[str, str]]
    """Metadata files that could not be read, with the reason; their images have no texts."""

    def records(self, order: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
        """The records of the samples in this order."""
        with open(self.path, "rb", buffering=0) as file:
            for start, length in zip(self.starts[order], self.lengths[order], strict=True):
                record: dict[str, Any] = json.loads(os.pread(file.fileno(), length, start))
                yield record


def join(folder: Path, parts: list[raw.Part], path: Path) -> Spool:
    """Writes each sample's record to the new file `path`."""
    total = sum(len(part.names) for part in parts)
    spool = Spool(path, np.zeros(total, np.int64), np.zeros(total, np.int64), [], [])
    queries: dict[str, dict[int, str]] = {s: raw.queries(folder, s) for s in raw.SOURCES}
    first = 0
    with open(path, "wb") as file:
        for part in parts:
            # Lists may be shuffled; grouped by file, each metadata file is read once.
            for meta, members in _by_file(part.metas):
                texts = _Texts.read(folder, meta) if meta else None
                if texts and texts.problem:
                    spool.unreadable.append((meta, texts.problem))
                for i in members:
                    name = part.names[i]
                    entry: dict[str, Any] = {}
                    if texts and not texts.problem:
                        entry, problem = texts.find(name, int(part.rows[i]))
                        if problem:
                            spool.mismatched.append((name, problem))
                    words = queries.get(raw.source_of(name), {})
                    query = words.get(raw.query_number(name), "")
                    line = _record(name, query, entry)
                    spool.starts[first + i], spool.lengths[first + i] = file.tell(), len(line)
                    file.write(line)
            first += len(part.names)
    return spool


def _by_file(metas: list[str]) -> Iterator[tuple[str, list[int]]]:
    groups: dict[str, list[int]] = {}
    for i, meta in enumerate(metas):
        groups.setdefault(meta, []).append(i)
    yield from groups.items()


def _record(name: str, query: str, entry: dict[str, Any]) -> bytes:
    record = {
        "name": name,
        "query": query,
        "title": _text(entry.get("title")),
        "description": _text(entry.get("description")),
        "tags": _tags(entry.get("tags")),
    }
    # Half of a surrogate pair, which JSON may hold, is no UTF-8: it becomes "?".
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "replace")


def _text(value: Any) -> str:
    if value is None:
        return ""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _tags(value: Any) -> list[str]:
    """Tags come as a list, or as a string with commas or spaces between them."""
    if isinstance(value, list):
        return [str(tag) for tag in value if tag]
    text = _text(value)
    parts = text.split(",") if "," in text else text.split()
    return [tag.strip() for tag in parts if tag.strip()]


@dataclass
class _Texts:
    """One metadata file."""

    meta: str
    entries: list[Any]
    problem: str = ""
    """Why the file could not be read."""
    by_id: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, meta: str) -> _Texts:
        source, _, rest = meta.partition("/")
        # Some unpack the metadata to a folder of its own, as both may not fit in one.
        places = (folder / meta, folder / f"{source}_json" / rest, folder / "info" / meta)
        try:
            path = next((place for place in places if place.exists()), folder / meta)
            content = path.read_bytes().decode("utf-8-sig", "replace")
            entries = json.loads(content)
        except OSError as error:
            return cls(meta, [], (error.strerror or "unreadable").lower())
        except (ValueError, RecursionError) as error:
            return cls(meta, [], f"not valid JSON: {error}")
        if not isinstance(entries, list):
            return cls(meta, [], f"not a JSON array, but {type(entries).__name__}")
        return cls(meta, entries)

    def find(self, name: str, row: int) -> tuple[dict[str, Any], str]:
        """The image's entry ({} if there is none), and what was wrong with its row."""
        stem = os.path.splitext(os.path.basename(name))[0]
        there = self.entries[row - 1] if 1 <= row <= len(self.entries) else None
        if isinstance(there, dict) and str(there.get("id")) == stem:
            return there, ""
        if not self.by_id:
            self.by_id = {str(e.get("id")): e for e in self.entries if isinstance(e, dict)}
        entry = self.by_id.get(stem, {})
        if row == raw.UNKNOWN_ROW:
            return entry, "" if entry else f"no entry of {self.meta} has its id"
        if not 1 <= row <= len(self.entries):
            return entry, f"row {row} of {self.meta}, whose rows are 1 to {len(self.entries)}"
        found = there.get("id") if isinstance(there, dict) else None
        return entry, f"row {row} of {self.meta} is of {repr(found)[:80]}"
