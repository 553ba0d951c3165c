"""A picture of a plan's schedule: a bar for each run, days below, GPUs in the label."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from launcher import errors
from launcher.plan.planner import Plan
from launcher.plan.refusals import amount
from launcher.plan.report import summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg")


def check_picture(out: str) -> None:
    """Raises UsageError for a kind of file that is not drawn."""
    if not out.endswith(FORMATS):
        raise errors.UsageError(f"--gantt {out!r} must end in {' or '.join(FORMATS)}")


def draw_plan(plan: Plan, out: str | Path) -> None:
    """Draws the schedule into a .png or .svg file.

    Raises LauncherError without matplotlib or where the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise errors.LauncherError("--gantt needs matplotlib; pip install '.[plot]'") from error
    figure = Figure(figsize=(10, 1.6 + 0.5 * max(1, len(plan.slots))), layout="constrained")
    draw(figure, plan)
    try:
        figure.savefig(out, dpi=120)
    except OSError as error:
        raise errors.LauncherError(f"cannot write {out}: {error.strerror or error}") from error


def draw(figure: Figure, plan: Plan) -> None:
    """One axis; the thin line at a bar's end is the estimate's error, red is the deadline."""
    panel = figure.subplots()
    errors_of = {variant.run: variant.best.error_ratio for variant in plan.variants}
    for index, slot in enumerate(plan.slots):
        panel.barh(index, slot.days, left=slot.start_day, height=0.6, alpha=0.5)
        panel.errorbar(
            slot.end_day, index, xerr=slot.days * errors_of[slot.run], color="black", capsize=3
        )
        text = f"{amount(slot.run.gpu_days)} GPU-days on {slot.gpus}"
        panel.text(slot.start_day, index, f" {text}", va="center", fontsize="small")
    panel.set_yticks(range(len(plan.slots)), [_label(plan, n) for n in range(len(plan.slots))])
    panel.invert_yaxis()
    panel.set_xlabel("days from the start")
    panel.grid(axis="x", alpha=0.3)
    deadline = plan.question.limits.deadline_days
    if deadline is not None:
        panel.axvline(deadline, color="red", linewidth=1)
    panel.set_xlim(left=0)  # last: a limit that is set keeps what is drawn later out of sight
    figure.suptitle(summary(plan), fontsize="medium")


def _label(plan: Plan, index: int) -> str:
    run = plan.slots[index].run
    return f"{run.model}\n{run.size_px} px, {run.epochs:g} epochs"
