"""Keeps budgets: writes what they have left, judges who did not ask, ends what overruns.

It acts while its process leads and has the ledger. What it cannot read it leaves alone: jobs that
run go on, and nothing new starts, since who submits sees that nobody writes the figures.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from launcher import errors
from launcher.budget import objects
from launcher.budget.asked import corrections_due, read_refunds
from launcher.budget.budgets import used_up
from launcher.budget.standing import Standing, standings
from launcher.cluster import admission
from launcher.cluster.client import Api
from launcher.cluster.fields import labels_of
from launcher.cluster.forms import seen
from launcher.cluster.kinds import BUDGET, TRAINJOB, Object
from launcher.cluster.state import read_status
from launcher.controller.accounting import Accounting
from launcher.controller.act import Hands, NotLeading
from launcher.controller.budgeting import (
    Judge,
    Order,
    Pause,
    Shrink,
    Warn,
    is_empty,
    is_over,
    orders,
    uid_of,
)
from launcher.controller.store import Store
from launcher.controller.view import View, created_at
from launcher.errors import Conflict, LauncherError, NotFound
from launcher.spec import BUDGET_LABEL
from launcher.status import ENDED

logger = logging.getLogger(__name__)

LOOK_S, READY_LOOK_S = 5.0, 0.5
FIGURES_EVERY_S = 60.0
"""Figures are written so often though nothing has changed: who submits sees that somebody does."""
HELD_LEAST_MS = 60_000
"""A job may be younger than what the watch has told: its hold stays so long whatever is seen."""
Jobs = AbstractSet[tuple[str, str]]
"""Of namespace and name."""


class Treasurer:
    """One candidate's part in keeping budgets; a thread of its own."""

    def __init__(
        self,
        api: Api,
        store: Store,
        accounting: Accounting,
        hands_of: Callable[[str], Hands],
        count: Callable[[str], None],
        looks_after: Callable[[str], bool],
    ) -> None:
        """api: it must not repeat requests for long. hands_of: whoever acts in a namespace.
        looks_after: whether the jobs of a namespace are watched at all."""
        self._api, self._store, self._accounting = api, store, accounting
        self._hands_of, self._count, self._looks_after = hands_of, count, looks_after
        self.standings: Sequence[Standing] = ()
        """As last looked at; nothing while another leads."""

    def run(self, stopping: threading.Event) -> None:
        """Looks until `stopping`; at once when it has come to lead."""
        while not stopping.wait(LOOK_S if self._accounting.is_ready else READY_LOOK_S):
            self.look()

    def look(self) -> None:
        """One look at all budgets."""
        if not self._accounting.is_ready:
            self.standings = ()
            return
        try:
            things = self._api.listing(BUDGET).items
            unsettled = self._accounting.unsettled()  # before what is stored is read
            now_ms = self._accounting.now_ms()
            with self._accounting.reading() as ledger:
                found = standings(things, ledger, now_ms)
                recorded = {refund.refund_id for refund in ledger.refunds()}
                corrections = [each for thing in things for each in corrections_due(thing, ledger)]
            self.standings = found
        except NotFound:  # this cluster knows no budgets
            self.standings = ()
            return
        except LauncherError as error:
            self._count("Error")
            logger.warning("budgets: %s", error)
            return
        for correction in corrections:
            self._accounting.record(correction)
        views = self._views()
        for standing in found:
            self._record_refunds(standing.thing, recorded)
            self._guarded(standing, views, unsettled | standing.running, now_ms)

    def _guarded(
        self, standing: Standing, views: Sequence[View], unsettled: Jobs, now_ms: int
    ) -> None:
        name = standing.stored.budget.name
        try:
            was_told = _is_told(standing.thing)
            gpus = self._accounting.gpus_of_job()
            for order in orders(standing, views, gpus, was_told):
                self._carry_out(order)
            self._write(standing, views, unsettled, now_ms)
        except (Conflict, NotLeading) as error:
            logger.debug("budget %s: looked at again: %s", name, error)
        except LauncherError as error:
            self._count("Error")
            logger.warning("budget %s: %s", name, error)
        except Exception:  # one odd budget must not keep the others from their due
            self._count("Defect")
            logger.exception("budget %s: defect of the controller", name)

    # -- jobs

    def _views(self) -> list[View]:
        """Jobs that name a budget, the oldest first."""
        jobs = self._store.labelled(BUDGET_LABEL)
        return [View(job) for job in sorted(jobs, key=created_at)]

    def _carry_out(self, order: Order) -> None:
        hands = self._hands_of(order.view.job["metadata"]["namespace"])
        match order:
            case Judge(view, applicant):
                self._judge(hands, view, applicant)
            case Pause(view, reason):
                hands.pause(view, reason)
            case Shrink(view, workers, reason):
                hands.shrink(view, workers, reason)
            case Warn(view, reason):
                hands.tell(view, "BudgetUsedUp", reason)

    def _judge(self, hands: Hands, view: View, applicant: admission.Applicant) -> None:
        try:
            workers = admission.hold(self._api, applicant, logger.info)
        except errors.Refused as refused:
            if refused.kind != "NoLedger":  # it cannot be judged: it goes on
                hands.pause(view, str(refused))
            return
        if workers is not None:
            hands.admit(view, applicant.budget, workers)

    # -- budgets

    def _record_refunds(self, thing: Object, recorded: set[str]) -> None:
        for refund in read_refunds(thing, self._accounting.cluster):
            if refund.refund_id not in recorded:
                self._accounting.record(refund)

    def _write(
        self, standing: Standing, views: Sequence[View], unsettled: Jobs, now_ms: int
    ) -> None:
        """Figures, holds that are left, and whether anything may start, in one write."""
        thing, state = standing.thing, standing.stored
        over = self._over(standing, views, unsettled, now_ms)
        if over:
            thing = objects.without_holds(thing, over)
            kept = {uid: hold for uid, hold in state.holds.items() if uid not in over}
            state = replace(state, holds=kept)
        num_jobs = sum(
            labels_of(view.job)[BUDGET_LABEL] == state.budget.name and not is_over(view)
            for view in views
        )
        thing = objects.with_figures(thing, state, standing.period, num_jobs, now_ms)
        empty = is_empty(standing.live)
        message = used_up(standing.live) if empty else "there is something left"
        reason = "UsedUp" if empty else "Left"
        thing = objects.with_condition(thing, objects.EXHAUSTED, empty, reason, message, now_ms)
        if _is_news(standing.thing, thing, now_ms):
            admission.write_status(self._api, standing.thing, thing, *_WRITTEN)

    def _over(
        self, standing: Standing, views: Sequence[View], unsettled: Jobs, now_ms: int
    ) -> set[str]:
        """Holders that need nothing any more: over or gone, and all they used is stored."""
        known = {uid_of(view): view for view in views}
        held_at = objects.held_at_ms(standing.thing)
        found = set()
        for uid, hold in standing.stored.holds.items():
            is_young = now_ms - held_at[uid] < HELD_LEAST_MS
            if is_young or (hold.namespace, hold.job) in unsettled:
                continue
            if not self._looks_after(hold.namespace):
                continue
            view = known.get(uid)
            is_gone = view is None and not self._is_trainjob(uid, hold.namespace, hold.job)
            if is_gone or (view is not None and is_over(view)):
                found.add(uid)
        return found

    def _is_trainjob(self, uid: str, namespace: str, name: str) -> bool:
        """Whether it is a TrainJob that is not over: no watch tells of those."""
        try:
            found = self._api.find(TRAINJOB, name, namespace)
        except LauncherError:
            return True  # better to keep a hold too long
        if found is None or found["metadata"]["uid"] != uid:
            return False
        return read_status(seen(found, TRAINJOB), None, datetime.now(UTC)).state not in ENDED


_WRITTEN = (
    "observedGeneration",
    "asOf",
    "usedGPUMilliseconds",
    "gpuDays",
    "period",
    "jobs",
    "holds",
    "conditions",
)


def _is_told(thing: Object) -> bool:
    told = objects.condition_of(thing, objects.EXHAUSTED)
    return told is not None and told["status"] == "True"


def _is_news(old: Object, new: dict[str, Any], now_ms: int) -> bool:
    """Whether a write is due: something else than its moment has changed, or that is old."""
    before, after = old.get("status", {}), new["status"]
    if any(before.get(key) != after.get(key) for key in _WRITTEN if key != "asOf"):
        return True
    written_ms = objects.written_at_ms(old)
    return now_ms - written_ms >= FIGURES_EVERY_S * 1000
