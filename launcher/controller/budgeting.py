"""What a budget asks of its jobs: who must still be judged, who shrinks, who stops. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from launcher.budget.budgets import State, in_days, is_exhausted, used_up
from launcher.budget.standing import Standing
from launcher.cluster import marks
from launcher.cluster.admission import Applicant
from launcher.cluster.fields import labels_of
from launcher.cluster.kinds import PYTORCHJOB
from launcher.controller.view import View
from launcher.spec import BUDGET_LABEL


@dataclass(frozen=True)
class Judge:
    """A job that runs, or would, without having asked: applied by hand, or let go by hand."""

    view: View
    applicant: Applicant


@dataclass(frozen=True)
class Pause:
    """A job that is to save and leave."""

    view: View
    reason: str


@dataclass(frozen=True)
class Shrink:
    """A job that goes on with fewer workers."""

    view: View
    workers: int
    reason: str


@dataclass(frozen=True)
class Warn:
    """A job that runs on a budget which only tells."""

    view: View
    reason: str


Order = Judge | Pause | Shrink | Warn


def orders(
    standing: Standing, views: Sequence[View], gpus_of_job: Mapping[str, int], was_told: bool
) -> list[Order]:
    """What is to be done about the jobs of a budget.

    gpus_of_job: allocated now, by uid. was_told: whether it is known already that nothing is left.
    """
    name = standing.stored.budget.name
    mine = [
        view
        for view in views
        if labels_of(view.job).get(BUDGET_LABEL) == name and not is_over(view)
    ]
    running = [view for view in mine if not view.is_suspended]
    stopping = _stop(standing, [v for v in running if gpus_of_job.get(uid_of(v))])
    if stopping:
        return stopping
    if is_empty(standing.live) and standing.live.budget.mode == "soft" and not was_told:
        words = used_up(standing.live)
        return [Warn(view, f"{words}; it only warns") for view in running]
    judged: list[Order] = []
    for view in running:
        applicant = Applicant.of(view.job, PYTORCHJOB)
        if applicant is not None and not is_admitted(standing.stored, view):
            judged.append(Judge(view, applicant))
    return judged


def is_over(view: View) -> bool:
    """Whether the job needs nothing any more: another run of it asks anew."""
    is_stopped = bool(view.notes.get(marks.ENDED) or view.notes.get(marks.CANCELLED))
    return view.is_finished or is_stopped


def is_admitted(state: State, view: View) -> bool:
    """Whether the job has asked, and was let in."""
    return uid_of(view) in state.holds or view.notes.get(marks.ADMITTED) == state.budget.name


def is_empty(state: State) -> bool:
    """Whether nothing may start: all is used, or promised."""
    if state.budget.mode == "safe":
        return state.remaining <= 0
    return state.used + state.kept_free() >= state.budget.limit_gpu_ms


def uid_of(view: View) -> str:
    return str(view.job["metadata"]["uid"])


def _stop(standing: Standing, running: Sequence[View]) -> list[Order]:
    """Ends what runs where nothing is left for it; `hard` alone does."""
    budget = standing.live.budget
    if budget.mode != "hard" or not running:
        return []
    end = budget.calendar.end
    if standing.period is None and end is not None:
        reason = f'budget "{budget.name}" ended on {end:%Y-%m-%d}'
        return [Pause(view, reason) for view in running]
    if not is_exhausted(standing.live):
        return []
    reason = _why(standing.live)
    if budget.on_exhaustion == "shrink" and (smaller := _smaller(standing.live, running, reason)):
        return smaller
    return [Pause(view, reason) for view in running]


def _smaller(state: State, running: Sequence[View], reason: str) -> list[Order]:
    """To their smallest size, where that leaves time to use what is left. Not under Kueue, which
    would queue a job anew whose size changes."""
    large = [view for view in running if view.replicas > view.least and not view.is_queued]
    spared = sum((view.replicas - view.least) * _gpus_per_worker(view) for view in large)
    if not large or is_exhausted(replace(state, gpus=max(0, state.gpus - spared))):
        return []
    return [Shrink(view, view.least, reason) for view in large]


def _gpus_per_worker(view: View) -> int:
    applicant = Applicant.of(view.job, PYTORCHJOB)
    return applicant.gpus_per_worker if applicant else 0


def _why(state: State) -> str:
    budget = state.budget
    if state.used >= budget.limit_gpu_ms:
        return used_up(state)
    return (
        f'budget "{budget.name}" is nearly used up: {in_days(state.used)} of '
        f"{in_days(budget.limit_gpu_ms)} GPU-days, and {state.gpus} GPUs need the rest to save"
    )
