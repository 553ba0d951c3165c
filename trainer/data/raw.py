"""WebVision as it is downloaded: lists, queries and texts of the 1.0 and 2.0 layouts.

                   1.0 (2017)                          2.0 (2018-2020)
    images         google/q0001/<id>.jpg               google_images_resized/q00001/<id>.jpg
    validation     val_images_256/val000001.jpg        val_images_resized/val000001.jpg
    texts          google/q0001.json                   google/q00001.json
    queries        info/queries_google.txt             info/queries.txt
    its classes    info/queries_synsets_map.txt        the same, mostly counting classes from 0

and in both info/{train_filelist,train_meta_list}_<source>.txt, val_filelist.txt, synsets.txt.
The test list names images alone: info/test_filelist.txt, of the folder test_images_resized.
Labels count from 0, queries and rows of the texts from 1; the base of queries_synsets_map.txt is
found by comparing with the lists. The labels of the lists are the truth.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "val", "test"]
Source = Literal["all", "google", "flickr"]
SOURCES: tuple[Source, ...] = ("google", "flickr")
FOLDERS = {"{}_images_256": "1.0", "{}_images_resized": "2.0", "{}_images": "2.0"}
"""Of the images that are checked or tested on, and the layout that has them there."""
UNKNOWN_ROW = -1
"""Where no list tells a sample's row."""
_NUMBER = re.compile("[0-9]{1,9}")  # what is read goes into arrays of 32 and 64 bits


class RawError(ValueError):
    """The raw folder is not WebVision, or a list in it is wrong: one line naming file and line."""


@dataclass
class Part:
    """The samples of one file list, whether or not their images are there and good."""

    source: str
    """google, flickr, all, val or test."""
    layout: str
    """1.0 or 2.0."""
    names: list[str]
    """Image paths below the raw folder, as the list has them."""
    labels: NDArray[np.uint32]
    """Zeros for the test list, which tells none."""
    metas: list[str]
    """Metadata file of each sample, below the raw folder; empty: it has no texts."""
    rows: NDArray[np.int64]
    """Row of each sample in its metadata file, from 1; UNKNOWN_ROW: to be sought by id."""

    def keep_below(self, num_classes: int) -> None:
        """Drops the samples of other classes."""
        keep = np.flatnonzero(self.labels < num_classes)
        if len(keep) < len(self.names):
            self.names = [self.names[i] for i in keep]
            self.metas = [self.metas[i] for i in keep]
            self.labels, self.rows = self.labels[keep], self.rows[keep]


def read_lists(
    folder: Path, split: Split, source: Source = "all", num_classes: int = 0
) -> tuple[list[Part], tuple[str, ...]]:
    """The samples of a split by file list, and the classes' lines of synsets.txt.

    num_classes: keeps the first so many classes only, of a test list all images; 0 keeps all.
    Raises RawError.
    """
    if not (folder / "info").is_dir():
        raise RawError(
            f"{folder} is not WebVision's layout: it has no folder info/ with the file lists"
        )
    classes = _synsets(folder / "info/synsets.txt")
    if not num_classes <= len(classes):
        raise RawError(
            f"--classes is {num_classes}, but {folder}/info/synsets.txt has {len(classes)}"
        )
    if split == "val":
        names, labels = _file_list(_list_of(folder, "val"), len(classes))
        parts = [_part_of(folder, "val", names, labels)]
    elif split == "test":
        names = _names(_list_of(folder, "test"))
        parts = [_part_of(folder, "test", names, np.zeros(len(names), np.uint32))]
    else:
        parts = [_train_part(folder, name, len(classes)) for name in _lists(folder, source)]
    if num_classes:
        classes = classes[:num_classes]
        for part in parts:
            part.keep_below(num_classes)
    return parts, classes


def _synsets(path: Path) -> tuple[str, ...]:
    """Line i is class i, so a blank line between others would move all that follow it."""
    classes = []
    for number, line in _lines(path):
        classes.append(line)
        if number != len(classes):
            raise RawError(f"{path} line {len(classes)} is blank, but each line must be a class")
    return tuple(classes)


def _lists(folder: Path, source: Source) -> list[str]:
    """The lists to read; for `all` google's and flickr's: 2.0 has no meta list of both together."""
    if source != "all":
        return [source]
    single = [name for name in SOURCES if _list_path(folder, name).exists()]
    combined = _list_path(folder, "all")
    if not single or (len(single) == 1 and combined.exists()):
        return ["all"]
    if combined.exists():
        in_all = sum(1 for _ in _lines(combined))
        in_each = sum(1 for name in single for _ in _lines(_list_path(folder, name)))
        if in_all != in_each:
            raise RawError(
                f"{combined} has {in_all} lines, but the lists of google and flickr {in_each} "
                "together; pack one with --source, or repair them"
            )
    return list(single)


def _list_path(folder: Path, source: str) -> Path:
    return folder / f"info/train_filelist_{source}.txt"


def _train_part(folder: Path, source: str, num_classes: int) -> Part:
    path = _list_path(folder, source)
    names, labels = _file_list(path, num_classes)
    first = names[0].partition("/")[0] if names else ""
    meta_list = folder / f"info/train_meta_list_{source}.txt"
    if meta_list.exists():
        metas, rows = _meta_list(meta_list)
        if len(metas) != len(names):
            raise RawError(
                f"{meta_list} has {len(metas)} lines, but {path} has {len(names)}; "
                "line by line they must be of the same images"
            )
    else:
        metas, rows = [_meta_of(name) for name in names], _unknown(len(names))
    layout = "2.0" if first.endswith("_images_resized") else "1.0"
    return Part(source, layout, names, labels, metas, rows)


def _list_of(folder: Path, split: str) -> Path:
    """The list of validation or test; 2.0's download puts it above info/."""
    path, above = folder / f"info/{split}_filelist.txt", folder / f"{split}_filelist.txt"
    return above if above.exists() and not path.exists() else path


def _part_of(folder: Path, split: str, names: list[str], labels: NDArray[np.uint32]) -> Part:
    """The images of a list that names them below their folder."""
    folders = {name.format(split): layout for name, layout in FOLDERS.items()}
    images = next((name for name in folders if (folder / name).is_dir()), None)
    if images is None:
        words = "validation" if split == "val" else split
        raise RawError(f"{folder} has no {words} images: none of {', '.join(folders)}")
    names = [f"{images}/{name}" for name in names]
    return Part(split, folders[images], names, labels, [""] * len(names), _unknown(len(names)))


def _names(path: Path) -> list[str]:
    """The images of a test list, in its order, which is a submission's."""
    names: dict[str, int] = {}
    for number, line in _lines(path):
        if not _inside(line) or len(line.split()) != 1:
            raise RawError(f"{path} line {number} is {line[:80]!r}, but it must be an image's path")
        if line in names:
            raise RawError(f"{path} line {number} is {line[:80]!r}, as line {names[line]} is")
        names[line] = number
    if not names:
        raise RawError(f"{path} is empty; it must name at least one image")
    return list(names)


def _unknown(count: int) -> NDArray[np.int64]:
    return np.full(count, UNKNOWN_ROW, np.int64)


def _file_list(path: Path, num_classes: int) -> tuple[list[str], NDArray[np.uint32]]:
    names, labels = [], []
    for number, line in _lines(path):
        name, _, label = line.replace("\t", " ").rpartition(" ")
        name = name.strip()
        if not _inside(name) or not _is_number(label):
            raise RawError(
                f"{path} line {number} is {line[:80]!r}, but it must be an image's path and a label"
            )
        if int(label) >= num_classes:
            raise RawError(
                f"{path} line {number} has the label {label}, but synsets.txt has {num_classes} "
                f"classes: allowed is 0 to {num_classes - 1}"
            )
        names.append(name)
        labels.append(int(label))
    if not names:
        raise RawError(f"{path} is empty; it must name at least one image")
    return names, np.array(labels, np.uint32)


def _meta_list(path: Path) -> tuple[list[str], NDArray[np.int64]]:
    metas, rows = [], []
    once: dict[str, str] = {}  # one string object a file, not a line
    for number, line in _lines(path):
        meta, _, row = line.replace("\t", " ").rpartition(" ")
        meta = meta.strip()
        if not _inside(meta) or not _is_number(row):
            raise RawError(
                f"{path} line {number} is {line[:80]!r}, "
                "but it must be a metadata file's path and a row"
            )
        metas.append(once.setdefault(meta, meta))
        rows.append(int(row))
    return metas, np.array(rows, np.int64)


def _inside(name: str) -> bool:
    """Whether it is a path that does not lead out of the raw folder."""
    return name[:1] not in ("", "/") and ".." not in name.split("/") and "\0" not in name


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None


def _meta_of(name: str) -> str:
    """google_images_resized/q00932/x.jpg -> google/q00932.json"""
    return f"{source_of(name)}/{name.partition('/')[2].partition('/')[0]}.json"


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1."""
    try:
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.strip()
    except OSError as error:
        reason = (error.strerror or "unreadable").lower()
        raise RawError(f"cannot read {path}: {reason}") from error


def query_number(name: str) -> int:
    """google/q0012/x.jpg -> 12; 0 where no folder says so."""
    folder = os.path.basename(os.path.dirname(name))
    return int(folder[1:]) if folder[:1] == "q" and _is_number(folder[1:]) else 0


def source_of(name: str) -> str:
    """google_images_resized/q00932/x.jpg -> google"""
    return name.partition("/")[0].removesuffix("_images_resized")


def queries(folder: Path, source: str) -> dict[int, str]:
    """Query number -> its words. 2.0 has one list for both sources."""
    info = folder / "info"
    lists = (info / "queries.txt", info / f"queries_{source}.txt")
    found = {}
    for path in filter(Path.exists, lists):
        for number, line in _lines(path):
            query, _, words = line.replace("\t", " ").partition(" ")
            if not _is_number(query):
                raise RawError(
                    f"{path} line {number} is {line[:80]!r}, but it must begin with a number"
                )
            found[int(query)] = words.strip().replace("+", " ")
    return found


def against_queries(folder: Path, parts: list[Part]) -> Iterator[tuple[str, str]]:
    """Images whose label is not the class that queries_synsets_map.txt gives their query."""
    path = folder / "info/queries_synsets_map.txt"
    if not path.exists():
        return
    classes: dict[int, set[int]] = {}
    for number, line in _lines(path):
        fields = line.split()
        if len(fields) != 2 or not all(map(_is_number, fields)):
            raise RawError(f"{path} line {number} is {line[:80]!r}, but it must be two numbers")
        classes.setdefault(int(fields[0]), set()).add(int(fields[1]))
    numbers = [np.array([query_number(n) for n in part.names], np.int64) for part in parts]
    query_base, class_base = _bases(classes, numbers, [part.labels for part in parts])
    for part, of in zip(parts, numbers, strict=True):
        for i, query in enumerate(of.tolist()):
            expected = {c - class_base for c in classes.get(query - 1 + query_base, ())}
            label = int(part.labels[i])
            if expected and label not in expected:
                listed = " or ".join(map(str, sorted(expected)))
                yield part.names[i], f"label {label}, but query {query} is of class {listed}"


def _bases(
    classes: dict[int, set[int]], numbers: list[NDArray[Any]], labels: list[NDArray[np.uint32]]
) -> tuple[int, int]:
    """From which number the map counts queries and classes: where it agrees best with the lists.

    1.0 counts classes from 1 and 2.0 from 0, but copies of either exist with the other; where two
    bases agree equally well, the smallest number of each column decides.
    """
    lowest = (min(classes, default=1), min(map(min, classes.values()), default=0))
    votes = {(q, c): 0 for q in (0, 1) for c in (0, 1)}
    for of, truth in zip(numbers, labels, strict=True):
        seen, counts = np.unique(np.stack([of, truth]), axis=1, return_counts=True)
        for (query, label), count in zip(seen.T.tolist(), counts.tolist(), strict=True):
            for query_base, class_base in votes:
                if label + class_base in classes.get(query - 1 + query_base, ()):
                    votes[query_base, class_base] += count
    return max(votes, key=lambda bases: (votes[bases], bases == lowest))
