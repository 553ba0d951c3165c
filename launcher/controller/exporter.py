"""The controller's metrics, as metric_table names them, in Prometheus' text format.

Sums come from what is stored alone: what was shown once, a crash does not take back, and whoever
leads next shows at least as much. Source of names and rules: docs/metrics.md.
"""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from launcher.budget.budgets import exhausted_at_ms
from launcher.budget.ledger import FOREVER_MS, Allotment
from launcher.budget.standing import Standing
from launcher.cluster.fields import labels_of
from launcher.controller.accounting import Accounting
from launcher.controller.health import Counters
from launcher.controller.metric_table import TABLE
from launcher.controller.store import Store
from launcher.controller.treasurer import Treasurer
from launcher.spec import BUDGET_LABEL, JOB_LABEL, MODEL_LABEL, STAGE_LABEL, USER_LABEL

Sample = tuple[str, tuple[str, ...], float]
"""Name, values of its labels in the table's order, and value."""


class Exporter(Collector):
    """What one controller shows; asked by the threads of the HTTP server."""

    def __init__(
        self,
        store: Store,
        counters: Counters,
        standing: Callable[[], tuple[bool, int]],
        accounting: Accounting | None = None,
        treasurer: Treasurer | None = None,
    ) -> None:
        """standing: whether it leads, and how many jobs wait to be looked at."""
        self._store, self._counters, self._standing = store, counters, standing
        self._accounting, self._treasurer = accounting, treasurer
        self._shown: dict[Allotment, int] = {}
        """A pod whose node becomes known changes its type of GPU: the counter of the unknown type
        must not fall for that."""
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def text(self) -> str:
        """A scrape's answer."""
        return generate_latest(self._registry).decode()

    def collect(self) -> Iterator[Metric]:
        """Families of those metrics that have a value."""
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for name, labels, value in self._samples():
            if name not in families:
                entry = TABLE[name]
                kind = CounterMetricFamily if entry.kind == "counter" else GaugeMetricFamily
                families[name] = kind(name, entry.help, labels=entry.labels)
            families[name].add_metric(labels, value)
        yield from families.values()

    def _samples(self) -> Iterator[Sample]:
        is_leading, num_due = self._standing()
        yield "launcher_build_info", (importlib.metadata.version("webvision-suite"),), 1
        yield "launcher_controller_leading", (), is_leading
        yield "launcher_controller_jobs", (), len(self._store.jobs())
        yield "launcher_controller_due", (), num_due
        for reason, count in self._counters.by_reason().items():
            yield "launcher_controller_actions_total", (reason,), count
        accounting, treasurer = self._accounting, self._treasurer
        if accounting is None or treasurer is None or not accounting.is_ready:
            return
        yield from self._ledger(accounting)
        yield from self._jobs(accounting.cluster)
        now_ms = accounting.now_ms()
        for standing in treasurer.standings:
            yield from _budget(accounting.cluster, standing, now_ms)

    def _ledger(self, accounting: Accounting) -> Iterable[Sample]:
        found: list[Sample] = []
        with accounting.reading() as ledger:
            for key, gpu_ms in ledger.allotted().items():
                self._shown[key] = max(gpu_ms, self._shown.get(key, 0))
            allotted = dict(self._shown)
            refunds = ledger.counted_refunds()
            good: Counter[tuple[str, ...]] = Counter()
            waste: Counter[tuple[str, ...]] = Counter()
            for effort in ledger.efforts():
                budget = (effort.cluster, effort.budget)
                good[budget] += effort.good_ms
                for reason, gpu_ms in effort.wasted().items():
                    waste[*budget, reason] += gpu_ms
        for name, sums in (
            ("launcher_gpu_allocated_seconds_total", allotted),
            ("launcher_gpu_refunded_seconds_total", refunds),
            ("launcher_gpu_goodput_seconds_total", good),
            ("launcher_gpu_waste_seconds_total", waste),
        ):
            found += [(name, tuple(key), gpu_ms / 1000) for key, gpu_ms in sums.items()]
        cluster, health = accounting.cluster, accounting.health
        for (budget_name, stage), gpus in accounting.allocated().items():
            found.append(("launcher_gpus_allocated", (cluster, budget_name, stage), gpus))
        for name, value in (
            ("launcher_ledger_last_success_timestamp_seconds", health.last_success_ms / 1000),
            ("launcher_ledger_unreconciled_seconds", health.unreconciled_gpu_ms / 1000),
            ("launcher_ledger_open_intervals", health.open_intervals),
            ("launcher_ledger_write_failures_total", health.write_failures),
        ):
            found.append((name, (cluster,), value))
        return found

    def _jobs(self, cluster: str) -> Iterator[Sample]:
        for job in self._store.labelled(JOB_LABEL):
            labels = labels_of(job)
            budget, name, model, stage, user = (
                labels.get(key, "")
                for key in (BUDGET_LABEL, JOB_LABEL, MODEL_LABEL, STAGE_LABEL, USER_LABEL)
            )
            about = (cluster, budget, name, job["metadata"]["namespace"], model, stage, user)
            yield "launcher_job_info", about, 1


def _budget(cluster: str, standing: Standing, now_ms: int) -> Iterator[Sample]:
    """What is told of one budget."""
    state = standing.stored
    budget, labels = state.budget, (cluster, state.budget.name)
    prefix = "launcher_gpu_budget"
    for name, gpu_ms in (
        ("limit", budget.limit_gpu_ms),
        ("used", state.used),
        ("reserved", state.reserved),
        ("remaining", state.remaining),
    ):
        yield f"{prefix}_{name}_seconds", labels, gpu_ms / 1000
    yield f"{prefix}_enforced", labels, budget.mode != "soft"
    if (period := standing.period) is not None:
        yield f"{prefix}_period_start_timestamp_seconds", labels, period.begin_ms / 1000
        if period.end_ms < FOREVER_MS:
            yield f"{prefix}_period_end_timestamp_seconds", labels, period.end_ms / 1000
    if (at_ms := exhausted_at_ms(standing.live, now_ms)) is not None:
        yield f"{prefix}_projected_exhaustion_timestamp_seconds", labels, at_ms / 1000
    for each in standing.thing.get("status", {}).get("refusals", ()):
        yield f"{prefix}_refused_total", (*labels, each["reason"]), each["count"]
