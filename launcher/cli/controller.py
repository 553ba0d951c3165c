"""controller: the process in the cluster that looks after the jobs there."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from typing import Annotated, Any

import typer

from launcher.cli.manners import Manner, goes_on, seconds
from launcher.cli.places import KubeContext
from launcher.errors import UsageError


def register(app: typer.Typer) -> None:
    """Adds the verbs of this module."""
    app.command()(controller)


def controller(
    context: typer.Context,
    namespaces: Annotated[
        list[str] | None,
        typer.Option("-n", "--namespace", help="Namespace to look after; may be repeated."),
    ] = None,
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="Look after every namespace.")
    ] = False,
    lease_namespace: Annotated[
        str, typer.Option(help="Namespace of the Lease; default: that of the pod or the context.")
    ] = "",
    lease_name: Annotated[
        str, typer.Option(help="Who holds this Lease acts; others wait.")
    ] = "launcher-controller",
    identity: Annotated[str, typer.Option(help="Name in the Lease; default: host and pid.")] = "",
    metrics_port: Annotated[
        int, typer.Option(help="Port of /healthz, /readyz and /metrics; 0: none.", min=0, max=65535)
    ] = 8080,
    node_grace: Annotated[
        str, typer.Option(metavar="SPAN", help="Pods are taken off a node that is silent so long.")
    ] = "60s",
    tick: Annotated[
        str, typer.Option(metavar="SPAN", help="Every job is looked at so often at least.")
    ] = "10s",
    ledger: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Account GPU time in this bucket or folder; default: not at all.",
        ),
    ] = "",
    cluster_name: Annotated[
        str, typer.Option("--cluster", metavar="NAME", help="This cluster's name in the ledger.")
    ] = "default",
    no_finalizers: Annotated[
        bool,
        typer.Option(
            "--no-finalizers", help="Submits do not hold pods until their time is stored."
        ),
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="Look at each job once, then end.")] = False,
    kube_context: KubeContext = "",
) -> None:
    """Look after the jobs of a cluster: restart budgets, deadlines, hangs, lost nodes, left-overs.

    What it does stands in each job's events. SIGTERM: another takes over at once, exit code 0.

    \b
    Examples:
      launcher controller --all-namespaces --lease-namespace webvision-system
      launcher controller -A --ledger s3://team/ledger --cluster dc1
      launcher controller -n ml --once
    """
    import logging

    from launcher import cluster
    from launcher import controller as room

    goes_on()
    manner: Manner = context.obj
    if all_namespaces and namespaces:
        raise UsageError("--all-namespaces goes without --namespace: it means all of them")
    if once and ledger:
        raise UsageError("--once goes without --ledger: an account needs a process that stays")
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", cluster_name):
        raise UsageError(
            f"--cluster is {cluster_name!r}; it becomes a label: at most 63 lower-case letters, "
            "digits and '-'"
        )
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    api = cluster.connect(kube_context, "", manner.request_timeout_s)
    settings = room.Settings(
        lease_namespace=lease_namespace or api.namespace,
        lease_name=lease_name,
        identity=identity or f"{os.uname().nodename}-{os.getpid()}",
        namespaces=[""] if all_namespaces else namespaces or [api.namespace],
        node_grace_s=seconds(node_grace, "--node-grace"),
        tick_s=seconds(tick, "--tick"),
        ledger=ledger,
        cluster=cluster_name,
        has_finalizers=not no_finalizers,
    )
    if once:
        room.run_once(api, settings)
        return
    stopping = threading.Event()

    def stop(*_: Any) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    room.run(api, settings, metrics_port, stopping)
