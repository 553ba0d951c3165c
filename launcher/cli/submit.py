"""submit and render: from flags to objects, and on to whoever runs them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launcher.cli import options as opt
from launcher.cli.asked import (
    asking,
    check_complete,
    checked_objects,
    complete,
    resolved,
    resolved_indexed,
)
from launcher.cli.describe import document
from launcher.cli.follow import wait_for_end
from launcher.cli.manners import KIND, DryRun, Manner, Output, emit, seconds, tell
from launcher.cli.places import Jobs, KubeContext, Place, api_of
from launcher.errors import UsageError
from launcher.request import Asked, IndexedRequest, Request, Work

if TYPE_CHECKING:
    from launcher.cluster.client import Api
    from launcher.placing import Resolved
    from launcher.spec import Spec
    from launcher.status import JobStatus


def register(app: typer.Typer) -> None:
    """Adds the verbs of this module."""
    app.command(name="submit")(asking(submit))
    app.command(name="render")(asking(render))


DryRunOption = Annotated[
    DryRun, typer.Option(help="client: print the checked objects; server: ask its admission too.")
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for the end; 7 if it failed.")]


@dataclass(frozen=True)
class Sending:
    """What is to be done with a job's objects."""

    dry_run: DryRun = DryRun.none
    wait: bool = False
    timeout: str = ""
    kube_context: str = ""
    output: Output = Output.table


def submit(
    context: typer.Context,
    request: Request,
    dry_run: DryRunOption = DryRun.none,
    wait: Wait = False,
    timeout: opt.Timeout = "",
    kube_context: KubeContext = "",
    output: opt.OutputFormat = Output.table,
) -> None:
    """Start a training run, or go on with an ended one of the same name.

    Prints the job's name. The same command gives the same name, so it goes on where the run stood.

    \b
    Examples:
      launcher submit --model resnet18 --local --data ./shards --val ./val epochs=3
      launcher submit --model senet154 --gpus 64 --min-gpus 32 --dry-run=client
      launcher submit --model senet154 --gpus 64 -n ml --wait
      launcher submit --model senet154 --gpus 64 --budget webvision --deadline 8d
      launcher submit --model my.yaml --local --workers 3 optim.lr=0.2 --wait --timeout 30m
    """
    sending = Sending(dry_run, wait, timeout, kube_context, output)
    check_sending(request, sending)
    send(request, sending, context.obj)


def check_sending(request: Asked, sending: Sending) -> None:
    """Raises UsageError for flags that do not go together, before anything is read."""
    if request.local and (sending.kube_context or sending.dry_run is DryRun.server):
        raise UsageError("--context and --dry-run=server mean a cluster; leave --local out")
    if sending.timeout:
        if not sending.wait:
            raise UsageError(f"--timeout {sending.timeout} needs --wait")
        seconds(sending.timeout, "--timeout")


def send(request: Request, sending: Sending, manner: Manner) -> None:
    """Prints or starts the run that is asked for, and waits for its end where that is wanted."""
    _send(request, resolved(request), sending, manner)


def send_indexed(request: IndexedRequest, work: Work, sending: Sending, manner: Manner) -> None:
    """The same for a job of independent parts. work: what its indexes do."""
    _send(request, resolved_indexed(request, work), sending, manner)


def _send(request: Asked, found: Resolved[Any], sending: Sending, manner: Manner) -> None:
    if sending.dry_run is DryRun.client:
        _print_objects(checked_objects(found), sending.output)
        _tell_cost(found)
        return
    check_complete(found)
    if not request.local:
        found = _with_ledger(found, _api(request, sending.kube_context, manner))
    objects = checked_objects(found)
    if sending.dry_run is DryRun.server:
        from launcher import cluster

        api = _api(request, sending.kube_context, manner)
        _print_objects(cluster.dry_run(api, objects, tell), sending.output)
        return
    jobs, job = _start(request, sending.kube_context, objects, manner)
    if sending.output is Output.name:
        print(f"{KIND}/{job.name}")
    elif sending.output in (Output.json, Output.yaml):
        emit(document(job), sending.output)
    else:
        print(job.name, flush=True)
    if sending.wait:
        timeout_s = seconds(sending.timeout, "--timeout") if sending.timeout else None
        wait_for_end(jobs, job.name, timeout_s, manner)


def _start(
    request: Asked, kube_context: str, objects: list[dict[str, Any]], manner: Manner
) -> tuple[Jobs, JobStatus]:
    """Starts the objects where the request says; returns the verbs of that place, and the job."""
    if request.local:
        from launcher import local

        job = local.submit(objects)
        tell(f"{job.name} runs on this machine; see `launcher logs -f {job.name}`")
        return local, job
    from launcher import cluster

    api = _api(request, kube_context, manner)
    jobs = cluster.jobs_on(api, tell)
    job = jobs.submit(objects)
    tell(
        f"{job.name} is submitted to namespace {job.namespace} of {api.transport.context}; see "
        f"`launcher status {job.name}` and `launcher logs -f {job.name}`"
    )
    return jobs, job


def _tell_cost(found: Resolved[Any]) -> None:
    """What the job would reserve of its budget; how much is left only the cluster knows."""
    from launcher.budget.budgets import cost_in_words

    spec: Spec = found.spec
    gpus = spec.pods * spec.size.gpus
    if not spec.job.budget or spec.local or not gpus:
        return
    if not spec.job.deadline_s:
        tell(f"budget {spec.job.budget}: without --deadline a safe budget does not take the job")
        return
    cost = cost_in_words(gpus, spec.job.deadline_s)
    tell(f"budget {spec.job.budget}: reserves {cost}; what remains tells --dry-run=server")


def _with_ledger(found: Resolved[Any], api: Api) -> Resolved[Any]:
    """The job, its pods held until their GPU time is stored where its budget has a ledger."""
    from launcher import cluster

    job = found.spec.job
    if job.ledger or not job.budget or not cluster.holds_pods(api, job.budget):
        return found
    return replace(found, spec=replace(found.spec, job=replace(job, ledger=True)))


def _api(request: Asked, kube_context: str, manner: Manner) -> Api:
    return api_of(Place(request.namespace, kube_context), manner)


def render(
    context: typer.Context, request: Request, output: opt.OutputFormat = Output.yaml
) -> None:
    """Print the objects of a training run for kubectl; refuses what submit would refuse.

    For a look while image or addresses are still missing: launcher submit --dry-run=client.

    \b
    Examples:
      launcher render --model senet154 --gpus 64 | kubectl apply -f -
      launcher render --model dpn98 -o json optim.lr=0.2 | jq .items[2].spec
    """
    _print_objects(checked_objects(complete(request)), output)


def _print_objects(objects: list[dict[str, Any]], output: Output) -> None:
    from launcher import render

    if output is Output.json:
        print(render.to_json(objects))
    elif output is Output.name:
        print("\n".join(_name_of(thing) for thing in objects))
    else:
        sys.stdout.write(render.to_yaml(objects))


def _name_of(thing: dict[str, Any]) -> str:
    """As `kubectl -o name`: job.batch/x, service/x, pytorchjob.kubeflow.org/x."""
    group = thing["apiVersion"].partition("/")[0] if "/" in thing["apiVersion"] else ""
    kind = thing["kind"].lower()
    return (
        f"{kind}.{group}/{thing['metadata']['name']}"
        if group
        else f"{kind}/{thing['metadata']['name']}"
    )
