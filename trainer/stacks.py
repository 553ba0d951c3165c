"""Asks every rank of this container to write the stacks of its threads to its log.

    kubectl exec POD -- python -m trainer.stacks

The ranks go on training. Prints how many were asked.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import re
import signal
import sys
from pathlib import Path

STACKS_SIGNAL = signal.SIGUSR1
"""A rank writes its stacks on it (`answer_requests`); before that it would end the process."""
NAME = "rank"


_PR_SET_NAME = 15


def answer_requests(rank: int) -> None:
    """Has this process write its stacks when asked, and names it a rank."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, f"{NAME} {rank}".encode(), 0, 0, 0)
    faulthandler.register(STACKS_SIGNAL, all_threads=True)


def ranks(proc: Path = Path("/proc")) -> list[int]:
    """Process ids of the ranks: those named so, that handle the signal."""
    found = []
    for folder in proc.glob("[0-9]*"):
        try:
            name = (folder / "comm").read_text()
            caught = _caught(folder / "status")
        except (OSError, ValueError):
            continue  # gone, or somebody else's
        if re.fullmatch(rf"{NAME} \d+\n", name) and caught & (1 << (STACKS_SIGNAL - 1)):
            found.append(int(folder.name))
    return sorted(found)


def _caught(status: Path) -> int:
    """The mask of signals that a process has handlers for."""
    for line in status.read_text().splitlines():
        if line.startswith("SigCgt:"):
            return int(line.split()[1], 16)
    return 0


def main() -> int:
    asked = ranks()
    for pid in asked:
        os.kill(pid, STACKS_SIGNAL)
    print(f"{len(asked)} ranks write their stacks to their log: {asked}")
    return 0 if asked else 1


if __name__ == "__main__":
    sys.exit(main())
