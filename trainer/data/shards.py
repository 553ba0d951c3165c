"""A packed dataset: manifest, shards and index, opened and checked. Not for reading samples.

    <dataset>/manifest.json                   written last: no manifest, no dataset
    <dataset>/<attempt>/index.npy             a row a sample, row number = id; see INDEX
    <dataset>/<attempt>/000000.tar            WebDataset shard: %010d.jpg and %010d.cls a sample
    <dataset>/<attempt>/000000.texts.jsonl    the shard's texts, one JSON line a sample

An attempt is one packer's folder, so two packers never write over each other's shards.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from trainer.data.fetch import NodeCache, difference
from trainer.storage import NotFound, Store, open_store

FORMAT = "shards/1"
MANIFEST = "manifest.json"
MOST = (1 << 63) - 1
"""The largest count or size that a manifest may hold."""

INDEX = np.dtype(
    [
        ("shard", "<u4"),
        ("offset", "<u8"),  # of the image's first byte in the shard
        ("length", "<u4"),  # bytes
        ("label", "<u4"),  # the truth; the shard's .cls is for other tools; 0 where unlabelled
        ("crc32", "<u4"),  # of the image's bytes
    ]
)
"""A row of the index, 24 bytes without padding."""


class DatasetError(ValueError):
    """A dataset is absent or damaged: one line naming file and field."""


@dataclass(frozen=True)
class Object:
    """A file of the dataset, as its manifest describes it."""

    key: str
    size: int
    """In bytes."""
    sha256: str


@dataclass(frozen=True)
class Shard(Object):
    """A tar file of samples."""

    num_samples: int
    texts: Object | None = None
    """Its samples' texts, a JSON line each; None where the packer kept none."""


@dataclass(frozen=True)
class Dataset:
    """A checked dataset. Picklable and small: the index stays a file, each process maps it."""

    address: str
    sha256: str
    """Of the manifest's bytes: it names the dataset, shards and labels included."""
    num_samples: int
    num_classes: int
    classes: tuple[str, ...]
    """Synset lines such as `n01440764 tench, Tinca tinca`; empty if the packer knew none."""
    shards: tuple[Shard, ...]
    index_path: Path
    labelled: bool = True
    """False: packed from a test list; its labels are zeros."""

    def index(self) -> NDArray[Any]:
        """The rows of INDEX by sample id, mapped read-only. Not to be pickled: that copies it."""
        mapped: NDArray[Any] = np.lib.format.open_memmap(self.index_path, mode="r")
        return mapped


def open_dataset(address: str, cache_dir: Path, *, labelled: bool = True) -> Dataset:
    """The dataset of an address, its manifest and index checked.

    A folder's index is used in place; a bucket's is fetched once a node into `cache_dir`.
    labelled: one without labels, packed from a test list, is refused.
    Raises DatasetError, or StorageError where the store cannot be asked.
    """
    store = open_store(address)
    where = f"{store.address}/{MANIFEST}"
    try:
        content = store.get(MANIFEST)
    except NotFound as error:
        raise DatasetError(
            f"no dataset at {store.address}: it has no {MANIFEST}; make one with "
            "python -m trainer.pack"
        ) from error
    fields = _Fields(where, _object(content, where))
    if fields.take("format", str) != FORMAT:
        raise DatasetError(
            f"format in {where} is {_short(fields.of['format'])}; allowed is {FORMAT!r}"
        )
    has_labels = bool(fields.of.get("labelled", True))
    if labelled and not has_labels:
        raise DatasetError(
            f"{store.address} was packed from a test list, which tells no labels; give a dataset"
            " that was packed with --split train or val"
        )
    shards = tuple(_shard(fields.entry(i)) for i in range(len(fields.take("shards", list))))
    num_samples = fields.count("num_samples")
    if sum(shard.num_samples for shard in shards) != num_samples:
        raise DatasetError(
            f"num_samples in {where} is {num_samples}, but its shards have "
            f"{sum(shard.num_samples for shard in shards)}"
        )
    num_classes = fields.count("num_classes")
    classes = fields.strings("classes")
    if classes and len(classes) != num_classes:
        raise DatasetError(
            f"classes in {where} has {len(classes)} names, but num_classes is {num_classes}"
        )
    index_path = _index(store, fields.inner("index").object(), cache_dir)
    sha256 = hashlib.sha256(content).hexdigest()
    dataset = Dataset(
        store.address, sha256, num_samples, num_classes, classes, shards, index_path, has_labels
    )
    _check_index(dataset, f"{store.address}/{fields.of['index']['key']}")
    _check_local_shards(store, shards)
    return dataset


def _object(content: bytes, where: str) -> dict[str, Any]:
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{where} is not valid JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise DatasetError(f"{where} is {_short(parsed)}, but it must be an object")
    return parsed


_T = TypeVar("_T")


@dataclass(frozen=True)
class _Fields:
    """An object of the manifest whose fields are taken with their type checked."""

    where: str
    of: dict[str, Any]
    path: str = ""

    def take(self, name: str, kind: type[_T]) -> _T:
        if name not in self.of:
            raise DatasetError(f"{self.path}{name} is missing in {self.where}")
        value = self.of[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise DatasetError(
                f"{self.path}{name} in {self.where} is {_short(value)}, "
                f"but it must be {_WORDS[kind]}"
            )
        return value

    def count(self, name: str) -> int:
        value = self.take(name, int)
        if not 1 <= value <= MOST:
            raise DatasetError(
                f"{self.path}{name} in {self.where} is {_short(value)}, "
                f"but it must be from 1 to {MOST}"
            )
        return value

    def strings(self, name: str) -> tuple[str, ...]:
        for number, value in enumerate(self.take(name, list)):
            if not isinstance(value, str):
                raise DatasetError(
                    f"{self.path}{name}[{number}] in {self.where} is {_short(value)}, "
                    "but it must be a string"
                )
        return tuple(self.of[name])

    def inner(self, name: str) -> _Fields:
        return _Fields(self.where, self.take(name, dict), f"{self.path}{name}.")

    def entry(self, number: int) -> _Fields:
        value = self.of["shards"][number]
        path = f"shards[{number}]"
        if not isinstance(value, dict):
            raise DatasetError(
                f"{path} in {self.where} is {_short(value)}, but it must be an object"
            )
        return _Fields(self.where, value, f"{path}.")

    def object(self) -> Object:
        key, sha256 = self.take("key", str), self.take("sha256", str)
        if "\0" in key or any(part in ("", ".", "..") for part in key.split("/")):
            raise DatasetError(
                f"{self.path}key in {self.where} is {_short(key)}, but it must be a relative path"
            )
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise DatasetError(
                f"{self.path}sha256 in {self.where} is {_short(sha256)}, "
                "but it must be 64 hexadecimal digits"
            )
        return Object(key, self.count("size"), sha256)


_WORDS: dict[type, str] = {
    str: "a string",
    int: "a whole number",
    list: "a list",
    dict: "an object",
}


def _short(value: object) -> str:
    return repr(value)[:60]


def _shard(fields: _Fields) -> Shard:
    described = fields.object()
    texts = fields.inner("texts").object() if "texts" in fields.of else None
    count = fields.count("num_samples")
    return Shard(described.key, described.size, described.sha256, count, texts)


def _index(store: Store, described: Object, cache_dir: Path) -> Path:
    """The index as a local file whose size and SHA-256 were checked."""
    address = f"{store.address}/{described.key}"
    path = store.local(described.key)
    if path is None:
        # In a folder of its own, without a bound: shards must not push out what is mapped.
        cache = NodeCache(cache_dir / "indexes", limit_bytes=1 << 62)
        try:
            os.close(cache.open(store, described.key, described.size, described.sha256))
        except NotFound as error:
            raise DatasetError(
                f"the index {address} is missing, but the manifest names it"
            ) from error
        return cache.path(described.sha256)
    try:
        problem = difference(path, described.size, described.sha256)
    except OSError as error:
        reason = (error.strerror or "unreadable").lower()
        raise DatasetError(f"cannot read the index {address}: {reason}") from error
    if problem:
        raise DatasetError(f"the index {address} {problem}; pack the dataset again")
    return path


def _check_index(dataset: Dataset, address: str) -> None:
    """Refuses rows that point outside of the shards or classes."""
    try:
        index = dataset.index()
    except (ValueError, OSError, EOFError, OverflowError, TokenError) as error:
        # numpy reads the header as Python, and its own words advise to trust the file.
        raise DatasetError(f"the index {address} is not a .npy file of plain columns") from error
    if index.dtype != INDEX:
        raise DatasetError(
            f"the index {address} has the columns {_short(index.dtype.descr)}, "
            f"but it must have {INDEX.descr}"
        )
    if index.shape != (dataset.num_samples,):
        raise DatasetError(
            f"the index {address} has the shape {index.shape}, "
            f"but the manifest's num_samples is {dataset.num_samples}"
        )
    sizes = np.array([shard.size for shard in dataset.shards], dtype=np.uint64)
    shard = index["shard"]
    _refuse(shard >= len(sizes), "shard", shard, address, f"below {len(sizes)}")
    _refuse(
        index["label"] >= dataset.num_classes,
        "label",
        index["label"],
        address,
        f"below {dataset.num_classes}",
    )
    offset, room = index["offset"], sizes[shard]
    _refuse(offset > room, "offset", offset, address, "inside of its shard")
    _refuse(index["length"] > room - offset, "length", index["length"], address, "inside its shard")
    counts = np.bincount(shard, minlength=len(sizes))
    for number, described in enumerate(dataset.shards):
        if counts[number] != described.num_samples:
            raise DatasetError(
                f"the index {address} has {counts[number]} samples in shard {described.key}, "
                f"but the manifest says {described.num_samples}"
            )


def _refuse(wrong: NDArray[Any], column: str, values: NDArray[Any], where: str, rule: str) -> None:
    if wrong.any():
        row = int(wrong.argmax())
        raise DatasetError(
            f"{column} of sample {row} in the index {where} is {values[row]}, but it must be {rule}"
        )


def _check_local_shards(store: Store, shards: tuple[Shard, ...]) -> None:
    """Refuses shards that are absent or cut. A bucket's are checked when they are fetched."""
    for shard in shards:
        if store.local(shard.key) is None:
            return
        try:
            size = store.size(shard.key)
        except NotFound as error:
            raise DatasetError(
                f"shard {store.address}/{shard.key} is missing, but the manifest names it"
            ) from error
        if size != shard.size:
            raise DatasetError(
                f"shard {store.address}/{shard.key} has {size:,} bytes, "
                f"but the manifest says {shard.size:,}"
            )
