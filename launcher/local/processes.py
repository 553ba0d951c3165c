"""Processes of a run: found by a mark in their environment, so that none outlives its worker.

A child may have a session of its own, so killing an agent's process group leaves it running, where
a container would end with all of them. The mark is inherited by every
descendant and stays readable in /proc, even after the agent and the supervisor are gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import socket
from pathlib import Path

MARK = "LAUNCHER_LOCAL_PROCESS"
"""Environment variable that names the run's folder and the process: `<folder>|worker-0`."""

_PR_SET_CHILD_SUBREAPER = 36
_PORTS = range(20_000, 32_000)
"""Below the range from which the kernel takes ports of outgoing connections."""


def mark(folder: Path, process: str = "") -> str:
    """The mark's value; without a process, the beginning which all marks of a run share."""
    return f"{folder}|{process}"


def adopt_orphans() -> None:
    """Orphaned descendants become this process's children, so that it can clear them away."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def clear_adopted(known: set[int]) -> None:
    """Takes note of the end of adopted orphans, which would stay as zombies otherwise."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid in known:
                return  # its owner polls it; the next call sees those behind it
            os.waitpid(ended.si_pid, 0)


def marked(value: str, *, whole: bool) -> list[int]:
    """Ids of living processes with that mark; with `whole` False the mark only begins with it."""
    wanted = f"{MARK}={value}".encode() + (b"\0" if whole else b"")
    own = os.getpid()
    return [
        pid
        for entry in os.listdir("/proc")
        if entry.isdigit() and (pid := int(entry)) != own and _is_marked(pid, wanted)
    ]


def signal_marked(value: str, number: signal.Signals, *, whole: bool) -> int:
    """Sends a signal to each marked process; returns how many there were."""
    wanted = f"{MARK}={value}".encode() + (b"\0" if whole else b"")
    count = 0
    for pid in marked(value, whole=whole):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            handle = os.pidfd_open(pid)
            try:
                if _is_marked(pid, wanted):  # the handle is open: no other process has this id now
                    signal.pidfd_send_signal(handle, number)
                    count += 1
            finally:
                os.close(handle)
    return count


def _is_marked(pid: int, wanted: bytes) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # ended meanwhile, or another user's
        return False
    return environment.startswith(wanted) or b"\0" + wanted in environment


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port(host: str = "127.0.0.1", tries: int = 100) -> int:
    """A port that is free at this moment; whoever listens on it must cope with having lost it."""
    for port in random.sample(_PORTS, tries):
        if is_free(port, host):
            return port
    raise OSError(f"no free port on {host} in {tries} tries between {_PORTS[0]} and {_PORTS[-1]}")
