"""ensemble, predict, submission: what several runs answer together."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from launcher.cli import options as opt
from launcher.cli.asked import asking_indexed
from launcher.cli.groups import RUN, RunsByDefault
from launcher.cli.manners import DryRun, Output, emit, table, tell, warn
from launcher.cli.places import KubeContext, Place, placed
from launcher.cli.results import Which, check_document, run_address, written
from launcher.cli.submit import DryRunOption, Sending, Wait, check_sending, send_indexed
from launcher.errors import LauncherError, UsageError
from launcher.request import IndexedRequest

app = typer.Typer(
    name="ensemble",
    cls=RunsByDefault,
    help="Predictions of several runs over many crops, and how to combine them. Without a command"
    " it runs: launcher ensemble --local --data shards/val --run first --run second",
    no_args_is_help=True,
    rich_markup_mode=None,
)
submissions = typer.Typer(
    name="submission",
    help="WebVision's predictions.txt.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Runs = Annotated[
    list[str],
    typer.Option(
        "--run",
        metavar="RUN",
        help="A job's name, or the address of a run's folder; once for each network.",
        autocompletion=opt.job_names,
    ),
]


def register(parent: typer.Typer) -> None:
    """Adds the verbs of this module."""
    app.command(name=RUN)(asking_indexed(run))
    app.command()(placed(combine))
    submissions.command()(check)
    parent.add_typer(app, name="ensemble")
    parent.command()(placed(predict))
    parent.add_typer(submissions, name="submission")


def run(
    context: typer.Context,
    request: IndexedRequest,
    runs: Runs = [],  # noqa: B006 - Typer copies it
    data: Annotated[
        str,
        typer.Option(
            help="Address of the packed dataset, a test list's too; default: that of validation."
        ),
    ] = "",
    crops: Annotated[
        list[str],
        typer.Option(
            metavar="SET[@PX]",
            help="1, 2, 10, 144, vgg, multiscale or dense; 10@320 at another input size.",
        ),
    ] = [],  # noqa: B006
    dry_run: DryRunOption = DryRun.none,
    wait: Wait = False,
    timeout: opt.Timeout = "",
    kube_context: KubeContext = "",
    output: opt.OutputFormat = Output.table,
) -> None:
    """Predict every picture of a dataset by several runs, over many crops: probabilities by id.

    Precision, memory layout and batch are measured when a network's predictions begin, and kept.
    What is there stays: the same job again computes nothing twice, and one more --run only that.

    \b
    Examples:
      launcher ensemble run --run first --run second --data s3://data/val --gpus 1 -n ml
      launcher ensemble run --local --run first --run second --data shards/val --crops 144
      launcher ensemble run --local --run first --data shards/test --name test precision=fp32
    """
    from launcher.ensembling import Wishes, work

    sending = Sending(dry_run, wait, timeout, kube_context, output)
    check_sending(request, sending)
    place = Place(request.namespace, kube_context)
    addresses = tuple(run_address(place, context.obj, each) for each in runs)
    send_indexed(
        request, work(request, Wishes(data, addresses, tuple(crops))), sending, context.obj
    )


class Objective(StrEnum):
    """Values of --objective."""

    top1 = "top1"
    top5 = "top5"
    class_top1 = "class-top1"
    class_top5 = "class-top5"


def combine(
    context: typer.Context,
    place: Place,
    ensemble: Annotated[
        str,
        typer.Argument(
            metavar="JOB",
            help="An ensemble's job on labelled pictures, or the address of its output.",
            autocompletion=opt.job_names,
        ),
    ],
    crops: Annotated[
        str, typer.Option(metavar="SET[@PX]", help="Crop set to combine, where there are several.")
    ] = "",
    member: Annotated[
        list[str], typer.Option(metavar="NAME", help="Members to combine; default: all.")
    ] = [],  # noqa: B006
    objective: Annotated[
        Objective, typer.Option(help="What counts: over pictures, or the mean over classes.")
    ] = Objective.class_top5,
    method: Annotated[
        str, typer.Option(metavar="METHOD", help="The way that is taken; default: as advised.")
    ] = "",
    folds: Annotated[int, opt.number_within(2, 100, "Parts of which each is scored once.")] = 5,
    test: Annotated[
        str,
        typer.Option(
            metavar="JOB",
            help="The same runs' job on a test list: write a submission for it.",
            autocompletion=opt.job_names,
        ),
    ] = "",
    out: Annotated[
        str, typer.Option("--out", metavar="FILE", help="That submission; a .zip goes beside it.")
    ] = "predictions.txt",
    output: opt.OutputFormat = Output.table,
) -> None:
    """Find on labelled pictures how to combine an ensemble's members; write a submission.

    Every way is scored on pictures that it was not fitted on, with its 95 % interval. The
    arithmetic mean is advised unless another way is surely better.

    \b
    Examples:
      launcher ensemble combine val-answers --objective class-top5
      launcher ensemble combine val-answers --test test-answers --out predictions.txt
      launcher ensemble combine s3://runs/val-answers --crops 144 --method greedy -o json
    """
    from launcher import ensembling

    check_document(output)
    options = [run_address(place, context.obj, ensemble), "--objective", objective.value]
    options += ["--folds", str(folds)]
    options += ["--crops", crops] if crops else []
    options += ["--method", method] if method else []
    options += ["--members", *member] if member else []
    if test:
        options += ["--test", run_address(place, context.obj, test), "--out", out]
    found = written("ensemble combine", "trainer.combine", options)
    if output in (Output.json, Output.yaml):
        emit({"kind": "Combination", **found}, output)
        return
    print(table(ensembling.SINGLES_HEAD, ensembling.single_rows(found)), end="\n\n")
    print(table(ensembling.MEMBERS_HEAD, ensembling.member_rows(found)), end="\n\n")
    print(table(ensembling.METHODS_HEAD, ensembling.method_rows(found)))
    if test:
        submission = found["submission"]
        if submission["num_unread"]:
            warn(
                f"{submission['num_unread']} pictures could not be read and have the likeliest"
                f" classes of all others: {', '.join(submission['unread'])}"
            )
        tell(f"{submission['lines']} lines written to {submission['file']}, {submission['zip']}")


def predict(
    context: typer.Context,
    place: Place,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Pictures' files.")],
    runs: Runs,
    crops: Annotated[
        str, typer.Option(metavar="SET[@PX]", help="Crop set, as 1, 10, 144 or 10@320.")
    ] = "10",
    top: Annotated[int, opt.number("Classes to tell.")] = 5,
    which: Annotated[
        Which, typer.Option(help="The checkpoint of the best validation top-1, or the last.")
    ] = Which.best,
    out: Annotated[
        str, typer.Option("--out", metavar="FILE", help="Also draw it, into a .png or .svg.")
    ] = "",
    output: opt.OutputFormat = Output.table,
) -> None:
    """Tell what runs see in a few pictures, on this machine: the likeliest classes.

    With several runs the mean of their probabilities.

    \b
    Examples:
      launcher predict cat.jpg --run resnet18-1a2b3c
      launcher predict *.jpg --run first --run s3://runs/second --out seen.png
    """
    from launcher.ensembling import class_rows

    check_document(output)
    if out:
        from launcher.evaluation import check_picture

        check_picture(out)
    options = [word for each in runs for word in ("--run", run_address(place, context.obj, each))]
    options += ["--crops", crops, "--top", str(top), "--which", which.value]
    found = written("predict", "trainer.predict", [*options, "--", *images])
    if output in (Output.json, Output.yaml):
        emit({"kind": "PredictionList", **found}, output)
    else:
        head = ("IMAGE", "PROBABILITY", "LABEL", "CLASS")
        print(table(head, class_rows(found["items"])))
    if out:
        from launcher.seen import draw

        draw(found["items"], out)
        tell(f"drawn into {out}")
    unread = sum(bool(item["error"]) for item in found["items"])
    if unread:
        raise LauncherError(f"{unread} of {len(images)} pictures cannot be read")


def check(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="predictions.txt, or the zip that holds it.")
    ],
    list_file: Annotated[
        str, typer.Option("--list", metavar="FILE", help="The challenge's test_filelist.txt.")
    ],
    classes: Annotated[int, opt.number("Classes: labels are below it.")] = 5000,
) -> None:
    """Check a submission as the challenge would: names, order, five different labels.

    \b
    Examples:
      launcher submission check predictions.zip --list info/test_filelist.txt
      launcher submission check build/predictions.txt --list mini/test_filelist.txt --classes 20
    """
    from pathlib import Path

    from launcher.submission import check as checked

    try:
        lines = checked(Path(file), Path(list_file), classes)
    except OSError as error:
        reason = (error.strerror or "unreadable").lower()
        raise UsageError(f"cannot read {error.filename}: {reason}") from error
    print(f"{file} is good: {lines:,} images")
