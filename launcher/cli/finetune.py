"""The verb that goes on from another run's weights: finetune."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import Annotated

import typer

from launcher.cli import options as opt
from launcher.cli.asked import asking_without_model
from launcher.cli.manners import DryRun, Manner, Output, tell
from launcher.cli.places import KubeContext, Place, on_cluster
from launcher.cli.submit import DryRunOption, Sending, Wait, check_sending, send
from launcher.request import Request


class Pool(StrEnum):
    """Values of --pool: those of model.pool."""

    default = "default"
    gem = "gem"
    gem_channel = "gem_channel"


class Learning(StrEnum):
    """Values of --train: those of start.train."""

    all = "all"
    head = "head"
    pool = "pool"


def register(app: typer.Typer) -> None:
    """Adds the verbs of this module."""
    app.command(name="finetune")(asking_without_model(finetune))


def finetune(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="RUN",
            help="The run to begin from: a job's name, or the address of a run's folder.",
            autocompletion=opt.job_names,
        ),
    ],
    request: Request,
    image_size: Annotated[
        int | None, opt.number_within(16, 2048, "Side of the input; default: RUN's.", "PX")
    ] = None,
    pool: Annotated[
        Pool | None, typer.Option(help="Pooling before the classifier; default: RUN's.")
    ] = None,
    train: Annotated[
        Learning, typer.Option(help="What learns: all, the classifier, or GeM's power.")
    ] = Learning.all,
    freeze: Annotated[int, opt.number_within(0, 16, "The stem and N stages stay; 0: none.")] = 0,
    new_head: Annotated[
        bool, typer.Option("--new-head", help="Draw the classifier anew, as for other classes.")
    ] = False,
    statistics: Annotated[
        int, opt.number_within(0, 1 << 31, "Samples to measure running statistics anew on.")
    ] = 0,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="Recipe or YAML whose job part counts; default: that of RUN's network.",
            autocompletion=opt.recipe_names,
        ),
    ] = "",
    dry_run: DryRunOption = DryRun.none,
    wait: Wait = False,
    timeout: opt.Timeout = "",
    kube_context: KubeContext = "",
    output: opt.OutputFormat = Output.table,
) -> None:
    """Go on from a run's weights, at a larger input, with another pooling, head or loss.

    The new run is RUN's own configuration with half its learning rate, no warm-up and a tenth of
    its epochs; overrides win. Size and place are those of the recipe of RUN's network.

    \b
    Examples:
      launcher finetune --from senet154-1a2b3c --image-size 320 --pool gem -n ml --budget webvision
      launcher finetune --from s3://runs/senet154-1a2b3c --image-size 320 --dry-run=client epochs=8
      launcher finetune --from first --local --image-size 48 --freeze 2 --statistics 4096
      launcher finetune --from RUN --train head --new-head loss.balance.kind=inverse_frequency
    """
    from launcher.jobfile import recipe_of
    from launcher.tuning import Wishes, read_run, tuned_run
    from trainer.config import StartConfig

    sending = Sending(dry_run, wait, timeout, kube_context, output)
    check_sending(request, sending)
    address = _address(source, request, kube_context, context.obj)
    found = read_run(address)
    start = StartConfig(
        head="new" if new_head else "keep",
        train=train.value,
        frozen_stages=freeze,
        statistics_samples=statistics,
    )
    wishes = Wishes(image_size, pool.value if pool else None, start)
    tuned, notes = tuned_run(found, address, wishes)
    for note in notes:
        tell(f"note: {note}")
    request = replace(
        request,
        model=model or recipe_of(found.model.name),
        stage=request.stage or "finetune",
        tuned=tuned,
    )
    send(request, sending, context.obj)


def _address(source: str, request: Request, kube_context: str, manner: Manner) -> str:
    """The folder of the run that is meant: on this machine with --local, else on the cluster."""
    if "/" in source:
        from launcher.spec import check_address

        return check_address(source, "--from")
    if request.local:
        from launcher import local

        return local.status(source).checkpoints
    place = Place(request.namespace, kube_context)
    return on_cluster(place, manner).status(source).checkpoints
