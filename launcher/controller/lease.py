"""Leader election on a Lease: of several controllers one acts, and stops before another begins.

The times and rules are those of Kubernetes' own controllers: who leads renews every 2 s and gives
up 10 s after the last success; others take over once they have seen no renewal for 15 s by their
own clock, so clocks need not agree. Every write names the version that it replaces.
"""

from __future__ import annotations

import copy
import logging
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from launcher.cluster.client import Api
from launcher.cluster.kinds import LEASE, Object
from launcher.errors import Conflict, LauncherError

logger = logging.getLogger(__name__)

DURATION_S = 15
RENEW_DEADLINE_S = 10.0
RETRY_S = 2.0
REQUEST_TIMEOUT_S = 4.0
"""Two requests that hang still leave time to renew before the deadline."""


class Elector:
    """This controller's part in an election."""

    def __init__(
        self,
        api: Api,
        name: str,
        identity: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """api: its namespace is the Lease's; it must not repeat requests for long."""
        self.api, self.name, self.identity, self._clock = api, name, identity, clock
        self._held_until = float("-inf")
        self._seen: tuple[str, str] = ("", "")
        """Holder and time of renewal as last read."""
        self._seen_at = float("-inf")

    @property
    def is_leading(self) -> bool:
        """Whether this one may act, now."""
        return self._clock() < self._held_until

    @property
    def holder(self) -> str:
        """Who led when the Lease was last read."""
        return self._seen[0]

    def try_once(self) -> bool:
        """Takes or renews the Lease if that is due to us; returns whether this one leads."""
        began_at = self._clock()
        try:
            if self._write(began_at):
                self._held_until = began_at + RENEW_DEADLINE_S
        except Conflict as error:
            logger.debug("lease: %s", error)
        except LauncherError as error:
            logger.warning("lease %s/%s: %s", self.api.namespace, self.name, error)
        return self.is_leading

    def release(self) -> None:
        """Lets another take over at once."""
        self._held_until = float("-inf")
        try:
            found = self.api.find(LEASE, self.name)
            if found is None or found["spec"].get("holderIdentity") != self.identity:
                return
            found["spec"] |= {"leaseDurationSeconds": 1, "renewTime": _now()}
            del found["spec"]["holderIdentity"]
            self.api.replace(found)
            logger.info("released lease %s/%s", self.api.namespace, self.name)
        except LauncherError as error:
            logger.warning("lease %s/%s is not released: %s", self.api.namespace, self.name, error)

    def run(self, stopping: threading.Event, changed: Callable[[bool], None]) -> None:
        """Takes part until `stopping`; `changed` is told whenever this one begins or ends to lead.

        Ending is also known by `is_leading`, in time, should this thread be held up.
        """
        was_leading = False
        while not stopping.is_set():
            is_leading = self.try_once()
            if is_leading != was_leading:
                logger.info("%s lease %s", "acquired" if is_leading else "lost", self.name)
                changed(is_leading)
                was_leading = is_leading
            stopping.wait(RETRY_S * random.uniform(1.0, 1.2))

    def _write(self, now: float) -> bool:
        found = self.api.find(LEASE, self.name)
        if found is None:
            self.api.create(self._new())
            return True
        spec = found.get("spec", {})
        holder = str(spec.get("holderIdentity") or "")
        seen = (holder, str(spec.get("renewTime", "")))
        if seen != self._seen:
            self._seen, self._seen_at = seen, now
        is_theirs = holder not in ("", self.identity)
        if is_theirs and now < self._seen_at + float(spec.get("leaseDurationSeconds", DURATION_S)):
            return False
        taken = copy.deepcopy(found)
        taken["spec"] = spec | {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": DURATION_S,
            "renewTime": _now(),
        }
        if holder != self.identity:
            taken["spec"] |= {
                "acquireTime": taken["spec"]["renewTime"],
                "leaseTransitions": int(spec.get("leaseTransitions", 0)) + 1,
            }
        self.api.replace(taken)
        return True

    def _new(self) -> Object:
        now = _now()
        return {
            "apiVersion": LEASE.version,
            "kind": LEASE.name,
            "metadata": {"name": self.name, "namespace": self.api.namespace},
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": DURATION_S,
                "acquireTime": now,
                "renewTime": now,
                "leaseTransitions": 0,
            },
        }


def _now() -> str:
    """As Leases have it, in microseconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
