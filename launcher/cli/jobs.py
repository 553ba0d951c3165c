"""The verbs on jobs that exist: list, status, logs, cancel, scale, wait, delete."""

from __future__ import annotations

import dataclasses
import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from launcher.cli import options as opt
from launcher.cli.follow import COLORS, only_following, wait_for_end
from launcher.cli.manners import (
    KIND,
    Manner,
    Output,
    colored,
    confirm,
    emit,
    seconds,
    span,
    table,
    tell,
)
from launcher.errors import UsageError
from launcher.status import JobStatus


def register(app: typer.Typer) -> None:
    """Adds the verbs of this module."""
    app.command(name="list")(list_jobs)
    for command in (status, logs, cancel, scale, wait, delete):
        app.command()(command)


def list_jobs(context: typer.Context, output: opt.OutputFormat = Output.table) -> None:
    """List the jobs on this machine.

    \b
    Examples:
      launcher list
      launcher list -o json | jq -r '.items[].name'
    """
    from launcher import local

    jobs = sorted(local.list_jobs(), key=lambda job: job.created_at, reverse=True)
    if output in (Output.json, Output.yaml):
        emit({"kind": "JobList", "items": [dataclasses.asdict(job) for job in jobs]}, output)
    elif output is Output.name:
        for job in jobs:
            print(f"{KIND}/{job.name}")
    elif jobs:
        wide = output is Output.wide
        print(table(_head(wide), [_row(job, wide, datetime.now(UTC)) for job in jobs]))
    else:
        tell("no jobs; start one by `launcher submit --model resnet18 --local --data FOLDER`")


def status(
    context: typer.Context,
    job: opt.JobName,
    output: opt.OutputFormat = Output.table,
) -> None:
    """Show one job: its workers, why they ended, and its events.

    \b
    Examples:
      launcher status resnet18-1a2b3c
      launcher status resnet18-1a2b3c -o json | jq -r .state
    """
    from launcher import local

    found = local.status(job)
    if output in (Output.json, Output.yaml):
        emit(document(found), output)
    elif output is Output.name:
        print(f"{KIND}/{found.name}")
    else:
        print(_description(found, context.obj, datetime.now(UTC)))


def logs(
    context: typer.Context,
    job: opt.JobName,
    worker: Annotated[
        int | None, typer.Option(help="Only this worker; default: all.", min=0)
    ] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the end.")] = False,
    tail: Annotated[int | None, typer.Option(help="Only the last lines.", min=0)] = None,
) -> None:
    """Print what the workers wrote.

    \b
    Examples:
      launcher logs -f resnet18-1a2b3c
      launcher logs resnet18-1a2b3c --worker 1 --tail 20
    """
    from launcher import local

    with only_following(job):
        for line in local.logs(job, worker=worker, follow=follow, tail=tail):
            print(line, flush=follow)


def cancel(
    context: typer.Context,
    job: opt.JobName,
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
    from launcher import local

    grace_s = seconds(grace, "--grace") if grace else None
    local.status(job)  # an unknown name is told before the question
    if not confirm(f"stop {job}?", yes, context.obj):
        tell("left as it is")
        raise typer.Exit(1)
    local.cancel(job, grace_s=grace_s)
    tell(f"{job} is cancelled")


def scale(
    context: typer.Context,
    job: opt.JobName,
    workers: Annotated[
        int,
        typer.Option(help="How many workers it shall have.", parser=opt.count, metavar="N"),
    ],
) -> None:
    """Change the number of workers of a running job, within its bounds.

    The group saves, meets again at the new size and goes on; no update is lost.

    \b
    Examples:
      launcher scale resnet18-1a2b3c --workers 3
    """
    from launcher import local

    if workers < 1:
        raise UsageError(f"--workers is {workers}, but at least 1 is allowed; to stop, cancel")
    local.scale(job, workers)
    tell(f"{job} scales to {workers} workers")


def wait(context: typer.Context, job: opt.JobName, timeout: opt.Timeout = "") -> None:
    """Wait for the end of a job: exit 0 if it succeeded, 7 if not, 6 if the wait took too long.

    \b
    Examples:
      launcher wait resnet18-1a2b3c --timeout 30m && launcher plot resnet18-1a2b3c
    """
    wait_for_end(job, seconds(timeout, "--timeout") if timeout else None, context.obj)


def delete(
    context: typer.Context,
    job: opt.JobName,
    yes: opt.Yes = False,
    force: Annotated[bool, typer.Option("--force", help="Also a job that still runs.")] = False,
) -> None:
    """Forget an ended job: its state, logs, and what it kept inside its own folder.

    Checkpoints at an address of your own stay.

    \b
    Examples:
      launcher delete resnet18-1a2b3c
      launcher delete resnet18-1a2b3c --yes
    """
    from launcher import local

    local.status(job)
    if not confirm(f"delete {job} with its logs?", yes, context.obj):
        tell("left as it is")
        raise typer.Exit(1)
    local.delete(job, force=force)
    tell(f"{job} is deleted")


def document(job: JobStatus) -> dict[str, Any]:
    """One job as -o json gives it."""
    return {"kind": "Job", **dataclasses.asdict(job)}


def _head(wide: bool) -> list[str]:
    head = ["NAME", "STATE", "MODEL", "WORKERS", "RESTARTS", "AGE"]
    return [*head, "MIN", "MAX", "WORKER-TIME", "CHECKPOINTS"] if wide else head


def _row(job: JobStatus, wide: bool, now: datetime) -> list[str]:
    row = [
        job.name,
        job.state,
        job.model,
        f"{job.workers_running}/{job.workers_desired}",
        str(job.restarts),
        span((now - datetime.fromisoformat(job.created_at)).total_seconds()),
    ]
    if wide:
        row += [str(job.workers_least), str(job.workers_most), span(job.worker_s), job.checkpoints]
    return row


def _description(job: JobStatus, manner: Manner, now: datetime) -> str:
    color = COLORS.get(job.state)
    state = colored(job.state, color, manner, sys.stdout) if color else job.state
    facts = [
        ("Name", job.name),
        ("State", f"{state} ({job.reason})" if job.reason else state),
        ("Model", job.model),
        (
            "Workers",
            f"{job.workers_running} running, {job.workers_desired} wanted, "
            f"{job.workers_least} to {job.workers_most} allowed",
        ),
        ("Restarts", str(job.restarts)),
        ("Started", _ago(job.started_at, now)),
        ("Ended", _ago(job.ended_at, now)),
        ("Worker time", span(job.worker_s)),
        ("Checkpoints", job.checkpoints),
    ]
    lines = [f"{name + ':':<13}{value}" for name, value in facts if value]
    if job.workers:
        rows = [
            (
                f"worker-{worker.index}",
                worker.state,
                str(worker.pid or "-"),
                str(worker.restarts),
                worker.reason or "-",
            )
            for worker in job.workers
        ]
        lines += ["", table(["WORKER", "STATE", "PID", "RESTARTS", "LAST END"], rows)]
    if job.events:
        events = [
            (_ago(event.at, now), event.type, event.reason, event.object, event.message)
            for event in job.events
        ]
        lines += ["", table(["SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"], events)]
    return "\n".join(lines)


def _ago(moment: str | None, now: datetime) -> str:
    if not moment:
        return ""
    return f"{span((now - datetime.fromisoformat(moment)).total_seconds())} ago"
