"""Packs WebVision's raw files into a dataset of shards.

    python -m trainer.pack ~/webvision s3://data/webvision-train
    python -m trainer.pack ~/webvision /data/val --split val
    python -m trainer.pack ~/webvision /data/test --split test

Every image is decoded once to be judged; good ones are kept as they are, byte for byte, in a random
order that the seed fixes. Images that are damaged or missing are left out. They and those whose
texts are mismatched are named in files beside the manifest, together with report.json.

A test list is kept in its own order, without labels, and an image that is damaged or missing stands
in it as an empty one: whoever predicts must answer for each line.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from trainer.data import order, raw, texts
from trainer.data.judge import judged
from trainer.data.shards import MANIFEST
from trainer.data.write import Writer
from trainer.storage import BadAddress, Exists, NotFound, StorageError, Store, open_store

KINDS = ("damaged", "missing", "mismatched", "unreadable_texts")
"""What is reported: images, and last metadata files that could not be read."""

PROGRESS_S = 10.0
"""Between two lines of progress where stderr is no terminal."""


class PackError(Exception):
    """The raw data cannot become a dataset: one line."""


@dataclass
class Report:
    """What was packed, and what was not quite right."""

    listed: int
    """Images in the file lists."""
    packed: int = 0
    bytes: int = 0
    """Of the shards."""
    elapsed_s: float = 0.0
    names: dict[str, list[tuple[str, str]]] = field(
        default_factory=lambda: {kind: [] for kind in KINDS}
    )
    """By kind: name and reason."""

    @property
    def flawless(self) -> bool:
        return not any(self.names.values())

    def counts(self) -> str:
        found = ", ".join(f"{kind.replace('_', ' ')} {len(self.names[kind])}" for kind in KINDS)
        return f"packed {self.packed:,} of {self.listed:,} images, {found}"

    def write(self, store: Store, sha256: str) -> None:
        """report.json, and a file of names for each kind that occurred."""
        facts = {
            "dataset_sha256": sha256,
            "listed": self.listed,
            "packed": self.packed,
            "bytes": self.bytes,
            "elapsed_s": round(self.elapsed_s, 1),
            **{kind: len(names) for kind, names in self.names.items()},
        }
        store.put("report.json", json.dumps(facts, indent=1).encode() + b"\n")
        for kind, names in self.names.items():
            lines = "".join(f"{name}\t{reason}\n" for name, reason in names)
            if lines:
                store.put(f"{kind}.txt", lines.encode())
            else:
                store.remove(f"{kind}.txt")  # of an attempt that --strict refused


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives the exit code: 0 packed, 1 failed, 2 wrong arguments."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _leave)
    try:
        return pack(options)
    except BadAddress as error:
        return _complain(error, 2)
    except (raw.RawError, StorageError, PackError) as error:
        return _complain(error, 1)
    except BrokenProcessPool:
        return _complain("a process that decodes images was killed, perhaps for its memory", 1)
    except KeyboardInterrupt:
        return _complain("interrupted; nothing was packed", 130)


def pack(options: argparse.Namespace) -> int:
    """Packs as the options say."""
    started_s = time.monotonic()
    store = open_store(options.dataset)
    _refuse_existing(store)
    parts, classes = raw.read_lists(options.raw, options.split, options.source, options.classes)
    report = Report(sum(len(part.names) for part in parts))
    if not report.listed:
        raise PackError(f"no listed image is of the first {options.classes} classes")
    if options.split == "train":
        report.names["mismatched"] += raw.against_queries(options.raw, parts)
    with tempfile.TemporaryDirectory(prefix="pack-") as scratch:
        spool = texts.join(options.raw, parts, Path(scratch, "texts"))
        report.names["mismatched"] += spool.mismatched
        report.names["unreadable_texts"] += spool.unreadable
        labels = np.concatenate([part.labels for part in parts])
        writer = Writer(store, options.shard_mib << 20, report.listed)
        keep = False
        try:
            sides_px = _fill(writer, spool, labels, options, report)
            report.elapsed_s = time.monotonic() - started_s
            if not report.packed:
                raise PackError(f"none of the {report.listed} images is good; {report.counts()}")
            if options.strict and not report.flawless:
                report.write(store, "")
                raise PackError(
                    f"--strict: {report.counts()}; nothing was packed, the names are in "
                    f"{store.address}"
                )
            source = {"layout": f"webvision-{parts[0].layout}", "split": options.split}
            if options.split == "train":
                source["source"] = parts[0].source if len(parts) == 1 else "all"
            if len(sides_px) == 1:
                source["short_side_px"] = sides_px.pop()
            sha256 = writer.commit(classes, source, labelled=options.split != "test")
            keep = True
        except Exists as error:
            raise PackError(f"{error}: another packer was faster; pack elsewhere") from error
        finally:
            writer.close(keep=keep)
    report.bytes = writer.num_bytes
    report.write(store, sha256)
    rate = report.listed / report.elapsed_s
    print(f"{report.counts()}")
    print(f"{writer.num_bytes:,} bytes, {rate:,.0f} images/s; {store.address}")
    return 0


def _refuse_existing(store: Store) -> None:
    try:
        store.size(MANIFEST)
    except NotFound:
        return
    raise PackError(f"{store.address}/{MANIFEST} exists already; pack into another folder")


def _fill(
    writer: Writer,
    spool: texts.Spool,
    labels: NDArray[np.uint32],
    options: argparse.Namespace,
    report: Report,
) -> set[int]:
    """Judges all images in a random order and writes the good ones; gives their shorter sides."""
    if options.split == "test":
        shuffled = np.arange(len(labels))
    else:
        # Raw data is grouped by query; a training window must meet many classes.
        shuffled = order.permutation(len(labels), "pack", options.seed)
    progress = Progress(len(labels))
    paths = (options.raw / record["name"] for record in spool.records(shuffled))
    verdicts = judged(paths, options.processes)
    sides_px = set()
    records = spool.records(shuffled)
    for label, record, verdict in zip(labels[shuffled].tolist(), records, verdicts, strict=True):
        if verdict.state == "good":
            writer.add(verdict.data, verdict.crc32, label, record)
            report.packed += 1
            sides_px.add(verdict.short_side_px)
        else:
            report.names[verdict.state].append((record["name"], verdict.reason))
            if options.split == "test":
                writer.add(b"", 0, label, record)
        progress.show(report)
    progress.end()
    return sides_px


class Progress:
    """How far it is, on stderr: a bar on a terminal, else a line now and then."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._bar = sys.stderr.isatty()
        self._done = 0
        self._began_s = self._shown_s = time.monotonic()

    def show(self, report: Report) -> None:
        """Counts one more image."""
        self._done += 1
        now_s = time.monotonic()
        if now_s - self._shown_s < (0.2 if self._bar else PROGRESS_S) and self._done < self._total:
            return
        self._shown_s = now_s
        rate = self._done / max(now_s - self._began_s, 1e-9)
        left_s = int((self._total - self._done) / rate)
        bad = len(report.names["damaged"]) + len(report.names["missing"])
        words = (
            f"{self._done:,}/{self._total:,} images  {rate:,.0f}/s  {bad} bad  "
            f"{left_s // 60}:{left_s % 60:02d} to go"
        )
        if self._bar:
            filled = 30 * self._done // self._total
            sys.stderr.write(f"\r[{'#' * filled:<30}] {words}\x1b[K")
            sys.stderr.flush()
        else:
            print(words, file=sys.stderr)

    def end(self) -> None:
        if self._bar:
            sys.stderr.write("\n")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="trainer.pack", description="Pack WebVision's raw files into a dataset of shards."
    )
    add = parser.add_argument
    add("raw", type=_folder, metavar="RAW", help="folder that holds WebVision's info/ and images")
    add(
        "dataset", metavar="DATASET", help="new dataset: s3://bucket/folder, file:///folder or path"
    )
    add("--split", choices=("train", "val", "test"), default="train", help="default: train")
    add("--source", choices=("all", *raw.SOURCES), default="all", help="training lists to take")
    add("--classes", type=_between(1, 1 << 20), default=0, metavar="N", help="the first N only")
    add("--shard-mib", type=_between(1, 4096), default=96, metavar="MIB", help="default: 96")
    add("--seed", type=_between(0, (1 << 63) - 1), default=0, help="of the order; default: 0")
    add("--strict", action="store_true", help="fail if anything is damaged, missing, mismatched")
    cores = len(os.sched_getaffinity(0))
    add("--processes", type=_between(0, 1024), default=cores, help="that decode; default: cores")
    return parser


def _folder(text: str) -> Path:
    if not os.path.isdir(text):  # Path.is_dir would raise for a name that is too long
        hint = "; raw data is read from a local folder" if "://" in text else ""
        raise argparse.ArgumentTypeError(f"no such folder: {text}{hint}")
    return Path(text)


def _between(least: int, most: int) -> Callable[[str], int]:
    def whole(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a whole number from {least} to {most}"
            )
        return int(text)

    return whole


def _complain(error: object, code: int) -> int:
    print(f"trainer.pack: {error}", file=sys.stderr)
    return code


def _leave(_signal: int, _frame: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)  # so that what was written is removed


if __name__ == "__main__":
    sys.exit(main())
