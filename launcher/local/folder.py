"""Where a local run is kept: $XDG_STATE_HOME/launcher/runs/<name>/.

    objects.json   what was submitted, and from where       written by submit
    desired.json   how many workers are wanted              written by submit and scale
    cancel.json    the run shall end                        written by cancel
    status.json    what is                                  written by the supervisor alone
    events.jsonl   what happened                            appended by whoever acts
    lock           held (flock) as long as a supervisor lives
    logs/          worker-N.log, rendezvous.log, supervisor.log; appended, never rotated
    termination/   each worker's termination message, between its writing and its reading
    checkpoints/   the run's own data where no other address was given

Every JSON file is replaced whole, so a reader never sees half of one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from launcher.status import Event


def state_root() -> Path:
    """The folder of all runs."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home).absolute() / "launcher" / "runs"


def iso(at: float) -> str:
    """A moment (Unix seconds) as ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Folder:
    """One run's folder."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def termination(self) -> Path:
        return self.path / "termination"

    def log(self, process: str) -> Path:
        return self.logs / f"{process}.log"

    def exists(self) -> bool:
        return (self.path / "objects.json").exists()

    def read(self, file: str) -> dict[str, Any] | None:
        """One of the JSON files; None where it is not there."""
        try:
            content: dict[str, Any] = json.loads((self.path / file).read_text())
        except FileNotFoundError:
            return None
        return content

    def write(self, file: str, content: dict[str, Any]) -> None:
        private = self.path / f".{file}.{os.getpid()}"
        private.write_text(json.dumps(content, indent=1) + "\n")
        private.replace(self.path / file)

    def remove(self, file: str) -> None:
        (self.path / file).unlink(missing_ok=True)

    def add_event(self, event: Event) -> None:
        with (self.path / "events.jsonl").open("a") as file:
            file.write(json.dumps(asdict(event)) + "\n")

    def events(self) -> list[Event]:
        """All events since the run was first submitted, oldest first."""
        try:
            lines = (self.path / "events.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):  # the last line may be in the making
                found.append(Event(**json.loads(line)))
        return found

    def lock(self, wait_s: float = 1.0) -> int | None:
        """Takes the lock of the run's supervisor; None where another holds it.

        The lock belongs to the open file, so the descriptor that is returned may be handed on to a
        child; it is free again when the last copy is closed, however its holder ends.
        wait_s: `is_supervised` of another process holds it for an instant.
        """
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(descriptor)
                    return None
                time.sleep(0.02)

    def is_supervised(self) -> bool:
        """Whether a supervisor lives; its process id would prove nothing, since ids come again."""
        try:
            descriptor = os.open(self.path / "lock", os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False


def folders() -> Iterator[Folder]:
    """All runs of this machine's user, by name."""
    root = state_root()
    if root.is_dir():
        yield from (Folder(path) for path in sorted(root.iterdir()) if Folder(path).exists())
