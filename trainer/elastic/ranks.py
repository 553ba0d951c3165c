"""Rank processes, forked from one that has imported everything: imports take seconds, a fork none.

A process that has used CUDA or started threads must not be forked; the one here only imports.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.context import ForkServerProcess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Program:
    """What a rank runs: a module with a main() and no arguments, or a script."""

    module: str
    script: str
    arguments: Sequence[str]

    def __str__(self) -> str:
        return self.module or self.script

    def run(self) -> None:
        """Runs it in this process."""
        sys.argv = [str(self), *self.arguments]
        if self.module:
            importlib.import_module(self.module).main()
        else:
            runpy.run_path(self.script, run_name="__main__")


_context = multiprocessing.get_context("forkserver")


async def warm_up(program: Program) -> None:
    """Starts the process that ranks are forked from; it has imported everything when this ends."""
    # torch's optimisers import torch._dynamo at their first use, which takes seconds.
    imported = [program.module, "torch._dynamo"] if program.module else ["torch"]
    _context.set_forkserver_preload(imported)
    # A signal to the whole process group shall end the ranks, not what they are forked from. It
    # inherits the mask; the tracker, which the fork server would start, changes the mask itself.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    loop = asyncio.get_running_loop()
    is_warm = loop.create_future()

    def probe() -> None:
        process = _context.Process(target=_nothing, daemon=True)
        try:
            process.start()
            process.join()
            end = partial(is_warm.set_result, None)
        except Exception as error:  # it ended by what it imported
            end = partial(is_warm.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the agent has ended meanwhile
            loop.call_soon_threadsafe(end)

    # Neither thread nor process may hold up the end of this one, as those of an executor would.
    threading.Thread(target=probe, name="probe", daemon=True).start()
    await is_warm


class Ranks:
    """The rank processes of one worker in one round."""

    def __init__(self, ended: Callable[[int, int], None]) -> None:
        """ended: called with a process's number on this worker and its exit code, below 0 for a
        signal."""
        self._ended = ended
        self._processes: list[ForkServerProcess] = []
        self.codes: dict[int, int] = {}

    def start(
        self,
        program: Program,
        environments: Sequence[Mapping[str, str]],
        listener: socket.socket | None,
    ) -> None:
        """Starts a process for each environment; the first holds the store if a socket is given."""
        loop = asyncio.get_running_loop()
        for number, environment in enumerate(environments):
            process = _context.Process(
                target=_run_rank,
                name=f"rank {environment['RANK']}",
                args=(program, dict(environment), listener if number == 0 else None),
            )
            process.start()
            self._processes.append(process)
            loop.add_reader(process.sentinel, self._note_end, number)

    def _note_end(self, number: int) -> None:
        process = self._processes[number]
        asyncio.get_running_loop().remove_reader(process.sentinel)
        process.join()
        self.codes[number] = process.exitcode if process.exitcode is not None else 1
        self._ended(number, self.codes[number])

    @property
    def alive(self) -> int:
        return len(self._processes) - len(self.codes)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to those that run."""
        for index, process in enumerate(self._processes):
            if index not in self.codes and process.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, number)


def _nothing() -> None:
    """The probe of `warm_up`: its start waits for the imports."""


def _run_rank(
    program: Program, environment: dict[str, str], listener: socket.socket | None
) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    threading.Thread(target=_end_with_agent, name="agent-watch", daemon=True).start()
    os.environ.update(environment)
    _store = _hold_store(listener) if listener is not None else None
    program.run()


def _hold_store(listener: socket.socket) -> TCPStore:
    """The ranks' store, on a socket that listens already: a port that was free a moment ago may be
    another's by now. `env://` takes it for torchrun's (TORCHELASTIC_USE_AGENT_STORE)."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    host, port = listener.getsockname()[:2]
    return TCPStore(
        host, port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
    )


def _end_with_agent() -> None:
    """An agent that is killed cannot end its ranks, and nobody else would."""
    agent = multiprocessing.parent_process()
    assert agent is not None
    connection.wait([agent.sentinel])
    os.kill(os.getpid(), signal.SIGKILL)
