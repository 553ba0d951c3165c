"""What a job's GPU time is spent on: its trainer tells of its own time, the ledger of what it had.

Rank 0's counters say how long its process computed, waited for data and stood still; the ledger
says what was allocated meanwhile. What no counter explains is start-up or idleness, so the parts
always add up to what was allocated. Pure.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Literal

from launcher.budget.records import Effort

FRESH_MS = 60_000
"""Time since the last reading waits so long for the next one, which may explain it."""
Part = Literal["good", "startup", "data_wait", "checkpoint", "recompute", "idle"]


@dataclass(frozen=True)
class Told:
    """Counters of rank 0's process, since it began."""

    generation: float = 0.0
    """Of the run; another one is another process."""
    updates: float = 0.0
    update_s: float = 0.0
    """In updates, waiting for their data included."""
    data_wait_s: float = 0.0
    evaluation_s: float = 0.0
    checkpoint_s: float = 0.0
    """Standing still for checkpoints."""
    lost_updates: float = 0.0
    """That the process has to do again."""

    def follows(self, before: Told) -> bool:
        """Whether it is the same process, later."""
        is_later = self.updates >= before.updates and self.update_s >= before.update_s
        return self.generation == before.generation and is_later

    def since(self, before: Told) -> Told:
        """What was done in between."""
        return Told(
            self.generation,
            self.updates - before.updates,
            self.update_s - before.update_s,
            max(0.0, self.data_wait_s - before.data_wait_s),
            max(0.0, self.evaluation_s - before.evaluation_s),
            max(0.0, self.checkpoint_s - before.checkpoint_s),
            self.lost_updates,
        )


@dataclass
class Tally:
    """Of one job, while a controller follows it."""

    effort: Effort
    """All that was told apart so far."""
    told: Told | None = None
    """As last read; None: not yet by this controller."""
    read_ms: int = 0
    lost_left: float = 0.0
    """Updates that the process still has to do again."""
    owed: Counter[str] = field(default_factory=Counter)
    """GPU-milliseconds that were told of and do not stand in `effort` yet, by Part."""

    def hear(self, told: Told, gpus: int, at_ms: int, allocated_ms: int) -> None:
        """Takes in what was read. allocated_ms: all GPU time of the job up to then."""
        self.read_ms = at_ms
        is_new = False
        if self.told is None and self.effort.total_ms:
            # Another controller followed it until now, or a moment ago. How much of what this
            # process tells was told apart already is unknown; in which proportions is not.
            self.lost_left = told.lost_updates
            parts = self._parts(told)
            missing_ms = max(0, allocated_ms - self.effort.total_ms)
            scale = missing_ms / 1000 / max(1e-9, sum(parts.values()))
        else:
            is_new = self.told is None or not told.follows(self.told)
            if is_new:
                self.lost_left = told.lost_updates
            parts = self._parts(told if self.told is None or is_new else told.since(self.told))
            scale = gpus
        for part, seconds in parts.items():
            self.owed[part] += round(seconds * scale * 1000)
        if is_new:  # what its process does not explain came before it
            explained_ms = self.effort.total_ms + self.owed.total()
            self.owed["startup"] += max(0, allocated_ms - explained_ms)
        self.told = told
        self._trim(max(0, allocated_ms - self.effort.total_ms))

    def _trim(self, room_ms: int) -> None:
        """No more is owed than was allocated: a process that was silent for a while, which counted
        as a start, tells of that time too."""
        if (owed_ms := self.owed.total()) > room_ms:
            for part in self.owed:
                self.owed[part] = self.owed[part] * room_ms // owed_ms

    def _parts(self, done: Told) -> dict[Part, float]:
        """Seconds by what they were spent on."""
        again = min(done.updates, self.lost_left)
        self.lost_left -= again
        work_s = max(0.0, done.update_s - done.data_wait_s)
        again_s = work_s * again / done.updates if done.updates else 0.0
        return {
            "recompute": again_s,
            "checkpoint": done.checkpoint_s,
            "data_wait": min(done.data_wait_s, done.update_s),
            "good": work_s - again_s + done.evaluation_s,
        }

    def settle(self, allocated_ms: int, gpus: int, now_ms: int) -> Effort:
        """The effort with what was allocated since, told apart.

        gpus: that it has now; 0: all its pods have ended. What nobody has ever read of stays out.
        """
        if self.told is None and (gpus or not self.effort.total_ms):
            return self.effort
        due = allocated_ms - self.effort.total_ms
        age_ms = max(0, now_ms - self.read_ms)
        if gpus and age_ms <= FRESH_MS:
            due -= gpus * age_ms
        due = max(0, due)
        found: Counter[str] = Counter()
        for part in ("startup", "recompute", "checkpoint", "data_wait", "good"):
            found[part] = min(due, self.owed[part])
            self.owed[part] -= found[part]
            due -= found[part]
        found["startup" if self._is_starting(gpus, age_ms) else "idle"] += due
        changes = {f"{part}_ms": getattr(self.effort, f"{part}_ms") + more
                   for part, more in found.items()}  # fmt: skip
        self.effort = replace(self.effort, **changes)
        return self.effort

    def _is_starting(self, gpus: int, age_ms: int) -> bool:
        """Whether the present process has not done an update, or nobody answers for it yet."""
        if self.told is None:
            return False
        return self.told.updates == 0 or (gpus > 0 and age_ms > FRESH_MS)
