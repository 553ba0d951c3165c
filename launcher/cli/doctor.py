"""doctor: is everything there that a run needs?"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from launcher.cli import options as opt
from launcher.cli.manners import Manner, Output, colored, confirm, emit, table, tell
from launcher.cli.places import Place, placed
from launcher.errors import LauncherError, UsageError

Result = Literal["ok", "warning", "failed"]
COLORS: dict[Result, str] = {"ok": "green", "warning": "yellow", "failed": "red"}
PATIENCE_S = 10.0
"""A doctor tells that a server does not answer; it does not wait until it does."""
LEAST_FREE_BYTES = 5 << 30
"""A small run's checkpoints, logs and demo data fit below it."""


@dataclass(frozen=True)
class Check:
    """One finding; only a failed one makes the exit code 1."""

    name: str
    result: Result
    detail: str


def register(app: typer.Typer) -> None:
    """Adds the verbs of this module."""
    app.command()(placed(doctor))


def doctor(
    context: typer.Context,
    place: Place,
    release_finalizers: Annotated[
        bool,
        typer.Option(
            "--release-finalizers",
            help="Let pods go that wait for a ledger which is gone; without -n in all namespaces.",
        ),
    ] = False,
    yes: opt.Yes = False,
    output: opt.OutputFormat = Output.table,
) -> None:
    """Check this machine, the settings, the object store and the cluster.

    Exit code 1 if something that a run needs has failed; a warning only tells what is not there.

    \b
    Examples:
      launcher doctor
      launcher doctor -n ml
      launcher doctor --release-finalizers -n ml
      launcher doctor -o json | jq '.checks[] | select(.result == "failed")'
    """
    manner: Manner = context.obj
    if release_finalizers:
        _release(place, yes, manner)
        return
    found = list(checks(place, manner.request_timeout_s))
    if output in (Output.json, Output.yaml):
        emit({"kind": "Diagnosis", "checks": [asdict(check) for check in found]}, output)
    else:
        rows = [(check.name, check.result, check.detail) for check in found]
        text = table(["CHECK", "RESULT", "DETAIL"], rows)
        for result, color in COLORS.items():
            text = text.replace(
                f"   {result} ", f"   {colored(result, color, manner, sys.stdout)} "
            )
        print(text)
    failed = [check.name for check in found if check.result == "failed"]
    if failed:
        tell(f"failed: {', '.join(failed)}")
        raise typer.Exit(1)


def _release(place: Place, yes: bool, manner: Manner) -> None:
    """Takes the ledger's finalizer off pods: they can go though nobody stores their time."""
    from launcher import cluster

    if place.local:
        raise UsageError("--release-finalizers is for a cluster; leave --local out")
    api = cluster.connect(place.context, place.namespace, manner.request_timeout_s)
    where = f"namespace {place.namespace}" if place.namespace else "all namespaces"
    question = (
        f"let all pods of jobs in {where} of {api.transport.context} go, though the GPU time of "
        "those that have ended may not be stored?"
    )
    if not confirm(question, yes, manner):
        tell("left as it is")
        raise typer.Exit(1)
    count = cluster.give_up_ledger(api, place.namespace)
    tell(f"{count} pods no longer wait for their GPU time to be stored")


def checks(place: Place, timeout_s: float) -> Iterator[Check]:
    """Each check in turn; one that breaks is a failed one, and the others still run."""
    yield _python()
    yield _module("torch", "local runs train with it: pip install '.[train]'")
    yield _disk()
    try:
        from launcher import settings

        known = settings.load(os.environ, Path.cwd())
    except LauncherError as error:
        yield Check("settings", "failed", str(error))
        return
    files = ", ".join(map(str, known.files))
    yield Check("settings", "ok", files or "no file; environment and built-in values")
    yield _store(known.get("checkpoints"))
    if place.local:
        return
    yield from _cluster(place.context, place.namespace or known.get("namespace"), timeout_s)


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("python", "ok" if sys.version_info >= (3, 11) else "failed", version)


def _module(name: str, otherwise: str) -> Check:
    """Whether a module is installed; found, not imported, since torch takes seconds."""
    import importlib.machinery
    import importlib.util

    package, *rest = name.split(".")
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        return Check(name, "failed", f"not installed; {otherwise}")
    if rest:
        # find_spec("a.b.c") would import a and a.b.
        places = [str(Path(p, *rest[:-1])) for p in spec.submodule_search_locations]
        spec = importlib.machinery.PathFinder.find_spec(rest[-1], places)
        if spec is None:
            return Check(name, "failed", f"not found in the installed {package}; {otherwise}")
    return Check(name, "ok", str(spec.origin))


def _disk() -> Check:
    import shutil

    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    while not base.exists():
        base = base.parent
    free = shutil.disk_usage(base).free
    detail = f"{free / (1 << 30):.1f} GiB free at {base}"
    if free < LEAST_FREE_BYTES:
        return Check("disk", "failed", f"{detail}; local runs want {LEAST_FREE_BYTES >> 30} GiB")
    return Check("disk", "ok", detail)


def _store(address: str) -> Check:
    """Writes, reads and removes one small object where checkpoints shall go."""
    if not address:
        return Check(
            "checkpoints", "warning", "no address set; clusters need one, this machine not"
        )
    import secrets

    from trainer.storage import StorageError, open_store

    key = f".launcher-doctor-{secrets.token_hex(4)}"
    try:
        store = open_store(address)
        store.create(key, b"doctor")
        same = store.get(key) == b"doctor"
        store.remove(key)
    except (StorageError, ValueError, OSError) as error:
        return Check("checkpoints", "failed", " ".join(f"{address}: {error}".split()))
    if not same:
        return Check("checkpoints", "failed", f"{address} gives back other bytes than were written")
    return Check("checkpoints", "ok", f"{address} can be written, read and removed")


def _cluster(context: str, namespace: str, timeout_s: float) -> Iterator[Check]:
    """What the API server answers; without a kubeconfig there is nothing to ask."""
    from launcher import cluster

    if not cluster.is_configured():
        yield Check("cluster", "warning", "no kubeconfig; only needed to use a cluster")
        return
    try:
        api = cluster.connect(context, namespace, min(timeout_s, PATIENCE_S), PATIENCE_S)
    except LauncherError as error:
        yield Check("cluster", "failed", str(error))
        return
    for found in cluster.checks(api):
        yield Check(found.name, found.result, found.detail)
