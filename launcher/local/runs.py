"""The verbs on local runs. They talk to a run's supervisor through the run's folder."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from launcher.errors import Conflict, LauncherError, NotFound, TimedOut, UsageError
from launcher.local import gpus, processes
from launcher.local.folder import Folder, folders, iso, state_root
from launcher.local.job import read_objects
from launcher.status import ENDED, Event, Indexes, JobStatus, WorkerStatus

START_TIMEOUT_S = 30.0
"""A supervisor answers within a second; on a machine that is overloaded it may take longer."""
END_TIMEOUT_S = 10.0
"""A supervisor ends at once after it has told the run's end; again an overloaded machine."""
POLL_S = 0.2
EVENTS_SHOWN = 200


def default_checkpoints(name: str) -> str:
    """Where a local run keeps its checkpoints unless told otherwise: inside its own folder."""
    return (state_root() / name / "checkpoints").as_uri()


def submit(objects: Sequence[Mapping[str, Any]]) -> JobStatus:
    """Starts the rendered objects as processes that outlive the caller; they run where it stands.

    An ended run of the same name is started again, and so goes on from its checkpoints; what a
    supervisor that was killed has left behind is ended first. Raises Conflict for a live run and
    UsageError for objects that this machine cannot run.
    """
    job = read_objects(objects)
    if job.parts is None and importlib.util.find_spec("torch") is None:
        raise UsageError(
            "torch is not installed, and a local run trains on this machine; "
            "pip install '.[train]', or submit to a cluster"
        )
    gpus.check(job, gpus.visible(os.environ))
    folder = Folder(state_root() / job.name)
    for each in (folder.logs, folder.termination):
        each.mkdir(parents=True, exist_ok=True)
    folder.path.chmod(0o700)
    is_live = folder.exists() and read_status(folder).state not in ENDED
    lock = folder.lock(wait_s=1.0 if is_live else END_TIMEOUT_S)
    if lock is None:
        raise Conflict(
            f"run {job.name!r} exists and is running on this machine; choose another name, "
            f"or end it with: launcher cancel {job.name}"
        )
    try:
        end_leftovers(folder)
        submission = uuid.uuid4().hex
        folder.remove("cancel.json")
        folder.write("desired.json", {"workers": job.workers})
        folder.write(
            "objects.json",
            {
                "objects": list(objects),
                "directory": os.getcwd(),
                "submission": submission,
                "submitted_at": time.time(),
            },
        )
        start_supervisor(folder, lock)
    finally:
        os.close(lock)
    deadline = time.monotonic() + START_TIMEOUT_S
    while (folder.read("status.json") or {}).get("submission") != submission:
        if time.monotonic() > deadline or not folder.is_supervised():
            raise LauncherError(
                f"the supervisor of run {job.name!r} did not start: {last_line(folder)}; "
                f"all of it is in {folder.log('supervisor')}"
            )
        time.sleep(0.02)
    return status(job.name)


def start_supervisor(folder: Folder, lock: int) -> None:
    """Hands the lock on to a detached process; it is held from here to the supervisor's end."""
    command = [sys.executable, "-m", "launcher.local.supervisor", folder.name]
    with folder.log("supervisor").open("ab") as log:
        subprocess.run(
            [*command, "--lock-fd", str(lock)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=(lock,),
            start_new_session=True,
            check=False,  # a failed start is told by the lock, which is free again then
        )


def end_leftovers(folder: Folder) -> int:
    """Kills what a lost supervisor has left; returns how many processes. Needs the run's lock."""
    mark = processes.mark(folder.path)
    count = processes.signal_marked(mark, signal.SIGKILL, whole=False)
    deadline = time.monotonic() + 10.0
    while processes.marked(mark, whole=False) and time.monotonic() < deadline:
        time.sleep(0.02)
        processes.signal_marked(mark, signal.SIGKILL, whole=False)
    # Only here: every verb that looks at a run would wait for these imports.
    from launcher.local.accounts import settle_lost
    from trainer.storage import StorageError

    with contextlib.suppress(StorageError, LauncherError):  # the next that looks does it
        settle_lost(folder.name)
    if count:
        message = f"killed {count} processes that a lost supervisor had left"
        folder.add_event(Event(iso(time.time()), "Warning", "Killing", "job", message))
    return count


def last_line(folder: Folder) -> str:
    try:
        lines = folder.log("supervisor").read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return "it wrote nothing"
    return lines[-1] if lines else "it wrote nothing"


def find(name: str) -> Folder:
    """The folder of a run. Raises NotFound, naming the runs there are."""
    folder = Folder(state_root() / name)
    if "/" in name or not folder.exists():
        known = ", ".join(each.name for each in folders()) or "none"
        raise NotFound(f"no run {name!r} on this machine (runs: {known})")
    return folder


def is_known(name: str) -> bool:
    """Whether there is a run of that name on this machine."""
    return bool(name) and "/" not in name and Folder(state_root() / name).exists()


def list_jobs() -> list[JobStatus]:
    """All runs on this machine, by name, without their events."""
    return [replace(read_status(folder), events=()) for folder in folders()]


def status(name: str) -> JobStatus:
    """A run as it is now, with its latest events."""
    folder = find(name)
    return replace(read_status(folder), events=tuple(folder.events()[-EVENTS_SHOWN:]))


def read_status(folder: Folder) -> JobStatus:
    """What the supervisor wrote last; a supervisor that is gone is told as the run's failure."""
    is_supervised = folder.is_supervised()  # first: it writes its last status while it lives
    submitted = folder.read("objects.json") or {}
    content = folder.read("status.json")
    if content is None or content.get("submission") != submitted.get("submission"):
        return not_started(folder, submitted, content or {}, is_supervised)
    for extra in ("submission", "supervisor", "rendezvous"):
        content.pop(extra)
    as_of = content.pop("as_of")
    workers = tuple(WorkerStatus(**each) for each in content.pop("workers"))
    indexes = content.pop("indexes", None)
    content["indexes"] = Indexes(**indexes) if indexes else None
    found = JobStatus(**{**content, "workers": workers, "events": ()})
    if found.state in ENDED:
        return found
    if is_supervised:
        running_s = max(0.0, time.time() - as_of) * found.workers_running
        return replace(found, worker_s=round(found.worker_s + running_s, 3))
    left = len(processes.marked(processes.mark(folder.path), whole=False))
    verb = f"launcher cancel {folder.name}"
    return replace(
        found,
        state="Failed",
        ended_at=iso(as_of),
        reason=f"its supervisor was lost ({left} of its processes still run); submit it "
        f"again to go on from the last checkpoint, or end it with: {verb}",
    )


def not_started(
    folder: Folder, submitted: Mapping[str, Any], before: Mapping[str, Any], is_supervised: bool
) -> JobStatus:
    """The status of a run whose supervisor has not spoken yet."""
    job = read_objects(submitted["objects"])
    return JobStatus(
        name=job.name,
        backend="local",
        state="Created" if is_supervised else "Failed",
        model=job.model,
        workers_desired=job.workers,
        workers_running=0,
        workers_least=job.least,
        workers_most=job.most,
        restarts=0,
        created_at=iso(submitted["submitted_at"]),
        started_at=None,
        ended_at=None if is_supervised else iso(submitted["submitted_at"]),
        worker_s=before.get("worker_s", 0.0),
        reason="" if is_supervised else f"its supervisor did not start: {last_line(folder)}",
        checkpoints=job.checkpoints,
        indexes=Indexes(job.parts.indexes, 0) if job.parts else None,
    )


def scale(name: str, workers: int) -> JobStatus:
    """Wants another number of workers; the highest indices leave first. Does not wait for them.

    Raises UsageError outside the run's range and Conflict for a run that has ended.
    """
    folder = find(name)
    found = read_status(folder)
    if not found.workers_least <= workers <= found.workers_most:
        raise UsageError(
            f"workers ({workers}) of run {name!r} must be between its least "
            f"({found.workers_least}) and most ({found.workers_most})"
        )
    if found.state in ENDED:
        raise Conflict(f"run {name!r} has ended ({found.state}); submit it again instead")
    folder.write("desired.json", {"workers": workers})
    return status(name)


def cancel(name: str, grace_s: float | None = None) -> JobStatus:
    """Ends a run and waits until its last process is gone; one that has ended stays as it is.

    grace_s: how long workers may take to save and leave; None is what the objects say.
    """
    folder = find(name)
    found = read_status(folder)
    if not folder.is_supervised():
        return cancel_lost(folder, found) if found.state == "Failed" else status(name)
    folder.write("cancel.json", {"grace_s": grace_s})
    while folder.is_supervised():
        time.sleep(POLL_S / 2)
    return status(name)


def cancel_lost(folder: Folder, found: JobStatus) -> JobStatus:
    """Ends what a lost supervisor has left, in its stead."""
    lock = folder.lock()
    if lock is None:  # submitted again in this moment
        return cancel(folder.name)
    try:
        content = folder.read("status.json")
        if content is not None and content["state"] not in ENDED:
            end_leftovers(folder)
            for worker in content["workers"]:
                worker.update(state="Failed", pid=None)
            content.update(
                state="Cancelled",
                workers_running=0,
                ended_at=found.ended_at,
                reason="cancelled by the user after its supervisor was lost",
            )
            folder.write("status.json", content)
    finally:
        os.close(lock)
    return status(folder.name)


def wait(
    name: str,
    timeout_s: float | None = None,
    on_change: Callable[[JobStatus], None] | None = None,
) -> JobStatus:
    """Waits for the run's end, whichever it is; raises TimedOut if that takes longer.

    on_change: told the status at the start and whenever state, workers, restarts or reason differ.
    """
    find(name)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    seen: tuple[object, ...] = ()
    while True:
        found = status(name)
        news = (found.state, found.workers_desired, found.workers_running, found.restarts)
        if on_change is not None and (*news, found.reason, found.indexes) != seen:
            seen = (*news, found.reason, found.indexes)
            on_change(found)
        if found.state in ENDED:
            return found
        if deadline is not None and time.monotonic() > deadline:
            raise TimedOut(f"run {name!r} is still {found.state} after {timeout_s:g} s; it goes on")
        time.sleep(POLL_S)


def delete(name: str, force: bool = False) -> None:
    """Removes a run's folder: state, logs, and checkpoints where they are kept inside it.

    Raises Conflict for a live run; with `force` that is cancelled first.
    """
    folder = find(name)
    if read_status(folder).state not in ENDED:
        if not force:
            raise Conflict(f"run {name!r} is running; end it first with: launcher cancel {name}")
        cancel(name, grace_s=10.0)
    lock = folder.lock(wait_s=END_TIMEOUT_S)
    if lock is None:
        raise Conflict(f"run {name!r} was submitted again meanwhile")
    try:
        end_leftovers(folder)
        # Out of sight at once: a half-removed folder must not look like a run.
        gone = folder.path.with_name(f".{name}.{uuid.uuid4().hex}")
        Path.rename(folder.path, gone)
        shutil.rmtree(gone)
    finally:
        os.close(lock)
