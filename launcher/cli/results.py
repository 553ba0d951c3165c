"""The verb on what a run has left: plot."""

from __future__ import annotations

from typing import Annotated

import typer

from launcher.cli import options as opt
from launcher.cli.manners import tell
from launcher.cli.places import Place, jobs_of, placed
from launcher.errors import UsageError


def register(app: typer.Typer) -> None:
    """Adds the verbs of this module."""
    app.command()(placed(plot))


def plot(
    context: typer.Context,
    place: Place,
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A job's name, or the address of a run's folder.",
            autocompletion=opt.job_names,
        ),
    ],
    out: Annotated[
        str, typer.Option("--out", help="Picture to write, .png or .svg; default: RUN.png.")
    ] = "",
) -> None:
    """Draw loss, accuracy, throughput and world size of a run into one picture.

    \b
    Examples:
      launcher plot resnet18-1a2b3c --out curve.svg
      launcher plot s3://bucket/runs/senet154-1a2b3c
    """
    address = run if "/" in run else jobs_of(place, context.obj, run).status(run).checkpoints
    target = out or f"{run.rstrip('/').rpartition('/')[2]}.png"
    if not target.endswith((".png", ".svg")):
        raise UsageError(f"--out {target!r} must end in .png or .svg")
    from launcher.plot import plot_run

    plot_run(address, target)
    tell(f"drawn into {target}")
