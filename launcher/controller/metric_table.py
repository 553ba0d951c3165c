"""Every metric that the controller serves, as data: docs/metrics.md is made of it.

Names and units are Prometheus' base units; GPU-days are made in the recording rules. No label is
called job, instance, namespace or pod: a scrape gives those a meaning of its own.
"""

from __future__ import annotations

from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """One metric."""

    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...] = ()


_BUDGET = ("cluster", "budget")
_KINDS = ("cluster", "budget", "stage", "gpu_type", "model")

LEDGER_TABLE = {
    "launcher_gpu_allocated_seconds_total": Metric(
        "counter", "GPU time that pods held, restored from the ledger (in s).", _KINDS
    ),
    "launcher_gpu_refunded_seconds_total": Metric(
        "counter", "GPU time given back, by reason (in s).", (*_BUDGET, "reason")
    ),
    "launcher_gpu_goodput_seconds_total": Metric(
        "counter", "GPU time in updates that lasted, and in evaluations (in s).", _BUDGET
    ),
    "launcher_gpu_waste_seconds_total": Metric(
        "counter",
        "GPU time in startup, data_wait, checkpoint, recompute or idle (in s).",
        (*_BUDGET, "reason"),
    ),
    "launcher_gpus_allocated": Metric("gauge", "GPUs that pods hold now.", (*_BUDGET, "stage")),
    "launcher_gpu_budget_limit_seconds": Metric(
        "gauge", "GPU time that the budget allows in its period (in s).", _BUDGET
    ),
    "launcher_gpu_budget_used_seconds": Metric(
        "gauge", "GPU time charged in the period, less refunds, as stored (in s).", _BUDGET
    ),
    "launcher_gpu_budget_reserved_seconds": Metric(
        "gauge", "GPU time that running, queued and coming jobs may still take (in s).", _BUDGET
    ),
    "launcher_gpu_budget_remaining_seconds": Metric(
        "gauge", "Limit, less used, less reserved (in s).", _BUDGET
    ),
    "launcher_gpu_budget_enforced": Metric(
        "gauge", "1 where the budget refuses or ends jobs, 0 where it only tells.", _BUDGET
    ),
    "launcher_gpu_budget_period_start_timestamp_seconds": Metric(
        "gauge", "When the budget's period began.", _BUDGET
    ),
    "launcher_gpu_budget_period_end_timestamp_seconds": Metric(
        "gauge", "When it ends; absent where it does not.", _BUDGET
    ),
    "launcher_gpu_budget_projected_exhaustion_timestamp_seconds": Metric(
        "gauge", "When nothing is left at the present number of GPUs; absent with none.", _BUDGET
    ),
    "launcher_gpu_budget_refused_total": Metric(
        "counter", "Submits that the budget refused, by reason.", (*_BUDGET, "reason")
    ),
    "launcher_job_info": Metric(
        "gauge",
        "1 for each job there is; to join its trainer's series with its budget.",
        ("cluster", "budget", "training_job", "job_namespace", "model", "stage", "user"),
    ),
    "launcher_ledger_last_success_timestamp_seconds": Metric(
        "gauge", "When the ledger was last written, or found to hold all.", ("cluster",)
    ),
    "launcher_ledger_unreconciled_seconds": Metric(
        "gauge", "GPU time that pods may have run unseen beyond their stored end (in s).",
        ("cluster",),
    ),
    "launcher_ledger_open_intervals": Metric(
        "gauge", "Pods that hold GPUs by the ledger.", ("cluster",)
    ),
    "launcher_ledger_write_failures_total": Metric(
        "counter", "Writes of the ledger that failed, of this process.", ("cluster",)
    ),
}  # fmt: skip
"""Served by the one that leads and has the ledger, by nobody else."""

TABLE = {
    "launcher_build_info": Metric("gauge", "1, with the version.", ("version",)),
    "launcher_controller_actions_total": Metric(
        "counter", "What this process did to jobs, by reason of its Event.", ("reason",)
    ),
    "launcher_controller_leading": Metric("gauge", "1 for the one controller that acts."),
    "launcher_controller_jobs": Metric("gauge", "Jobs there are."),
    "launcher_controller_due": Metric("gauge", "Jobs that wait to be looked at."),
    **LEDGER_TABLE,
}
"""All of them."""
