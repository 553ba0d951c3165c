"""textfilter: judges labels by their texts, and shows what it has found."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from launcher.cli import options as opt
from launcher.cli.asked import asking_indexed
from launcher.cli.groups import RUN, RunsByDefault
from launcher.cli.manners import DryRun, Output
from launcher.cli.places import KubeContext, Place, placed
from launcher.cli.results import check_page, run_address, show_page, written
from launcher.cli.submit import DryRunOption, Sending, Wait, check_sending, send_indexed
from launcher.request import IndexedRequest

app = typer.Typer(
    name="textfilter",
    cls=RunsByDefault,
    help="Judge labels by titles, descriptions and tags. Without a command it runs: launcher "
    "textfilter --local --data shards/train --model ngrams",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def register(parent: typer.Typer) -> None:
    """Adds the verbs of this module."""
    app.command(name=RUN)(asking_indexed(run))
    app.command()(placed(report))
    parent.add_typer(app, name="textfilter")


def run(
    context: typer.Context,
    request: IndexedRequest,
    data: Annotated[
        str, typer.Option(help="Address of the packed dataset, its texts included.")
    ] = "",
    model: Annotated[
        str,
        typer.Option(
            help="Folder of a BERT-like sentence encoder, or ngrams, which is built in.",
            metavar="FOLDER|ngrams",
        ),
    ] = "",
    features: Annotated[
        str,
        typer.Option(
            metavar="RUN",
            help="A run whose network tells which pictures are alike: job or address.",
            autocompletion=opt.job_names,
        ),
    ] = "",
    noise: Annotated[
        str,
        typer.Option(metavar="FILE", help="A network's probabilities, as launcher noise writes."),
    ] = "",
    dry_run: DryRunOption = DryRun.none,
    wait: Wait = False,
    timeout: opt.Timeout = "",
    kube_context: KubeContext = "",
    output: opt.OutputFormat = Output.table,
) -> None:
    """Score each picture's texts against what its class means: a selection, and weights by id.

    What classes mean is WordNet's (classes.wordnet), or a file's (classes.file). Into the job's
    output go selection.npy, weights.npy and sampling.npy for data.selection, data.weights and
    data.sampling of a run, scores.npy, and summary.json last. What is encoded stays: the same job
    again encodes nothing twice.

    \b
    Examples:
      launcher textfilter run --data s3://data/train --model s3://models/minilm --gpus 1 -n ml
      launcher textfilter run --local --data shards/train --model ~/minilm select.by=share
      launcher textfilter run --local --data shards --model ngrams --features first --name texts
    """
    from launcher.filtering import Wishes, work

    sending = Sending(dry_run, wait, timeout, kube_context, output)
    check_sending(request, sending)
    place = Place(request.namespace, kube_context)
    address = run_address(place, context.obj, features) if features else ""
    send_indexed(request, work(request, Wishes(data, model, address, noise)), sending, context.obj)


def report(
    context: typer.Context,
    place: Place,
    filtering: Annotated[
        str,
        typer.Argument(
            metavar="JOB",
            help="A textfilter's job, or the address of its output.",
            autocompletion=opt.job_names,
        ),
    ],
    out: Annotated[
        str, typer.Option("--out", metavar="FILE", help="Page to write, an .html file.")
    ],
    verified: Annotated[
        str,
        typer.Option(metavar="FILE", help="CSV with the columns id and right (1 or 0)."),
    ] = "",
    pictures: Annotated[int, opt.number("Pictures of each kind to show.")] = 24,
    output: opt.OutputFormat = Output.table,
) -> None:
    """Show what a text filtering has found, as a page: classes, sources, kept and dropped pictures.

    With labels that somebody has verified, also how precise and complete it is.

    \b
    Examples:
      launcher textfilter report texts --out texts.html
      launcher textfilter report s3://runs/texts --out texts.html --verified checked.csv
    """
    check_page(out, output)
    address = run_address(place, context.obj, filtering)
    options = ["--page", out, "--pictures", str(pictures)]
    options += ["--verified", verified] if verified else []
    found = written("textfilter report", "trainer.textreport", [address, *options])
    show_page("TextfilterReport", found, HEAD, _row(found), out, output)


HEAD = ("SELECTED", "RIGHT: ALL", "SELECTED", "WEIGHTED", "AUC")


def _row(found: dict[str, Any]) -> tuple[str, ...]:
    """Expected shares of right labels, and how well they are told apart where that is known."""
    expected, verified = found["expected"], found["verified"]
    shares = (f"{100 * expected[key]:.1f}%" for key in ("full", "selection", "weights"))
    auc = verified["auc"] if verified else None
    return (f"{found['num_selected']:,}", *shares, "-" if auc is None else f"{auc:.3f}")
