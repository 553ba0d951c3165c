"""Child processes of an experiment: quiet, single-threaded, and never left behind."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from tools.experiments.places import ROOT
from tools.experiments.spec import SpecError

Child = subprocess.Popen[bytes]

NICENESS = 5
GRACE_S = 60.0
"""From SIGTERM to SIGKILL: a run saves after its update, which takes seconds."""
NOT_THEIRS = ("RUN_CONFIG", "RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RUN_ID")
"""Variables that would make a run part of something else."""
_PR_SET_PDEATHSIG = 1


def start(module: str, arguments: Iterable[str], *, log: Path, lock: int) -> Child:
    """Starts `python -m module`, its output at the end of the log.

    It leads a process group, so that Ctrl-C reaches it through us alone; where we are killed, the
    kernel sends it SIGTERM.
    """
    runner, libc = os.getpid(), ctypes.CDLL(None)

    def prepare() -> None:
        os.nice(NICENESS)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != runner:  # killed in between
            os._exit(1)

    environment = {key: value for key, value in os.environ.items() if key not in NOT_THEIRS}
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=environment | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            process_group=0,
            pass_fds=(lock,),
            preexec_fn=prepare,
        )


def run(module: str, arguments: Iterable[str], *, log: Path, lock: int) -> int:
    """The same to its end; the exit status."""
    child = start(module, arguments, log=log, lock=lock)
    try:
        while child.poll() is None:
            time.sleep(0.1)
    finally:
        end([child])
    return child.returncode


def failure(what: str, log: Path) -> SpecError:
    """What to raise of a program that has failed, with the last lines of its log."""
    return SpecError("\n".join([f"{what}; {log} ends with", *tail(log)]))


def end(children: Iterable[Child]) -> None:
    """Ends them: asks each, and after GRACE_S, or a second Ctrl-C, kills it with its group."""
    living = [child for child in children if child.poll() is None]
    for child in living:
        child.terminate()
    until = time.monotonic() + GRACE_S
    try:
        while any(child.poll() is None for child in living) and time.monotonic() < until:
            time.sleep(0.1)
    finally:
        for child in living:
            if child.poll() is None:  # so the number is still its own
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()


def tail(log: Path, lines: int = 12) -> list[str]:
    """The last lines of a log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 64 * 1024))
            return file.read().decode(errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        return []


def say(text: str) -> None:
    """A line for whoever watches."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
