"""The only door to the API server: the same verbs on jobs as `launcher.local` has.

The official client is imported when a cluster is first talked to: it takes 0.2 s.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from launcher.cluster.client import Api
    from launcher.cluster.diagnosis import Finding
    from launcher.cluster.jobs import Jobs
    from launcher.cluster.kinds import Object
    from launcher.cluster.usage import Usage

__all__ = [
    "bundle",
    "bundle_name",
    "checks",
    "connect",
    "diff",
    "dry_run",
    "give_up_ledger",
    "holds_pods",
    "is_configured",
    "jobs_on",
    "read_usage",
]


def connect(
    context: str = "", namespace: str = "", timeout_s: float = 30.0, patience_s: float = 30.0
) -> Api:
    """The API server of a context of the kubeconfig, or the one around this pod.

    timeout_s: longest silence within one answer. patience_s: for all tries of a request.
    Raises UsageError where there is none. Nothing is asked of the server yet.
    """
    from launcher.cluster import client, transport

    way = transport.connect(context)
    return client.Api(way, namespace, timeout_s=timeout_s, patience_s=patience_s)


def jobs_on(api: Api, say: Callable[[str], None] = lambda _: None) -> Jobs:
    """The verbs on its jobs. say: told what whoever asks should know, such as a warning."""
    from launcher.cluster.jobs import Jobs

    return Jobs(api, say)


def dry_run(api: Api, objects: list[Object], say: Callable[[str], None]) -> list[Object]:
    """The objects as the API server would store them; its admission and the budget have a say."""
    from launcher.cluster import submit

    return submit.dry_run(api, objects, say)


def diff(api: Api, objects: list[Object]) -> str:
    """What a submit would change, as a unified diff."""
    from launcher.cluster import differences

    return differences.diff(api, objects)


def read_usage(api: Api, namespace: str | None = None) -> Usage:
    """Who holds the GPUs now."""
    from launcher.cluster import usage

    return usage.read_usage(api, namespace)


def bundle(api: Api, name: str, out: Path, say: Callable[[str], None]) -> list[str]:
    """All about a job in one archive; returns the names of what it holds."""
    from launcher.cluster import bundling

    return bundling.bundle(api, name, out, say)


def bundle_name(name: str) -> str:
    """What a bundle is called unless told otherwise."""
    from launcher.cluster import bundling

    return bundling.default_name(name)


def checks(api: Api) -> list[Finding]:
    """Whether the cluster has what jobs need, for `launcher doctor`."""
    from launcher.cluster import diagnosis

    return diagnosis.checks(api)


def holds_pods(api: Api, budget: str) -> bool:
    """Whether jobs of a budget are to hold their pods until their GPU time is stored."""
    from launcher.cluster import ledger

    return ledger.holds_pods(api, budget)


def give_up_ledger(api: Api, namespace: str) -> int:
    """Lets every pod go that waits for its GPU time to be stored; returns how many. "" is all."""
    from launcher.cluster import ledger

    return ledger.give_up(api, namespace)


def is_configured() -> bool:
    """Whether there is a cluster to talk to: a kubeconfig, or a pod's ServiceAccount."""
    from launcher.cluster import transport

    return transport.is_configured()
