"""Why and how a process of the trainer ends: its exit status, and the words it leaves."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

logger = logging.getLogger(__name__)

USAGE = 2
"""Exit status for what starting again cannot cure."""
TERMINATED = 128 + signal.SIGTERM
"""Exit status of who left on request: not 0, which would end the run as done."""
STALLED = 70
"""Exit status of a rank that made no progress for world.stall_s."""
MESSAGE_PATH = "TERMINATION_MESSAGE_PATH"
"""Where the reason of the end is written; in a pod the kubelet reads /dev/termination-log."""
FATAL = "fatal: "
"""Begins a reason that starting again cannot cure, such as a wrong configuration."""


class NonFinite(Exception):
    """Too many updates in a row had a non-finite loss or gradient."""


class Collapsed(Exception):
    """The loss says that what it does has stopped to make sense."""


def tell_reason(reason: str) -> None:
    """Writes why this process ends to where the node agent looks for it, at most 4,096 bytes."""
    path = Path(os.environ.get(MESSAGE_PATH, "/dev/termination-log"))
    if MESSAGE_PATH not in os.environ and not path.exists():
        return
    try:
        path.write_bytes(reason.encode()[:4096])
    except OSError as error:
        logger.warning("cannot write the reason of the end to %s: %s", path, error)


def leave_on_sigterm() -> None:
    """For a program whose kept parts are whole at any moment: SIGTERM ends it at once.

    A container's first process would not hear it otherwise; and an exception could get lost where
    Python cannot raise one, as in callbacks of an import.
    """
    signal.signal(signal.SIGTERM, lambda *_: os._exit(TERMINATED))
