"""Asks every rank of this container to write the stacks of its threads to its log.

    kubectl exec POD -- python -m trainer.stacks

The ranks go on training. Prints how many were asked.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

STACKS_SIGNAL = signal.SIGUSR1
"""A rank writes its stacks on it (`trainer.world.join`); before that it would end the process."""


def ranks(proc: Path = Path("/proc")) -> list[int]:
    """Process ids of the ranks: torchrun's children, that handle the signal."""
    found = []
    for folder in proc.glob("[0-9]*"):
        try:
            names = {entry.partition(b"=")[0] for entry in _split(folder / "environ")}
            caught = _caught(folder / "status")
        except (OSError, ValueError):
            continue  # gone, or somebody else's
        if b"LOCAL_RANK" in names and caught & (1 << (STACKS_SIGNAL - 1)):
            found.append(int(folder.name))
    return sorted(found)


def _split(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\0")


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
