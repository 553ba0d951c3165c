"""The verb that measures: calibrate, on this machine or as a job of one worker."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launcher.cli import options as opt
from launcher.cli.asked import checked_objects, complete, resolved
from launcher.cli.manners import DryRun, tell
from launcher.cli.places import KubeContext, Place, api_of
from launcher.errors import LauncherError, UsageError
from launcher.request import Request

if TYPE_CHECKING:
    from launcher.placing import Resolved
    from launcher.spec import JobSpec

STEPS = (20, 500)
"""Fewest and most timed steps: below, the median moves by more than it is told to."""
LONGEST_S = 3600
"""A job's; far more than its updates take, and what a budget holds for it."""
NO_DATA = "s3://synthetic/unread"
"""Address in place of the data, which a calibration makes itself."""


def register(app: typer.Typer) -> None:
    """Adds the verbs of this module."""
    app.command()(calibrate)


def calibrate(
    context: typer.Context,
    model: opt.Model,
    overrides: opt.Overrides = None,
    steps: Annotated[int, opt.number("Timed updates, after those that warm up.")] = 30,
    local: opt.Local = False,
    out: Annotated[
        str,
        typer.Option(metavar="FILE", help="With --local: add the result to this file, as JSON."),
    ] = "",
    name: opt.Name = "",
    image: opt.Image = "",
    checkpoints: opt.Checkpoints = "",
    namespace: opt.Namespace = "",
    budget: opt.Budget = "",
    queue: opt.Queue = "",
    dry_run: Annotated[
        DryRun, typer.Option(help="client: print the objects; server: ask its admission too.")
    ] = DryRun.none,
    kube_context: KubeContext = "",
) -> None:
    """Time the training of one network on one GPU, for `launcher plan --measured`.

    Real updates on made-up pictures, after the choice of precision and layout: median and spread
    of seconds a picture. A job of one worker writes calibration.json into its run's folder; with
    --local the result is printed, or added to --out.

    \b
    Examples:
      launcher calibrate --model senet154 -n ml
      launcher calibrate --model senet154 --dry-run=client update.compile=true
      launcher calibrate --model resnet18 --local --out calibration.json update.micro_batch=8
    """
    if not STEPS[0] <= steps <= STEPS[1]:
        raise UsageError(f"--steps is {steps}, but {STEPS[0]} to {STEPS[1]} are allowed")
    request = Request(
        model=model,
        overrides=tuple(overrides or ()),
        local=local,
        gpus=None if local else 1,
        gpus_per_worker=1,
        workers=1 if local else None,
        name=name,
        image=image,
        data=NO_DATA,
        checkpoints=checkpoints,
        namespace=namespace,
        budget=budget,
        deadline_s=None if local else LONGEST_S,
        stage="calibrate",
        queue=queue,
    )
    if local:
        if dry_run is not DryRun.none or kube_context:
            raise UsageError("--dry-run and --context mean a cluster; leave --local out")
        _here(_training(complete(request), model), steps, out)
        return
    if out:
        raise UsageError("--out goes with --local; a job writes into its run's folder")
    _as_job(context, request, steps, dry_run, kube_context)


def _training(found: Resolved[JobSpec], model: str) -> Resolved[JobSpec]:
    """The same. Raises UsageError where its run begins from another's weights."""
    from trainer.config import FinetuneConfig

    if isinstance(found.spec.run, FinetuneConfig):
        raise UsageError(
            f"run of --model {model} has a start, but calibrate reads no weights; leave it out"
        )
    return found


def _as_job(
    context: typer.Context, request: Request, steps: int, dry_run: DryRun, kube_context: str
) -> None:
    from launcher import render
    from launcher.plan import as_calibration

    found = resolved(request) if dry_run is DryRun.client else complete(request)
    found = _training(found, request.model)
    objects = as_calibration(checked_objects(found), steps)
    if dry_run is DryRun.client:
        sys.stdout.write(render.to_yaml(objects))
        return
    from launcher import cluster
    from launcher.plan.calibration import RESULT_KEY

    api = api_of(Place(request.namespace, kube_context), context.obj)
    if dry_run is DryRun.server:
        sys.stdout.write(render.to_yaml(cluster.dry_run(api, objects, tell)))
        return
    job = cluster.jobs_on(api, tell).submit(objects)
    print(job.name)
    tell(
        f"when `launcher wait {job.name}` is over, plan with --measured "
        f"{found.spec.run.checkpoint.address}/{RESULT_KEY}"
    )


def _here(found: Resolved[JobSpec], steps: int, out: str) -> None:
    """Measures on this machine."""
    from launcher.programs import run_program
    from trainer.config import RUN_CONFIG, dump

    kept = _kept(out)
    options = ["--steps", str(steps), "--no-store"]
    run = {RUN_CONFIG: dump(found.spec.run)}
    printed = run_program("calibrate --local", "trainer.calibrate", options, run)
    if not out:
        print(printed, end="")
        return
    _add(kept, json.loads(printed), out)
    tell(f"added to {out}; plan with --measured {out}")


def _kept(out: str) -> list[dict[str, Any]]:
    """What the file holds already, known good before minutes are spent on measuring."""
    from launcher.plan import parse_measurements

    path = Path(out)
    if not out or not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
        parse_measurements(text, out)
        document: dict[str, Any] = json.loads(text)
    except (OSError, ValueError) as error:
        raise UsageError(f"--out {out} cannot be added to: {error}") from error
    return list(document["measurements"])


def _add(kept: list[dict[str, Any]], result: dict[str, Any], out: str) -> None:
    """Writes the file with the new measurements in place of those of the same kind."""

    def kind(entry: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(entry[key] for key in ("model", "gpu_type", "precision", "size_px"))

    new = result["measurements"]
    replaced = {kind(entry) for entry in new}
    result["measurements"] = [entry for entry in kept if kind(entry) not in replaced] + new
    try:
        Path(out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise LauncherError(f"cannot write {out}: {error.strerror or error}") from error
