"""What the controller knows of a job beyond its objects, kept in annotations of the PyTorchJob.

Another leader goes on from there. Pure: text in, text out; what cannot be read counts as unknown,
since a person may have edited it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from launcher.cluster.marks import RESTARTS
from launcher.spec import DOMAIN

RESTART_TIMES = f"{DOMAIN}/restart-times"
"""JSON list of the seconds since 1970 at which workers were lost or failed, of late."""
FIRST_STARTED = f"{DOMAIN}/first-started-at"
"""RFC 3339; the operator's startTime begins anew with each resume."""
MEMORY = f"{DOMAIN}/controller"
"""JSON of everything else, of use to nobody but the controller."""


@dataclass(frozen=True)
class Worker:
    """The pod of one index, as last seen."""

    uid: str
    """Its first 8 characters; empty after a suspension: the next pod is no replacement."""
    before: str = ""
    """Of the pod before, so that an older observation is known as such."""
    created: int = 0
    restarts: int = 0
    """Of its container, as far as they are counted."""
    signature: str = ""
    """How it failed last; the same thing again is the same text."""
    failed_at: tuple[int, ...] = ()
    """Of the latest failures with that signature, at most three."""


@dataclass(frozen=True)
class Progress:
    """What was last read of the run's metrics."""

    updates: float = 0.0
    """The most that were ever read; a restart goes back to its checkpoint."""
    updates_at: int = 0
    """When that became more."""
    stamp: float = 0.0
    """The trainer's own time of its last update; another one is a sign of life."""
    at: int = 0
    """When that was read to have changed; 0: nothing has been read in this stretch."""


@dataclass(frozen=True)
class Memory:
    """All of it. Moments are whole seconds since 1970."""

    restarts: int = 0
    restart_times: tuple[int, ...] = ()
    first_started_at: str = ""
    stretch: str = ""
    """startTime of the stretch, between two suspensions, that is or was last counted."""
    is_closed: bool = False
    """That stretch is over, and contained in ran_s."""
    ran_s: int = 0
    """Of the stretches that are over."""
    workers: Mapping[int, Worker] = field(default_factory=dict)
    progress: Progress = Progress()
    hangs: int = 0
    """In a row, without progress between."""
    hang_at: int = 0
    """Workers' pods made before are to go."""
    is_blind: bool = False
    """It was told that the metrics cannot be reached."""


def read(annotations: Mapping[str, str]) -> Memory:
    """The memory in a PyTorchJob's annotations."""
    rest = _json(annotations.get(MEMORY, ""), dict)
    times = _json(annotations.get(RESTART_TIMES, ""), list)
    count = annotations.get(RESTARTS, "")
    known = {
        "restarts": int(count) if count.isdecimal() else 0,
        "restart_times": tuple(each for each in times if isinstance(each, int)),
        "first_started_at": annotations.get(FIRST_STARTED, ""),
    }
    try:
        rest["workers"] = {
            int(index): Worker(**(entry | {"failed_at": tuple(entry.get("failed_at", ()))}))
            for index, entry in rest.get("workers", {}).items()
        }
        rest["progress"] = Progress(**rest.get("progress", {}))
        return Memory(**{**rest, **known})
    except (TypeError, ValueError, AttributeError):
        return Memory(**known)  # type: ignore[arg-type]


def write(memory: Memory) -> dict[str, str]:
    """Annotations from which `read` gives the same memory."""
    rest: dict[str, Any] = {
        "stretch": memory.stretch,
        "is_closed": memory.is_closed,
        "ran_s": memory.ran_s,
        "workers": {str(index): _brief(entry) for index, entry in memory.workers.items()},
        "progress": _brief(memory.progress),
        "hangs": memory.hangs,
        "hang_at": memory.hang_at,
        "is_blind": memory.is_blind,
    }
    found = {
        RESTARTS: str(memory.restarts),
        RESTART_TIMES: json.dumps(list(memory.restart_times), separators=(",", ":")),
        MEMORY: json.dumps({key: value for key, value in rest.items() if value}, sort_keys=True,
                           separators=(",", ":")),
    }  # fmt: skip
    if memory.first_started_at:
        found[FIRST_STARTED] = memory.first_started_at
    return found


def _brief(entry: Worker | Progress) -> dict[str, Any]:
    """Without what has its default."""
    kept = {key: value for key, value in asdict(entry).items() if value}
    return {"uid": "", **kept} if isinstance(entry, Worker) else kept


def _json(text: str, kind: type) -> Any:
    """The JSON, if it is of that kind; else an empty one."""
    try:
        value = json.loads(text)
    except ValueError:
        return kind()
    return value if isinstance(value, kind) else kind()
