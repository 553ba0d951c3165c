"""The only door to the API server: the same verbs on jobs as `launcher.local` has.

The official client is imported when a cluster is first talked to: it takes 0.2 s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from launcher.cluster.client import Api
    from launcher.cluster.jobs import Jobs
    from launcher.cluster.kinds import Object

__all__ = ["connect", "dry_run", "is_configured", "jobs_on"]


def connect(context: str = "", namespace: str = "", timeout_s: float = 30.0) -> Api:
    """The API server of a context of the kubeconfig, or the one around this pod.

    Raises UsageError where there is none. Nothing is asked of the server yet.
    """
    from launcher.cluster import client, transport

    return client.Api(transport.connect(context), namespace, timeout_s=timeout_s)


def jobs_on(api: Api) -> Jobs:
    """The verbs on its jobs."""
    from launcher.cluster.jobs import Jobs

    return Jobs(api)


def dry_run(api: Api, objects: list[Object]) -> list[Object]:
    """The objects as the server would store them: admission, quota and rights are asked."""
    from launcher.cluster.submit import dry_run

    return dry_run(api, objects)


def is_configured() -> bool:
    """Whether there is a cluster to talk to: a kubeconfig, or a pod's ServiceAccount."""
    from launcher.cluster import transport

    return transport.is_configured()
