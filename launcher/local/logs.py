"""Reading the workers' logs, also while they grow, over restarts, to the run's end."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from launcher.errors import NotFound
from launcher.local.folder import Folder
from launcher.local.runs import find

POLL_S = 0.1


@dataclass
class Tail:
    """Reads what was appended to a file since the last time, in whole lines."""

    path: Path
    offset: int = 0
    rest: bytes = field(default=b"", repr=False)

    def lines(self, *, is_last: bool = False) -> list[str]:
        """is_last: nothing more comes, so a line without its end counts as well."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                chunk = file.read()
        except FileNotFoundError:
            return []
        self.offset += len(chunk)
        *whole, self.rest = (self.rest + chunk).split(b"\n")
        if is_last and self.rest:
            whole.append(self.rest)
            self.rest = b""
        return [line.decode(errors="replace") for line in whole]


def logs(
    name: str,
    worker: int | None = None,
    follow: bool = False,
    tail: int | None = None,
    previous: bool = False,
) -> Iterator[str]:
    """Lines of one worker's log, or of all, each then headed by `worker-N | `.

    previous: changes nothing here, where a worker's one log holds what came before a restart too.

    follow: goes on over restarts and with workers that join later, and ends when the run has ended.
    tail: of each worker only so many of the lines that are there already.
    Raises NotFound for a run or worker that there is not.
    """
    folder = find(name)
    if worker is not None and not folder.log(f"worker-{worker}").exists():
        known = ", ".join(path.stem for path in worker_logs(folder)) or "none yet"
        raise NotFound(f"run {name!r} has no log of worker-{worker} (logs: {known})")
    return read(folder, worker, follow, tail)


def read(folder: Folder, worker: int | None, follow: bool, tail: int | None) -> Iterator[str]:
    tails: dict[Path, Tail] = {}
    is_first = True
    while True:
        is_last = not follow or not folder.is_supervised()  # asked first, then the files are read
        paths = worker_logs(folder) if worker is None else [folder.log(f"worker-{worker}")]
        for path in paths:
            lines = tails.setdefault(path, Tail(path)).lines(is_last=is_last)
            if is_first and tail is not None:
                lines = list(deque(lines, maxlen=tail))
            head = f"{path.stem} | " if worker is None else ""
            yield from (head + line for line in lines)
        if is_last:
            return
        is_first = False
        time.sleep(POLL_S)


def worker_logs(folder: Folder) -> list[Path]:
    found = folder.logs.glob("worker-*.log")
    return sorted(found, key=lambda path: int(path.stem.removeprefix("worker-")))
