"""How the trainer's programs begin and end: the log, the exit status, the reason of an end."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, TypeVar

from trainer.checkpoint import CheckpointError, StateMismatch
from trainer.config import ConfigError, load
from trainer.data.shards import DatasetError
from trainer.exits import FATAL, USAGE, Collapsed, NonFinite, tell_reason
from trainer.storage import BadAddress, StorageError

C = TypeVar("C")

INCURABLE = (ConfigError, DatasetError, StateMismatch, BadAddress, NonFinite, Collapsed)
"""What starting again cannot cure."""


def log_to_stderr(level: int = logging.INFO) -> None:
    """Lets what is logged be seen."""
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname).1s %(message)s", datefmt="%H:%M:%S"
    )
    logging.getLogger("botocore").setLevel(logging.WARNING)  # it tells of each client it makes


@contextmanager
def one_line_errors() -> Iterator[None]:
    """For a program that a person calls: what cannot be is told in a line, exit status 2."""
    try:
        yield
    except (*INCURABLE, CheckpointError, StorageError, OSError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(USAGE)


def end_process(status: int) -> NoReturn:
    """Ends at once: interpreter shutdown could wait for loader processes and collectives."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def fatal(error: Exception) -> NoReturn:
    """Ends what starting again cannot cure: tells why, and stops the agent from trying again."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    tell_reason(f"{FATAL}{error}")
    if "TORCHELASTIC_RUN_ID" in os.environ:  # our agent knows by the status, torchrun does not
        os.kill(os.getppid(), signal.SIGTERM)
    end_process(USAGE)


def run_entry(kind: type[C], entry: Callable[[C], None]) -> None:
    """Reads the configuration of that kind, calls the entry, and tells why it cannot go on."""
    rank = int(os.environ.get("RANK", "0"))
    log_to_stderr(logging.INFO if rank == 0 else logging.WARNING)
    arguments = sys.argv[1:]
    path = arguments.pop(0) if arguments and "=" not in arguments[0] else None
    try:
        entry(load(kind, path, arguments))
    except INCURABLE as error:
        fatal(error)
    except Exception as error:
        tell_reason(f"{type(error).__name__}: {error}".splitlines()[0])
        traceback.print_exc()
        # The interpreter's own end would wait for loader processes, which SIGTERM does not end.
        end_process(1)
