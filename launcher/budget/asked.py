"""What people ask of a budget in its spec: GPU time given back, and GPU time kept free. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from launcher.budget.budgets import DAY_MS, Reservation
from launcher.budget.pods import moment_ms
from launcher.budget.records import Refund

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


def read_reservations(thing: Object, now_ms: int) -> list[Reservation]:
    """What is kept free now; those past their time are left out."""
    return [
        Reservation(each["job"], round(each["gpuDays"] * DAY_MS))
        for each in thing["spec"].get("reservations", ())
        if "until" not in each or moment_ms(each["until"]) > now_ms
    ]
