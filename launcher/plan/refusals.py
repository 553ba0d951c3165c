"""Why a run is not in the plan: one sentence, with its figures and those of the limit."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.plan.choice import Candidate, Limits


def figures(run: Candidate, limits: Limits) -> str:
    """`nasnetalarge: 4,288 GPU-days, 67 days on 64 GPUs`."""
    days = run.gpu_days / limits.gpus
    return (
        f"{run.model}: {amount(run.gpu_days)} GPU-days, {amount(days)} days on {limits.gpus} GPUs"
    )


def refusal(run: Candidate, chosen: Sequence[Candidate], limits: Limits) -> str:
    """The sentence for a run that was not taken."""
    return f"{figures(run, limits)}; {_alone(run, limits) or _beside(run, chosen, limits)}"


def _alone(run: Candidate, limits: Limits) -> str:
    """The limit that the run breaks by itself; empty where it breaks none."""
    days = run.gpu_days / limits.gpus  # the fewest, whatever the schedule
    budget = limits.budget_gpu_days
    if limits.network_days is not None and days > limits.network_days * (1 + 1e-9):
        return f"over the limit of {amount(limits.network_days)} days for a network"
    if limits.deadline_days is not None and days > limits.deadline_days * (1 + 1e-9):
        return f"over the deadline of {amount(limits.deadline_days)} days"
    if budget is not None and run.gpu_days > budget:
        return f"over the budget of {amount(budget)} GPU-days"
    return ""


def _beside(run: Candidate, chosen: Sequence[Candidate], limits: Limits) -> str:
    """What keeps a run out that would fit alone."""
    others = [each for each in chosen if each.model != run.model]
    used = sum(each.gpu_days for each in others)
    if limits.most_networks is not None and len(others) >= limits.most_networks:
        better = " and ".join(each.model for each in others)
        serve = "serves" if len(others) == 1 else "serve"
        return f"fits, but {better} {serve} better, and more are not allowed"
    if limits.budget_gpu_days is not None and used + run.gpu_days > limits.budget_gpu_days:
        return (
            f"fits alone, but {amount(used)} of the {amount(limits.budget_gpu_days)} GPU-days of "
            "the budget serve better in the networks chosen"
        )
    if limits.schedule == "parallel":
        taken = sum(limits.gpus_of(each) for each in others)
        if taken + limits.gpus_of(run) > limits.gpus:
            return (
                f"fits alone on {limits.gpus_of(run)} GPUs, but {taken} of {limits.gpus} serve "
                "better in the networks chosen"
            )
    elif limits.deadline_days is not None:
        days = (used + run.gpu_days) / limits.gpus
        if days > limits.deadline_days:
            return (
                f"fits alone, but after the networks chosen it would end on day {amount(days)}, "
                f"over the deadline of {amount(limits.deadline_days)} days"
            )
    return "fits, but adds less to the ensemble than it takes away"


def amount(value: float) -> str:
    """A number of days for people: 4,288 or 67 or 8.5 or 0.012."""
    if value >= 100 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"
