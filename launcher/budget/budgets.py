"""What a budget allows: whether a job may start, grow or go on. Pure.

Slurm's rules: `safe` lets a job start only if it can run to its deadline inside what remains, and
then never ends it; `hard` lets jobs start while anything remains, and ends them in time for a
checkpoint; `soft` only tells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from launcher.budget.periods import Calendar

Mode = Literal["safe", "hard", "soft"]
OnExhaustion = Literal["shrink", "suspend"]
Refusal = Literal["OverBudget", "UsedUp", "NoDeadline", "NotAllowed", "NoLedger"]
"""Why a budget says no, in a word: refusals are counted by it."""
DAY_MS = 86_400_000


@dataclass(frozen=True)
class Budget:
    """What was decided about it."""

    name: str
    limit_gpu_ms: int
    """In each period."""
    calendar: Calendar
    mode: Mode = "safe"
    on_exhaustion: OnExhaustion = "suspend"
    grace_s: int = 600
    """`hard`: so long before the end jobs are asked to save; they are charged for it."""


@dataclass(frozen=True)
class Hold:
    """GPU time that a job may still take: kept free for it until it ends."""

    job_uid: str
    namespace: str
    job: str
    gpus: int
    """As many as it has at least."""
    gpu_ms: int
    """Of its whole life."""


@dataclass(frozen=True)
class Reservation:
    """GPU time kept free for a job of a name that is still to come."""

    job: str
    gpu_ms: int


@dataclass(frozen=True)
class State:
    """Where a budget stands in its period, in GPU-milliseconds."""

    budget: Budget
    used: int
    """Charged, less what was given back."""
    holds: Mapping[str, Hold] = field(default_factory=dict)
    """By the job's uid."""
    used_by_job: Mapping[str, int] = field(default_factory=dict)
    """Of jobs that hold something, in their whole lives."""
    gpus: int = 0
    """Allocated now."""
    reservations: Sequence[Reservation] = ()

    @property
    def reserved(self) -> int:
        """What running and queued jobs may still take of what they hold, and what is kept free for
        jobs to come."""
        return sum(map(self.left_of, self.holds.values())) + self.kept_free()

    @property
    def remaining(self) -> int:
        return self.budget.limit_gpu_ms - self.used - self.reserved

    def left_of(self, hold: Hold) -> int:
        return max(0, hold.gpu_ms - self.used_by_job.get(hold.job_uid, 0))

    def kept_free(self, job: str = "") -> int:
        """The reservations that no job of their name holds yet; without those for `job`."""
        held: Counter[str] = Counter()
        for hold in self.holds.values():
            held[hold.job] += hold.gpu_ms
        others = (each for each in self.reservations if each.job != job)
        return sum(max(0, each.gpu_ms - held[each.job]) for each in others)


@dataclass(frozen=True)
class Ask:
    """A job that wants to start, or to be larger."""

    job_uid: str
    namespace: str
    job: str
    gpus: int
    """As many as it starts with."""
    deadline_s: int
    """Of its running time; 0: none."""


@dataclass(frozen=True)
class Admitted:
    """It may; with what is to be held for it, and with a warning where the budget only tells."""

    hold: Hold | None
    warning: str = ""


@dataclass(frozen=True)
class Refused:
    """It may not."""

    reason: str
    kind: Refusal = "OverBudget"


def admit(state: State, ask: Ask) -> Admitted | Refused:
    """Whether a job may start. One that holds something already is judged without that."""
    budget = state.budget
    others = {uid: hold for uid, hold in state.holds.items() if uid != ask.job_uid}
    left = budget.limit_gpu_ms - state.used - sum(map(state.left_of, others.values()))
    left -= state.kept_free(ask.job)
    if budget.mode == "safe":
        return _admit_safe(state, ask, left)
    if left > 0:
        return Admitted(None)
    reason = used_up(state)
    if budget.mode == "soft":
        return Admitted(None, f"{reason}; it only warns")
    reason = f"{reason}; raise it with `launcher budget set`, or wait for its next period"
    return Refused(reason, "UsedUp")


def admit_largest(state: State, asks: Sequence[Ask]) -> tuple[Ask, Admitted] | Refused:
    """The first of several sizes of a job, the largest first, that may start; else why the largest
    may not."""
    first = admit(state, asks[0])
    if isinstance(first, Admitted):
        return asks[0], first
    for ask in asks[1:]:
        if isinstance(found := admit(state, ask), Admitted):
            return ask, found
    return first


def used_up(state: State) -> str:
    """The words for a budget of which nothing is left."""
    used, limit = state.used, state.budget.limit_gpu_ms
    kept = f", {in_days(state.kept_free())} are reserved" if used < limit else ""
    name = _quoted(state.budget)
    return f"budget {name} is used up: {in_days(used)} of {in_days(limit)} GPU-days{kept}"


def _admit_safe(state: State, ask: Ask, left: int) -> Admitted | Refused:
    name = _quoted(state.budget)
    if not ask.deadline_s:
        return Refused(
            f"budget {name} is safe, so a job needs an end; give --deadline, as in --deadline 2d",
            "NoDeadline",
        )
    hold = Hold(ask.job_uid, ask.namespace, ask.job, ask.gpus, ask.gpus * ask.deadline_s * 1000)
    known = state.holds.get(ask.job_uid)
    wanted = max(0, hold.gpu_ms - state.used_by_job.get(ask.job_uid, 0))
    if wanted <= left or (known is not None and hold.gpu_ms <= known.gpu_ms):
        return Admitted(hold)
    return Refused(
        f"budget {name} has {in_days(max(0, left))} GPU-days left and this job may cost "
        f"{in_days(wanted)} ({ask.gpus} GPUs × {_span(ask.deadline_s)}); "
        "lower --gpus or --deadline, or raise the budget"
    )


def is_exhausted(state: State) -> bool:
    """Whether running jobs must begin to end now; what they take meanwhile still fits."""
    if state.budget.mode != "hard":
        return False
    in_grace = state.gpus * state.budget.grace_s * 1000
    return state.used >= state.budget.limit_gpu_ms - in_grace


def cost_in_words(gpus: int, deadline_s: int) -> str:
    """What a job may cost at most: `64 GPUs × 8 days = 512.0 GPU-days`."""
    return f"{gpus} GPUs × {_span(deadline_s)} = {in_days(gpus * deadline_s * 1000)} GPU-days"


def in_days(gpu_ms: int) -> str:
    """GPU-days as people read them, with one digit."""
    return f"{gpu_ms / DAY_MS:,.1f}"


def exhausted_at_ms(state: State, now_ms: int) -> int | None:
    """When nothing will be left at the present number of GPUs; None: never at this rate."""
    left = state.budget.limit_gpu_ms - state.used
    if left <= 0:
        return now_ms
    return now_ms + left // state.gpus if state.gpus else None


def without(holds: Mapping[str, Hold], ended: Iterable[str]) -> dict[str, Hold]:
    """The holds of jobs that are still there."""
    gone = set(ended)
    return {uid: hold for uid, hold in holds.items() if uid not in gone}


def _quoted(budget: Budget) -> str:
    return f'"{budget.name}"'


def _span(seconds: int) -> str:
    """The largest unit that says it in few digits."""
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= length:
            return f"{seconds / length:g} {unit}" if seconds % length == 0 else (
                f"{seconds / length:.1f} {unit}"
            )  # fmt: skip
    return f"{seconds} seconds"
