"""The verbs that look at jobs: list, status, logs, wait."""

from __future__ import annotations

import dataclasses
import os
from datetime import UTC, datetime
from typing import Annotated

import typer

from launcher.cli import options as opt
from launcher.cli.describe import description, document, listing
from launcher.cli.follow import only_following, wait_for_end
from launcher.cli.manners import KIND, Manner, Output, emit, goes_on, seconds, tell
from launcher.cli.places import Place, jobs_of, on_cluster, placed, status_of
from launcher.errors import UsageError
from launcher.status import JobStatus, Progress


def register(app: typer.Typer) -> None:
    """Adds the verbs of this module."""
    app.command(name="list")(placed(list_jobs))
    for command in (status, logs, wait):
        app.command()(placed(command))


def list_jobs(
    context: typer.Context,
    place: Place,
    everywhere: Annotated[
        bool, typer.Option("-A", "--all-namespaces", help="Of all namespaces of the cluster.")
    ] = False,
    output: opt.OutputFormat = Output.table,
) -> None:
    """List the jobs on this machine and, where there is a kubeconfig, on the cluster.

    \b
    Examples:
      launcher list
      launcher list -A -o json | jq -r '.items[].name'
      launcher list --local
    """
    jobs = sorted(
        _listed(place, context.obj, everywhere), key=lambda job: job.created_at, reverse=True
    )
    if output in (Output.json, Output.yaml):
        emit({"kind": "JobList", "items": [dataclasses.asdict(job) for job in jobs]}, output)
    elif output is Output.name:
        for job in jobs:
            print(f"{KIND}/{job.name}")
    elif jobs:
        print(listing(jobs, output is Output.wide, datetime.now(UTC)))
    else:
        tell("no jobs; start one by `launcher submit --model resnet18 --local --data FOLDER`")


def _listed(place: Place, manner: Manner, everywhere: bool) -> list[JobStatus]:
    from launcher import cluster, local, names

    named = bool(place.namespace or place.context or everywhere)
    jobs = [] if named else local.list_jobs()
    if named or (cluster.is_configured() and not place.local):
        on = on_cluster(place, manner, "-A")
        found = on.list_jobs("" if everywhere else None)
        names.remember(os.environ, [job.name for job in found])
        jobs += found
    return jobs


def status(
    context: typer.Context,
    job: opt.JobName,
    place: Place,
    output: opt.OutputFormat = Output.table,
) -> None:
    """Show one job: its workers, its progress, why it does not run or ended, its events.

    \b
    Examples:
      launcher status resnet18-1a2b3c
      launcher status -n ml resnet18-1a2b3c -o json | jq -r .state
    """
    if output is Output.name:
        print(f"{KIND}/{jobs_of(place, context.obj, job).status(job).name}")
        return
    progress: Progress | str = ""

    def read(address: str) -> None:
        nonlocal progress
        from launcher.progress import read_progress

        progress = read_progress(address, datetime.now(UTC))

    found = status_of(place, context.obj, job, read)
    unknown = progress if isinstance(progress, str) else ""
    if not isinstance(progress, str):
        found = dataclasses.replace(found, progress=progress)
    if output in (Output.json, Output.yaml):
        emit(document(found), output)
    else:
        print(description(found, context.obj, datetime.now(UTC), unknown))


def logs(
    context: typer.Context,
    job: opt.JobName,
    place: Place,
    worker: Annotated[
        int | None, typer.Option(help="Only this worker; default: all.", min=0)
    ] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the end.")] = False,
    tail: Annotated[int | None, typer.Option(help="Only the last lines.", min=0)] = None,
    previous: Annotated[
        bool, typer.Option("-p", "--previous", help="Of the containers before their restart.")
    ] = False,
) -> None:
    """Print what the workers wrote.

    \b
    Examples:
      launcher logs -f resnet18-1a2b3c
      launcher logs resnet18-1a2b3c --worker 1 --tail 20
      launcher logs -n ml senet154-1a2b3c --worker 3 --previous
    """
    if previous and follow:
        raise UsageError("--previous is over: it goes without --follow")
    jobs = jobs_of(place, context.obj, job)
    goes_on()
    with only_following(job):
        for line in jobs.logs(job, worker, follow, tail, previous):
            print(line, flush=follow)


def wait(context: typer.Context, job: opt.JobName, place: Place, timeout: opt.Timeout = "") -> None:
    """Wait for the end of a job: exit 0 if it succeeded, 7 if not, 6 if the wait took too long.

    \b
    Examples:
      launcher wait resnet18-1a2b3c --timeout 30m && launcher plot resnet18-1a2b3c
    """
    timeout_s = seconds(timeout, "--timeout") if timeout else None
    wait_for_end(jobs_of(place, context.obj, job), job, timeout_s, context.obj)
