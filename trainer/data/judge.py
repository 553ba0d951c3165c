"""Reading raw image files and judging each by decoding it whole, in several processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import wait
from pathlib import Path
from typing import Literal

_LOWER = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")
SUFFIXES = (*_LOWER, *map(str.upper, _LOWER))
"""Endings under which a file is sought that is not there under its listed name."""

MOST_IMAGE_BYTES = 256 << 20
"""No web image is as large; reading more could exhaust the memory."""

CHUNK = 16
"""Images that a process judges at a time: one message each would cost more than the decoding."""


@dataclass(frozen=True)
class Verdict:
    """What became of one image file."""

    state: Literal["good", "damaged", "missing"]
    reason: str = ""
    data: bytes = b""
    """The file as it is, if it is good."""
    crc32: int = 0
    short_side_px: int = 0


def judge(path: Path) -> Verdict:
    """Reads and decodes one file."""
    from trainer.data.decode import DamagedImage, decode

    try:
        data = _read(path)
    except FileNotFoundError:
        return Verdict("missing", "no such file")
    except OSError as error:
        return Verdict("damaged", (error.strerror or "unreadable").lower())
    if data is None:
        return Verdict("damaged", f"more than {MOST_IMAGE_BYTES:,} bytes")
    if not data:
        return Verdict("damaged", "empty file")
    try:
        pixels = decode(data)
    except DamagedImage as error:
        return Verdict("damaged", " ".join(str(error).split()))
    return Verdict("good", "", data, zlib.crc32(data), min(pixels.shape[1:]))


def _read(path: Path) -> bytes | None:
    """The file's bytes, None if they are too many; sought under other endings if it is absent."""
    for place in (path, *(path.with_suffix(suffix) for suffix in SUFFIXES)):
        try:
            with open(place, "rb") as file:
                data = file.read(MOST_IMAGE_BYTES + 1)
                return data if len(data) <= MOST_IMAGE_BYTES else None
        except (FileNotFoundError, NotADirectoryError):
            continue
    raise FileNotFoundError


def judged(paths: Iterable[Path], processes: int) -> Iterator[Verdict]:
    """The verdict of each path, in order. processes: 0 judges in this one."""
    if not processes:
        yield from map(judge, paths)
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["trainer.data.decode"])  # imported once, shared by all
    rest = iter(paths)
    pending: deque[Future[list[Verdict]]] = deque()
    with ProcessPoolExecutor(processes, context, _begin) as pool:
        try:
            while chunk := list(islice(rest, CHUNK)):
                pending.append(pool.submit(_judge_all, chunk))
                if len(pending) > 4 * processes:  # bounds the images in memory
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _judge_all(paths: list[Path]) -> list[Verdict]:
    return [judge(path) for path in paths]


def _begin() -> None:
    import torch

    torch.set_num_threads(1)  # one process a core
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        wait([parent.sentinel])
        os._exit(1)  # a killed parent leaves nobody who would close the queue

    threading.Thread(target=end_with_parent, daemon=True).start()
