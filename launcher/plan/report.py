"""A plan as a document with stable keys, as rows of a table, and as commands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from launcher.plan.planner import Plan, Variant
from launcher.plan.refusals import amount
from launcher.plan.schedule import Slot

HEAD = ("MODEL", "PX", "EPOCHS", "GPU-DAYS", "DAYS", "ERROR", "LEVEL", "TOP-1", "CHOSEN")


def document(plan: Plan) -> dict[str, Any]:
    """Everything, for -o json and -o yaml. Days are of wall clock on all GPUs of the plan."""
    question, limits = plan.question, plan.question.limits
    return {
        "gpu_type": plan.device.name,
        "precision": plan.device.precision,
        "gpus": limits.gpus,
        "images": question.images,
        "schedule": limits.schedule,
        "limits": {
            "network_days": limits.network_days,
            "deadline_days": limits.deadline_days,
            "budget_gpu_days": limits.budget_gpu_days,
            "networks_most": limits.most_networks,
        },
        "shares": dict(question.shares),
        "networks": [_row(plan, variant) for variant in plan.variants],
        "plan": {
            "gpu_days": plan.gpu_days,
            "days": plan.days,
            "top1_expected": plan.top1 / 100,
            "runs": [_slot(slot) for slot in plan.slots],
        },
        "refusals": dict(plan.refusals),
    }


def _row(plan: Plan, variant: Variant) -> dict[str, Any]:
    run = variant.run
    return {
        "model": run.model,
        "family": run.family,
        "size_px": run.size_px,
        "epochs": run.epochs,
        "gpu_days": run.gpu_days,
        "days": run.gpu_days / plan.question.limits.gpus,
        "error_ratio": variant.best.error_ratio,
        "level": variant.best.level,
        "top1_expected": run.top1 / 100 if variant.network.top1 is not None else None,
        "top1_source": variant.network.top1_source,
        "chosen": is_chosen(plan, variant),
        "estimates": [
            {
                "level": time.level,
                "seconds_per_image": time.seconds,
                "gpu_days": variant.gpu_days_of[time.level],
                "error_ratio": time.error_ratio,
                "source": time.source,
            }
            for time in variant.times
        ],
    }


def _slot(slot: Slot) -> dict[str, Any]:
    return {
        "model": slot.run.model,
        "size_px": slot.run.size_px,
        "epochs": slot.run.epochs,
        "gpus": slot.gpus,
        "gpu_days": slot.run.gpu_days,
        "start_day": slot.start_day,
        "end_day": slot.end_day,
    }


def is_chosen(plan: Plan, variant: Variant) -> bool:
    return any(slot.run is variant.run for slot in plan.slots)


def rows(plan: Plan) -> list[tuple[str, ...]]:
    """The variants under HEAD."""
    return [
        (
            variant.run.model,
            str(variant.run.size_px),
            f"{variant.run.epochs:g}",
            amount(variant.run.gpu_days),
            amount(variant.run.gpu_days / plan.question.limits.gpus),
            f"±{variant.best.error_ratio:.0%}",
            variant.best.level,
            "-" if variant.network.top1 is None else f"{variant.run.top1:.1f}%",
            "yes" if is_chosen(plan, variant) else "-",
        )
        for variant in plan.variants
    ]


def summary(plan: Plan) -> str:
    """The chosen plan in one sentence."""
    if not plan.slots:
        return "no network fits these limits"
    limits = plan.question.limits
    how = "one after another" if limits.schedule == "sequential" else "beside each other"
    return (
        f"{len(plan.slots)} of {len(plan.question.networks)} networks {how} on {limits.gpus} GPUs: "
        f"{amount(plan.gpu_days)} GPU-days, {amount(plan.days)} days, expected top-1 of the "
        f"ensemble {plan.top1:.1f}%"
    )


def commands(plan: Plan, recipes: Iterable[str]) -> list[str]:
    """A `launcher submit` for each chosen run, in the order of the schedule.

    recipes: names that --model takes; a network without one borrows the ResNeXt's recipe.
    """
    known = set(recipes)
    return [" ".join(_command(slot, known)) for slot in plan.slots]


def _command(slot: Slot, recipes: set[str]) -> list[str]:
    run, borrowed = slot.run, slot.run.model not in recipes
    model = "resnext152d_32x4d" if borrowed else run.model
    words = ["launcher", "submit", "--model", model, "--gpus", str(slot.gpus)]
    words += ["--gpus-per-worker", str(_per_worker(slot.gpus))]
    words += [f"epochs={run.epochs:g}", f"input.size_px={run.size_px}"]
    return [*words, f"model.name={run.model}"] if borrowed else words


def _per_worker(gpus: int) -> int:
    """The most GPUs of one node of 8 that divide them: workers are of one size."""
    return max(count for count in range(1, 9) if gpus % count == 0)
