"""Where a verb looks for jobs: on this machine, or in a namespace of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from launcher.cli import options as opt
from launcher.cli.manners import Manner, tell
from launcher.errors import UsageError
from launcher.status import JobStatus

if TYPE_CHECKING:
    from launcher.cluster.client import Api
    from launcher.cluster.jobs import Jobs as ClusterJobs


@dataclass(frozen=True)
class Place:
    """What -n, --context and --local say; all empty: find out."""

    namespace: str = ""
    context: str = ""
    local: bool = False


class Jobs(Protocol):
    """The verbs that both places have."""

    def list_jobs(self) -> list[JobStatus]: ...
    def status(self, name: str) -> JobStatus: ...
    def cancel(self, name: str, grace_s: float | None = None) -> JobStatus: ...
    def scale(self, name: str, workers: int) -> JobStatus: ...
    def delete(self, name: str, force: bool = False) -> None: ...
    def wait(
        self,
        name: str,
        timeout_s: float | None = None,
        on_change: Callable[[JobStatus], None] | None = None,
    ) -> JobStatus: ...
    def logs(
        self,
        name: str,
        worker: int | None = None,
        follow: bool = False,
        tail: int | None = None,
        previous: bool = False,
    ) -> Iterator[str]: ...


KubeContext = Annotated[
    str, typer.Option("--context", help="Context of the kubeconfig; default: the current one.")
]


def _asked(
    namespace: Annotated[
        str, typer.Option("-n", "--namespace", help="Namespace; default: the setting, the context.")
    ] = "",
    kube_context: KubeContext = "",
    local: Annotated[bool, typer.Option("--local", help="Only runs on this machine.")] = False,
) -> None:
    """The options that say where."""


def placed(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of `_asked` in place of its Place."""
    return opt.with_options(command, "place", _asked, _place)


def _place(said: dict[str, Any]) -> Place:
    place = Place(said["namespace"], said["kube_context"], said["local"])
    if place.local and (place.namespace or place.context):
        raise UsageError("--local goes without --namespace and --context: they mean a cluster")
    return place


def jobs_of(place: Place, manner: Manner, name: str = "") -> Jobs:
    """The jobs meant. A name of a run on this machine means that run, unless a cluster is named."""
    from launcher import local

    return local if _is_here(place, name) else on_cluster(place, manner)


def status_of(place: Place, manner: Manner, name: str, beside: Callable[[str], None]) -> JobStatus:
    """The status of a job; meanwhile `beside` is called with the address of its checkpoints."""
    from launcher import local

    if not _is_here(place, name):
        return on_cluster(place, manner).status(name, beside)
    found = local.status(name)
    beside(found.checkpoints)
    return found


def on_cluster(
    place: Place, manner: Manner, verb: str = "", name: str = "", instead: str = ""
) -> ClusterJobs:
    """The jobs of a cluster. Raises UsageError where --local says otherwise, or there is none.

    name: of the job that is meant; where that is a run on this machine, `instead` tells what to do.
    """
    from launcher import cluster, local

    if name and _is_here(place, name):
        local.status(name)
        raise UsageError(f"{name} runs on this machine; {instead}")
    if place.local:
        raise UsageError(f"{verb or 'this'} is for jobs of a cluster; leave --local out")
    return cluster.jobs_on(api_of(place, manner), tell)


def _is_here(place: Place, name: str) -> bool:
    """Whether this machine is meant."""
    from launcher import cluster, local

    if place.local or place.namespace or place.context:
        return place.local
    return (bool(name) and local.is_known(name)) or not cluster.is_configured()


def api_of(place: Place, manner: Manner) -> Api:
    """The API server meant, with the namespace of the flag, the setting or the context."""
    import os
    from pathlib import Path

    from launcher import cluster, settings

    namespace = place.namespace or settings.load(os.environ, Path.cwd()).get("namespace")
    return cluster.connect(place.context, namespace, manner.request_timeout_s)
