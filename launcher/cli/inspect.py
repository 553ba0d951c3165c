"""The verbs that look deeper into a cluster: diff, top, bundle."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.cli import options as opt
from launcher.cli.asked import asking, checked_objects, complete
from launcher.cli.manners import Manner, Output, colored, emit, table, tell
from launcher.cli.places import KubeContext, Place, api_of, on_cluster, placed
from launcher.errors import LauncherError, UsageError
from launcher.request import Request

if TYPE_CHECKING:
    from launcher.cluster.usage import NodeUsage

DIFFERS = 1
FAILED = 2
"""As kubectl's diff: above 1 where it could not compare."""


def register(app: typer.Typer) -> None:
    """Adds the verbs of this module."""
    app.command()(asking(diff))
    app.command()(placed(top))
    app.command()(placed(bundle))


def diff(context: typer.Context, request: Request, kube_context: KubeContext = "") -> None:
    """Show what submit would change on the cluster: 0 nothing, 1 something, above 1 an error.

    Takes the flags of submit.

    \b
    Examples:
      launcher diff --model senet154 --gpus 64 --name senet154-a optim.lr=0.3
    """
    if request.local:
        raise UsageError("diff compares with a cluster; leave --local out")
    try:
        from launcher import cluster

        api = api_of(Place(request.namespace, kube_context), context.obj)
        text = cluster.diff(api, checked_objects(complete(request)))
    except LauncherError as error:
        error.exit_code = max(error.exit_code, FAILED)
        raise
    if text:
        print(text, end="")
        raise typer.Exit(DIFFERS)
    tell("nothing would change")


def top(
    context: typer.Context,
    place: Place,
    everywhere: Annotated[
        bool, typer.Option("-A", "--all-namespaces", help="Jobs of all namespaces.")
    ] = False,
    output: opt.OutputFormat = Output.table,
) -> None:
    """Show who holds the GPUs now: by job, and by node.

    \b
    Examples:
      launcher top -A
      launcher top -o json | jq '[.nodes[] | .gpus - .used] | add'
    """
    from launcher import cluster

    api = on_cluster(place, context.obj, "top").api
    found = cluster.read_usage(api, "" if everywhere else None)
    if output in (Output.json, Output.yaml):
        emit({"kind": "Usage", **asdict(found)}, output)
        return
    if output is Output.name:
        print("\n".join(job.name for job in found.jobs if job.name))
        return
    rows = [
        (
            job.namespace,
            job.name or "(others)",
            job.budget or "-",
            str(job.pods),
            str(job.gpus),
            str(job.waiting),
        )
        for job in found.jobs
    ]
    print(table(["NAMESPACE", "JOB", "BUDGET", "PODS", "GPUS", "WAITING"], rows))
    if found.nodes:
        print()
        print(_nodes(found.nodes, context.obj))
    if found.note:
        tell(f"note: nodes are not shown: {found.note}")


def _nodes(nodes: tuple[NodeUsage, ...], manner: Manner) -> str:
    import sys

    rows = [
        (node.name, "Ready" if node.is_ready else "NotReady", node.product or "-",
         str(node.gpus), str(node.used), str(node.gpus - node.used))
        for node in nodes
    ]  # fmt: skip
    text = table(["NODE", "STATE", "GPU", "GPUS", "USED", "FREE"], rows)
    return text.replace(" NotReady ", f" {colored('NotReady', 'red', manner, sys.stdout)} ")


def bundle(
    context: typer.Context,
    job: opt.JobName,
    place: Place,
    out: Annotated[
        str, typer.Option("--out", help="Archive to write; default: JOB-DAY-TIME.tar.gz.")
    ] = "",
) -> None:
    """Gather a job's objects, events, logs and stacks into one archive, without secrets.

    \b
    Examples:
      launcher bundle senet154-1a2b3c
      launcher bundle -n ml senet154-1a2b3c --out ticket.tar.gz
    """
    from launcher import cluster

    api = on_cluster(place, context.obj, "bundle").api
    target = Path(out or cluster.bundle_name(job))
    if not target.name.endswith((".tar.gz", ".tgz")):
        raise UsageError(f"--out {out!r} must end in .tar.gz or .tgz")
    names = cluster.bundle(api, job, target, tell)
    tell(f"{len(names)} files in {target}; look through it before you hand it on")
    print(target)
