"""Letting pods go: the ledger's finalizer is taken off those whose time is stored."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from launcher.budget.pods import FINALIZER
from launcher.cluster.client import Api
from launcher.cluster.kinds import POD, Object
from launcher.errors import LauncherError, NotFound, Rejected
from launcher.spec import JOB_LABEL

logger = logging.getLogger(__name__)

AT_ONCE = 4
TRIES = 5
"""Others may add and take finalizers at the same moment, and so move ours."""


class Pods:
    """The pods of some namespaces, as the ledger's writer asks the API server about them."""

    def __init__(self, api: Api, namespaces: Sequence[str]) -> None:
        """api: it must not repeat requests for long."""
        self._api, self._namespaces = api, namespaces

    def uids(self) -> set[str]:
        """All there are at this moment. Raises LauncherError."""
        found: set[str] = set()
        for namespace in self._namespaces:
            found.update(self._api.each(POD, _uid, namespace=namespace, labels=JOB_LABEL))
        return found

    def release(self, pods: Collection[Object]) -> set[str]:
        """Takes the finalizer off; returns the uids of those that have it no longer. What fails is
        to be asked for again."""
        if not pods:
            return set()
        with ThreadPoolExecutor(min(AT_ONCE, len(pods)), "release") as pool:
            done = pool.map(self._try, pods)
            return {_uid(pod) for pod, is_free in zip(pods, done, strict=True) if is_free}

    def _try(self, pod: Object) -> bool:
        try:
            return release(self._api, pod)
        except LauncherError as error:
            metadata = pod["metadata"]
            logger.warning("pod %s/%s is kept: %s", metadata["namespace"], metadata["name"], error)
            return False


def release(api: Api, pod: Object) -> bool:
    """Takes the finalizer off this very pod; whether it is off. Raises LauncherError."""
    metadata = pod["metadata"]
    name, namespace, uid = metadata["name"], metadata["namespace"], metadata["uid"]
    finalizers = metadata.get("finalizers") or ()
    for _ in range(TRIES):
        if FINALIZER not in finalizers:
            return True
        try:
            api.patch(POD, name, without(uid, finalizers), namespace=namespace)
            return True
        except NotFound:
            return True
        except Rejected as error:  # it is not as it was seen: another pod, or other finalizers
            found = api.find(POD, name, namespace)
            if found is None or _uid(found) != uid:
                return True
            finalizers = found["metadata"].get("finalizers") or ()
            logger.debug("pod %s/%s has changed: %s", namespace, name, error)
    return False


def without(uid: str, finalizers: Iterable[str]) -> list[dict[str, Any]]:
    """A JSON patch that takes ours away, or does nothing where something else is in its place."""
    path = f"/metadata/finalizers/{list(finalizers).index(FINALIZER)}"
    return [
        {"op": "test", "path": "/metadata/uid", "value": uid},
        {"op": "test", "path": path, "value": FINALIZER},
        {"op": "remove", "path": path},
    ]


def _uid(pod: Object) -> str:
    return str(pod["metadata"]["uid"])
