"""When each run of a plan has the GPUs. Speed is taken to grow in proportion to their number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from launcher.plan.choice import Candidate, Limits


@dataclass(frozen=True)
class Slot:
    """One run's time, in days from the start of the plan."""

    run: Candidate
    gpus: int
    start_day: float
    end_day: float

    @property
    def days(self) -> float:
        return self.end_day - self.start_day


def lay_out(chosen: Sequence[Candidate], limits: Limits) -> list[Slot]:
    """One after another on all GPUs in the given order, or all from day 0 beside each other."""
    slots: list[Slot] = []
    start = 0.0
    for run in chosen:
        gpus = limits.gpus_of(run)
        slots.append(Slot(run, gpus, start, start + run.gpu_days / gpus))
        if limits.schedule == "sequential":
            start = slots[-1].end_day
    return slots
