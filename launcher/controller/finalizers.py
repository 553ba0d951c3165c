"""Letting pods go: the ledger's finalizer is taken off those whose time is stored."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

from launcher.cluster.client import Api
from launcher.cluster.kinds import POD, Object
from launcher.cluster.ledger import release
from launcher.errors import LauncherError
from launcher.spec import JOB_LABEL

logger = logging.getLogger(__name__)

AT_ONCE = 4


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
        to be asked for again; after the first that fails no more are begun."""
        if not pods:
            return set()
        failed = threading.Event()
        with ThreadPoolExecutor(min(AT_ONCE, len(pods)), "release") as pool:
            done = pool.map(lambda pod: self._try(pod, failed), pods)
            return {_uid(pod) for pod, is_free in zip(pods, done, strict=True) if is_free}

    def _try(self, pod: Object, failed: threading.Event) -> bool:
        if failed.is_set():  # a server that is away would be waited for once for each
            return False
        try:
            return release(self._api, pod)
        except LauncherError as error:
            failed.set()
            metadata = pod["metadata"]
            logger.warning("pod %s/%s is kept: %s", metadata["namespace"], metadata["name"], error)
            return False


def _uid(pod: Object) -> str:
    return str(pod["metadata"]["uid"])
