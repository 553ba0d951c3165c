"""The verbs on what a run has left: plot, evaluate, noise."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from launcher.cli import options as opt
from launcher.cli.manners import Manner, Output, emit, table, tell
from launcher.cli.places import Place, jobs_of, placed
from launcher.errors import UsageError


def register(app: typer.Typer) -> None:
    """Adds the verbs of this module."""
    for command in (plot, evaluate, noise):
        app.command()(placed(command))


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
    address = run_address(place, context.obj, run)
    target = out or f"{_name(run)}.png"
    if not target.endswith((".png", ".svg")):
        raise UsageError(f"--out {target!r} must end in .png or .svg")
    from launcher.plot import plot_run

    plot_run(address, target)
    tell(f"drawn into {target}")


class Which(StrEnum):
    """Values of --which."""

    best = "best"
    newest = "newest"


def evaluate(
    context: typer.Context,
    place: Place,
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Jobs' names, or the addresses of runs' folders.",
            autocompletion=opt.job_names,
        ),
    ],
    image_size: Annotated[
        str,
        typer.Option(
            metavar="PX[,PX]...", help="Sides of the input, as 224,288,320; default: the run's."
        ),
    ] = "",
    split: Annotated[
        str,
        typer.Option(metavar="SPLIT", help="val or train of the run, or a packed set's address."),
    ] = "val",
    which: Annotated[
        Which, typer.Option(help="The checkpoint of the best validation top-1, or the last.")
    ] = Which.best,
    out: Annotated[
        str, typer.Option("--out", metavar="FILE", help="Also draw it, into a .png or .svg.")
    ] = "",
    output: opt.OutputFormat = Output.table,
) -> None:
    """Measure runs on this machine at one or several input sizes, as a table and a picture.

    Accuracy of the averaged weights over every picture, and its mean over classes.

    \b
    Examples:
      launcher evaluate resnet18-1a2b3c --image-size 224,256,288,320
      launcher evaluate s3://runs/senet154-1a2b3c s3://runs/senet154-4d5e6f --out sizes.svg
      launcher evaluate first --split build/shards/val --which newest -o json
    """
    from launcher.evaluation import HEAD, check_picture, check_sizes, draw, measure, rows

    check_sizes(image_size)
    if out:
        check_picture(out)
    check_document(output)
    addresses = [(_name(run), run_address(place, context.obj, run)) for run in runs]
    found = [measure(name, address, image_size, split, which.value) for name, address in addresses]
    if output in (Output.json, Output.yaml):
        emit({"kind": "EvaluationList", "items": found}, output)
    else:
        print(table(HEAD, rows(found)))
    if out:
        draw(found, out)
        tell(f"drawn into {out}")


def noise(
    context: typer.Context,
    place: Place,
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Jobs' names, or the addresses of runs' folders; several judge out of fold.",
            autocompletion=opt.job_names,
        ),
    ],
    out: Annotated[
        str, typer.Option("--out", metavar="FILE", help="Page to write, an .html file.")
    ],
    pictures: Annotated[int, opt.number("Worst pictures to show.")] = 60,
    which: Annotated[
        Which, typer.Option(help="The checkpoint of the best validation top-1, or the last.")
    ] = Which.newest,
    output: opt.OutputFormat = Output.table,
) -> None:
    """Find training labels that are probably wrong, on this machine: a page, and weights by id.

    Estimated noise and confusion of each class by confident learning, and the worst pictures with
    their texts; by mean margin where a run has recorded it (log.margins=true). The weights, beside
    the page, are for data.weights of the next run. Runs whose data.selection leaves parts out
    judge those parts; `python -m trainer.noise --folds` makes such selections.

    \b
    Examples:
      launcher noise resnet18-1a2b3c --out report.html
      launcher noise s3://runs/fold-0 s3://runs/fold-1 s3://runs/fold-2 --out report.html
      launcher noise resnet18-1a2b3c --out report.html -o json | jq -r .weights
    """
    check_page(out, output)
    addresses = [run_address(place, context.obj, run) for run in runs]
    options = ["--out", out, "--pictures", str(pictures), "--which", which.value]
    found = written("noise", "trainer.noise", [*addresses, *options])
    told = (f"{100 * found['noise_rate']:.1f}%", f"{found['num_suspects']:,}", found["weights"])
    show_page("LabelNoise", found, ("NOISE", "SUSPECTS", "WEIGHTS"), told, out, output)


def check_page(out: str, output: Output) -> None:
    """Raises UsageError for what a verb that writes a page cannot mean."""
    if not out.endswith(".html"):
        raise UsageError(f"--out {out!r} must end in .html")
    check_document(output)


def check_document(output: Output) -> None:
    """Raises UsageError for an output that only lists of jobs have."""
    if output is Output.name:
        raise UsageError("-o name is for jobs; give table, json or yaml")


def written(verb: str, module: str, options: Sequence[str]) -> dict[str, Any]:
    """What one of the trainer's programs says of what it has done."""
    import json

    from launcher.programs import run_program

    found: dict[str, Any] = json.loads(run_program(verb, module, options))
    del found["schemaVersion"]
    return found


def show_page(
    kind: str,
    found: dict[str, Any],
    head: Sequence[str],
    row: Sequence[str],
    out: str,
    output: Output,
) -> None:
    """Prints that, as a document of the kind or as a table of one row."""
    if output in (Output.json, Output.yaml):
        emit({"kind": kind, **found}, output)
        return
    print(table(head, [row]))
    tell(f"written to {out}")


def _name(run: str) -> str:
    """A job's name, or the last part of an address."""
    return run.rstrip("/").rpartition("/")[2]


def run_address(place: Place, manner: Manner, run: str) -> str:
    """The folder of a run by its job's name, or as it was given."""
    return run if "/" in run else jobs_of(place, manner, run).status(run).checkpoints
