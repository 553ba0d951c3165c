"""Runs chains of cells, a few at once: each from where it was, a failed one once more."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tools.experiments import children
from tools.experiments.cells import Cell, Chain
from tools.experiments.results import Incomplete, is_done
from trainer.exits import USAGE

TRIES = 2
POLL_S = 0.1


@dataclass(frozen=True)
class Failure:
    """A cell that could not be run."""

    cell: Cell
    reason: str

    def told(self) -> str:
        """In words, with the last lines of its log."""
        lines = [f"{self.cell.title}: {self.reason}; {self.cell.log} ends with"]
        return "\n".join(lines + [f"    {line}" for line in children.tail(self.cell.log)])


@dataclass
class Work:
    """A chain that is being run."""

    chain: Chain
    todo: list[Cell]
    process: children.Child | None = None
    failures: list[Failure] = field(default_factory=list)
    """Of the first of the cells to do."""

    @property
    def failed(self) -> bool:
        """Whether another try is of no use."""
        incurable = self.process is not None and self.process.returncode == USAGE
        return len(self.failures) >= (1 if incurable else TRIES)


def run(
    chains: Sequence[Chain], *, at_once: int, lock: int, finished: Callable[[Chain], None]
) -> list[Failure]:
    """Runs them all, and tells of each that is finished. Returns the failures.

    However it ends, no process is left.
    """
    waiting = [Work(chain, list(chain.cells)) for chain in chains]
    active: list[Work] = []
    failures: list[Failure] = []
    try:
        while waiting or active:
            while len(active) < at_once and (work := _next(waiting, active)) is not None:
                waiting.remove(work)
                active.append(work)
            for work in list(active):
                _advance(work, lock)
                if work.failed or not work.todo:
                    active.remove(work)
                    if work.failed:
                        failures.append(work.failures[-1])
                    else:
                        finished(work.chain)
            time.sleep(POLL_S)
    finally:
        children.end(work.process for work in active if work.process is not None)
    return failures


def _next(waiting: Sequence[Work], active: Sequence[Work]) -> Work | None:
    """The first that shares no run with those that are active: it would be run twice at once."""
    busy = {cell.folder for work in active for cell in work.todo}
    free = (work for work in waiting if busy.isdisjoint(cell.folder for cell in work.todo))
    return next(free, None)


def _advance(work: Work, lock: int) -> None:
    """Begins the next cell or the next try, where none is running."""
    if work.process is not None:
        if work.process.poll() is None:
            return
        _judge(work, work.process.returncode)
        if work.failed:
            return
    while work.todo and _is_kept(work.todo[0]):
        work.todo.pop(0)
        work.failures.clear()
    if not work.todo:
        return
    cell = work.todo[0]
    cell.folder.mkdir(parents=True, exist_ok=True)
    cell.run_path.write_text(cell.run_file, encoding="utf-8")
    children.say(f"{cell.title}: {'goes on' if cell.run.exists() else 'begins'}")
    work.process = children.start(cell.module, [str(cell.run_path)], log=cell.log, lock=lock)


def _judge(work: Work, status: int) -> None:
    """Counts it as a failure if the cell's process has not done what it was for."""
    cell = work.todo[0]
    try:
        reason = "" if is_done(cell) else "ended with 0, but its metrics do not say completed"
    except Incomplete as error:
        reason = str(error)
    if status:
        reason = f"exit status {status}" if status > 0 else f"killed by signal {-status}"
    if reason:
        work.failures.append(Failure(cell, reason))
        children.say(f"{cell.title}: {reason}")


def _is_kept(cell: Cell) -> bool:
    """Whether the cell was run before. What cannot be gone on from is removed."""
    try:
        return is_done(cell)
    except Incomplete:
        shutil.rmtree(cell.run)
        return False
