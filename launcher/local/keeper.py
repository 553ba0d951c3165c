"""What every supervisor does as a kubelet would: starts processes, ends them, listens to them.

`elastic` and `indexed` play the operators: what runs when, and what follows from an end.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from launcher.local import gpus, processes
from launcher.local.accounts import Accounts
from launcher.local.folder import Folder, iso
from launcher.local.job import Job, clean_environment
from launcher.local.restarts import Record, back_off_s, describe, last_words
from launcher.status import Event, Indexes, JobState, JobStatus, WorkerState, WorkerStatus

logger = logging.getLogger(__name__)

TICK_S = 0.1
HEARTBEAT_S = 5.0
"""status.json is written at least this often, so a lost supervisor's worker-seconds are known."""
FINISH_S = 30.0
"""After one worker succeeded, the others have this long to finish as well."""
MESSAGE_MOST_BYTES = 4096
"""What the kubelet reads of a termination message."""
LOG_TAIL_BYTES = 64_000
"""Where a failed process's last error is looked for."""


@dataclass
class Process:
    """A container's stand-in: the rendezvous, or one worker's agent with all its descendants."""

    name: str
    record: Record = field(default_factory=Record)
    running: subprocess.Popen[bytes] | None = None
    attempt: int = 0
    started_at: float = 0.0
    """Unix seconds."""
    started_mono: float = 0.0
    start_due: float = 0.0
    """Monotonic; not started again before, because of the back-off."""
    kill_due: float | None = None
    """Monotonic; SIGTERM was sent, SIGKILL follows then."""
    log_start: int = 0
    """Where this attempt begins in the log, in bytes."""
    reason: str = ""
    has_succeeded: bool = False
    message_seen_ns: int = 0

    @property
    def is_worker(self) -> bool:
        return self.name.startswith("worker-")

    @property
    def index(self) -> int:
        return int(self.name.removeprefix("worker-"))


@dataclass(frozen=True)
class Verdict:
    """How the run ends; its processes are being ended."""

    state: Literal["Succeeded", "Failed", "Cancelled"]
    reason: str


class Keeper:
    """Runs one job. All times are of this process's monotonic clock unless named otherwise."""

    def __init__(
        self, folder: Folder, job: Job, directory: str, submission: str, charged_s: float
    ) -> None:
        """directory: where the workers run. charged_s: worker-seconds of earlier submissions."""
        self.folder = folder
        self.job = job
        self.directory = directory
        self.submission = submission
        self.gpus = gpus.visible(os.environ) if job.num_processes else []
        self.accounts = Accounts(job, submission, self.gpus)
        self.workers: dict[int, Process] = {}
        self.desired = 0
        self.restarts = 0
        self.charged_s = charged_s
        self.created_at = time.time()
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.verdict: Verdict | None = None
        self.grace_s = job.grace_s
        self.stop_due = 0.0
        self.is_terminated = False
        self.order: dict[str, Any] | None = None
        self._written = ""
        self._written_at = 0.0

    # -- the loop

    def run(self) -> None:
        """Until the job has ended and none of its processes is left."""
        self.event("Normal", "Created", "job", f"created, workers: {self.job.workers}")
        while self.ended_at is None:
            self.tick(time.monotonic())
            time.sleep(TICK_S)
        self.accounts.compact()

    def tick(self, now: float) -> None:
        self.obey(now)
        for process in self.processes():
            self.poll(process, now)
        if self.verdict is None:
            self.keep_up(now)
        else:
            self.wind_up(now)
        processes.clear_adopted(self.child_ids())
        self.accounts.tick(now)
        self.write_status()

    def obey(self, now: float) -> None:
        """Orders of scale and cancel, and of whoever ends this process."""
        desired = (self.folder.read("desired.json") or {}).get("workers", self.job.workers)
        if desired != self.desired and self.verdict is None:
            if self.desired:
                message = f"scaled from {self.desired} to {desired} workers"
                self.event("Normal", "Scaled", "job", message)
            self.desired = desired
        order = self.folder.read("cancel.json")
        if self.is_terminated and order is None:
            order = {"reason": "the supervisor was told to end (SIGTERM)"}
        if order is not None and order != self.order:
            self.order = order
            self.cancel(order, now)

    def cancel(self, order: dict[str, Any], now: float) -> None:
        """Ends the run, or hastens its end: a second order may give less grace than the first."""
        grace_s = order.get("grace_s")
        self.grace_s = self.job.grace_s if grace_s is None else float(grace_s)
        if self.verdict is None:
            self.end("Cancelled", order.get("reason", "cancelled by the user"), now)
        self.stop_due = now
        for worker in self.workers.values():
            if worker.kill_due is not None:
                worker.kill_due = min(worker.kill_due, now + self.grace_s)

    def wind_up(self, now: float) -> None:
        """The end is decided."""
        alive = [each for each in self.workers.values() if each.running is not None]
        for process in alive:
            if now >= self.stop_due and process.kill_due is None:
                self.terminate(process, now)
        if not alive and self.has_wound_up(now):
            self.close()

    def end(
        self, state: Literal["Succeeded", "Failed", "Cancelled"], reason: str, now: float
    ) -> None:
        """Decides how the run ends."""
        self.verdict = Verdict(state, reason)
        self.stop_due = now + (FINISH_S if state == "Succeeded" else 0.0)
        if state == "Failed":
            self.event("Warning", "Failed", "job", reason)
        elif state == "Cancelled":
            self.event("Normal", "Cancelled", "job", reason)

    def close(self) -> None:
        assert self.verdict is not None
        processes.signal_marked(processes.mark(self.folder.path), signal.SIGKILL, whole=False)
        self.ended_at = time.time()
        if self.verdict.state == "Succeeded":
            self.event(
                "Normal", "Completed", "job", f"completed after {self.charged_s:.0f} worker-s"
            )

    # -- what kinds of jobs differ in

    def processes(self) -> list[Process]:
        """All that are or were."""
        return list(self.workers.values())

    def keep_up(self, now: float) -> None:
        """Starts what is to run, and stops what is not."""
        raise NotImplementedError

    def is_done(self, worker: Process, code: int, is_ordered: bool) -> bool:
        """Whether a worker that ended so has done all of its work. is_ordered: it was told to."""
        return code == 0

    def worker_done(self, worker: Process, now: float) -> None:
        """What follows from a worker's success."""
        raise NotImplementedError

    def worker_failed(self, worker: Process, code: int, now: float) -> None:
        """What follows from an end of a worker that nobody ordered."""
        raise NotImplementedError

    def variables(self, worker: Process) -> dict[str, str]:
        """What a worker is told beside its container's environment."""
        raise NotImplementedError

    def state(self) -> JobState:
        """Where the run stands."""
        raise NotImplementedError

    def indexes(self) -> Indexes | None:
        """How far independent parts are; None: there are none."""
        return None

    def has_wound_up(self, now: float) -> bool:
        """Called when no worker is left; whether nothing else is."""
        return True

    def process_ended(self, process: Process, code: int, now: float) -> None:
        """What follows from the end of a process."""
        self.charged_s += now - process.started_mono
        self.accounts.ended(process.name, now)
        self.worker_ended(process, code, now)

    def worker_ended(self, worker: Process, code: int, now: float) -> None:
        """Tells why a worker's first process has ended, and lets its operator act on it."""
        is_ordered = worker.kill_due is not None
        worker.kill_due = None
        self.read_message(worker, now)
        told = worker.reason if worker.message_seen_ns else ""
        self.message_path(worker).unlink(missing_ok=True)
        if self.is_done(worker, code, is_ordered):
            worker.has_succeeded, worker.reason = True, ""
            self.event("Normal", "Completed", worker.name, f"{worker.name} finished")
            self.worker_done(worker, now)
            return
        worker.reason = told or (describe(code) if is_ordered else self.why(worker, code))
        if is_ordered:
            self.event("Normal", "Killed", worker.name, f"{worker.name} ended: {worker.reason}")
            return
        self.event("Warning", "Failed", worker.name, worker.reason)
        self.worker_failed(worker, code, now)

    def back_off(self, worker: Process, failures: int, now: float) -> None:
        """Has a worker that failed so often started again, the later the more often."""
        wait_s = back_off_s(failures)
        worker.start_due = now + wait_s
        message = f"back-off {wait_s:.0f} s restarting {worker.name}"
        self.event("Warning", "BackOff", worker.name, message)

    # -- starting

    def start_worker(self, worker: Process, now: float) -> None:
        job = self.job
        environment = {
            # One worker's share of the cores. It stays when the number of workers changes: sums
            # over another number of threads round differently.
            "OMP_NUM_THREADS": str(
                max(1, len(os.sched_getaffinity(0)) // (job.workers * max(1, job.num_processes)))
            ),
            **{key: os.environ[key] for key in ("OMP_NUM_THREADS",) if key in os.environ},
            **job.worker_env,
            **self.variables(worker),
            "TERMINATION_MESSAGE_PATH": str(self.message_path(worker)),
        }
        self.message_path(worker).unlink(missing_ok=True)
        worker.message_seen_ns = 0
        if worker.attempt:
            self.restarts += 1
        self.start(worker, job.worker, environment, now)
        if worker.running is not None:
            self.accounts.started(worker.name, worker.attempt, worker.started_at, now)
        self.started_at = self.started_at or worker.started_at

    def start(
        self, process: Process, command: tuple[str, ...], environment: dict[str, str], now: float
    ) -> None:
        environment = {
            **clean_environment(os.environ),
            **environment,
            processes.MARK: processes.mark(self.folder.path, process.name),
        }
        process.attempt += 1
        process.kill_due = None
        process.started_at, process.started_mono = time.time(), now
        with self.folder.log(process.name).open("ab") as log:
            header = f"--- {process.name}, start {process.attempt}, {iso(process.started_at)} ---\n"
            log.write(header.encode())
            log.flush()
            process.log_start = log.tell()
            try:
                process.running = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    cwd=self.directory,
                    start_new_session=True,
                )
            except OSError as error:
                process.reason = f"cannot run {command[0]!r} in {self.directory}: {error.strerror}"
                self.end("Failed", f"{process.name}: {process.reason}", now)
                return
        message = f"started {process.name} (process {process.running.pid})"
        self.event("Normal", "Started", process.name, message)

    # -- ending

    def terminate(self, process: Process, now: float, grace_s: float | None = None) -> None:
        """SIGTERM to the agent alone, as a container's first process gets it; SIGKILL follows."""
        assert process.running is not None
        process.running.terminate()
        process.kill_due = now + (self.grace_s if grace_s is None else grace_s)
        self.event("Normal", "Killing", process.name, f"stopping {process.name}")

    def poll(self, process: Process, now: float) -> None:
        """Takes note of the process's messages and of its end."""
        if process.running is None:
            return
        if process.is_worker:
            self.read_message(process, now)
        code = process.running.poll()
        if code is None:
            if process.kill_due is not None and now >= process.kill_due:
                message = f"{process.name} did not end in its grace period"
                self.event("Warning", "Killing", process.name, message)
                process.running.kill()
                process.kill_due = float("inf")
            return
        # A container ends with its first process; here its children would stay.
        mine = processes.mark(self.folder.path, process.name)
        while processes.signal_marked(mine, signal.SIGKILL, whole=True):
            time.sleep(0.01)
            processes.clear_adopted(self.child_ids())
        process.running = None
        self.process_ended(process, code, now)

    # -- what processes tell

    def message_path(self, worker: Process) -> Path:
        return self.folder.termination / worker.name

    def read_message(self, worker: Process, now: float) -> None:
        """A trainer's last words, also of one that its agent has started again meanwhile."""
        path = self.message_path(worker)
        try:
            written_ns = path.stat().st_mtime_ns
            if written_ns == worker.message_seen_ns:
                return
            with path.open("rb") as file:
                text = file.read(MESSAGE_MOST_BYTES).decode(errors="replace").strip()
        except FileNotFoundError:
            return
        if not text:
            return
        worker.message_seen_ns = written_ns
        worker.reason = text
        verdict = worker.record.told(text, now)
        if worker.kill_due is None and self.verdict is None:
            self.event("Warning", "TrainerEnded", worker.name, text)
            if verdict:
                self.end("Failed", f"{worker.name}: {verdict}", now)

    def why(self, process: Process, code: int) -> str:
        """The reason of an end without a message, from the exit code and the attempt's log."""
        if code in (-signal.SIGKILL, -signal.SIGTERM):
            return describe(code)  # it came from outside; what it had written before is not why
        with self.folder.log(process.name).open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(process.log_start, end - LOG_TAIL_BYTES))
            words = last_words(log.read().decode(errors="replace").splitlines())
        return f"{describe(code)}: {words}" if words else describe(code)

    def event(
        self, kind: Literal["Normal", "Warning"], reason: str, about: str, message: str
    ) -> None:
        logger.info("%s %s: %s", about, reason, message)
        self.folder.add_event(Event(iso(time.time()), kind, reason, about, message))

    # -- what is told

    def child_ids(self) -> set[int]:
        return {each.running.pid for each in self.processes() if each.running is not None}

    def write_status(self) -> None:
        """Writes status.json when something changed, and now and then for the worker-seconds."""
        workers = tuple(worker_status(each) for _, each in sorted(self.workers.items()))
        status = JobStatus(
            name=self.job.name,
            backend="local",
            state=self.state(),
            model=self.job.model,
            workers_desired=self.desired,
            workers_running=sum(each.pid is not None for each in workers),
            workers_least=self.job.least,
            workers_most=self.job.most,
            restarts=self.restarts,
            created_at=iso(self.created_at),
            started_at=iso(self.started_at) if self.started_at else None,
            ended_at=iso(self.ended_at) if self.ended_at else None,
            worker_s=0.0,
            reason=self.verdict.reason if self.verdict else "",
            checkpoints=self.job.checkpoints,
            workers=workers,
            indexes=self.indexes(),
        )
        content = asdict(status)
        now = time.monotonic()
        if str(content) == self._written and now - self._written_at < HEARTBEAT_S:
            return
        self._written, self._written_at = str(content), now
        running_s = sum(now - each.started_mono for each in self.workers.values() if each.running)
        content["worker_s"] = round(self.charged_s + running_s, 3)
        content["as_of"] = time.time()
        content["submission"] = self.submission
        content["supervisor"] = os.getpid()
        beside = [each.running for each in self.processes() if not each.is_worker]
        content["rendezvous"] = next((each.pid for each in beside if each is not None), None)
        self.folder.write("status.json", content)


def worker_status(worker: Process) -> WorkerStatus:
    state: WorkerState
    if worker.running is not None:
        state = "Running" if worker.kill_due is None else "Terminating"
    elif worker.has_succeeded:
        state = "Succeeded"
    else:
        state = "Failed" if worker.attempt else "Pending"
    return WorkerStatus(
        index=worker.index,
        state=state,
        pid=worker.running.pid if worker.running else None,
        restarts=max(0, worker.attempt - 1),
        started_at=iso(worker.started_at) if worker.attempt else None,
        reason=worker.reason,
    )
