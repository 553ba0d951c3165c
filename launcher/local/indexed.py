"""Controller of independent parts: each index runs until it is done, some of them at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from launcher.local import gpus
from launcher.local.keeper import Keeper, Process
from launcher.local.restarts import EXIT_USAGE
from launcher.status import Indexes, JobState
from trainer.config import RUN_INDEX


class Indexed(Keeper):
    """Runs an Indexed Job. `desired` is how many of its indexes run at once."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        assert self.job.parts is not None
        self.parts = self.job.parts
        self.done: set[int] = set()
        self.failed: set[int] = set()
        """For good."""
        self.failures: Counter[int] = Counter()
        self.places: dict[int, int] = {}
        """Of the indexes that run: which of this machine's places, and so which GPUs, each has."""

    def keep_up(self, now: float) -> None:
        alive = [each for each in self.workers.values() if each.running is not None]
        if not alive and len(self.done) + len(self.failed) == self.parts.indexes:
            self._conclude(now)
            return
        staying = sorted((each for each in alive if each.kill_due is None), key=_index)
        for worker in staying[self.desired :]:
            self.terminate(worker, now)
        for index in range(self.parts.indexes):
            if len(self.places) >= self._places():
                return
            worker = self.workers.get(index) or Process(f"worker-{index}")
            is_left = index not in self.done and index not in self.failed
            if is_left and worker.running is None and now >= worker.start_due:
                self.workers[index] = worker
                self.places[index] = min(set(range(self._places())) - set(self.places.values()))
                self.start_worker(worker, now)

    def _places(self) -> int:
        """As many as are wanted at once, and have their GPUs."""
        if not self.gpus:
            return self.desired
        return min(self.desired, len(self.gpus) // self.job.num_processes)

    def variables(self, worker: Process) -> dict[str, str]:
        if self.job.num_processes:
            own = gpus.share(self.job, self.places[worker.index], self.gpus)
        else:
            own = {gpus.VISIBLE: ""}  # as in a pod that was given none
        return own | {RUN_INDEX: str(worker.index)}

    def worker_ended(self, worker: Process, code: int, now: float) -> None:
        self.places.pop(worker.index, None)
        super().worker_ended(worker, code, now)

    def worker_done(self, worker: Process, now: float) -> None:
        self.done.add(worker.index)

    def worker_failed(self, worker: Process, code: int, now: float) -> None:
        """Whether an index that failed is started again, and whether the others go on."""
        if self.verdict is not None:
            return
        index = worker.index
        self.failures[index] += 1
        if code == EXIT_USAGE:
            self.end("Failed", f"{worker.name}: {worker.reason}", now)
        elif self.failures[index] <= self.parts.retries:
            self.back_off(worker, self.failures[index], now)
        else:
            self.failed.add(index)
            if len(self.failed) > self.parts.failures_most:
                self._conclude(now)

    def _conclude(self, now: float) -> None:
        if not self.failed:
            self.end("Succeeded", "", now)
            return
        last = self.workers[max(self.failed)]
        failed = f"{len(self.failed)} of {self.parts.indexes} indexes failed"
        reason = f"{failed} ({as_ranges(self.failed)}): {last.name}: {last.reason}"
        self.end("Failed", reason, now)

    def state(self) -> JobState:
        if self.verdict is not None and self.ended_at is not None:
            return self.verdict.state
        if self.started_at is None:
            return "Created"
        return "Running" if self.places or self.verdict is not None else "Restarting"

    def indexes(self) -> Indexes:
        return Indexes(self.parts.indexes, len(self.done), as_ranges(self.failed))


def as_ranges(indexes: Iterable[int]) -> str:
    """As Kubernetes lists them: 1,3-5."""
    spans: list[list[int]] = []
    for index in sorted(indexes):
        if spans and index == spans[-1][1] + 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in spans)


def _index(worker: Process) -> int:
    return worker.index
