"""The verbs that change jobs: cancel, suspend, resume, scale, delete, prune."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from launcher.cli import options as opt
from launcher.cli.manners import confirm, seconds, tell
from launcher.cli.places import Place, jobs_of, on_cluster, placed
from launcher.errors import UsageError
from launcher.status import ENDED, JobStatus


def register(app: typer.Typer) -> None:
    """Adds the verbs of this module."""
    for command in (cancel, suspend, resume, scale, delete, prune):
        app.command()(placed(command))


def cancel(
    context: typer.Context,
    job: opt.JobName,
    place: Place,
    yes: opt.Yes = False,
    grace: Annotated[
        str, typer.Option(metavar="SPAN", help="From SIGTERM to SIGKILL; default: the job's.")
    ] = "",
) -> None:
    """Stop a job; it saves first, and submit with the same name goes on from there.

    \b
    Examples:
      launcher cancel resnet18-1a2b3c
      launcher cancel resnet18-1a2b3c --yes --grace 30s
    """
    grace_s = seconds(grace, "--grace") if grace else None
    jobs = jobs_of(place, context.obj, job)
    jobs.status(job)  # an unknown name is told before the question
    _confirm(f"stop {job}?", yes, context)
    jobs.cancel(job, grace_s=grace_s)
    tell(f"{job} is cancelled")


def suspend(context: typer.Context, job: opt.JobName, place: Place) -> None:
    """Pause a job of a cluster: its workers save and give their GPUs back.

    \b
    Examples:
      launcher suspend senet154-1a2b3c
      launcher resume senet154-1a2b3c
    """
    instead = "cancel it, and submit it again to go on"
    on_cluster(place, context.obj, "suspend", job, instead).suspend(job)
    tell(f"{job} is suspended; go on with: launcher resume {job}")


def resume(context: typer.Context, job: opt.JobName, place: Place) -> None:
    """Let a suspended or cancelled job of a cluster go on from its checkpoint.

    \b
    Examples:
      launcher resume senet154-1a2b3c
    """
    on_cluster(place, context.obj, "resume", job, "submit it again to go on").resume(job)
    tell(f"{job} goes on")


def scale(
    context: typer.Context,
    job: opt.JobName,
    place: Place,
    workers: Annotated[
        int,
        typer.Option(help="How many workers it shall have.", parser=opt.count, metavar="N"),
    ],
    yes: opt.Yes = False,
) -> None:
    """Change the number of workers of a running job, within its bounds.

    The group saves, meets again at the new size and goes on; no update is lost. A job that Kueue
    has admitted is evicted and queued again at the new size: that is asked for first.

    \b
    Examples:
      launcher scale resnet18-1a2b3c --workers 3
    """
    if workers < 1:
        raise UsageError(f"--workers is {workers}, but at least 1 is allowed; to stop, cancel")
    jobs = jobs_of(place, context.obj, job)
    found = jobs.status(job)
    if found.queue and found.workers_desired != workers:
        _confirm(
            f"Kueue evicts {job} and queues it again for {workers} workers; it saves first, and "
            "waits until there is room. Scale it?",
            yes,
            context,
        )
    jobs.scale(job, workers)
    tell(f"{job} scales to {workers} workers")


def delete(
    context: typer.Context,
    job: opt.JobName,
    place: Place,
    yes: opt.Yes = False,
    force: Annotated[bool, typer.Option("--force", help="Also a job that still runs.")] = False,
) -> None:
    """Forget an ended job: its objects or state, its logs, what it kept inside its own folder.

    Checkpoints at an address of your own stay.

    \b
    Examples:
      launcher delete resnet18-1a2b3c
      launcher delete resnet18-1a2b3c --yes
    """
    jobs = jobs_of(place, context.obj, job)
    jobs.status(job)
    _confirm(f"delete {job} with its logs?", yes, context)
    jobs.delete(job, force=force)
    tell(f"{job} is deleted")


def prune(
    context: typer.Context,
    place: Place,
    yes: opt.Yes = False,
    older_than: Annotated[
        str, typer.Option(metavar="SPAN", help="Only jobs that ended so long ago, as 7d.")
    ] = "7d",
) -> None:
    """Delete the ended jobs of a namespace, or with --local of this machine.

    The operator forgets some ended jobs (kubeflow/trainer#1533); their checkpoints stay.

    \b
    Examples:
      launcher prune --older-than 3d
      launcher prune -n ml --yes --older-than 0s
    """
    older_than_s = seconds(older_than, "--older-than")
    jobs = jobs_of(place, context.obj)
    now = datetime.now(UTC)
    names = [
        job.name
        for job in jobs.list_jobs()
        if job.state in ENDED and _ended_ago_s(job, now) >= older_than_s
    ]
    if not names:
        tell(f"no job ended {older_than} ago or earlier")
        return
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    _confirm(f"delete {len(names)} ended jobs ({shown})?", yes, context)
    for name in names:
        jobs.delete(name)
        print(name)


def _ended_ago_s(job: JobStatus, now: datetime) -> float:
    ended_at = datetime.fromisoformat(job.ended_at or job.created_at)
    return (now - ended_at).total_seconds()


def _confirm(question: str, yes: bool, context: typer.Context) -> None:
    if not confirm(question, yes, context.obj):
        tell("left as it is")
        raise typer.Exit(1)
