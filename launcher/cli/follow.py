"""Following a job until it ends, and what Ctrl-C means meanwhile: the job goes on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from launcher.cli.manners import Manner, colored, goes_on, tell
from launcher.cli.places import Jobs
from launcher.errors import JobFailed
from launcher.status import ENDED, Indexes, JobStatus

COLORS = {
    "Running": "green",
    "Succeeded": "green",
    "Starting": "yellow",
    "Queued": "yellow",
    "Restarting": "yellow",
    "Failed": "red",
}


@contextmanager
def only_following(name: str) -> Iterator[None]:
    """Ctrl-C inside ends the following, not the job, and says so."""
    try:
        yield
    except KeyboardInterrupt:
        tell(f"\nno longer following; {name} goes on. Stop it by `launcher cancel {name}`")
        raise typer.Exit(130) from None


def wait_for_end(jobs: Jobs, name: str, timeout_s: float | None, manner: Manner) -> JobStatus:
    """Tells each change of state as a line. Raises JobFailed or TimedOut."""
    seen = ""

    def on_change(job: JobStatus) -> None:
        nonlocal seen
        line = progress(job, manner)
        if line != seen:
            tell(line)
            seen = line

    goes_on()
    with only_following(name):
        job = jobs.wait(name, timeout_s, on_change)
    if job.state in ("Failed", "Cancelled"):
        reason = f": {job.reason}" if job.reason else ""
        raise JobFailed(
            f"{name} ended as {job.state}{reason}; see `launcher status {name}` and "
            f"`launcher logs {name}`"
        )
    return job


def progress(job: JobStatus, manner: Manner) -> str:
    """One line on where a job stands."""
    color = COLORS.get(job.state)
    state = colored(job.state, color, manner, sys.stderr) if color else job.state
    line = f"{job.name}: {state}, {job.workers_running} of {job.workers_desired} workers"
    if job.indexes:
        line = f"{line}, {in_words(job.indexes)}"
    return f"{line}: {job.reason}" if job.reason and job.state not in ENDED else line


def in_words(indexes: Indexes) -> str:
    """How far a job of independent parts is: 3/8 indexes done, failed: 2,5."""
    failed = f", failed: {indexes.failed}" if indexes.failed else ""
    return f"{indexes.done}/{indexes.total} indexes done{failed}"
