"""Processes that outlive whoever started them, and are found again without a list of numbers.

Each carries the cluster's folder in its environment. What carries another folder, or none, is
foreign and never touched, whatever a process id meant before a reboot.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MARK = "WEBVISION_CLUSTER"
"""Names the folder in the environment of each part."""
STOP_S = 10.0


class NotReady(Exception):
    """A part did not come up; the end of its log tells why."""


@dataclass
class Part:
    """One process and its log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-1500:]

    def kill(self, number: signal.Signals) -> None:
        """Signals it with its group, and returns when it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
        self.process.wait(STOP_S)


def launch(folder: Path, name: str, command: Sequence[str], env: Mapping[str, str]) -> Part:
    """Starts a process in a session of its own; it logs to the folder."""
    log = folder / f"{name}.log"
    with open(log, "ab") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=os.environ | env | {MARK: str(folder)},
            start_new_session=True,
        )
    return Part(name, process, log)


def living(folder: Path) -> list[int]:
    """The processes of the cluster in the folder, but for this one."""
    found = []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        if pid != os.getpid() and _belongs(pid, folder):
            found.append(pid)
    return found


def end_all(folder: Path) -> None:
    """Ends what lives of the cluster in the folder, and returns when it is gone."""
    for pid in living(folder):
        with _held(pid) as handle:
            # Asked again through the handle's lifetime: the number cannot have changed hands since.
            if handle is None or not _belongs(pid, folder):
                continue
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [], STOP_S)


def children(pid: int) -> list[int]:
    """Process ids of the direct children."""
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:
        return []


def wait_until_gone(folder: Path, timeout_s: float = STOP_S) -> bool:
    """Whether nothing of the cluster lives any more; waits for what is still ending."""
    ends_at = time.monotonic() + timeout_s
    while living(folder):
        if time.monotonic() > ends_at:
            return False
        time.sleep(0.05)
    return True


def _belongs(pid: int, folder: Path) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # ended, or of somebody else
        return False
    return f"{MARK}={folder}".encode() in environment.split(b"\0")


@contextlib.contextmanager
def _held(pid: int) -> Iterator[int | None]:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)
