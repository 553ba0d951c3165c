"""Operator of a group: its rendezvous and its workers' agents live until one has succeeded."""

from __future__ import annotations

from typing import Any

from launcher.local import gpus, processes
from launcher.local.job import HOST, at_port
from launcher.local.keeper import Keeper, Process
from launcher.local.restarts import back_off_s, describe
from launcher.status import JobState


class Elastic(Keeper):
    """Runs a PyTorchJob."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.rendezvous = Process("rendezvous")
        self.port = 0

    def processes(self) -> list[Process]:
        return [self.rendezvous, *super().processes()]

    def keep_up(self, now: float) -> None:
        """As many workers as are wanted, and their rendezvous."""
        for process in list(self.workers.values()):
            if process.index >= self.desired:
                if process.running is None:
                    del self.workers[process.index]
                elif process.kill_due is None:
                    self.terminate(process, now)
        for index in range(self.desired):
            self.workers.setdefault(index, Process(f"worker-{index}"))
        if self.rendezvous.running is None and now >= self.rendezvous.start_due:
            self.start_rendezvous(now)
        for process in self.workers.values():
            is_wanted = process.index < self.desired and not process.has_succeeded
            if is_wanted and process.running is None and now >= process.start_due:
                self.start_worker(process, now)

    def has_wound_up(self, now: float) -> bool:
        """Workers need the rendezvous until the last of them has left."""
        if self.rendezvous.running is None:
            return True
        if self.rendezvous.kill_due is None:
            self.terminate(self.rendezvous, now, grace_s=5.0)
        return False

    def variables(self, worker: Process) -> dict[str, str]:
        own = gpus.share(self.job, worker.index, self.gpus)
        return own | {"PET_RDZV_ENDPOINT": f"{HOST}:{self.port}"}

    def start_rendezvous(self, now: float) -> None:
        """On the same port as before if it can be had, since the agents know no other."""
        if not self.port or not processes.is_free(self.port, HOST):
            self.port = processes.free_port(HOST)
            for worker in self.workers.values():
                if worker.running is not None and worker.kill_due is None:
                    self.terminate(worker, now, grace_s=5.0)
        command = at_port(self.job.rendezvous, self.port)
        self.start(self.rendezvous, command, dict(self.job.rendezvous_env), now)

    def process_ended(self, process: Process, code: int, now: float) -> None:
        if process is self.rendezvous:
            self.rendezvous_ended(code, now)
        else:
            super().process_ended(process, code, now)

    def is_done(self, worker: Process, code: int, is_ordered: bool) -> bool:
        """An agent that leaves since the group shrinks is not at the run's end."""
        return code == 0 and not (is_ordered and self.verdict is None)

    def worker_done(self, worker: Process, now: float) -> None:
        """One success is the run's."""
        if self.verdict is None:
            self.end("Succeeded", "", now)

    def worker_failed(self, worker: Process, code: int, now: float) -> None:
        verdict = worker.record.ended(now - worker.started_mono, code, worker.reason)
        if self.verdict is None and verdict:
            self.end("Failed", f"{worker.name}: {verdict}", now)
        elif self.verdict is None:
            self.back_off(worker, worker.record.failures, now)

    def rendezvous_ended(self, code: int, now: float) -> None:
        """It is started again at once wherever it is lost; without it no worker gets anywhere."""
        is_ordered = self.rendezvous.kill_due is not None
        self.rendezvous.kill_due = None
        if code == 0 or is_ordered:
            self.event("Normal", "Completed", "rendezvous", f"rendezvous ended: {describe(code)}")
            return
        reason = self.why(self.rendezvous, code)
        self.rendezvous.reason = reason
        self.event("Warning", "Failed", "rendezvous", reason)
        verdict = self.rendezvous.record.ended(now - self.rendezvous.started_mono, code, reason)
        if self.verdict is None and verdict:
            self.end("Failed", f"rendezvous: {verdict}", now)
        failures = self.rendezvous.record.failures
        self.rendezvous.start_due = now if failures == 1 else now + back_off_s(failures - 1)

    def state(self) -> JobState:
        if self.verdict is not None and self.ended_at is not None:
            return self.verdict.state
        if self.started_at is None:
            return "Created"
        wanted = [self.workers.get(index) for index in range(self.desired)]
        is_whole = all(each is not None and each.running is not None for each in wanted)
        return "Running" if is_whole or self.verdict is not None else "Restarting"
