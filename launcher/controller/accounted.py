"""Tells on every budget whether its jobs' GPU time is being stored: who submits goes by it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from launcher.cluster import ledger
from launcher.cluster.client import Api
from launcher.cluster.kinds import BUDGET
from launcher.controller.accounting import Accounting
from launcher.errors import Conflict, LauncherError, NotFound

logger = logging.getLogger(__name__)

LOOK_S = 2.0
UNREADABLE_AFTER_S = 60.0
"""A store that fails for so long is told of; shorter, it is only tried again."""


class Accounted:
    """Writes the condition while its process leads."""

    def __init__(
        self,
        api: Api,
        accounting: Accounting,
        has_finalizers: bool,
        is_leading: Callable[[], bool],
        unreadable_after_s: float = UNREADABLE_AFTER_S,
    ) -> None:
        """api: it must not repeat requests for long."""
        self._api, self._accounting, self._is_leading = api, accounting, is_leading
        self._has_finalizers, self._unreadable_after_s = has_finalizers, unreadable_after_s
        self._last_error = ""

    def run(self, stopping: threading.Event) -> None:
        """Looks until `stopping`."""
        while not stopping.wait(LOOK_S):
            self.look()

    def look(self) -> None:
        """Writes what is not yet as it is."""
        state = self._state() if self._is_leading() else None
        if state is None:
            return
        try:
            for budget in self._api.listing(BUDGET).items:
                try:
                    ledger.tell(self._api, budget, *state)
                except (Conflict, NotFound) as error:  # it has changed: at the next look
                    logger.debug("%s", error)
            self._last_error = ""
        except LauncherError as error:
            if str(error) != self._last_error:
                logger.warning("budgets are not told of the ledger: %s", error)
            self._last_error = str(error)

    def _state(self) -> tuple[bool, ledger.Reason, str] | None:
        """Status, reason and message; None: it is not known yet."""
        if self._accounting.failing_s > self._unreadable_after_s:
            message = f"{self._accounting.address} does not answer; no job is admitted meanwhile"
            return False, "LedgerUnreadable", message
        if not self._accounting.is_ready or self._accounting.failing_s:
            return None
        if self._has_finalizers:
            return True, "Ledger", "pods are held until their GPU time is stored"
        return True, "NoFinalizer", "GPU time is stored; pods are not held for it"
