"""What people ask of a budget in its spec: to give back, to set right, to keep free. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from launcher.budget.budgets import DAY_MS, Reservation
from launcher.budget.ledger import Ledger
from launcher.budget.pods import moment_ms
from launcher.budget.records import Interval, Refund, corrected

Object = Mapping[str, Any]


def read_refunds(thing: Object, cluster: str) -> list[Refund]:
    """The refunds of a budget's spec as records. The same entry gives the same record each time,
    so whoever writes them may do so again."""
    return [
        Refund(
            refund_id=each["id"],
            cluster=cluster,
            budget=thing["metadata"]["name"],
            gpu_ms=round(each["gpuDays"] * DAY_MS),
            reason=each["reason"],
            author=each["author"],
            at_ms=moment_ms(each["at"]),
            pod_uid=each.get("podUID", ""),
        )
        for each in thing["spec"].get("refunds", ())
    ]


def corrections_due(thing: Object, ledger: Ledger) -> list[Interval]:
    """Records that set ends right as a budget's spec asks, where the ledger does not hold them yet.

    Only of the budget's own pods that have ended; an end before the start counts as the start.
    """
    latest = {
        each["podUID"]: each
        for each in sorted(thing["spec"].get("corrections", ()), key=lambda each: str(each["at"]))
    }
    found = []
    for uid, asked in latest.items():
        known = ledger.of_pod(uid)
        if known is None or not known.is_closed or known.owner.budget != thing["metadata"]["name"]:
            continue
        through_ms = max(known.start_ms, moment_ms(asked["end"]))
        right = corrected(known, through_ms, asked["author"], asked["reason"])
        is_done = known.source == "correction" and known.note == right.note
        if not (is_done and known.through_ms == through_ms):
            found.append(right)
    return found


def read_reservations(thing: Object, now_ms: int) -> list[Reservation]:
    """What is kept free now; those past their time are left out."""
    return [
        Reservation(each["job"], round(each["gpuDays"] * DAY_MS))
        for each in thing["spec"].get("reservations", ())
        if "until" not in each or moment_ms(each["until"]) > now_ms
    ]
