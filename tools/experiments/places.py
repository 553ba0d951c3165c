"""Where an experiment keeps its state, and the lock on it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from launcher.local.folder import state_root
from tools.experiments.spec import SpecError

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = ROOT / "examples" / "experiments"
RESULTS = ROOT / "docs" / "results"
ORPHANS_S = 60.0
"""Runs whose runner was killed are told so by the kernel, save and end: a matter of seconds."""


def state_of(name: str) -> Path:
    """The folder of an experiment's state: $XDG_STATE_HOME/launcher/experiments/NAME."""
    return state_root().parent / "experiments" / name


@contextlib.contextmanager
def locked(state: Path) -> Iterator[int]:
    """Holds the experiment's lock and gives its descriptor, for children to inherit.

    So it is also held as long as a run lives whose runner was killed; those are waited for.
    Raises SpecError where another runner has it.
    """
    state.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(state / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        until = time.monotonic() + ORPHANS_S
        while not _taken(descriptor):
            holder = os.pread(descriptor, 20, 0).decode().strip()
            orphaned = holder.isdecimal() and not Path("/proc", holder).exists()
            if not orphaned or time.monotonic() > until:
                whose = "a run of process" if orphaned else "process"
                raise SpecError(f"{state.name} is being run already, by {whose} {holder}")
            time.sleep(0.2)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
