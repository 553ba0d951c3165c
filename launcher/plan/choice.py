"""The set of runs with the best expected ensemble inside the limits: an integer program, exact.

    maximise    sum top1_i lead_i + sum gain_k slot_k - REPEAT_LOSS sum again_f - sum weakness_i x_i
    subject to  one run of a network at most; one lead, and it is taken;
                sum slot_k = sum x_i - 1; again_f >= taken of family f - 1; the limits

x and lead are 0 or 1. Slots need not be: their gains fall, so the best ones fill first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from launcher.plan import accuracy

if TYPE_CHECKING:
    from numpy.typing import NDArray

Schedule = Literal["sequential", "parallel"]


@dataclass(frozen=True)
class Candidate:
    """One run that may be taken: a network with a length and an input size."""

    model: str
    family: str
    size_px: int
    epochs: float
    gpu_days: float
    top1: float
    """Expected of this run, percent."""


@dataclass(frozen=True)
class Limits:
    """What a plan may use; None is no limit. Days are of wall clock, on the GPUs of the plan."""

    gpus: int
    network_days: float | None = None
    """Each run by itself."""
    deadline_days: float | None = None
    """From the first start to the last end."""
    budget_gpu_days: float | None = None
    most_networks: int | None = None
    schedule: Schedule = "sequential"
    """sequential: one run after another, each on all GPUs. parallel: all begin at once, each on
    as few GPUs as the time allows."""

    @property
    def span_days(self) -> float:
        """The longest that one run may take."""
        given = [each for each in (self.network_days, self.deadline_days) if each is not None]
        return min(given, default=math.inf)

    def gpus_of(self, candidate: Candidate) -> int:
        """GPUs that the run gets."""
        if self.schedule == "sequential":
            return self.gpus
        return max(1, math.ceil(candidate.gpu_days / self.span_days - 1e-9))

    def fits(self, candidate: Candidate) -> bool:
        """Whether the run alone is inside every limit."""
        gpus = self.gpus_of(candidate)
        return (
            gpus <= self.gpus
            and candidate.gpu_days / gpus <= self.span_days * (1 + 1e-9)
            and candidate.gpu_days <= (self.budget_gpu_days or math.inf)
        )


def choose(candidates: Sequence[Candidate], limits: Limits) -> list[Candidate]:
    """The best set, the strongest run first; empty where not one run fits."""
    fitting = [each for each in candidates if limits.fits(each)]
    if not fitting:
        return []
    program = _Program(fitting, limits)
    taken = program.solve()
    return sorted(taken, key=lambda each: (-each.top1, each.gpu_days))


class _Program:
    """The columns are x (n), lead (n), slot (m - 1), again (f), in this order."""

    def __init__(self, fitting: Sequence[Candidate], limits: Limits) -> None:
        self.fitting, self.limits = fitting, limits
        self.models = sorted({each.model for each in fitting})
        self.families = sorted({each.family for each in fitting})
        self.n = len(fitting)
        self.slots_at = 2 * self.n
        self.again_at = self.slots_at + len(self.models) - 1
        self.width = self.again_at + len(self.families)
        self.rows: list[tuple[NDArray[Any], float, float]] = []

    def solve(self) -> list[Candidate]:
        """Raises AssertionError where HiGHS does not end with the optimum: it always can."""
        import numpy as np
        from scipy.optimize import Bounds, LinearConstraint, milp

        self._shape()
        self._limit()
        matrix, low, high = (np.array(part) for part in zip(*self.rows, strict=True))
        whole = np.zeros(self.width)
        whole[: self.slots_at] = 1
        upper = np.ones(self.width)
        upper[self.again_at :] = self.n
        answer = milp(
            -self._value(),
            integrality=whole,
            bounds=Bounds(np.zeros(self.width), upper),
            constraints=LinearConstraint(matrix, low, high),
            options={"mip_rel_gap": 0.0},
        )
        assert answer.success, answer.message
        return [each for each, x in zip(self.fitting, answer.x, strict=False) if x > 0.5]

    def _value(self) -> NDArray[Any]:
        """What each column adds to the expected top-1."""
        import numpy as np

        best = max(each.top1 for each in self.fitting)
        value = np.zeros(self.width)
        value[: self.n] = [-accuracy.weakness(each.top1, best) for each in self.fitting]
        value[self.n : self.slots_at] = [each.top1 for each in self.fitting]
        value[self.slots_at : self.again_at] = [
            accuracy.member_gain(k) for k in range(2, len(self.models) + 1)
        ]
        value[self.again_at :] = -accuracy.REPEAT_LOSS
        return value

    def _shape(self) -> None:
        """What makes the columns mean what they are called."""
        import numpy as np

        taken = self._row(x=np.ones(self.n))
        for index in range(self.n):
            row = self._row()
            row[self.n + index], row[index] = 1, -1
            self.rows.append((row, -np.inf, 0))  # the lead is taken
        lead = self._row()
        lead[self.n : self.slots_at] = 1
        self.rows.append((lead, 1, 1))
        slots = taken.copy()
        slots[self.slots_at : self.again_at] = -1
        self.rows.append((slots, 1, 1))
        for model in self.models:
            row = self._row(x=np.array([float(each.model == model) for each in self.fitting]))
            self.rows.append((row, 0, 1))
        for index, family in enumerate(self.families):
            row = self._row(x=np.array([float(each.family == family) for each in self.fitting]))
            row[self.again_at + index] = -1
            self.rows.append((row, -np.inf, 1))

    def _limit(self) -> None:
        """The limits on the whole set; each row is scaled to 1, as HiGHS' tolerance is absolute."""
        import numpy as np

        limits = self.limits
        days = np.array([each.gpu_days for each in self.fitting])
        caps: list[tuple[NDArray[Any], float]] = []
        if limits.schedule == "parallel":
            caps.append((np.array([float(limits.gpus_of(e)) for e in self.fitting]), limits.gpus))
        elif limits.deadline_days is not None:
            caps.append((days / limits.gpus, limits.deadline_days))
        if limits.budget_gpu_days is not None:
            caps.append((days, limits.budget_gpu_days))
        if limits.most_networks is not None:
            caps.append((np.ones(self.n), limits.most_networks))
        for use, most in caps:
            self.rows.append((self._row(x=use / most), 0, 1))

    def _row(self, x: NDArray[Any] | None = None) -> NDArray[Any]:
        import numpy as np

        row = np.zeros(self.width)
        if x is not None:
            row[: self.n] = x
        return row
