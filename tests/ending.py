"""SIGTERM as Ctrl-C, so that clusters and servers end with the process that has started them."""

from __future__ import annotations

import os
import signal


def end_on_sigterm() -> None:
    """From now on SIGTERM raises KeyboardInterrupt in this process' main thread.

    Once: a second one does not break off what the first has begun to end.
    """
    owner = os.getpid()

    def interrupt(*_: object) -> None:
        if os.getpid() != owner:  # a fork, which has nothing to end
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
            return
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt("SIGTERM")

    signal.signal(signal.SIGTERM, interrupt)
